"""Moments and gamma variates: laws, ranks, merging."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from collapse_jax.core import batch
from collapse_jax.numerics import gaussian_moments, ldl
from collapse_jax.numerics.gaussian_moments import Moments
from collapse_jax.numerics.log_gamma import draw_log_gamma_ratio, log_gamma_ratio_at_normal

KEY = jax.random.key(2)


@pytest.mark.fast
@pytest.mark.parametrize("traced", [False, True])
def test_log_gamma_has_the_law_of_log_gamma(traced):
    shapes = np.asarray([0.5, 1.0, 3.3, 49.5, *([2e5] if traced else [])])
    keys = jax.random.split(KEY, 20_000)

    def draw(key, traced_shapes):
        key, other = jax.random.split(key)
        z = jax.random.normal(key, shapes.shape)
        return draw_log_gamma_ratio(other, z, traced_shapes) if traced else log_gamma_ratio_at_normal(z, shapes)

    values = np.asarray(jax.jit(jax.vmap(draw, (0, None)))(keys, jnp.asarray(shapes)), float)
    assert values.shape == (20_000, shapes.size)
    for column, shape in enumerate(shapes):
        assert scipy.stats.kstest(shape * np.exp(values[:, column]), scipy.stats.gamma(shape).cdf).pvalue > 1e-4
    # Entries are independent.
    assert np.abs(np.corrcoef(values.T) - np.eye(shapes.size)).max() < 4 / math.sqrt(20_000)


@pytest.mark.fast
def test_trials_of_traced_shapes_end():
    draw = lambda key, shape: draw_log_gamma_ratio(key, jnp.full(2, 3.0), jnp.stack([shape, 1.0]))  # noqa: E731
    keys = jax.random.split(jax.random.key(1, impl="rbg"), 4096)  # a finished lane's key stands still
    assert np.isfinite(jax.jit(jax.vmap(draw, (0, None)))(keys, 1.0)).all()
    for none in (0.3, np.nan):
        assert np.isnan(jax.jit(draw)(KEY, none)).tolist() == [True, False]
    parts = jax.jit(gaussian_moments.draw_normal_moments, static_argnums=1)(
        KEY, 2, 2.6
    )  # as many rows as an optimiser may try
    assert np.isfinite(parts.log_scale).tolist() == [True, False]


@pytest.mark.fast
def test_gamma_of_large_traced_shapes_is_not_rounded_away():
    shape, z = 2e6, np.asarray([-2.0, -0.1, 0.0, 0.7])
    values = np.asarray(jax.jit(draw_log_gamma_ratio)(KEY, jnp.asarray(z), jnp.full(4, shape)), float)
    np.testing.assert_allclose(values, 3 * np.log1p(z / np.sqrt(9 * shape - 3)) + np.log1p(-1 / (3 * shape)), rtol=1e-5)


@pytest.mark.fast
def test_derivatives_of_gamma_by_shape_are_those_of_the_quantile():
    shapes, step = np.asarray([0.6, 1.0, 3.3, 49.5]), 1e-5
    with jax.enable_x64(True):
        z = jax.random.normal(KEY, shapes.shape)
        draw = lambda s: draw_log_gamma_ratio(KEY, z, s)  # noqa: E731
        drawn, slope = jax.jit(lambda s: jax.jvp(draw, (s,), (jnp.ones_like(s),)))(jnp.asarray(shapes))
    below = scipy.special.gammainc(shapes, shapes * np.exp(drawn))
    near = [np.log(scipy.special.gammaincinv(s, below) / s) for s in (shapes - step, shapes + step)]
    np.testing.assert_allclose(slope, (near[1] - near[0]) / (2 * step), rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(("double", "tolerance"), [(True, 2e-7), (False, 2e-6)])
def test_quantiles_of_gamma_are_accurate(double, tolerance):
    shapes = np.asarray([0.5, 1.0, 3.3, 49.5, 499.5])
    with jax.enable_x64(double):
        keys = jax.random.split(jax.random.key(7), 20_000)
        z = jax.vmap(lambda k: jax.random.normal(k, (5,)))(keys)
        values = np.asarray(jax.jit(jax.vmap(lambda z: log_gamma_ratio_at_normal(z, shapes)))(z), float)
        z = np.asarray(z, float)
    low = scipy.special.gammaincinv(shapes, scipy.special.ndtr(z))
    high = scipy.special.gammainccinv(shapes, scipy.special.ndtr(-z))
    exact = np.log(np.where(z < 0, low, high) / shapes)
    # In float32 the result, as large as 20, is itself rounded.
    assert (np.abs(values - exact) / np.maximum(1.0, np.abs(exact))).max() < tolerance


def covariance(d, rank, seed=0):
    rows = np.random.default_rng(seed).normal(size=(rank + 1, d)) * np.logspace(0, 1, d)
    return np.cov(rows.T, bias=True).reshape(d, d)


def factorised(mean, covariance):
    """As a program does it."""
    return Moments(jnp.asarray(mean), *jax.jit(ldl.factorise_covariance)(jnp.asarray(covariance)))


@jax.jit
def described(fit):
    """The lower triangle that a fit is made of, and the logarithms of its determinant and of its trace."""
    return gaussian_moments.cholesky_factor(fit), gaussian_moments.log_det(fit), gaussian_moments.log_trace(fit)


@pytest.mark.fast
@pytest.mark.parametrize("d", [1, 2, 5, 40])
def test_factorise_is_cholesky(d):
    sigma = covariance(d, 3 * d)
    with jax.enable_x64(True):
        factor, log_scale = map(np.asarray, jax.jit(ldl.factorise_covariance)(jnp.asarray(sigma)))
    assert (np.diag(factor) == 1).all()
    np.testing.assert_allclose(factor * np.exp(log_scale), np.linalg.cholesky(sigma), rtol=1e-9, atol=1e-12)
    for known in (factorised, gaussian_moments.moments_from_covariance):
        fit = jax.jit(known)(np.zeros(d), sigma.astype(np.float32))
        factor, log_det, log_trace = described(fit)
        np.testing.assert_allclose(factor, np.linalg.cholesky(sigma), rtol=2e-3, atol=1e-3)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(sigma)[1], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(log_trace, np.log(np.trace(sigma)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("known", [factorised, gaussian_moments.moments_from_covariance])
@pytest.mark.parametrize(("d", "rank"), [(1, 0), (3, 0), (3, 1), (5, 2), (5, 4), (40, 7)])
def test_factorise_of_singular_matrices(d, rank, known):
    sigma = covariance(d, rank) if rank else np.zeros((d, d))
    with jax.enable_x64(True):
        fit = known(np.zeros(d), sigma)
        factor, log_scale = np.asarray(fit.factor), np.asarray(fit.log_scale)
        lower, log_det, log_trace = map(np.asarray, described(fit))
    assert np.isneginf(log_det)
    np.testing.assert_allclose(lower @ lower.T, sigma, atol=1e-9 * max(1.0, sigma.max()))
    # Rows in general position: their first `rank` directions are taken, the others empty, with a unit column.
    assert np.isfinite(log_scale).tolist() == [i < rank for i in range(d)]
    np.testing.assert_array_equal(factor[:, rank:], np.eye(d)[:, rank:])
    if rank:
        assert log_trace == pytest.approx(np.log(np.trace(sigma)))
    else:
        assert log_trace == -np.inf


AT = np.arange(40.0)
APART = abs(AT[:, None] - AT)


@pytest.mark.parametrize("sigma", [0.9**APART, 0.99**APART, np.exp(-(APART**2) / 8) + 0.01 * np.eye(40)])
def test_no_direction_of_correlated_columns_is_lost(sigma):
    """Multipliers alone say too much of rounding: what they pass on cancels (condition numbers 280 to 7,000)."""
    for known in (factorised, gaussian_moments.moments_from_covariance):
        fit = known(np.zeros(40), sigma.astype(np.float32))
        assert np.isfinite(fit.log_scale).all()
        np.testing.assert_allclose(gaussian_moments.log_det(fit), np.linalg.slogdet(sigma)[1], rtol=1e-3)


def of_rows(rows):
    return jax.tree.map(lambda v: v[0, 0], gaussian_moments.compress_rows(batch.make_batch(rows)).items)


@pytest.mark.parametrize("known", [of_rows, gaussian_moments.moments_from_rows])
def test_factorise_finds_what_is_constant_or_doubled(known):
    x = np.random.default_rng(1).normal(size=(50, 2))
    rows = jnp.asarray(np.stack([np.full(50, 3.1), x[:, 0], x[:, 0], x[:, 1]], 1))
    fit = known(rows)
    np.testing.assert_allclose(fit.mean, np.mean(rows, 0), rtol=1e-5, atol=1e-6)
    assert np.isfinite(fit.log_scale).tolist() == [False, True, False, True]
    lower = np.asarray(gaussian_moments.cholesky_factor(fit))
    np.testing.assert_allclose(lower @ lower.T, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("num", [1, 2, 4, 5, 50])
def test_moments_of_rows_are_numpys_and_of_their_rank(num, x64):
    """Also where rounding leaves spread in directions that n rows cannot have."""
    rows = np.random.default_rng(num).normal(size=(num, 5)).astype(np.float32) * np.logspace(-2, 2, 5) + 7
    with jax.enable_x64(x64):
        fit = gaussian_moments.moments_from_rows(rows)
        mean, lower, alive = (
            np.asarray(x) for x in (fit.mean, gaussian_moments.cholesky_factor(fit), np.isfinite(fit.log_scale))
        )
    assert mean.dtype == (np.float64 if x64 else np.float32)
    assert alive.tolist() == [j < num - 1 for j in range(5)]
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(lower @ lower.T, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("d", [1, 3])
def test_what_is_not_a_number_has_no_spread_in_a_program_and_is_refused_before_it(d):
    sigma = np.diag([np.nan, 1.0, 2.0])[:d, :d]
    assert np.isfinite(factorised(np.zeros(d), sigma).log_scale).tolist() == [False, True, True][:d]
    for mean, known in ((np.zeros(d), sigma), (np.full(d, np.inf), np.eye(d))):
        with pytest.raises(ValueError, match="must be finite"):
            gaussian_moments.moments_from_covariance(mean, known)


def test_worlds_can_be_made_in_a_program():
    rows = np.random.default_rng(5).normal(size=(9, 4)).astype(np.float32)
    for known, given in (
        (gaussian_moments.moments_from_rows, (rows,)),
        (gaussian_moments.moments_from_covariance, (np.ones(4), covariance(4, 20))),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), known(*given), jax.jit(known)(*given)
        )


@pytest.mark.fast
@pytest.mark.parametrize("ranks", [(3, 3), (2, 3), (3, 1), (0, 3), (1, 2)])
def test_compose_is_the_law_of_a_map_of_rows(ranks):
    with jax.enable_x64(True):
        made = [covariance(3, r, seed) if r else np.zeros((3, 3)) for seed, r in enumerate(ranks)]
        mean = np.asarray([[1.0, -2.0, 0.5], [0.3, 0.1, -0.2]])
        outer, inner = (gaussian_moments.moments_from_covariance(m, c) for m, c in zip(mean, made, strict=True))
        both = gaussian_moments.compose_moments(outer, inner)
        lower, result = (
            np.asarray(gaussian_moments.cholesky_factor(outer)),
            np.asarray(gaussian_moments.cholesky_factor(both)),
        )
    np.testing.assert_allclose(both.mean, mean[0] + lower @ mean[1], rtol=1e-12)
    np.testing.assert_allclose(result @ result.T, lower @ made[1] @ lower.T, rtol=1e-8, atol=1e-8)
    assert not np.isnan(both.factor).any()


def test_compose_outlasts_float32():
    small = Moments(jnp.zeros(2), jnp.eye(2), jnp.asarray([-300.0, -500.0]))
    both = gaussian_moments.compose_moments(
        small, Moments(jnp.zeros(2), jnp.asarray([[1.0, 0.0], [0.5, 1.0]]), jnp.asarray([-1.0, -2.0]))
    )
    assert both.log_scale.tolist() == [-301.0, -502.0]
    assert float(gaussian_moments.log_det(both)) == -1606.0
    assert np.isfinite(both.factor).all()


NIGHT = pytest.mark.nightly


@pytest.mark.parametrize(
    ("dim", "count"),
    [(1, 30), (3, 2), (3, 12), *(pytest.param(d, n, marks=NIGHT) for d, n in ((1, 1), (3, 1), (3, 3)))],
)
def test_the_law_of_moments_is_that_of_the_moments_of_rows(dim, count):
    def see(fit):
        return {
            "mean": fit.mean, "log_scale": fit.log_scale, "below": (fit.factor * jnp.tri(dim, k=-1))[-1],
            "log_trace": gaussian_moments.log_trace(fit)[None],
        }  # fmt: skip

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def draw(keys, c):
        return (
            see(gaussian_moments.draw_normal_moments(keys[0], dim, count)),
            see(gaussian_moments.moments_of_normal_rows(keys[1], dim, 13 + count, count)),
            see(gaussian_moments.draw_normal_moments(keys[2], dim, c)),
        )

    law, rows, traced = draw(jax.random.split(KEY, (4000, 3)), jnp.int32(count))
    # n rows span n - 1 directions, whatever rounding says.
    assert np.isfinite(rows["log_scale"]).sum(1).max() <= count - 1
    for fits in (law, traced):
        assert (np.isfinite(fits["log_scale"]) == (np.arange(dim) < count - 1)).all()
    for name in law:
        for j in range(law[name].shape[1]):
            x, y, t = (np.asarray(v[name][:, j], float) for v in (law, rows, traced))
            if name == "below" and j >= min(count - 1, dim - 1):
                assert not x.any()  # no direction is left there, or it is the diagonal
                assert not t.any()
            elif np.isfinite(x).any():
                # Directions of a relative variance of 1e-6 may be taken for empty.
                assert np.isfinite(y).mean() > 0.99
                y = y[np.isfinite(y)]
                assert scipy.stats.ks_2samp(x, y).pvalue > 1e-4, (name, j)
                assert scipy.stats.ks_2samp(x, t).pvalue > 1e-4, (name, j)


@pytest.mark.fast
def test_compress_is_the_weighted_mean_and_covariance():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(7, 3)) * [1.0, 5.0, 0.1] + [100.0, 0.0, -3.0], rng.uniform(0, 2, 7)
    weight[2] = 0.0
    x[2] = np.nan
    with jax.enable_x64(True):
        merged = gaussian_moments.compress_rows(batch.make_batch(jnp.asarray(x), jnp.asarray(weight)))
        fit = jax.tree.map(lambda v: v[0, 0], merged.items)
        lower = np.asarray(gaussian_moments.cholesky_factor(fit))
    here = weight > 0
    np.testing.assert_allclose(fit.mean, np.average(x[here], axis=0, weights=weight[here]), rtol=1e-12)
    expected = np.cov(x[here].T, aweights=weight[here], ddof=0)
    np.testing.assert_allclose(lower @ lower.T, expected, rtol=1e-10)
    assert float(merged.weight[0, 0]) == pytest.approx(weight.sum())


@pytest.mark.fast
@pytest.mark.parametrize("dim", [2, 3, 4, 5])
def test_no_two_entries_of_a_drawn_scatter_depend_on_each_other(dim):
    """Bartlett: entries below the diagonal, times their column's chi, are independent standard normals."""
    count, num = 9, 20_000
    fit = jax.jit(jax.vmap(lambda k: gaussian_moments.draw_normal_moments(k, dim, count)))(jax.random.split(KEY, num))
    chi = math.sqrt(count) * np.exp(np.asarray(fit.log_scale, float))
    below = (np.asarray(fit.factor, float) * chi[:, None, :])[:, *np.tril_indices(dim, -1)]
    for entry in below.T:
        assert scipy.stats.kstest(entry, "norm").pvalue > 1e-4
    columns = np.concatenate([below, chi, fit.mean], 1)
    off = np.corrcoef(columns.T)

    assert np.abs(off - np.eye(len(off))).max() < 4.5 / math.sqrt(num)


