"""Numbers where float32 is short: long collapse, tiny bandwidths, far-off and badly scaled data, hardly any rows."""

import jax
import numpy as np
import pytest
from oracle_helpers import POWER, assert_law, nll_float64, z_score_of_variance

import collapse_jax
from collapse_jax import data, policies
from collapse_jax.core import batch
from collapse_jax.numerics import gaussian_moments
from collapse_jax.settings import gaussian, kde
from collapse_jax.theory.gaussian import log_variance_drift, variance_of_log_variance
from collapse_jax.types import Batch

N, GENERATIONS = 20, np.array([10, 100, 1000])


@POWER
@pytest.mark.parametrize(
    ("d", "backend"),
    [(8, "law"), (1, "rows"), *(pytest.param(*x, marks=pytest.mark.nightly) for x in ((8, "rows"), (1, "law")))],
)
def test_replace_follows_theory_to_generation_1000(d, backend, power):
    """E log det = T sum_i [psi((n - i)/2) + log(2/n)], far below float32's smallest number (its log is -88).

    At T = 1000 and n = 20 the variance of one column is exp(-105) and the determinant of eight exp(-2668). The law of
    the determinant is exact at every T; the trace follows the largest exponent alone once directions have separated.
    """
    names = ["log_det_ratio", "log_trace_ratio", "squared_error_of_mean", "trace_ratio"]
    if (d, backend) != (8, "rows"):
        names += ["effective_rank", "test_nll"]
    if d == 1:
        names += ["wasserstein2_squared"]
    options = {"num_samples": N, "num_generations": 1000, "num_chains": 256 * power, "seed": 91, "metrics": names}
    result = collapse_jax.run(gaussian(d), policies.replace(), backend=backend, **options).astype(float)
    for name in names:
        assert not np.isnan(result[name]).any(), name
    assert np.isfinite(result.log_det_ratio).all()
    column = np.arange(1, d + 1)
    drift, spread = log_variance_drift(N, column=column), variance_of_log_variance(N, column=column)
    at = result.log_det_ratio.values[:, GENERATIONS - 1]
    floored = GENERATIONS * drift.sum() * np.array([1, 1, 0.9])
    assert_law(f"log det, d={d}, {backend}", at, GENERATIONS * drift.sum(), floored)
    variance = GENERATIONS * spread.sum()
    assert_law(f"its variance, d={d}, {backend}", at, variance, 3 * variance, z_of=z_score_of_variance)
    slope = result.log_trace_ratio.values[:, 999] - result.log_trace_ratio.values[:, 499]
    assert_law(f"log trace, d={d}, {backend}", slope, 500 * drift[0], 0.9 * 500 * drift[0])


@pytest.mark.parametrize(
    "make",
    [
        policies.accumulate,
        pytest.param(policies.accumulate_subsample, marks=pytest.mark.nightly),
        pytest.param(policies.window, marks=pytest.mark.nightly),
    ],
)
def test_no_nan_in_long_small_chains(make):
    """Every metric of every generation, where n is below d or just above it."""
    options = {"num_samples": 3, "num_generations": 60, "num_chains": 32, "seed": 92}
    result = collapse_jax.run(gaussian(3), make(), **options)
    for name, values in result.items():
        assert not np.isnan(values).any(), name
    finite = ["squared_error_of_mean", "trace_ratio", "wasserstein2_squared", "effective_rank"]
    for name in finite:
        assert np.isfinite(result[name]).all(), name


@pytest.mark.parametrize(
    ("n", "d"), [(1, 3), *(pytest.param(*nd, marks=pytest.mark.nightly) for nd in ((1, 1), (3, 3)))]
)
def test_hardly_any_rows(n, d):
    """One row has no spread: the mean and all distances stay finite, logarithms of nothing are -inf, never NaN."""
    options = {"num_samples": n, "num_generations": 4, "num_chains": 8, "seed": 93}
    result = collapse_jax.run(gaussian(d), policies.replace(), **options)
    for name, values in result.items():
        assert not np.isnan(values).any(), name
    for name in ("squared_error_of_mean", "trace_ratio", "wasserstein2_squared", "effective_rank"):
        assert np.isfinite(result[name]).all(), name
    assert np.isneginf(result.log_det_ratio).all()
    assert np.isposinf(result.test_nll).all()
    if n == 1:
        # The second fit is the first one again: nothing is random any more.
        assert (result.squared_error_of_mean == result.squared_error_of_mean[:, :1]).all()
        assert (result.trace_ratio == 0).all()
        assert np.isneginf(result.log_trace_ratio).all()
        assert (result.effective_rank == 0).all()
        np.testing.assert_allclose(result.wasserstein2_squared, result.squared_error_of_mean + d, rtol=1e-5)
    else:
        assert np.isfinite(result.log_trace_ratio).all()


@pytest.mark.parametrize("bandwidth", [0.3, pytest.param("scott", marks=pytest.mark.nightly)])
def test_a_kde_of_one_row(bandwidth):
    options = {"num_samples": 1, "num_generations": 4, "num_chains": 8, "seed": 94}
    result = collapse_jax.run(kde(bandwidth, num_test=20), policies.replace(), **options)
    assert np.isfinite(result.test_nll).all()
    assert (result.training_variance == 0).all()


