"""Metrics of language models: copied runs without chance, sets that fit a pool, and what simple models reach."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle_helpers import z_score

from collapse_jax import policies, settings
from collapse_jax.analysis import verdicts
from collapse_jax.core import batch
from collapse_jax.core.chain import make_chain
from collapse_jax.data import texts
from collapse_jax.execution.sweep import run
from collapse_jax.metrics import text as text_metrics
from collapse_jax.settings.language_metrics import MAX_PAIRED_SYMBOLS, simple_losses

KEY = jax.random.key(3)
WORDS = texts.text_from_string("words", "the cat and the dog and the bird are here. " * 200)
TINY = {"text": WORDS, "width": 8, "depth": 1, "heads": 1, "length": 8, "steps": 3, "batch_size": 8, "num_test": 8,
        "warmup": 1, "ngram": 2, "rows_at_once": 8}  # fmt: skip


def longest(row, n):
    runs = [len(list(run)) for known, run in itertools.groupby(row) if known]
    return max(runs) + n - 1 if runs else 0


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_chance_lengthens_runs_as_each_gram_alone_would(share):
    """Against the longest runs after each n-gram in turn was flipped."""
    n, known = 5, np.random.default_rng(1).uniform(size=(20, 13)) < share
    growth = 0.0
    for row in known:
        for i in np.flatnonzero(~row):
            growth += longest(row | (np.arange(13) == i), n) - longest(row, n)
    chance = 0.01
    found = text_metrics.chance_run_length(jnp.asarray(known), n, jnp.asarray(chance))
    assert float(found) == pytest.approx(growth / 20 * chance / (1 - chance), rel=1e-5, abs=1e-9)


def test_copied_runs_are_corrected_for_chance():
    """At random hits on known rows the corrected length is the true one; uncorrected it is not."""
    rng, n, chance = np.random.default_rng(2), 8, 2e-4
    known = rng.uniform(size=(200, 50)) < 0.3
    seen = jnp.asarray(known | (rng.uniform(size=(4000, 200, 50)) < chance))
    length, by_chance = jax.jit(
        jax.vmap(lambda x: (text_metrics.copied_run_length(x, n), text_metrics.chance_run_length(x, n, chance)))
    )(seen)
    true = np.mean([longest(row, n) for row in known])
    length, by_chance = np.asarray(length, float), np.asarray(by_chance, float)
    assert abs(z_score(length - by_chance, true)) < 4
    assert z_score(length, true) > 4


def test_copied_runs_of_a_large_set_are_exact():
    setting = settings.language_model(**TINY | {"ngram": 4})
    world = setting.world()
    rows, new = (setting.sample_real(jax.random.key(i), world, 64) for i in (3, 4))
    known = jax.tree.map(lambda x: x[0, 0], setting.extras.sized_summarize(20_000)(world, batch.make_batch(rows)).items)
    told = {tuple(row[i : i + 4]) for row in np.asarray(rows).tolist() for i in range(5)}
    exact = [[tuple(row[i : i + 4]) in told for i in range(5)] for row in np.asarray(new).tolist()]
    seen = jax.jit(setting.observe)(KEY, world, setting.init(KEY, world), known, new)
    assert float(seen["copied_from_training"]) == pytest.approx(np.mean([longest(row, 4) for row in exact]), rel=1e-4)


def test_a_full_set_says_nothing_of_copies():
    text = texts.text_from_string("noise", "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), 20_000)))
    setting = settings.language_model(**TINY | {"text": text, "gram_bits": 2**11, "ngram": 5, "length": 8})
    chain = make_chain(setting, policies.accumulate(), num_samples=30, num_generations=8)
    world = setting.world()

    @jax.jit
    def last(key):
        state = chain.init(key, world)

        def step(state, generation):
            state, new, seen = chain.emit(world, state, generation)
            return chain.absorb(world, state, new, generation), (seen["chance_hit"], seen["copied_from_training"])

        return jax.lax.scan(step, state, jnp.arange(1, 9))[1]

    chance, copied = last(KEY)
    assert chance[0] < 1e-3 < 0.01 < chance[-1]
    assert np.isnan(copied[-1])


@pytest.mark.parametrize(
    ("policy", "batches"),
    [(policies.replace(), 1), (policies.accumulate(), 9), (policies.window(4), 4), (policies.fresh_real(0.5), 1)],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_a_set_has_room_for_the_pool(policy, batches):
    """If all n-grams differ, chance is a 200th of a symbol a row at most; with half of the bits it would be more."""
    setting = settings.language_model(**TINY)
    chain = make_chain(setting, policy, num_samples=50, num_generations=9)
    state = jax.eval_shape(chain.init, KEY, jax.eval_shape(setting.world))
    sets = {leaf.shape[-1] * 32 for leaf in jax.tree.leaves(state.summary.items)}
    grams, n = 7, 2
    for bits in sets:
        chances = [(1 - np.exp(-6 * batches * 50 * grams / some)) ** 6 for some in (bits, bits / 2)]
        assert chances[0] * grams * n <= 0.005 < chances[1] * grams * n


def test_bits_of_a_set():
    assert text_metrics.fit_gram_bits(1, 1, 1) == 32
    assert text_metrics.fit_gram_bits(2**40, 50, 8) == 2**30
    assert text_metrics.fit_gram_bits(1000, 57, 8) == 2**22  # 37 bits for each n-gram, up to a power of two


def test_chance_stays_small_in_a_pool_of_many_batches():
    """Also where nothing is copied: 5-grams of noise are new."""
    text = texts.text_from_string("noise", "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), 20_000)))
    ds = run(settings.language_model(**TINY | {"text": text, "ngram": 5}), "accumulate", num_samples=40,
             num_generations=12, num_chains=1, metrics=["chance_hit", "copied_from_training"])  # fmt: skip
    assert float(ds.chance_hit.max()) < 0.005 / (4 * 5)
    assert np.isfinite(ds.copied_from_training).all()


def test_simple_models_of_a_text_are_plain_loops():
    text = texts.text_from_string("words", "abracadabra cab " * 200)
    losses = simple_losses(text, 10, 12)
    train, test, size = np.asarray(text.arrays), text.held_out(10, 12).astype(int), text.num_symbols
    counts = np.full(size, 0.5)
    pairs = np.full((size, size), 0.5)
    for symbol in train:
        counts[symbol] += 1
    for a, b in itertools.pairwise(train):
        pairs[a, b] += 1
    single, double = [], []
    for row in test:
        for i, symbol in enumerate(row):
            single.append(-np.log(counts[symbol] / counts.sum()))
            double.append(-np.log(pairs[row[i - 1], symbol] / pairs[row[i - 1]].sum()) if i else single[-1])
    assert losses == pytest.approx(
        {"uniform": np.log(size), "unigram": np.mean(single), "bigram": np.mean(double)}, rel=1e-9
    )
    assert losses["bigram"] < losses["unigram"] < losses["uniform"]
    many = text._replace(pieces=(b"x",) * (MAX_PAIRED_SYMBOLS + 1))
    assert set(simple_losses(many, 10, 12)) == {"uniform", "unigram"}


@pytest.mark.parametrize("make", [texts.markov_chain, texts.hidden_markov])
def test_symbols_of_a_law_are_frequencies_of_many_rows(make):
    """Pairs of a Markov chain are the law itself, which is no baseline."""
    text = make()
    losses = simple_losses(text, 8, 6)
    assert set(losses) == {"uniform", "unigram"}
    rows = text.held_out(20_000, 6).astype(int)
    share = np.bincount(rows.reshape(-1), minlength=text.num_symbols) / rows.size
    assert losses["unigram"] == pytest.approx(-np.log(share)[rows].mean(), rel=0.01)
    assert set(simple_losses(texts.brackets(), 8, 6)) == {"uniform"}  # a row begins outside of all brackets


def test_a_model_worse_than_pairs_of_symbols_is_a_catastrophe():
    """It is far below log V: by log V alone the verdict would be no."""
    ds = run(settings.language_model(**TINY | {"steps": 60, "learning_rate": 1e-2, "warmup": 5}), "replace",
             num_samples=64, num_generations=1, num_chains=6, metrics=["test_nll_per_symbol"])  # fmt: skip
    risk, attrs = ds.test_nll_per_symbol, ds.test_nll_per_symbol.attrs
    best = min(attrs[f"baseline_{name}"] for name in ("uniform", "unigram", "bigram"))
    assert attrs["baseline"] == best == attrs["baseline_bigram"]
    assert best < float(risk.min()) < float(risk.max()) < attrs["baseline_uniform"]
    verdict = verdicts.score(ds).verdict.sel(definition="catastrophic_risk")
    assert verdict.item() == verdicts.YES
