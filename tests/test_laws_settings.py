"""Laws of settings: multiplicities, sufficient statistics, shapes, and what a fit must not see."""

import inspect
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from laws import EVERY_SETTING, HORIZON, NUM, SETTINGS, fitted, floats_of, is_valid, may_stay, observed, ran

from collapse_jax import policies, settings
from collapse_jax.core import batch as B
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.core.random import chain_keys, stream
from collapse_jax.types import Batch

KEY = jax.random.key(11)
M = 9  # rows of a training batch
ROLES = {
    "risk",
    "excess_risk",
    "log_variance",
    "modes",
    "tail",
    "hallucination",
    "ancestors",
    "spread",
}  # see types.Metric
CLOSED = [name for name, make in SETTINGS.items() if make().init is None]
TRAINED = [name for name in settings.REGISTRY if name not in CLOSED]
COMPRESSED = [name for name, make in SETTINGS.items() if make().statistics is not None]
SUMMARISED = [name for name, make in SETTINGS.items() if make().extras.summarize is not None]
LONG = ("diffusion", "language_model", "self_supervised", "vae")  # whose laws about many fits wait for the night
FLOATS = [(name, p) for name, factory in settings.REGISTRY.items() for p in floats_of(factory)]


def short_by_day(names):
    return [pytest.param(name, marks=pytest.mark.nightly) if name in LONG else name for name in names]


@cache
def made(name):
    """A setting, its world, and `M` real rows."""
    setting = SETTINGS[name]()
    world = setting.world()
    return setting, world, setting.sample_real(stream(KEY, "rows"), world, M)


@cache
def metrics_of(name):
    """Metrics of a fit to a batch, compiled; the new rows of closed forms are given, so that only the fit differs."""
    setting, world, items = made(name)
    fit = jax.jit(lambda train: fitted(setting, world, train, KEY))
    given = items if setting.init is None else None
    observe = jax.jit(lambda params, summary: observed(setting, world, params, summary, KEY, given))
    return lambda train: observe(*fit(train))


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


def padded(items, weight, junk=lambda x: x[0] * 0 + 7):
    """The rows at weights ``[M]`` (any length up to 12) in three blocks of four slots; `junk` where the weight is 0."""
    weight = np.pad(np.asarray(weight, np.float32), (0, 12 - len(weight)))
    place = np.minimum(np.arange(12), jax.tree.leaves(items)[0].shape[0] - 1)
    fill = lambda x: jnp.where(weight.reshape(-1, *[1] * (x.ndim - 1)) > 0, x[place], junk(x))  # noqa: E731
    return jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), Batch(jax.tree.map(fill, items), jnp.asarray(weight)))


def nan(x):
    return jnp.full((), jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)


@pytest.mark.parametrize("name", EVERY_SETTING)
def test_rows_of_weight_zero_are_absent(name):
    _, _, items = made(name)
    fit = metrics_of(name)
    # Slots 1, 5 and the last ones are empty.
    spread, weight = rows_of(items, [0, 0, 1, 2, 3, 3, 4, 5, 6, 7]), [1, 0, 1, 1, 1, 0, 1, 1, 1, 1]
    poisoned, other = fit(padded(spread, weight, nan)), fit(padded(spread, weight))
    for metric in poisoned:
        np.testing.assert_array_equal(poisoned[metric], other[metric], err_msg=metric)
        assert not np.isnan(poisoned[metric]).any(), metric
    if name in CLOSED:
        alike(fit(B.unit(rows_of(items, range(8)))), poisoned)
        differ(fit(padded(items, np.ones(9))), poisoned)


@pytest.mark.parametrize("name", EVERY_SETTING)
def test_empty_blocks_are_absent(name):
    _, _, items = made(name)
    block = B.unit(items)
    empty = lambda junk: B.stack(block, Batch(jax.tree.map(junk, block.items), jnp.zeros((1, 1))))  # noqa: E731
    poisoned = metrics_of(name)(empty(lambda x: jnp.broadcast_to(nan(x), x.shape)))
    other = metrics_of(name)(empty(lambda x: x * 0 + 7))
    for metric in poisoned:
        np.testing.assert_array_equal(poisoned[metric], other[metric], err_msg=metric)
        assert not np.isnan(poisoned[metric]).any(), metric
    if name in CLOSED:
        alike(metrics_of(name)(block), poisoned)


