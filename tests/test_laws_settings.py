"""Laws of settings: multiplicities, sufficient statistics, shapes, and what a fit must not see."""

import inspect
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from laws import SETTINGS, evaluate

from collapse_jax import batch as B
from collapse_jax import policies, settings
from collapse_jax.chain import make_chain, simulate
from collapse_jax.keys import chain_keys, stream
from collapse_jax.types import Batch

KEY = jax.random.key(11)
M = 9  # rows of a training batch
CLOSED = [name for name, make in SETTINGS.items() if make().init is None]
TRAINED = [name for name in SETTINGS if name not in CLOSED]
COMPRESSED = [name for name, make in SETTINGS.items() if make().compress is not None]
SUMMARISED = [name for name, make in SETTINGS.items() if make().summarise is not None]
FLOATS = [
    (name, p.name)
    for name, factory in settings.REGISTRY.items()
    for p in inspect.signature(factory).parameters.values()
    if p.annotation is float or "float" in str(p.annotation).replace("[", " | ").split(" | ")
]


@lru_cache(maxsize=None)
def made(name):
    """A setting, its world, and `M` real rows."""
    setting = SETTINGS[name]()
    world = setting.world()
    return setting, world, setting.real(stream(KEY, "rows"), world, M)


@lru_cache(maxsize=None)
def metrics_of(name):
    """Metrics of a fit to a batch, compiled; the new rows of closed forms are given, so that only the fit differs."""
    setting, world, items = made(name)
    return jax.jit(lambda train: evaluate(setting, world, train, KEY, items if setting.init is None else None))


def rows_of(items, index):
    return jax.tree.map(lambda x: x[np.asarray(index)], items)


def alike(a, b, rtol=1e-4):
    """Two dicts of metrics agree; -inf and inf count as themselves, NaN as a failure."""
    assert a.keys() == b.keys()
    for metric in a:
        assert not np.isnan(a[metric]).any(), metric
        np.testing.assert_allclose(a[metric], b[metric], rtol=rtol, atol=1e-5, err_msg=metric)


def differ(a, b):
    assert any(not np.allclose(a[metric], b[metric], rtol=1e-3) for metric in a)


def with_holes(items, junk):
    """`items` in blocks of four slots, some of weight 0 that hold `junk`; twice the first row's weight."""
    place, weight = [], []
    for i in range(M):
        place += [i, i] if i % 2 else [i]
        weight += [1.0, 0.0] if i % 2 else [1.0]
    place, weight = np.asarray([*place, 0, 0, 0]), np.asarray([*weight, 0.0, 0.0, 0.0], np.float32)
    fill = lambda x: jnp.where(weight.reshape(-1, *[1] * (x.ndim - 1)) > 0, x[place], junk(x))  # noqa: E731
    block = lambda x: x.reshape(-1, 4, *x.shape[1:])  # noqa: E731
    return Batch(jax.tree.map(lambda x: block(fill(x)), items), jnp.asarray(block(weight)))


def nan(x):
    return jnp.full((), jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)


@pytest.mark.fast
@pytest.mark.parametrize("name", SETTINGS)
def test_rows_of_weight_zero_are_absent(name):
    _, _, items = made(name)
    fit = metrics_of(name)
    poisoned = fit(with_holes(items, nan))
    other = fit(with_holes(items, lambda x: x[0] * 0 + 7))
    for metric in poisoned:
        np.testing.assert_array_equal(poisoned[metric], other[metric], err_msg=metric)
        assert not np.isnan(poisoned[metric]), metric
    if name in CLOSED:
        alike(fit(B.unit(items)), poisoned)
        differ(fit(B.unit(rows_of(items, range(M - 1)))), poisoned)


@pytest.mark.parametrize("name", SETTINGS)
def test_empty_blocks_are_absent(name):
    _, _, items = made(name)
    block = B.unit(items)
    empty = lambda junk: B.stack(block, Batch(jax.tree.map(junk, block.items), jnp.zeros((1, 1))))  # noqa: E731
    poisoned = metrics_of(name)(empty(lambda x: jnp.broadcast_to(nan(x), x.shape)))
    other = metrics_of(name)(empty(lambda x: x * 0 + 7))
    for metric in poisoned:
        np.testing.assert_array_equal(poisoned[metric], other[metric], err_msg=metric)
        assert not np.isnan(poisoned[metric]), metric
    if name in CLOSED:
        alike(metrics_of(name)(block), poisoned)


