"""Texts to learn from: embedded ones, their symbols, and laws of known entropy."""

import itertools
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from collapse_jax.data import known_texts, readers, symbols, texts, tokens

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
    raw = texts.text_from_string("t", words, "bytes")
    assert raw.num_symbols == 256
    assert raw.decode(raw.real_rows(1)[0]) == words
    assert raw.bytes_per_symbol == 1
    pytest.importorskip("tokenizers")
    pieces = texts.text_from_string("t", words, "bpe", vocabulary=270)
    assert pieces.decode(pieces.real_rows(1)[0]) == words
    assert 257 <= pieces.num_symbols <= 270
    assert pieces.bytes_per_symbol > 1.5


def test_a_text_in_parts_has_the_pieces_of_the_whole(monkeypatch):
    text = "One  two\n\n three, four!\nfive \n six\n" * 30
    parts = list(tokens.split_text(text, 50))
    assert "".join(parts) == text
    assert len(parts) > 10
    assert all(part[0] == "\n" and not before[-1].isspace() for before, part in itertools.pairwise(parts))
    assert list(tokens.split_text("no break here", 3)) == ["no break here"]
    whole = tokens.make_alphabet("t", text, "characters").encode(text)
    monkeypatch.setattr(tokens, "_SECTION", 50)
    np.testing.assert_array_equal(tokens.make_alphabet("t", text, "characters").encode(text), whole)
    lower = tokens.make_alphabet("t", "", "characters", characters="abcdefgh\n ")
    with pytest.raises(ValueError, match=r"character 120 \(line 12\), 'X', is not one of the 10"):
        lower.encode("abcdefgh \n" * 11 + "abcdefgh X")


def test_pieces_of_parts_are_those_of_the_whole(monkeypatch):
    pytest.importorskip("tokenizers")
    text = "One  two\n\n three, four!\nfive \n six\n größer" * 30
    whole = tokens.make_alphabet("t", text, "bpe", 300).encode(text)
    monkeypatch.setattr(tokens, "_SECTION", 50)
    tokens._learn_pieces.cache_clear()
    np.testing.assert_array_equal(tokens.make_alphabet("t", text, "bpe", 300).encode(text), whole)


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
    with pytest.raises(ValueError, match="probabilities are not known"):
        known_texts.entropy_rate(texts.text_from_string("t", "abc" * 20))
    with pytest.raises(ValueError, match="burn must be a whole number from 1 to 255, not 256"):
        known_texts.entropy_rate(LAW, length=256)


def test_a_byte_order_mark_is_no_character(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + b"abc" * 20)
    assert texts.text_file(str(tmp_path / "t.txt")).num_symbols == 3


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1"])
def test_other_codes_are_refused(code, tmp_path):
    """Without its mark, UTF-16 decodes as UTF-8: each second character would be a 0."""
    words = "größer als " * 20 if code == "latin-1" else "larger than " * 20
    (tmp_path / "t.txt").write_bytes(words.encode(code))
    for read in (texts.text_file, symbols.symbol_file):
        with pytest.raises(ValueError, match=r"t\.txt: byte \d+ .*UTF-8.*convert the file") as error:
            read(str(tmp_path / "t.txt"))
        assert "\n" not in str(error.value)


def test_versions_of_datasets_come_in_order():
    names = ["1.10.0", "1.9.0", "1.0.0", "0.12.3", "2.0.0-rc"]
    order = sorted((Path(name) / "dataset_info.json" for name in names), key=readers._dataset_version)
    assert [path.parent.name for path in order] == ["0.12.3", "1.0.0", "1.9.0", "1.10.0", "2.0.0-rc"]