@pytest.mark.parametrize("name", CLOSED)
def test_weight_two_is_the_row_twice(name):
    _, _, items = made(name)
    fit = metrics_of(name)
    weight = np.asarray([2, 1, 3, 1, 1, 1, 1, 1, 1], np.float32)
    weighted = fit(padded(items, weight))
    alike(fit(padded(rows_of(items, np.repeat(np.arange(M), weight.astype(int))), np.ones(12))), weighted)
    differ(fit(padded(items, np.ones(M))), weighted)
    # The same where all rows of a block weigh alike: there five times, by two blocks and by one weight a row.
    blocks = fit(B.stack(B.unit(items, 2.0), B.unit(items, 3.0)))
    alike(fit(padded(items, np.full(M, 5.0))), blocks)


@pytest.mark.parametrize("name", short_by_day(TRAINED))
def test_weight_two_is_the_row_twice_in_distribution(name):
    setting, world, items = made(name)
    # A heavy first row, far from the light rest: what is generated tells how heavy.
    away = lambda x: x + 6.0 if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.zeros_like(x)  # noqa: E731
    far = jax.tree.map(lambda x: jnp.concatenate([away(x[:1]), x[1:4]]), items)
    far = rows_of(far, [0, 1, 2, 3, 0, 0, 0, 0, 0])

    @jax.jit
    def go(keys, weight):
        one = lambda key: observed(setting, world, *fitted(setting, world, B.unit(far, weight), key), key)  # noqa: E731
        return jax.vmap(one)(keys)

    keys = jax.random.split(KEY, 600).reshape(3, 200)
    weighted = go(keys[0], jnp.asarray([6.0, 1, 1, 1, 0, 0, 0, 0, 0]))
    twice = go(keys[1], jnp.ones(9))
    unweighted = go(keys[2], jnp.asarray([1.0, 1, 1, 1, 0, 0, 0, 0, 0]))
    p_values = lambda a, b: [scipy.stats.ks_2samp(a[m], b[m]).pvalue for m in a if a[m].ndim == 1]  # noqa: E731
    assert min(p_values(weighted, twice)) > 1e-4
    assert min(p_values(weighted, unweighted)) < 1e-4  # the test would have noticed


@pytest.mark.fast
@pytest.mark.parametrize("name", COMPRESSED)
def test_statistics_are_sufficient(name):
    setting, _, items = made(name)
    compress, fit = jax.jit(setting.statistics.compress), metrics_of(name)
    weight = np.linspace(0, 2, M)
    train = padded(items, weight)
    compressed = compress(train)
    assert {x.shape[:2] for x in jax.tree.leaves(compressed.items)} == {(1, 1)}
    np.testing.assert_allclose(compressed.weight, weight.sum().reshape(1, 1), rtol=1e-6)
    whole = fit(train)
    alike(whole, fit(compressed))
    for a, b in zip(jax.tree.leaves(compress(compressed)), jax.tree.leaves(compressed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    # Statistics of parts merge to those of the whole, at any weights, with an empty row of statistics beside them.
    early = np.arange(M) < 5
    parts = [compress(padded(items, weight * here)) for here in (early, ~early)]
    hole = B.scale(jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), parts[0])._replace(weight=jnp.ones((1, 1))), 0.0)
    stacked = B.stack(parts[0], hole, parts[1])
    alike(whole, fit(stacked))
    alike(whole, fit(compress(stacked)))
    in_one_block = jax.tree.map(lambda x: x.reshape(1, 3, *x.shape[2:]), stacked)
    alike(whole, fit(compress(in_one_block)))
    halved = fit(compress(B.stack(B.scale(parts[0], 0.5), hole, parts[1])))
    alike(fit(padded(items, weight * np.where(early, 0.5, 1.0))), halved)
    differ(whole, halved)