@pytest.mark.fast
@pytest.mark.parametrize("name", CLOSED)
def test_weight_two_is_the_row_twice(name):
    _, _, items = made(name)
    weight = np.asarray([2, 1, 3, 1, 1, 1, 1, 1, 1], np.float32)
    weighted = metrics_of(name)(B.unit(items, weight))
    alike(metrics_of(name)(B.unit(rows_of(items, np.repeat(np.arange(M), weight.astype(int))))), weighted)
    differ(metrics_of(name)(B.unit(items)), weighted)
    # All weights alike, one a block, are the same law.
    blocks = B.stack(B.unit(items, 2.0), B.unit(items, 1.0))
    alike(metrics_of(name)(B.unit(rows_of(items, [*range(M)] * 3))), metrics_of(name)(blocks))


@pytest.mark.parametrize("name", TRAINED)
def test_weight_two_is_the_row_twice_in_distribution(name):
    setting, world, items = made(name)
    # A heavy first row, far from the light rest: what is generated tells how heavy.
    far = jax.tree.map(lambda x: jnp.concatenate([x[:1] + 6.0, x[1:4]]), items)
    weight = np.asarray([6, 1, 1, 1], np.float32)
    repeated = rows_of(far, np.repeat(np.arange(4), weight.astype(int)))
    go = jax.jit(lambda keys, train: jax.vmap(lambda k: evaluate(setting, world, train, k))(keys))
    keys = jax.random.split(KEY, 900)
    weighted, twice = go(keys[:300], B.unit(far, weight)), go(keys[300:600], B.unit(repeated))
    unweighted = go(keys[600:], B.unit(far))
    p_values = lambda a, b: [scipy.stats.ks_2samp(a[m], b[m]).pvalue for m in a]  # noqa: E731
    assert min(p_values(weighted, twice)) > 1e-4
    assert min(p_values(weighted, unweighted)) < 1e-4  # the test would have noticed


@pytest.mark.fast
@pytest.mark.parametrize("name", COMPRESSED)
def test_statistics_are_sufficient(name):
    setting, _, items = made(name)
    weight = jnp.linspace(0, 2, M)
    train = B.unit(items, weight)
    compressed = setting.compress(train)
    assert {x.shape[:2] for x in jax.tree.leaves(compressed.items)} == {(1, 1)}
    np.testing.assert_allclose(compressed.weight, weight.sum().reshape(1, 1), rtol=1e-6)
    whole = metrics_of(name)(train)
    alike(whole, metrics_of(name)(compressed))
    again = setting.compress(compressed)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(compressed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    # Statistics of parts merge to those of the whole, as blocks and as rows, at any weights, with empty ones beside.
    parts = [setting.compress(B.unit(rows_of(items, p), weight[p])) for p in (np.arange(5), np.arange(5, M))]
    hole = B.scale(jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), parts[0])._replace(weight=jnp.ones((1, 1))), 0.0)
    stacked = B.stack(parts[0], hole, parts[1])
    alike(whole, metrics_of(name)(stacked))
    alike(whole, metrics_of(name)(setting.compress(stacked)))
    halved = setting.compress(B.stack(B.scale(parts[0], 0.5), parts[1]))
    alike(metrics_of(name)(B.unit(items, weight * jnp.where(jnp.arange(M) < 5, 0.5, 1.0))), metrics_of(name)(halved))
    differ(whole, metrics_of(name)(halved))


@pytest.mark.fast
@pytest.mark.parametrize("name", SUMMARISED)
def test_summaries_merge(name):
    setting, world, items = made(name)
    summarise = jax.jit(lambda batch: setting.summarise(world, batch))
    weight = jnp.linspace(0.5, 2, 8)
    parts = [B.unit(rows_of(items, p), weight[p]) for p in (np.arange(4), np.arange(4, 8))]
    holes = Batch(jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), parts[0].items), jnp.zeros((1, 4)))
    whole = summarise(B.stack(*parts))
    merged = summarise(B.stack(*[summarise(b) for b in parts]))
    beside = summarise(B.stack(summarise(parts[0]), B.scale(summarise(parts[0]), 0.0), summarise(parts[1])))
    with_holes = summarise(B.stack(parts[0], holes, parts[1]))
    for other in (merged, beside, with_holes):
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert float(whole.weight[0, 0]) == pytest.approx(float(weight.sum()))
    one_sided = zip(jax.tree.leaves(whole.items), jax.tree.leaves(summarise(parts[0]).items), strict=True)
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in one_sided)


