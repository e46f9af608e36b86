"""What is counted of rows of symbols, against plain loops and NumPy."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from collapse_jax import batch as B
from collapse_jax import text_metrics as T
from collapse_jax.types import Batch


def grams_of(rows, n):
    return [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in np.asarray(rows).tolist()]


def longest(row, known, n):
    best = run = 0
    for gram in row:
        run = run + 1 if gram in known else 0
        best = max(best, run + n - 1 if run else 0)
    return best


def test_ngram_metrics_against_plain_loops():
    rng = np.random.default_rng(0)
    n, old, new = 3, rng.integers(0, 4, (30, 12)), rng.integers(0, 4, (20, 11))
    weight = np.where(np.arange(30) < 25, 1.0, 0.0)
    known = {g for row in grams_of(old[:25], n) for g in row}
    mine = grams_of(new, n)
    flat = list(itertools.chain(*mine))
    batch = Batch(jnp.asarray(old, jnp.uint8).reshape(3, 10, 12), jnp.asarray(weight).reshape(3, 10))
    grams = jax.tree.map(lambda x: x[0, 0], T.gram_set(batch, n, 2**16).items)
    value = T.hashes(jnp.asarray(new, jnp.uint8), n)
    inside = T.is_in_set(value, grams)
    assert float(T.novelty(inside)) == pytest.approx(np.mean([g not in known for g in flat]))
    assert float(T.copied_run(inside, n)) == pytest.approx(np.mean([longest(row, known, n) for row in mine]))
    everything = np.unique(np.asarray(T.hashes(jnp.asarray(old[:25], jnp.uint8), n)))
    np.testing.assert_array_equal(T.is_among(value, jnp.asarray(everything)), inside)
    assert float(T.distinct(value)) == pytest.approx(len(set(flat)) / len(flat))
    assert float(T.repetition(value)) == pytest.approx(1 - sum(len(set(row)) for row in mine) / len(flat))


def test_novelty_is_corrected_for_a_small_set():
    """A set so small that a third of its bits are taken: chance hits are divided out."""
    rng = np.random.default_rng(1)
    old, new = (jnp.asarray(rng.integers(0, 256, (200, 12)), jnp.uint8) for _ in range(2))
    half = jnp.concatenate([old[:100], new[:100]])
    grams = jax.tree.map(lambda x: x[0, 0], T.gram_set(B.unit(old), 8, 2**11).items)
    chance = float(T.filled(grams))
    assert 0.3 < chance < 0.5
    inside = T.is_in_set(T.hashes(half, 8), grams)
    assert abs(float(T.novelty(inside, chance)) - 0.5) < 0.06
    assert float(T.novelty(inside)) < 0.38


def test_symbol_metrics_against_numpy():
    rng = np.random.default_rng(2)
    rows = rng.choice(6, (40, 9), p=[0.4, 0.3, 0.2, 0.1, 0, 0])
    count, real = np.bincount(rows.reshape(-1), minlength=6), np.array([0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
    np.testing.assert_array_equal(T.frequencies(jnp.asarray(rows, jnp.uint8), 6), count)
    pairs = Counter((a, b) for row in rows.tolist() for a, b in itertools.pairwise(row))
    found = np.asarray(T.frequencies(jnp.asarray(rows, jnp.uint8), 6, 1)).reshape(6, 6)
    assert all(found[a, b] == pairs[a, b] for a in range(6) for b in range(6))
    share = count / count.sum()
    expected = sum(s * np.log(s / r) for s, r in zip(share, real, strict=True) if s > 0)
    assert float(T.divergence(jnp.asarray(count, float), np.log(real))) == pytest.approx(expected, rel=1e-4)
    alive = np.sort(share[share > 0])[::-1]
    slope = scipy.stats.linregress(np.log(np.arange(1, len(alive) + 1)), np.log(alive)).slope
    assert float(T.zipf_exponent(jnp.asarray(count, float))) == pytest.approx(-slope, rel=1e-4)
    assert float(T.zipf_exponent(jnp.array([0.0, 5.0, 0.0]))) == 0


def test_calibration_error_against_numpy():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(size=(20, 30))
    right = rng.uniform(size=(20, 30)) < confidence**2
    bins = np.minimum((confidence * 10).astype(int), 9)
    expected = sum(np.mean(bins == b) * abs(confidence[bins == b].mean() - right[bins == b].mean()) for b in range(10))
    assert float(T.calibration_error(jnp.asarray(confidence, jnp.float32), right)) == pytest.approx(expected, abs=2e-3)


def test_the_first_rows_are_padded_with_nan():
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(T.first(jnp.asarray(rows), 2), rows[:2])
    np.testing.assert_array_equal(T.first(jnp.asarray(rows), 5), np.vstack([rows, np.full((2, 4), np.nan)]))
