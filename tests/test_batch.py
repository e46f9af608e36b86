"""Weighted rows, rings of generations, gamma variates and moments: the words that everything else is said in."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from collapse_jax.core import batch, resampling
from collapse_jax.core.pool import block_memory, fold_memory
from collapse_jax.numerics import gaussian_moments
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
    weight, pool = numbered(weight)
    pool = pool(4)
    chosen = np.asarray(jax.jit(lambda pool: batch.draw_rows(KEY, pool, 20_000))(pool))
    assert chosen.shape == (20_000,)
    counts = np.bincount(chosen, minlength=weight.shape[0] * 4)
    assert chi_square(counts, batch.full_weight(pool)) > 1e-4
    # Rows are independent: so are pairs of neighbours.
    share = np.ravel(batch.full_weight(pool) / batch.total_weight(pool))
    pairs = np.bincount(chosen[::2] * share.size + chosen[1::2], minlength=share.size**2)
    assert chi_square(pairs, np.outer(share, share)) > 1e-4


def test_the_inverse_cdf_never_gives_a_row_of_weight_zero():
    # Uniforms at both ends, sums that round: rows 0 and the last ones are absent.
    weight = jnp.concatenate([jnp.zeros(3), jnp.full(1001, 0.1), jnp.zeros(5)])
    ends = jnp.asarray([0.0, 1e-30, 0.5, 1 - 2**-24, 1.0])
    index = np.asarray(batch._inverse_cdf(weight)(ends))
    assert (index[0], index[-1]) == (3, 1003)
    assert ((index >= 3) & (index <= 1003)).all()


@pytest.mark.fast
@pytest.mark.parametrize("wide", [False, True])
def test_redraw_takes_rows_of_positive_weight_and_keeps_their_weights(wide):
    weight = np.asarray([[2.0], [0.0], [0.5]])
    weight, pool = numbered(np.broadcast_to(weight, (3, 2)) if wide else weight)
    pool = pool(2)
    present = np.ravel(batch.full_weight(pool))
    for replacement in (False, True):
        draw = jax.jit(jax.vmap(lambda k, r=replacement: resampling.redraw_rows(k, pool, 3, r)))
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
    whole = jax.jit(lambda pool: resampling.redraw_rows(KEY, pool, 5, False))(pool)
    assert sorted(np.ravel(whole.items)[np.ravel(whole.weight) > 0]) == [0, 1, 4, 5]
    assert float(batch.total_weight(whole)) == 5.0


@pytest.mark.parametrize(("num", "capacity"), [(2, 6), (3, 6), (3, 20)])
def test_distinct_is_uniform_over_all_subsets(num, capacity):
    draw = jax.jit(jax.vmap(lambda k, c: resampling.draw_distinct(k, num, c, capacity), (0, None)))
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
    draw = jax.jit(jax.vmap(lambda k, c: resampling.draw_distinct(k, num, c, capacity), (0, None)))
    free = jax.jit(jax.vmap(lambda k, c: resampling.draw_distinct(k, num, c, capacity, crowded=False), (0, None)))
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
        draw = jax.jit(jax.vmap(lambda k, c, num=num: resampling.draw_distinct(k, num, c, 5 * num + 3)[0], (0, None)))
        for count in (num, num + 1, 2 * num - 1, 2 * num, 2 * num + 1, 5 * num + 3):
            numbers = np.sort(draw(jax.random.split(KEY, 20), count), 1)
            assert (np.diff(numbers) > 0).all()
            assert (numbers >= 0).all()
            assert (numbers < count).all()


@pytest.mark.fast
def test_stack_scale_and_total():
    a = batch.make_batch(jnp.arange(3.0), 2.0)
    b = batch.make_batch(jnp.arange(3.0) + 10, jnp.asarray([0.0, 1.0, 5.0]))
    assert (a.weight.shape, b.weight.shape) == ((1, 1), (1, 3))
    assert (
        float(batch.total_weight(a)),
        float(batch.total_weight(b)),
        float(batch.total_weight(batch.scale_weights(a, 0.25))),
    ) == (6.0, 6.0, 1.5)
    assert batch.stack_blocks(a, a).weight.tolist() == [[2.0], [2.0]]
    both = batch.stack_blocks(a, b)
    assert both.weight.tolist() == [[2.0, 2.0, 2.0], [0.0, 1.0, 5.0]]
    assert both.items.tolist() == [[0, 1, 2], [10, 11, 12]]
    assert float(batch.total_weight(both)) == 12.0
    assert float(batch.total_weight(batch.stack_blocks(a, a, a))) == 18.0
    items, weight = batch.weighted_rows(both)
    assert items.tolist() == [0, 1, 2, 10, 11, 12]
    assert weight.tolist() == [2, 2, 2, 0, 1, 5]
    assert batch.take_rows(items, jnp.asarray([5, 0])).tolist() == [12, 0]
    assert float(batch.total_weight(batch.make_batch(jnp.ones(1), 3.0))) == 3.0


@pytest.mark.fast
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_ring_keeps_the_last_batches(blocks):
    keep = 3
    memory = block_memory(keep)
    new = lambda g: Batch(jnp.full((blocks, 2), g), jnp.ones((blocks, 1)))  # noqa: E731
    pool = memory.start(batch.make_batch(jnp.zeros(2, int)), new(0))
    assert pool.weight.ravel().tolist() == [1.0] + [0.0] * (keep * blocks - 1)
    for g in range(1, 8):
        pool = memory.add(pool, new(g), 0.5, jnp.int32(g))
        slots = np.asarray(pool.items).reshape(keep, -1)
        # Batch b lies in slot b mod 3, at weight 0.5^age; the real batch 0 fills one block alone.
        kept = range(max(0, g - keep + 1), g + 1)
        assert all((slots[b % keep] == b).all() for b in kept)
        expected = sum((0.5 ** (g - b)) * (2 if b == 0 else 2 * blocks) for b in kept)
        assert float(batch.total_weight(pool)) == pytest.approx(expected)


def test_a_fold_keeps_what_a_ring_keeps():
    batches = [
        batch.make_batch(jax.random.normal(k, (4, 2)) * s, 1.0) for s, k in enumerate(jax.random.split(KEY, 5), 1)
    ]
    fold, ring = fold_memory(gaussian_moments.compress_rows), block_memory(5)
    folded, kept = jax.jit(fold.start)(batches[0], batches[0]), ring.start(batches[0], batches[0])
    add = jax.jit(fold.add)
    for g, new in enumerate(batches[1:], 1):
        folded, kept = add(folded, new, 0.7, jnp.int32(g)), ring.add(kept, new, 0.7, jnp.int32(g))
    whole = jax.jit(gaussian_moments.compress_rows)(kept)
    for a, b in zip(jax.tree.leaves(folded), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert folded.items.mean.shape == (1, 1, 2)
