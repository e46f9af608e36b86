"""The laws of curators, tried on candidates of a setting."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.checking.problems import Law, describe_shapes, find_impurities, have_same_shapes
from collapse_jax.core import batch
from collapse_jax.core.random import stream
from collapse_jax.types import Array, Batch, Curator, Extras, Key, Setting, Tree, World

NUM = 6


def make_judge() -> Setting:
    """Return a setting of standard normal numbers, which are judged by themselves."""

    def judge_value(world: World, params: Tree, items: Array) -> Array:
        return items

    def judge_right(world: World, params: Tree, items: Array) -> Array:
        return (items > 0) * 1.0

    scores = dict.fromkeys(("value", "likelihood", "nearest", "confidence"), judge_value)
    return Setting(
        name="numbers",
        world=lambda: World((), (), None),
        sample_real=lambda key, world, num: jax.random.normal(key, (num,)),
        fit=lambda key, train, start: (),
        sample=lambda key, params, num: jax.random.normal(key, (num,)),
        observe=lambda *_: {},
        metrics=(),
        extras=Extras(row_scores={**scores, "right": judge_right}),
    )


def laws_of_curators(curator: Curator, setting: Setting | None, seed: int) -> list[Law]:
    """Return the laws of curators, to be tried on `curator` with the rows of `setting`."""
    setting = make_judge() if setting is None else setting
    results: list[tuple[Batch, Batch]] = []

    def curate() -> tuple[Batch, Batch]:
        if not results:
            results.append(_curate(curator, setting, jax.random.key(seed)))
        return results[0]

    return [
        ("candidates are counted", lambda: _find_counts(curator)),
        ("a batch keeps its shape", lambda: _find_shapes(*curate())),
        ("weights are multiplicities", lambda: _find_weights(curate()[1])),
        ("a curator is a pure function", lambda: _find_impure(curator, setting, jax.random.key(seed))),
    ]


def _arguments(curator: Curator, setting: Setting, key: Key) -> tuple[World, Tree, Batch]:
    world = setting.world()
    real = batch.make_batch(setting.sample_real(stream(key, "real"), world, NUM))
    start = None if setting.init is None else setting.init(stream(key, "init"), world)
    params = setting.fit(stream(key, "fit"), real, start)
    return world, params, batch.make_batch(setting.sample(stream(key, "sample"), params, NUM * curator.oversample))


def _curate(curator: Curator, setting: Setting, key: Key) -> tuple[Batch, Batch]:
    world, params, candidates = _arguments(curator, setting, key)
    apply = jax.jit(partial(curator.apply, setting), static_argnums=4)
    return candidates, apply(stream(key, "curate"), world, params, candidates, NUM)


def _find_counts(curator: Curator) -> Iterator[str]:
    if not isinstance(curator.oversample, int) or isinstance(curator.oversample, bool) or curator.oversample < 1:
        yield f"oversample must be a whole number of at least 1, not {curator.oversample!r}"


def _find_shapes(candidates: Batch, kept: Batch) -> Iterator[str]:
    expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, NUM, *x.shape[2:]), x.dtype), candidates.items)
    if not have_same_shapes(kept.items, expected):
        yield f"asked for {NUM} rows it returns {describe_shapes(kept.items)} in place of {describe_shapes(expected)}"
    if kept.weight.shape not in ((1, 1), (1, NUM)):
        yield f"its weights have the shape {kept.weight.shape}, not {(1, NUM)}"


def _find_weights(kept: Batch) -> Iterator[str]:
    weight = np.asarray(kept.weight)
    if not np.isfinite(weight).all() or (weight < 0).any():
        yield f"a weight is {weight[~(np.isfinite(weight) & (weight >= 0))].reshape(-1)[0]:g}"
    elif not (weight > 0).any():
        yield "it drops every row; a fit would see none"


def _find_impure(curator: Curator, setting: Setting, key: Key) -> Iterator[str]:
    def apply(key: Key, world: World, params: Tree, candidates: Batch) -> Batch:
        return curator.apply(setting, key, world, params, candidates, NUM)

    yield from find_impurities("apply", apply, jnp.asarray(key), *_arguments(curator, setting, key))
