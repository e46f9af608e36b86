"""A setting that is made from another keeps every group and every fact of it that it does not replace on purpose."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from laws import PAINTER

from collapse_jax import curators, policies
from collapse_jax.core import batch
from collapse_jax.core.lineage import Descendant, Fitted, with_ancestors
from collapse_jax.core.sharding import shard_setting
from collapse_jax.settings.ecosystem import ecosystem
from collapse_jax.settings.self_supervised import self_supervised
from collapse_jax.types import (
    Extras,
    Info,
    LabelOnly,
    LabelStatistics,
    Setting,
    SufficientStatistics,
    World,
)

KEY, WORLD = jax.random.key(0), World(real=2.0, truth=1.0, test=None)


def summarize(world, train):
    return batch.make_batch(jnp.full((1,), world.truth), train.weight.sum())


EXTRAS = Extras(
    summarize=summarize,
    sample_children=lambda key, params, rows: rows + params,
    rewrite=lambda key, params, items, fraction: items * params + fraction,
    row_scores={"value": lambda world, params, items: items * params + world.truth},
)
INFO = Info(source=PAINTER.info.source, call="a call", min_samples=3, largest_block=8, differentiable=True,
            world_shapes=lambda: WORLD)  # fmt: skip
FULL = Setting(
    name="full",
    world=lambda: WORLD,
    sample_real=lambda key, world, num: jnp.arange(num) * 1.0,
    fit=lambda key, train, start: jnp.float32(10.0),
    sample=lambda key, params, num: params + jnp.arange(num),
    observe=lambda key, world, params, summary, generated: {},
    metrics=(),
    init=lambda key, world: jnp.zeros(()),
    statistics=SufficientStatistics(lambda train: train, lambda *_: 1.0, lambda *_: 1.0),
    label_only=LabelOnly(lambda key, params, items: items + params, LabelStatistics(lambda first: (), lambda *_: 1.0)),
    extras=EXTRAS,
    info=INFO,
)
BY_HAND = FULL._replace(label_only=None)
IMAGES = PAINTER._replace(statistics=FULL.statistics, extras=EXTRAS, info=INFO)
MESH = AbstractMesh((1,), ("model",), axis_types=(AxisType.Auto,))
# What a wrapper cannot offer, and why.
DROPPED = {
    "with_ancestors": {
        "statistics": "parents are drawn row by row",
        "extras.sample_children": "roots travel with rows already",
    },
    "shard_setting": {},
    "ecosystem": {
        "statistics": "each row is of some model, drawn row by row",
        "label_only.statistics": "labels of a place come from different models",
        "extras.sample_children": "rows of a place come from rows of different places",
        "info.call": "the wrapper's own call is recorded",
    },
    "self_supervised": {
        "statistics": "the encoder reads rows",
        "info.call": "the wrapper's own call is recorded",
    },
}
# Facts that a wrapper changes, and why.
CHANGED = {
    "with_ancestors": {},
    "shard_setting": {},
    "ecosystem": {"largest_block": "several models are as large as several chains"},
    "self_supervised": {
        "differentiable": "the encoder reads rows that are chosen among others",
        "world_shapes": "its world holds controls, too",
    },
}
MADE = {
    "with_ancestors": (BY_HAND, with_ancestors(BY_HAND)),
    "shard_setting": (FULL, shard_setting(FULL, MESH)),
    "ecosystem": (FULL, ecosystem(FULL, models=2)),
    "self_supervised": (IMAGES, self_supervised(IMAGES, width=8, depth=1)),
}


def leaves(part, prefix=""):
    """``{path: value}`` of all fields of a setting and of its groups."""
    found = {}
    for name, value in part._asdict().items():
        found[prefix + name] = value
        if isinstance(value, SufficientStatistics | LabelOnly | LabelStatistics | Extras | Info):
            found |= leaves(value, f"{prefix}{name}.")
    return found


@pytest.mark.fast
@pytest.mark.parametrize("name", MADE)
def test_wrappers_keep_every_group(name):
    inner, outer = map(leaves, MADE[name])
    for path, value in inner.items():
        dropped = any(path == d or path.startswith(f"{d}.") for d in DROPPED[name])
        if dropped:
            assert outer.get(path) is None or path == "info.call", path
        elif value is not None:
            assert outer.get(path) is not None, f"{name} loses {path}"


@pytest.mark.fast
@pytest.mark.parametrize("name", MADE)
def test_wrappers_keep_what_is_known(name):
    inner, outer = (setting.info._asdict() for setting in MADE[name])
    for field, value in inner.items():
        if field != "call":
            assert (outer[field] is value) == (field not in CHANGED[name]), field
    assert MADE["ecosystem"][1].info.largest_block == 4


@pytest.mark.fast
def test_what_is_kept_reads_the_part_it_is_of():
    """Functions are given the inner parameters, rows and world, whatever the wrapper carries beside."""
    rows = jnp.arange(3) * 1.0
    root = jnp.zeros((3, 2), jnp.uint32)
    made = with_ancestors(BY_HAND)
    fitted = made.fit(KEY, batch.make_batch(Descendant(rows, root)), Fitted(jnp.float32(1.0), None))
    rewritten = made.extras.rewrite(KEY, fitted, Descendant(rows, root), 0.5)
    np.testing.assert_allclose(rewritten.row, rows * 10 + 0.5)
    np.testing.assert_allclose(made.extras.row_scores["value"](WORLD, fitted, rewritten), rewritten.row * 10 + 1)

    made = ecosystem(FULL, models=2)
    params, pairs = jnp.asarray([2.0, 3.0]), jnp.stack([rows, rows], 1)
    np.testing.assert_allclose(made.extras.rewrite(KEY, params, pairs, 0.5), pairs * params + 0.5)
    np.testing.assert_allclose(made.extras.row_scores["value"](WORLD, params, pairs), rows * 2.5 + 1)

    inner, made = MADE["self_supervised"]
    world = WORLD._replace(truth=type("Truth", (), {"generator": WORLD.truth}))
    params = type("Params", (), {"generator": jnp.float32(2.0)})
    summary = made.extras.summarize(world, batch.make_batch(rows))
    np.testing.assert_allclose(summary.items, inner.extras.summarize(WORLD, batch.make_batch(rows)).items)
    np.testing.assert_allclose(made.extras.sample_children(KEY, params, rows), rows + 2)
    np.testing.assert_allclose(made.extras.rewrite(KEY, params, rows, 0.5), rows * 2 + 0.5)
    np.testing.assert_allclose(made.extras.row_scores["value"](world, params, rows), rows * 2 + 1)


@pytest.mark.fast
def test_policies_and_curators_that_wrap_others_keep_them():
    inner = policies.accumulate_subsample(7, replacement=True)._replace(keep=3, fade=0.5)
    outer = policies.growing([9], inner)
    for field in set(inner._fields) - {"name", "batches", "call"}:
        assert getattr(outer, field) is getattr(inner, field), field
    both = curators.then(curators.self_correct(1.0), curators.best_of(2))
    assert (both.oversample, both.real_rows) == (2, 1.0)
    assert set(inspect.signature(both.apply).parameters) == {"setting", "key", "world", "params", "candidates", "num"}