@pytest.mark.parametrize(
    ("dim", "num", "count"),
    [(1, 5, 2), (3, 8, 5), pytest.param(3, 7, 2, marks=NIGHT), pytest.param(2, 6, 6, marks=NIGHT)],
)
def test_a_part_goes_with_its_whole(dim, num, count):
    """The law of (moments of all rows, moments of the first of them) is that of rows which are drawn."""

    def see(whole, part):
        gap = part.mean - whole.mean
        # Squares, so that the pair's joint law shows: in rows, part and rest add up to the whole.
        left = gaussian_moments.log_det(whole)[None] if dim < count else gaussian_moments.log_trace(part)[None]
        return jnp.concatenate([gap, whole.mean * part.mean, left, gaussian_moments.log_trace(whole)[None], part.mean])

    @jax.jit
    @jax.vmap
    def draw(keys):
        whole = gaussian_moments.draw_normal_moments(keys[0], dim, num)
        part = gaussian_moments.compose_moments(whole, gaussian_moments.draw_part_moments(keys[1], dim, num, count))
        z = jax.random.normal(keys[2], (num, dim))
        fit = lambda rows: jax.tree.map(lambda v: v[0, 0], gaussian_moments.compress_rows(batch.make_batch(rows)).items)  # noqa: E731
        return see(whole, part), see(fit(z), fit(z[:count]))

    law, rows = (np.asarray(x, float) for x in draw(jax.random.split(KEY, (6000, 3))))
    for j in range(dim if count == num else 0, law.shape[1]):
        assert scipy.stats.ks_2samp(law[:, j], rows[:, j]).pvalue > 1e-4, j
    if count == num:
        np.testing.assert_allclose(law[:, :dim], 0.0, atol=1e-5)
        law, rows = law[:, dim:], rows[:, dim:]
    ranks = [scipy.stats.spearmanr(x).statistic for x in (law, rows)]
    assert np.abs(ranks[0] - ranks[1]).max() < 4.5 * math.sqrt(2 / 6000)
