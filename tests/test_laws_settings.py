"""Laws of settings that ``cj.check`` does not try: laws about many fits, summaries, and traced arguments."""

import inspect
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from laws import HORIZON, NUM, SETTINGS, fitted, floats_of, is_valid, may_stay, observed, ran

from collapse_jax import data, policies, settings
from collapse_jax.checking import layouts
from collapse_jax.core import batch, registry
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import chain_keys, stream
from collapse_jax.types import Batch

KEY = jax.random.key(11)
M = 9  # rows of a training batch
CLOSED = [name for name, make in SETTINGS.items() if make().init is None]
TRAINED = [name for name in registry.factories("setting") if name not in CLOSED]
SUMMARISED = [name for name, make in SETTINGS.items() if make().extras.summarize is not None]
LONG = ("diffusion", "language_model", "self_supervised", "vae")  # whose laws about many fits wait for the night
FLOATS = [(name, p) for name, factory in registry.factories("setting").items() for p in floats_of(factory)]


def short_by_day(names):
    return [pytest.param(name, marks=pytest.mark.nightly) if name in LONG else name for name in names]


@cache
def made(name):
    """A setting, its world, and `M` real rows in NumPy, which compiles nothing."""
    setting = SETTINGS[name]()
    world = setting.world()
    draw = jax.jit(lambda world: setting.sample_real(stream(KEY, "rows"), world, M))
    return setting, world, jax.device_get(draw(world))


def rows_of(items, index):
    return jax.tree.map(lambda x: x[np.asarray(index)], items)


def padded(items, weight, junk=lambda x: x[0] * 0 + 7):
    """The rows at weights ``[M]`` (any length up to 12) in three blocks of four slots; `junk` where the weight is 0."""
    weight = np.pad(np.asarray(weight, np.float32), (0, 12 - len(weight)))
    place = np.minimum(np.arange(12), jax.tree.leaves(items)[0].shape[0] - 1)

    def fill(x):
        rows = np.where(weight.reshape(-1, *[1] * (x.ndim - 1)) > 0, x[place], junk(x))
        return rows.astype(x.dtype).reshape(3, 4, *x.shape[1:])

    return Batch(jax.tree.map(fill, items), weight.reshape(3, 4))


def nan(x):
    return np.full((), np.nan if np.issubdtype(x.dtype, np.inexact) else 0, x.dtype)


@pytest.mark.parametrize("name", short_by_day(registry.factories("setting")))
def test_worlds_are_made_inside_jit_too(name):
    setting, world, _ = made(name)
    inside = jax.jit(lambda: setting.world())()
    for a, b in zip(jax.tree.leaves(inside), jax.tree.leaves(world), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_world_of_a_traced_number_is_refused_in_one_line():
    def world(shift):
        source = data.normal(1)._replace(held_out=lambda num: np.asarray(shift + np.zeros((num, 1))))
        return settings.kde(source=source).world()

    with pytest.raises(UsageError, match="world: it follows from a number that is traced"):
        jax.jit(world)(1.0)


@pytest.mark.parametrize("name", short_by_day(TRAINED))
def test_weight_two_is_the_row_twice_in_distribution(name):
    setting, world, items = made(name)
    # A heavy first row, far from the light rest: what is generated tells how heavy.
    away = lambda x: x + x.dtype.type(6) if jnp.issubdtype(x.dtype, jnp.inexact) else np.zeros_like(x)  # noqa: E731
    far = jax.tree.map(lambda x: np.concatenate([away(x[:1]), x[1:4]]), items)
    far = rows_of(far, [0, 1, 2, 3, 0, 0, 0, 0, 0])

    @jax.jit
    def go(keys, weight):
        one = lambda key: observed(setting, world, *fitted(setting, world, batch.make_batch(far, weight), key), key)  # noqa: E731
        return jax.vmap(one)(keys)

    keys = jax.random.split(KEY, 600).reshape(3, 200)
    weighted = go(keys[0], jnp.asarray([6.0, 1, 1, 1, 0, 0, 0, 0, 0]))
    twice = go(keys[1], jnp.ones(9))
    unweighted = go(keys[2], jnp.asarray([1.0, 1, 1, 1, 0, 0, 0, 0, 0]))
    p_values = lambda a, b: [scipy.stats.ks_2samp(a[m], b[m]).pvalue for m in a if a[m].ndim == 1]  # noqa: E731
    assert min(p_values(weighted, twice)) > 1e-4
    assert min(p_values(weighted, unweighted)) < 1e-4  # the test would have noticed


@pytest.mark.fast
@pytest.mark.parametrize("name", SUMMARISED)
def test_summaries_merge(name):
    setting, world, items = made(name)
    summarise = jax.jit(lambda pool: setting.extras.summarize(world, pool))
    weight = np.linspace(0.5, 2, M)
    early = np.arange(M) < 5
    parts = [summarise(padded(items, weight * here, nan)) for here in (early, ~early)]
    whole = summarise(padded(items, weight))
    merged = summarise(layouts.stack_blocks(*parts))
    absent = parts[0]._replace(weight=np.zeros_like(parts[0].weight))
    beside = summarise(layouts.stack_blocks(parts[0], absent, parts[1]))
    for other in (merged, beside):
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert float(whole.weight[0, 0]) == pytest.approx(float(weight.sum()))
    one_sided = zip(jax.tree.leaves(whole.items), jax.tree.leaves(parts[0].items), strict=True)
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in one_sided)


@pytest.mark.parametrize("name", short_by_day(dict.fromkeys(name for name, _ in FLOATS)))
def test_float_arguments_vmap(name):
    """One program for all: the first lane has the defaults, each other one of them at 0.3 times its own."""
    factory = SETTINGS[name]
    floats = [p for n, p in FLOATS if n == name]
    defaults = [inspect.signature(factory).parameters[p].default for p in floats]
    world = factory().world()

    @jax.jit
    @jax.vmap
    def go(values):
        setting = factory(**dict(zip(floats, values, strict=True)))
        chain = make_chain(setting, policies.accumulate(), num_samples=NUM, num_generations=HORIZON)
        return simulate(chain, chain_keys(0, 1)[0], world, HORIZON)

    lanes = np.vstack([np.ones(len(floats)), 1 - 0.7 * np.eye(len(floats))]) * defaults
    traced, concrete = go(jnp.asarray(lanes, float)), ran(name, "accumulate").isel(chain=0)
    for metric, values in traced.items():
        assert is_valid(metric, values), metric
        np.testing.assert_allclose(values[0], concrete[metric], rtol=1e-3, atol=1e-4, err_msg=metric)
        for parameter, moved in zip(floats, values[1:], strict=True):
            counted = may_stay(name, metric, concrete[metric].attrs["units"])
            assert counted or not np.allclose(values[0], moved, rtol=1e-3), (metric, parameter)


@pytest.mark.fast
def test_the_registered_floats_are_found():
    assert {("kde", "bandwidth"), ("flow_matching", "learning_rate"), ("poisson", "rate")} <= set(FLOATS)
    assert not {("gaussian", "ddof"), ("discrete", "probabilities")} & set(FLOATS)