@pytest.mark.fast
@pytest.mark.parametrize("name", SETTINGS)
def test_new_rows_look_like_real_ones(name):
    setting, _, items = made(name)
    train = B.unit(items)
    shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731

    def params_of(train):
        return setting.fit(KEY, train, None if setting.init is None else setting.init(KEY))

    params = jax.eval_shape(params_of, train)
    assert shape(jax.eval_shape(lambda p: setting.sample(KEY, p, M), params)) == shape(items)
    assert jax.tree.leaves(jax.eval_shape(lambda p: setting.sample(KEY, p, 4), params))[0].shape[0] == 4
    if setting.init is not None:  # the scan carries them
        assert shape(jax.eval_shape(lambda: setting.init(KEY))) == shape(params)
    if setting.compress is not None:
        statistics = jax.eval_shape(lambda: setting.compress(train).items)
        for exact in (False, True):
            drawn = jax.eval_shape(lambda p, e=exact: setting.sample_compressed(KEY, p, M, M, e), params)
            assert shape(jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), drawn)) == shape(
                statistics
            )
    new = setting.sample(KEY, params_of(train), M)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))
    assert not any(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(items), strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_fit_sees_neither_truth_nor_test_rows(name):
    setting, world, _ = made(name)
    assert len(inspect.signature(setting.fit).parameters) == 3  # key, train, start
    assert len(inspect.signature(setting.sample).parameters) == 3  # key, params, num
    chain = make_chain(setting, policies.accumulate(), num_samples=M, num_generations=2)

    @jax.jit
    def go(world):
        state = chain.init(KEY, world)
        for g in (1, 2):
            state, new, observations = chain.emit(world, state, jnp.int32(g))
            state = chain.absorb(world, state, new, jnp.int32(g))
        return (state.pool, state.params, new), observations

    poison = lambda tree: jax.tree.map(lambda x: jnp.full_like(x, nan(x)), tree)  # noqa: E731
    clean, observed = go(world)
    blind, poisoned = go(world._replace(truth=poison(world.truth), test=poison(world.test)))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(blind), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.isnan(a).any()
    assert not any(np.isnan(x) for x in observed.values())
    assert any(np.isnan(x) for x in poisoned.values())  # the poison was there: metrics do look


@pytest.mark.parametrize(("name", "parameter"), FLOATS)
def test_float_arguments_vmap(name, parameter):
    factory = partial(settings.REGISTRY[name], **SETTINGS[name].keywords)
    default = inspect.signature(factory).parameters[parameter].default
    values = np.asarray([default, 0.3 * default], np.float32)
    world = factory().world()
    key = chain_keys(0, 1)[0]

    def one(value):
        chain = make_chain(factory(**{parameter: value}), policies.accumulate(), num_samples=M, num_generations=3)
        return simulate(chain, key, world, 3)

    traced = jax.jit(jax.vmap(one))(values)
    for i, value in enumerate(values):
        alone = jax.jit(one, static_argnums=0)(float(value))
        for metric in traced:
            assert np.isfinite(traced[metric][i]).all()
            np.testing.assert_allclose(traced[metric][i], alone[metric], rtol=1e-3, atol=1e-5, err_msg=metric)
    assert any(not np.allclose(x[0], x[1]) for x in traced.values())


@pytest.mark.fast
def test_the_registered_floats_are_found():
    assert {("kde", "bandwidth"), ("flow_matching", "learning_rate")} <= set(FLOATS)
    assert ("gaussian", "ddof") not in FLOATS


@pytest.mark.fast
@pytest.mark.parametrize("name", SETTINGS)
def test_metrics_are_declared(name):
    setting, world, items = made(name)
    observed = jax.eval_shape(lambda: evaluate(setting, world, B.unit(items), KEY))
    assert list(observed) == [m.name for m in setting.metrics]
    assert {x.shape for x in observed.values()} == {()}
    for metric in setting.metrics:
        assert all(isinstance(text, str) and text.strip() for text in metric)
        assert metric.scale in ("linear", "log")
    assert setting.name in settings.REGISTRY
