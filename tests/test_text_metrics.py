"""What is counted of rows of symbols, against plain loops and NumPy."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from collapse_jax.core import batch
from collapse_jax.data import texts
from collapse_jax.metrics import text as text_metrics
from collapse_jax.types import Batch


def grams_of(rows, n):
    return [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in np.asarray(rows).tolist()]


def longest(row, known, n):
    best = run = 0
    for gram in row:
        run = run + 1 if gram in known else 0
        best = max(best, run + n - 1 if run else 0)
    return best


def known_of(rows, n, bits):
    return jax.tree.map(
        lambda x: x[0, 0], text_metrics.build_gram_set(batch.make_batch(jnp.asarray(rows)), n, bits).items
    )


def test_ngram_metrics_against_plain_loops():
    rng = np.random.default_rng(0)
    n, old, new = 3, rng.integers(0, 4, (30, 12)), rng.integers(0, 4, (20, 11))
    weight = np.where(np.arange(30) < 25, 1.0, 0.0)
    known = {g for row in grams_of(old[:25], n) for g in row}
    mine = grams_of(new, n)
    flat = list(itertools.chain(*mine))
    pool = Batch(jnp.asarray(old, jnp.uint8).reshape(3, 10, 12), jnp.asarray(weight).reshape(3, 10))
    kept = jax.tree.map(lambda x: x[0, 0], text_metrics.build_gram_set(pool, n, 2**16).items)
    grams = text_metrics.hash_grams(jnp.asarray(new, jnp.uint8), n)
    inside = text_metrics.is_in_set(grams, kept)
    assert float(text_metrics.novel_share(inside)) == pytest.approx(np.mean([g not in known for g in flat]))
    assert float(text_metrics.copied_run_length(inside, n)) == pytest.approx(
        np.mean([longest(row, known, n) for row in mine])
    )
    assert float(text_metrics.distinct_share(grams)) == pytest.approx(len(set(flat)) / len(flat))
    assert float(text_metrics.repeated_share(grams)) == pytest.approx(
        1 - sum(len(set(row)) for row in mine) / len(flat)
    )


@pytest.fixture(scope="module")
def plays():
    """Rows of text to train on, and rows of which a third begin with a stretch of those; what plain Python says."""
    text = texts.shakespeare()
    rng = np.random.default_rng(4)
    old = np.asarray(text.draw(jax.random.key(0), jnp.asarray(text.arrays), 2000, 64))
    new = rng.permuted(text.held_out(600, 64), axis=1)
    for i in range(200):
        size = rng.integers(4, 40)
        new[i, :size] = old[rng.integers(2000), 64 - size :]
    known = {row[i : i + 8].tobytes() for row in old for i in range(57)}
    told = np.array([[row[i : i + 8].tobytes() in known for i in range(57)] for row in new])
    return text, old, new, told


def test_a_large_set_is_exact(plays):
    _, old, new, told = plays
    known = known_of(old, 8, 2**24)
    inside = text_metrics.is_in_set(text_metrics.hash_grams(jnp.asarray(new), 8), known)
    chance = (np.bitwise_count(np.asarray(known.words)).sum() / 2**24) ** 6
    assert 1e-11 < chance < 1e-7
    assert float(jax.jit(text_metrics.chance_hit_probability)(known)) == pytest.approx(
        chance, rel=1e-4
    )  # compiled, as chains are
    np.testing.assert_array_equal(inside, told)
    assert float(text_metrics.novel_share(inside, text_metrics.chance_hit_probability(known))) == pytest.approx(
        (~told).mean(), rel=1e-5
    )
    runs = [max((len(list(run)) + 7 for hit, run in itertools.groupby(row) if hit), default=0) for row in told]
    assert float(text_metrics.copied_run_length(inside, 8)) == pytest.approx(np.mean(runs), rel=1e-5)
    assert np.mean(runs) > 4


@pytest.mark.parametrize("bits", [2**18, 2**20])
def test_chance_hits_of_a_small_set_come_as_often_as_told(plays, bits):
    _, old, new, told = plays
    known = known_of(old, 8, bits)
    inside, chance = (
        np.asarray(text_metrics.is_in_set(text_metrics.hash_grams(jnp.asarray(new), 8), known)),
        float(text_metrics.chance_hit_probability(known)),
    )
    assert inside[told].all()
    # Each different n-gram is one trial, wherever it occurs.
    absent = {row[i : i + 8].tobytes(): inside[j, i] for j, row in enumerate(new) for i in np.flatnonzero(~told[j])}
    hits, trials = sum(absent.values()), len(absent)
    assert 0.003 < chance < 0.9
    assert abs(hits - trials * chance) < 4 * np.sqrt(trials * chance * (1 - chance))
    error = np.sqrt(chance / (1 - chance) / trials)
    assert abs(float(text_metrics.novel_share(jnp.asarray(inside), chance)) - (~told).mean()) < 4 * error
    assert (
        abs(float(text_metrics.novel_share(jnp.asarray(inside))) - (~told).mean()) > 4 * error
    )  # the correction is not idle


def test_membership_in_a_long_text_is_exact(plays):
    """Also where two n-grams share one of their hashes."""
    text, _, new, _ = plays
    real = text.real_rows(64)
    known = {real[0, i : i + 8].tobytes() for i in range(real.size - 7)}
    ordered = text_metrics.order_grams(real, 8, columns=300_000)
    assert ordered.one.size == len(known)
    told = np.array([[row[i : i + 8].tobytes() in known for i in range(57)] for row in new])
    np.testing.assert_array_equal(
        jax.jit(text_metrics.is_among)(text_metrics.hash_grams(jnp.asarray(new), 8), ordered), told
    )
    pairs = lambda *x: text_metrics.Grams(*jnp.asarray(x, jnp.uint32).T)  # noqa: E731
    some = pairs((1, 5), (7, 2), (7, 3), (7, 9), (2**32 - 1, 0))
    asked = pairs((0, 0), (1, 5), (7, 3), (7, 4), (7, 9), (8, 9), (2**32 - 1, 0), (2**32 - 1, 1))
    assert text_metrics.is_among(asked, some).tolist() == [False, True, True, False, True, False, True, False]


def test_counts_above_what_floats_can_count():
    """Adding 1 to a float32 stops at 2^24."""
    count = jax.jit(lambda: text_metrics.count_symbols(jnp.zeros((1100, 2**14), jnp.uint8), 2))()
    assert count.tolist() == [1100 * 2**14, 0]


def test_symbol_metrics_against_numpy():
    rng = np.random.default_rng(2)
    rows = rng.choice(6, (40, 9), p=[0.4, 0.3, 0.2, 0.1, 0, 0])
    count, real = np.bincount(rows.reshape(-1), minlength=6), np.array([0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
    np.testing.assert_array_equal(text_metrics.count_symbols(jnp.asarray(rows, jnp.uint8), 6), count)
    pairs = Counter((a, b) for row in rows.tolist() for a, b in itertools.pairwise(row))
    found = np.asarray(text_metrics.count_symbols(jnp.asarray(rows, jnp.uint8), 6, 1)).reshape(6, 6)
    assert all(found[a, b] == pairs[a, b] for a in range(6) for b in range(6))
    share = count / count.sum()
    expected = sum(s * np.log(s / r) for s, r in zip(share, real, strict=True) if s > 0)
    assert float(text_metrics.kl_divergence(jnp.asarray(count, float), np.log(real))) == pytest.approx(
        expected, rel=1e-4
    )
    alive = np.sort(share[share > 0])[::-1]
    slope = scipy.stats.linregress(np.log(np.arange(1, len(alive) + 1)), np.log(alive)).slope
    assert float(text_metrics.zipf_exponent(jnp.asarray(count, float))) == pytest.approx(-slope, rel=1e-4)
    assert float(text_metrics.zipf_exponent(jnp.array([0.0, 5.0, 0.0]))) == 0


def test_calibration_error_against_numpy():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(size=(20, 30))
    right = rng.uniform(size=(20, 30)) < confidence**2
    bins = np.minimum((confidence * 10).astype(int), 9)
    expected = sum(np.mean(bins == b) * abs(confidence[bins == b].mean() - right[bins == b].mean()) for b in range(10))
    assert float(text_metrics.calibration_error(jnp.asarray(confidence, jnp.float32), right)) == pytest.approx(
        expected, abs=2e-3
    )


def test_the_first_rows_are_padded_with_nan():
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(text_metrics.first_rows(jnp.asarray(rows), 2), rows[:2])
    np.testing.assert_array_equal(
        text_metrics.first_rows(jnp.asarray(rows), 5), np.vstack([rows, np.full((2, 4), np.nan)])
    )