@pytest.mark.fast
@pytest.mark.parametrize("name", SUMMARISED)
def test_summaries_merge(name):
    setting, world, items = made(name)
    summarise = jax.jit(lambda batch: setting.extras.summarize(world, batch))
    weight = np.linspace(0.5, 2, M)
    early = np.arange(M) < 5
    parts = [summarise(padded(items, weight * here, nan)) for here in (early, ~early)]
    whole = summarise(padded(items, weight))
    merged = summarise(B.stack(*parts))
    beside = summarise(B.stack(parts[0], B.scale(parts[0], 0.0), parts[1]))
    for other in (merged, beside):
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert float(whole.weight[0, 0]) == pytest.approx(float(weight.sum()))
    one_sided = zip(jax.tree.leaves(whole.items), jax.tree.leaves(parts[0].items), strict=True)
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in one_sided)


@pytest.mark.fast
@pytest.mark.parametrize("name", EVERY_SETTING)
def test_new_rows_look_like_real_ones(name):
    setting, world, items = made(name)
    train = B.unit(items)
    shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731

    def params_of(train):
        return setting.fit(KEY, train, None if setting.init is None else setting.init(KEY, world))

    params = jax.eval_shape(params_of, train)
    assert shape(jax.eval_shape(lambda p: setting.sample(KEY, p, M), params)) == shape(items)
    assert jax.tree.leaves(jax.eval_shape(lambda p: setting.sample(KEY, p, 4), params))[0].shape[0] == 4
    if setting.init is not None:  # the scan carries them
        assert shape(jax.eval_shape(lambda: setting.init(KEY, world))) == shape(params)
    if setting.statistics is not None:
        statistics = jax.eval_shape(lambda: setting.statistics.compress(train).items)
        for exact in (False, True):
            drawn = jax.eval_shape(lambda p, e=exact: setting.statistics.sample(KEY, p, M, M, e), params)
            assert shape(jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), drawn)) == shape(
                statistics
            )
    new = jax.jit(lambda train: setting.sample(KEY, params_of(train), M))(train)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))
    assert not any(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(items), strict=True))


@pytest.mark.parametrize("name", EVERY_SETTING)
def test_a_fit_sees_neither_truth_nor_test_rows(name):
    setting, world, _ = made(name)
    assert len(inspect.signature(setting.fit).parameters) == 3  # key, train, start
    assert len(inspect.signature(setting.sample).parameters) == 3  # key, params, num
    chain = make_chain(setting, policies.accumulate(), num_samples=M, num_generations=2)
    init, emit, absorb = map(jax.jit, chain)

    def go(world):
        state = init(KEY, world)
        for g in (1, 2):
            state, new, observations = emit(world, state, jnp.int32(g))
            state = absorb(world, state, new, jnp.int32(g))
        return (state.pool, state.params, new), observations

    poison = lambda tree: jax.tree.map(lambda x: jnp.full_like(x, nan(x)), tree)  # noqa: E731
    clean, metrics = go(world)
    blind, poisoned = go(world._replace(truth=poison(world.truth), test=poison(world.test)))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(blind), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.isnan(a).any()
    assert not any(np.isnan(x).any() for x in metrics.values())
    if jax.tree.leaves((world.truth, world.test)):  # the poison was there: metrics do look
        assert any(np.isnan(x).any() for x in poisoned.values())


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


@pytest.mark.fast
@pytest.mark.parametrize("name", EVERY_SETTING)
def test_metrics_are_declared(name):
    setting, world, items = made(name)
    seen = jax.eval_shape(lambda: observed(setting, world, *fitted(setting, world, B.unit(items), KEY), KEY))
    assert sorted(seen) == sorted(m.name for m in setting.metrics)
    for metric in setting.metrics:
        assert seen[metric.name].shape == metric.shape
        assert not (metric.role and metric.shape)  # verdicts are about numbers
        assert all(text.strip() for text in (metric.name, metric.long_name, metric.units, metric.source))
        assert not metric.long_name.startswith(("of ", "its ", "the same ")), "it has to stand alone in a report"
        assert set(metric.role.split()) <= ROLES
        assert metric.baseline is None or (metric.role and np.isfinite(metric.baseline))
        assert metric.scale in ("linear", "log")
    assert setting.name in settings.REGISTRY
