"""Texts to learn from: embedded ones, their symbols, and laws of known entropy."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from collapse_jax.data import known_texts, texts

KEY = jax.random.key(3)
LAW = texts.markov_chain()


@pytest.mark.parametrize("name", ["shakespeare", "austen"])
def test_embedded_texts(name):
    text = getattr(texts, name)()
    rows = np.asarray(text.draw(KEY, jnp.asarray(text.arrays), 3, 20))
    whole = text.decode(text.real_rows(20)[0])
    assert all(text.decode(row) in whole for row in rows)
    test = text.held_out(10, 64)
    assert test.shape == (10, 64)
    assert all(whole.rindex(text.decode(row)) > 0.89 * len(whole) for row in test)
    assert text.bytes_per_symbol == pytest.approx(1, abs=1e-3)
    assert text.num_symbols == len(set(whole))


def test_bytes_and_pieces():
    words = "größer kleiner größer als " * 60
    raw = texts.given("t", words, "bytes")
    assert raw.num_symbols == 256
    assert raw.decode(raw.real_rows(1)[0]) == words
    assert raw.bytes_per_symbol == 1
    pytest.importorskip("tokenizers")
    pieces = texts.given("t", words, "bpe", vocabulary=270)
    assert pieces.decode(pieces.real_rows(1)[0]) == words
    assert 257 <= pieces.num_symbols <= 270
    assert pieces.bytes_per_symbol > 1.5


@pytest.mark.parametrize("make", [texts.markov_chain, texts.hidden_markov, texts.brackets])
def test_known_laws_are_what_they_draw(make):
    """Log probabilities sum to one over all short rows, and match how often rows are drawn."""
    text = make() if make is not texts.brackets else make(2, 2)
    length, every = 3, list(itertools.product(range(text.num_symbols), repeat=3))
    log_prob = text.log_prob(np.array(every))
    assert np.exp(log_prob).sum() == pytest.approx(1, abs=1e-9)
    rows = np.asarray(jax.jit(text.draw, static_argnums=(2, 3))(KEY, text.arrays, 20_000, length))
    counts = Counter(map(tuple, rows.tolist()))
    expected = 20_000 * np.exp(log_prob)
    seen = np.array([counts[gram] for gram in every])
    assert seen[expected == 0].sum() == 0
    large = expected > 5
    chi = ((seen - expected)[large] ** 2 / expected[large]).sum()
    assert chi < scipy.stats.chi2.ppf(1 - 1e-4, large.sum())


def test_entropy_rates():
    stationary, table = LAW.arrays
    exact = -(stationary[:, None] * table * np.log(np.where(table > 0, table, 1))).sum()
    rate, error = known_texts.entropy_rate(LAW, 32, 1024)
    assert abs(rate - exact) < 4 * error < 0.05
    hidden = texts.hidden_markov()
    (early, e), (late, f) = (known_texts.entropy_rate(hidden, 32, 1024, burn, seed=burn) for burn in (64, 512))
    assert abs(early - late) < 4 * np.hypot(e, f)
    with pytest.raises(ValueError, match="nobody knows"):
        known_texts.entropy_rate(texts.given("t", "abc" * 20))
