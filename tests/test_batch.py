"""Weighted rows, rings of generations, gamma variates and moments: the words that everything else is said in."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from collapse_jax import batch as B
from collapse_jax import moments
from collapse_jax.gamma import log_gamma_over_shape
from collapse_jax.memory import block_memory, fold_memory
from collapse_jax.moments import Moments
from collapse_jax.types import Batch

KEY = jax.random.key(2)


def numbered(weight):
    """A batch whose items are the numbers of its rows."""
    weight = jnp.asarray(weight, jnp.float32)
    return weight, lambda rows: Batch(jnp.arange(weight.shape[0] * rows).reshape(-1, rows), weight)


def chi_square(counts, expected):
    """p-value of counts, where what is expected never must never be."""
    counts, expected = np.ravel(counts), np.ravel(np.asarray(expected, float))
    assert (counts[expected == 0] == 0).all()
    there = expected > 0
    return scipy.stats.chisquare(counts[there], expected[there] * counts.sum() / expected.sum()).pvalue


@pytest.mark.fast
@pytest.mark.parametrize(
    "weight",
    [
        [[1.0]], [[0.0], [2.0], [1.0], [0.0]], [[0.25], [0.5]], [[1.0, 0.0, 2.0, 0.5]],
        [[0.0, 0.0, 1.0, 1.0], [3.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]],
    ],
)  # fmt: skip
def test_choose_is_in_proportion_to_weight(weight):
    weight, batch = numbered(weight)
    batch = batch(4)
    chosen = B.choose(KEY, batch, 20_000)
    assert chosen.shape == (20_000,)
    counts = np.bincount(chosen, minlength=weight.shape[0] * 4)
    assert chi_square(counts, B.full_weight(batch)) > 1e-4
    # Rows are independent: so are pairs of neighbours.
    share = np.ravel(B.full_weight(batch) / B.total(batch))
    pairs = np.bincount(chosen[::2] * share.size + chosen[1::2], minlength=share.size**2)
    assert chi_square(pairs, np.outer(share, share)) > 1e-4


def test_the_inverse_cdf_never_gives_a_row_of_weight_zero():
    # Uniforms at both ends, sums that round: rows 0 and the last ones are absent.
    weight = jnp.concatenate([jnp.zeros(3), jnp.full(1001, 0.1), jnp.zeros(5)])
    ends = jnp.asarray([0.0, 1e-30, 0.5, 1 - 2**-24, 1.0])
    index = np.asarray(B._inverse_cdf(weight, ends))
    assert (index[0], index[-1]) == (3, 1003)
    assert ((index >= 3) & (index <= 1003)).all()


@pytest.mark.fast
@pytest.mark.parametrize("wide", [False, True])
def test_redraw_takes_rows_of_positive_weight_and_keeps_their_weights(wide):
    weight = np.asarray([[2.0], [0.0], [0.5]])
    weight, batch = numbered(np.broadcast_to(weight, (3, 2)) if wide else weight)
    batch = batch(2)
    present = np.ravel(B.full_weight(batch))
    for replacement in (False, True):
        draw = jax.jit(jax.vmap(lambda k, r=replacement: B.redraw(k, batch, 3, r)))
        draws = draw(jax.random.split(KEY, 4000))
        rows, weights = np.asarray(draws.items[:, 0]), np.asarray(draws.weight[:, 0])
        np.testing.assert_array_equal(weights, present[rows])  # row 2 and 3 would show as weight 0
        assert (weights > 0).all()
        # Uniform over the rows that are there, whatever they weigh.
        subsets = [tuple(sorted(row)) for row in rows]
        alive = np.flatnonzero(present)
        if replacement:
            every = [tuple(sorted(t)) for t in itertools.product(alive, repeat=3)]
        else:
            every = list(itertools.combinations(alive, 3))
        kinds = sorted(set(every))
        assert chi_square([subsets.count(k) for k in kinds], [every.count(k) for k in kinds]) > 1e-4
        assert set(subsets) <= set(kinds)
    whole = B.redraw(KEY, batch, 5, False)
    assert sorted(np.ravel(whole.items)[np.ravel(whole.weight) > 0]) == [0, 1, 4, 5]
    assert float(B.total(whole)) == 5.0


@pytest.mark.parametrize(("num", "capacity"), [(2, 6), (3, 6), (3, 20)])
def test_distinct_is_uniform_over_all_subsets(num, capacity):
    draw = jax.jit(jax.vmap(lambda k, c: B.distinct(k, num, c, capacity), (0, None)))
    keys = jax.random.split(KEY, 6000)
    for count in range(1, 7):
        numbers, present = draw(keys, count)
        assert (present.sum(1) == min(num, count)).all()
        kept = [tuple(sorted(row[there])) for row, there in zip(np.asarray(numbers), np.asarray(present), strict=True)]
        every = list(itertools.combinations(range(count), min(num, count)))
        assert set(kept) == set(every)
        if len(every) > 1:
            assert chi_square([kept.count(k) for k in every], np.ones(len(every))) > 1e-4


def test_distinct_numbers_are_distinct_at_every_count():
    num, capacity = 7, 40
    draw = jax.jit(jax.vmap(lambda k, c: B.distinct(k, num, c, capacity), (0, None)))
    free = jax.jit(jax.vmap(lambda k, c: B.distinct(k, num, c, capacity, crowded=False), (0, None)))
    keys = jax.random.split(KEY, 50)
    for count in range(1, 41):
        if not num < count < 2 * num:
            for a, b in zip(free(keys, count), draw(keys, count), strict=True):
                assert (a[:, : min(num, count)] == b[:, : min(num, count)]).all()
        numbers, present = map(np.asarray, draw(keys, count))
        assert (present == (np.arange(num) < count)).all()
        for row in numbers[:, : min(num, count)]:
            assert len(set(row)) == row.size
            assert row.min() >= 0
            assert row.max() < count


def test_distinct_numbers_are_distinct_at_larger_sizes():
    for num in (1, 1000):
        draw = jax.jit(jax.vmap(lambda k, c, num=num: B.distinct(k, num, c, 5 * num + 3)[0], (0, None)))
        for count in (num, num + 1, 2 * num - 1, 2 * num, 2 * num + 1, 5 * num + 3):
            numbers = np.sort(draw(jax.random.split(KEY, 20), count), 1)
            assert (np.diff(numbers) > 0).all()
            assert (numbers >= 0).all()
            assert (numbers < count).all()


@pytest.mark.fast
def test_stack_scale_and_total():
    a = B.unit(jnp.arange(3.0), 2.0)
    b = B.unit(jnp.arange(3.0) + 10, jnp.asarray([0.0, 1.0, 5.0]))
    assert (a.weight.shape, b.weight.shape) == ((1, 1), (1, 3))
    assert (float(B.total(a)), float(B.total(b)), float(B.total(B.scale(a, 0.25)))) == (6.0, 6.0, 1.5)
    assert B.stack(a, a).weight.tolist() == [[2.0], [2.0]]
    both = B.stack(a, b)
    assert both.weight.tolist() == [[2.0, 2.0, 2.0], [0.0, 1.0, 5.0]]
    assert both.items.tolist() == [[0, 1, 2], [10, 11, 12]]
    assert float(B.total(both)) == 12.0
    assert float(B.total(B.stack(a, a, a))) == 18.0
    items, weight = B.rows(both)
    assert items.tolist() == [0, 1, 2, 10, 11, 12]
    assert weight.tolist() == [2, 2, 2, 0, 1, 5]
    assert B.take(items, jnp.asarray([5, 0])).tolist() == [12, 0]
    assert float(B.total(B.unit(jnp.ones(1), 3.0))) == 3.0


@pytest.mark.fast
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_ring_keeps_the_last_batches(blocks):
    keep = 3
    memory = block_memory(keep)
    new = lambda g: Batch(jnp.full((blocks, 2), g), jnp.ones((blocks, 1)))  # noqa: E731
    pool = memory.start(B.unit(jnp.zeros(2, int)), new(0))
    assert pool.weight.ravel().tolist() == [1.0] + [0.0] * (keep * blocks - 1)
    for g in range(1, 8):
        pool = memory.add(pool, new(g), 0.5, jnp.int32(g))
        slots = np.asarray(pool.items).reshape(keep, -1)
        # Batch b lies in slot b mod 3, at weight 0.5^age; the real batch 0 fills one block alone.
        kept = range(max(0, g - keep + 1), g + 1)
        assert all((slots[b % keep] == b).all() for b in kept)
        expected = sum((0.5 ** (g - b)) * (2 if b == 0 else 2 * blocks) for b in kept)
        assert float(B.total(pool)) == pytest.approx(expected)


def test_a_fold_keeps_what_a_ring_keeps():
    batches = [B.unit(jax.random.normal(k, (4, 2)) * s, 1.0) for s, k in enumerate(jax.random.split(KEY, 5), 1)]
    fold, ring = fold_memory(moments.compress), block_memory(5)
    folded, kept = jax.jit(fold.start)(batches[0], batches[0]), ring.start(batches[0], batches[0])
    add = jax.jit(fold.add)
    for g, new in enumerate(batches[1:], 1):
        folded, kept = add(folded, new, 0.7, jnp.int32(g)), ring.add(kept, new, 0.7, jnp.int32(g))
    whole = jax.jit(moments.compress)(kept)
    for a, b in zip(jax.tree.leaves(folded), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert folded.items.mean.shape == (1, 1, 2)


@pytest.mark.fast
@pytest.mark.parametrize("traced", [False, True])
def test_log_gamma_has_the_law_of_log_gamma(traced):
    shapes = np.asarray([0.5, 1.0, 3.3, 49.5])
    keys = jax.random.split(KEY, 20_000)
    draw = jax.jit(jax.vmap(lambda k, s: log_gamma_over_shape(k, s if traced else shapes), (0, None)))
    values = np.asarray(draw(keys, jnp.asarray(shapes)), float)
    assert values.shape == (20_000, 4)
    for column, shape in enumerate(shapes):
        assert scipy.stats.kstest(shape * np.exp(values[:, column]), scipy.stats.gamma(shape).cdf).pvalue > 1e-4
    # Entries are independent.
    assert np.abs(np.corrcoef(values.T) - np.eye(4)).max() < 4 / math.sqrt(20_000)


@pytest.mark.fast
@pytest.mark.parametrize(("double", "tolerance"), [(True, 2e-7), (False, 2e-6)])
def test_quantiles_of_gamma_are_accurate(double, tolerance):
    shapes = np.asarray([0.5, 1.0, 3.3, 49.5, 499.5])
    with jax.enable_x64(double):
        keys = jax.random.split(jax.random.key(7), 20_000)
        values = np.asarray(jax.jit(jax.vmap(lambda k: log_gamma_over_shape(k, shapes)))(keys), float)
        z = np.asarray(jax.vmap(lambda k: jax.random.normal(k, (5,)))(keys), float)
    low = scipy.special.gammaincinv(shapes, scipy.special.ndtr(z))
    high = scipy.special.gammainccinv(shapes, scipy.special.ndtr(-z))
    exact = np.log(np.where(z < 0, low, high) / shapes)
    # In float32 the result, as large as 20, is itself rounded.
    assert (np.abs(values - exact) / np.maximum(1.0, np.abs(exact))).max() < tolerance


def covariance(d, rank, seed=0):
    rows = np.random.default_rng(seed).normal(size=(rank + 1, d)) * np.logspace(0, 1, d)
    return np.cov(rows.T, bias=True).reshape(d, d)


@pytest.mark.fast
@pytest.mark.parametrize("d", [1, 2, 5, 40])
def test_factorise_is_cholesky(d):
    sigma = covariance(d, 3 * d)
    with jax.enable_x64(True):
        factor, log_scale = map(np.asarray, jax.jit(moments.factorise)(jnp.asarray(sigma)))
    assert (np.diag(factor) == 1).all()
    np.testing.assert_allclose(factor * np.exp(log_scale), np.linalg.cholesky(sigma), rtol=1e-9, atol=1e-12)
    fit = moments.from_covariance(np.zeros(d), sigma.astype(np.float32))
    np.testing.assert_allclose(moments.cholesky(fit), np.linalg.cholesky(sigma), rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(moments.log_det(fit), np.linalg.slogdet(sigma)[1], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(moments.log_trace(fit), np.log(np.trace(sigma)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("d", "rank"), [(1, 0), (3, 0), (3, 1), (5, 2), (5, 4), (40, 7)])
def test_factorise_of_singular_matrices(d, rank):
    sigma = covariance(d, rank) if rank else np.zeros((d, d))
    with jax.enable_x64(True):
        fit = moments.from_covariance(np.zeros(d), sigma)
        factor, log_scale = np.asarray(fit.factor), np.asarray(fit.log_scale)
        lower = np.asarray(moments.cholesky(fit))
        assert np.isneginf(moments.log_det(fit))
        trace = float(moments.log_trace(fit))
    np.testing.assert_allclose(lower @ lower.T, sigma, atol=1e-9 * max(1.0, sigma.max()))
    # Rows in general position: their first `rank` directions are taken, the others empty, with a unit column.
    assert np.isfinite(log_scale).tolist() == [i < rank for i in range(d)]
    np.testing.assert_array_equal(factor[:, rank:], np.eye(d)[:, rank:])
    if rank:
        assert trace == pytest.approx(np.log(np.trace(sigma)))
    else:
        assert trace == -np.inf


def test_factorise_finds_what_is_constant_or_doubled():
    x = np.random.default_rng(1).normal(size=(50, 2))
    rows = jnp.asarray(np.stack([np.full(50, 3.0), x[:, 0], x[:, 0], x[:, 1]], 1))
    fit = jax.tree.map(lambda v: v[0, 0], moments.compress(B.unit(rows)).items)
    assert np.isfinite(fit.log_scale).tolist() == [False, True, False, True]
    lower = np.asarray(moments.cholesky(fit))
    np.testing.assert_allclose(lower @ lower.T, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("ranks", [(3, 3), (2, 3), (3, 1), (0, 3), (1, 2)])
def test_compose_is_the_law_of_a_map_of_rows(ranks):
    with jax.enable_x64(True):
        made = [covariance(3, r, seed) if r else np.zeros((3, 3)) for seed, r in enumerate(ranks)]
        mean = np.asarray([[1.0, -2.0, 0.5], [0.3, 0.1, -0.2]])
        outer, inner = (moments.from_covariance(m, c) for m, c in zip(mean, made, strict=True))
        both = moments.compose(outer, inner)
        lower, result = np.asarray(moments.cholesky(outer)), np.asarray(moments.cholesky(both))
    np.testing.assert_allclose(both.mean, mean[0] + lower @ mean[1], rtol=1e-12)
    np.testing.assert_allclose(result @ result.T, lower @ made[1] @ lower.T, rtol=1e-8, atol=1e-8)
    assert not np.isnan(both.factor).any()


def test_compose_outlasts_float32():
    small = Moments(jnp.zeros(2), jnp.eye(2), jnp.asarray([-300.0, -500.0]))
    both = moments.compose(
        small, Moments(jnp.zeros(2), jnp.asarray([[1.0, 0.0], [0.5, 1.0]]), jnp.asarray([-1.0, -2.0]))
    )
    assert both.log_scale.tolist() == [-301.0, -502.0]
    assert float(moments.log_det(both)) == -1606.0
    assert np.isfinite(both.factor).all()


@pytest.mark.parametrize(("dim", "count"), [(1, 1), (1, 30), (3, 1), (3, 2), (3, 3), (3, 12)])
def test_the_law_of_moments_is_that_of_the_moments_of_rows(dim, count):
    def see(fit):
        return {
            "mean": fit.mean, "log_scale": fit.log_scale, "below": (fit.factor * jnp.tri(dim, k=-1))[-1],
            "log_trace": moments.log_trace(fit)[None],
        }  # fmt: skip

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def draw(keys, c):
        return (
            see(moments.of_normal_law(keys[0], dim, count)),
            see(moments.of_normal_rows(keys[1], dim, 13 + count, count)),
            see(moments.of_normal_law(keys[2], dim, c)),
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
        merged = moments.compress(B.unit(jnp.asarray(x), jnp.asarray(weight)))
        fit = jax.tree.map(lambda v: v[0, 0], merged.items)
        lower = np.asarray(moments.cholesky(fit))
    here = weight > 0
    np.testing.assert_allclose(fit.mean, np.average(x[here], axis=0, weights=weight[here]), rtol=1e-12)
    expected = np.cov(x[here].T, aweights=weight[here], ddof=0)
    np.testing.assert_allclose(lower @ lower.T, expected, rtol=1e-10)
    assert float(merged.weight[0, 0]) == pytest.approx(weight.sum())