def observe_kde(setting, world, rows):
    """The metrics of a fit to rows, in one program."""

    @jax.jit
    def observe(world, rows):
        train = batch.make_batch(rows)
        summary = jax.tree.map(lambda x: x[0, 0], setting.extras.summarize(world, train).items)
        return setting.observe(None, world, setting.fit(None, train, None), summary, None)

    return observe(world, rows)


@pytest.mark.parametrize("h", [1e-3, 1e-2])
def test_kde_at_a_tiny_bandwidth(h):
    """A negative log likelihood of thousands and more keeps its digits: no density underflows."""
    rows = 3 * np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    setting = kde(h, num_test=100, source=data.normal(2, scale=3.0))
    world = setting.world()
    nll = float(observe_kde(setting, world, rows)["test_nll"])
    exact = nll_float64(rows, np.ones(40), world.test, h)
    assert exact > 1e3
    assert nll == pytest.approx(exact, rel=1e-6)


OFFSETS = [(0.0, 1e-3), (0.0, 1e6), (1e4, 1e6), (1e4, 1.0), (1e4, 1e-3), (-1e6, 10.0), (0.0, 1e-15), (0.0, 1e15)]
EACH_OFFSET = pytest.mark.parametrize(("offset", "scale"), OFFSETS)


def far_rows(offset, scale, num=200):
    root = np.array([[1.0, 0, 0], [0.8, 0.5, 0], [-0.3, 0.4, 2.0]])
    return (offset + scale * np.random.default_rng(1).normal(size=(num, 3)) @ root.T).astype(np.float32)


@jax.jit
def fit_gaussian(pool):
    """The fit to rows in three columns, and the logarithm of its determinant."""
    fit = gaussian(3).fit(None, pool, None)
    return fit, gaussian_moments.log_det(fit)


@EACH_OFFSET
@pytest.mark.parametrize("weighted", [False, True])
def test_gaussian_fit_of_far_rows(offset, scale, weighted):
    """A float32 fit is that of NumPy in float64 on the same float32 rows, however far from 0 they lie."""
    x = far_rows(offset, scale)
    weight = np.random.default_rng(2).integers(0, 4, 200) if weighted else np.ones(200, int)
    fit, log_det = fit_gaussian(Batch(x[None], np.asarray(weight, np.float32)[None]))
    mean = np.average(x.astype(float), axis=0, weights=weight)
    covariance = np.cov(x.T.astype(float), fweights=weight, ddof=0)
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(fit.mean, mean, rtol=1e-6, atol=1e-6 * spread.min())
    # Factors in float64: products of float32 numbers of size 1e15 overflow.
    lower = np.asarray(fit.factor, float) * np.exp(np.asarray(fit.log_scale, float))
    np.testing.assert_allclose(
        lower @ lower.T / np.outer(spread, spread), covariance / np.outer(spread, spread), atol=1e-5
    )
    np.testing.assert_allclose(log_det, np.linalg.slogdet(covariance)[1], atol=1e-3)


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1e4, 1.0), (1e4, 1e-3)])
def test_gaussian_pools_of_far_batches(offset, scale):
    """Merged statistics against all rows at once: means and spreads of batches, at float32's digits of a mean."""
    x = far_rows(offset, scale, 400).reshape(4, 100, 3)
    compress = jax.jit(gaussian(3).statistics.compress)
    parts = [compress(Batch(rows[None], np.ones((1, 1), np.float32))) for rows in x]
    merged = compress(jax.tree.map(lambda *a: np.concatenate(a), *parts))
    fit, _ = fit_gaussian(merged)
    covariance = np.cov(x.reshape(-1, 3).T.astype(float), ddof=0)
    lower = np.asarray(fit.factor, float) * np.exp(np.asarray(fit.log_scale, float))
    # A batch's mean is stored to half a unit in the last place: that much between batches cannot be told.
    unit = np.spacing(np.float32(abs(offset))).astype(float)
    spread = np.sqrt(np.diag(covariance))
    allowed = 1e-5 * np.outer(spread, spread) + unit**2 / 4 + unit * 3 * spread.max() / np.sqrt(100)
    assert (np.abs(lower @ lower.T - covariance) <= allowed).all()
    assert float(merged.weight[0, 0]) == 400


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1e-3), (0.0, 1e6), (1e4, 1.0), (1e4, 0.1), (1e4, 1e-2)])
def test_kde_of_far_rows(offset, scale):
    """test_nll and training_variance of rows far from 0, as NumPy's in float64 on the same float32 rows."""
    x, h = far_rows(offset, scale), 0.3 * scale
    setting = kde(h, num_test=50, source=data.normal(3, mean=offset, scale=scale))
    world = setting.world()
    seen = observe_kde(setting, world, x)
    exact = nll_float64(x, np.ones(200), world.test, h)
    assert float(seen["test_nll"]) == pytest.approx(exact, rel=1e-5, abs=1e-4)
    assert float(seen["training_variance"]) == pytest.approx(x.astype(float).var(0).mean(), rel=1e-5)
