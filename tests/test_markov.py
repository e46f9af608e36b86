"""Markov chains by counting: counts, metrics and samples against plain loops, and an exact law of a whole chain."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import chains, z_score
from oracle_helpers import assert_law

import collapse_jax
from collapse_jax import policies
from collapse_jax.core import batch
from collapse_jax.data import bundled, markov_texts
from collapse_jax.data.markov_texts import language_from_table
from collapse_jax.settings.markov import MarkovModel, markov

TABLE = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [0.9, 0.0, 0.1]])


def observe(setting, world, model):
    return jax.jit(setting.observe)(jax.random.key(0), world, model, None, None)


def counted(rows, weight, order, size):
    """Counts of transitions by a plain loop, ``[size^order, size]``."""
    counts = np.zeros((size,) * (order + 1))
    for row, times in zip(np.asarray(rows).tolist(), weight, strict=True):
        for i in range(len(row) - order):
            counts[tuple(row[i : i + order + 1])] += times
    return counts.reshape(-1, size)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_fit_counts(order):
    setting = markov(order, 0.25, 9, markov_texts.language_from_table(TABLE))
    rows = jax.jit(setting.sample_real, static_argnums=2)(jax.random.key(0), setting.world(), 20)
    weight = np.random.default_rng(0).integers(0, 4, 20) * 0.5
    junk = np.where(weight[:, None] > 0, rows, np.uint8(2))
    model = jax.jit(setting.fit)(None, batch.make_batch(jnp.asarray(junk), weight), None)
    np.testing.assert_allclose(model.counts, counted(rows, weight, order, 3), rtol=1e-5)
    assert float(model.smoothing) == 0.25


def entropies(model, grams):
    """Cross-entropy on given shares of transitions, and the entropy over the training rows' own contexts."""
    weight = np.asarray(model.counts, float) + float(model.smoothing)
    share = weight / weight.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = -np.where(grams > 0, grams * np.log(share), 0).sum()
        own = -np.where(share > 0, share * np.log(share), 0).sum(1)
    context = np.asarray(model.counts, float).sum(1)
    return cross, context @ own / context.sum()


@pytest.mark.parametrize("order", [1, 2])
def test_metrics_of_a_table(order):
    setting = markov(order, 0.5, 12, markov_texts.language_from_table(TABLE))
    world = setting.world()

    @jax.jit
    def fit(world):
        return setting.fit(None, batch.make_batch(setting.sample_real(jax.random.key(1), world, 6)), None)

    model = fit(world)
    seen = observe(setting, world, model)
    values, vectors = np.linalg.eig(TABLE.T)
    stationary = np.real(vectors[:, np.argmax(values.real)])
    stationary = stationary / stationary.sum()
    pairs = stationary[:, None] * TABLE
    grams = pairs if order == 1 else (pairs[:, :, None] * TABLE).reshape(9, 3)
    np.testing.assert_allclose(world.truth.grams, grams, atol=1e-6)
    cross, own = entropies(model, grams)
    true_rate = -(pairs[TABLE > 0] * np.log(TABLE[TABLE > 0])).sum()
    assert float(seen["test_nll_per_symbol"]) == pytest.approx(cross, rel=1e-5)
    assert float(seen["forward_kl_per_symbol"]) == pytest.approx(cross - true_rate, rel=1e-4, abs=1e-6)
    assert float(seen["entropy_rate"]) == pytest.approx(own, rel=1e-5)
    count = np.asarray(model.counts)
    assert float(seen["transitions_alive"]) == (count > 0).sum()
    assert float(seen["training_symbols_alive"]) == (count.sum(0) > 0).sum()
    forced = count[(count > 0).sum(1) == 1].sum() / count.sum()
    assert float(seen["forced_share"]) == pytest.approx(forced, abs=1e-6)
    perfect = MarkovModel(world.truth.grams * 1e4, jnp.float32(0))
    at_truth = observe(setting, world, perfect)
    assert float(at_truth["forward_kl_per_symbol"]) == pytest.approx(0, abs=1e-6)
    assert float(at_truth["test_nll_per_symbol"]) == pytest.approx(true_rate, rel=1e-5)


def test_what_is_lost_costs_infinitely_much_without_smoothing_alone():
    rows = batch.make_batch(jnp.array([[0, 0, 1, 1, 0]], jnp.uint8))
    for smoothing, infinite in ((0.0, True), (0.1, False)):
        setting = markov(1, smoothing, 5, markov_texts.language_from_table(TABLE))
        seen = observe(setting, setting.world(), setting.fit(None, rows, None))
        assert np.isinf(seen["test_nll_per_symbol"]) == np.isinf(seen["forward_kl_per_symbol"]) == infinite
        assert not any(np.isnan(value) for value in seen.values())
        assert float(seen["training_symbols_alive"]) == 2


def test_cross_entropy_of_the_text():
    """The loss of held-out Shakespeare by a fit to the rest equals that of a plain loop over its letters."""
    text = " ".join("".join(c if c.isalpha() else " " for c in bundled.read_shakespeare().lower()).split())
    split = len(text) - len(text) // 10
    train, test = Counter(itertools.pairwise(text[:split])), text[split:]
    context = Counter(text[: split - 1])
    log_next = [np.log((train[a, b] + 0.5) / (context[a] + 13.5)) for a, b in itertools.pairwise(test)]
    setting = markov(1, 0.5, 10, "shakespeare")
    world = setting.world()
    assert world.real.shape == (split,)
    assert "".join(markov_texts.LETTERS[i] for i in np.asarray(world.real[:60])) == text[:60]
    pairs = markov_texts.count_grams(world.real[None], jnp.ones(1), 1, 27)
    seen = observe(setting, world, MarkovModel(pairs, jnp.float32(0.5)))
    assert float(seen["test_nll_per_symbol"]) == pytest.approx(-np.mean(log_next), rel=1e-4)
    rows = np.asarray(setting.sample_real(jax.random.key(0), world, 20))
    assert rows.shape == (20, 10)
    assert all("".join(markov_texts.LETTERS[i] for i in row) in text[:split] for row in rows)
    assert len({row.tobytes() for row in rows}) > 15


@pytest.mark.parametrize("order", [0, 1, 2])
def test_samples_follow_the_counts(order):
    setting = markov(order, 0.0, 3 + order, markov_texts.language_from_table(TABLE))
    counts = np.random.default_rng(order).integers(0, 5, (3**order, 3)) + np.eye(3)[np.arange(3**order) % 3]
    model = MarkovModel(jnp.asarray(counts, jnp.float32), jnp.float32(0))
    num = 20_000
    rows = np.asarray(jax.jit(lambda model: setting.sample(jax.random.key(2), model, num))(model))
    share = counts / counts.sum(1, keepdims=True)
    context = sum(rows[:, i].astype(int) * 3 ** (order - 1 - i) for i in range(order)) + np.zeros(num, int)
    for c in range(3**order):
        if order > 0:
            assert abs(z_score((context == c) * 1.0, counts[c].sum() / counts.sum())) < 4
        for step in range(3):
            if step > 0 and order != 1:
                break
            here = context == c if step == 0 else rows[:, step + order - 1] == c
            for b in range(3):
                following = rows[here, order + step] == b
                if share[c, b] in (0, 1):
                    assert following.mean() == share[c, b]
                else:
                    assert abs(z_score(following * 1.0, share[c, b])) < 4


def test_a_context_that_only_ends_rows_is_followed_by_any_symbol():
    setting = markov(1, 0.0, 6, markov_texts.language_from_table(TABLE))
    rows = jnp.array([[0, 0, 1, 0, 1, 2]], jnp.uint8)
    model = jax.jit(setting.fit)(None, batch.make_batch(rows), None)
    assert float(model.counts[2].sum()) == 0
    sampled = np.asarray(jax.jit(lambda model: setting.sample(jax.random.key(3), model, 20_000))(model))
    after = sampled[:, 1:][sampled[:, :-1] == 2]
    frequency = np.asarray(model.counts).sum(0) / 5
    assert max(abs(z_score((after == b) * 1.0, frequency[b])) for b in range(3)) < 4


def test_what_died_out_stays_dead():
    options = {"num_samples": 2, "num_generations": 20, "num_chains": 300, "metrics": ["training_symbols_alive"]}
    alive = collapse_jax.run(markov(1, 0.0, 8), policies.replace(), **options).training_symbols_alive.values
    assert (np.diff(alive) <= 0).all()
    assert alive[:, -1].mean() < alive[:, 0].mean() - 2


def test_copied_runs_are_those_of_a_plain_search():
    """The longest stretch whose n-grams are all in the real text; of tables there is none."""
    setting = markov(2, 0.0, 40, "shakespeare")
    world, key = setting.world(), jax.random.key(7)
    text = "".join(markov_texts.LETTERS[i] for i in np.asarray(world.real))
    rows = jax.jit(lambda world: setting.sample_real(jax.random.key(1), world, 50))(world)
    model = jax.jit(setting.fit)(None, batch.make_batch(rows), None)
    seen = jax.jit(setting.observe)(key, world, model, None, None)
    sampled = np.asarray(jax.jit(lambda model: setting.sample(key, model, 8))(model))
    new = ["".join(markov_texts.LETTERS[i] for i in row) for row in sampled]

    def run(row, n=8):
        known = "".join(str(int(row[i : i + n] in text)) for i in range(len(row) - n + 1))
        longest = max(map(len, known.split("0")))
        return longest + n - 1 if longest else 0

    assert float(seen["copied_from_real"]) == pytest.approx(np.mean([run(row) for row in new]))
    assert run(text[100:140]) == 40 > np.mean([run(row) for row in new]) > 0
    assert "copied_from_real" not in [metric.name for metric in markov().metrics]
    (words,) = [metric.long_name for metric in setting.metrics if metric.name == "copied_from_real"]
    assert all(part in words for part in ("first nine tenths", "order + 2 if larger", "at most the row's length"))


def test_order_0_is_drift_of_frequencies():
    """Independent symbols, replace: n L draws a generation from the last frequencies (Wright and Fisher); exact."""
    frequency = np.array([0.5, 0.3, 0.15, 0.05])
    n, length, horizon = 6, 5, 10
    setting = markov(0, 0.0, length, markov_texts.language_from_table(np.tile(frequency, (4, 1))))
    seen = chains(setting, policies.replace(), n=n, horizon=horizon, num=8000)["gini_simpson"]
    law = lambda size: (1 - 1 / size) ** np.arange(1, horizon + 1) * (1 - (frequency**2).sum())  # noqa: E731
    assert_law("diversity", seen, law(n * length), law(n))


def test_tables_are_drawn_from():
    language = markov_texts.sparse_language(5, 2, seed=4)
    assert ((language.table > 0).sum(1) == 2).all()
    np.testing.assert_allclose(language.table.sum(1), 1)
    rows = np.asarray(language.draw(jax.random.key(0), language.arrays, 20_000, 4)).astype(int)
    pairs = language.grams(1)
    for place in range(3):
        joint = rows[:, place] * 5 + rows[:, place + 1]
        for code in range(25):
            share = pairs.reshape(-1)[code]
            assert (joint == code).mean() == 0 if share == 0 else abs(z_score((joint == code) * 1.0, share)) < 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: markov(-1), "order must be a whole number of at least 0, not -1"),
        (lambda: markov(2, length=2), "length must be a whole number of at least 3, not 2"),
        (lambda: markov(smoothing=-0.1), "smoothing must be a number of at least 0, not -0.1"),
        (lambda: markov(smoothing=float("nan")), "smoothing must be a number of at least 0, not nan"),
        (lambda: markov(language="latin"), "language must be one of sparse, shakespeare, not 'latin'"),
        (lambda: markov(language=3), "language must be one of sparse, shakespeare or a Language, not 3"),
        (lambda: markov(5, language="shakespeare"), "order must be lower: 27^6 counts are more than 16777216"),
        (lambda: language_from_table([[0.5, 0.5]]), "table must be square, of 2 to 256 symbols, not of shape (1, 2)"),
        (lambda: language_from_table([[0.5, 0.4], [0, 1]]), "table: every row must be numbers >= 0 that sum to 1"),
        (lambda: language_from_table([[np.nan, 1], [0, 1]]), "table: every row must be numbers >= 0 that sum to 1"),
        (lambda: language_from_table(np.eye(2)), "table: symbol 1 is not reached from symbol 0"),
        (lambda: markov_texts.sparse_language(4, 5), "branching"),
    ],
)  # fmt: skip
@pytest.mark.fast
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_a_share_of_symbols_is_drawn_anew_by_the_whole_law(fraction):
    """One number says whether and what: it must say nothing of the one by the other. Symbol 4 marks what stays."""
    sums = markov_texts.cumulate_rows(jnp.array([[0.0, 0.3, 0.0, 0.7, 0.0]] * 5))
    rows = jnp.full((20_000, 2), 4, jnp.uint8)
    again = jax.jit(markov_texts.rewalk_chain)(jax.random.key(8), sums, jnp.zeros(20_000, int), rows, fraction)
    seen = np.bincount(np.asarray(again).ravel(), minlength=5)
    share = np.array([0, 0.3 * fraction, 0, 0.7 * fraction, 1 - fraction])
    assert (seen[share == 0] == 0).all()
    error = np.sqrt(again.size * share * (1 - share))
    assert (abs(seen - again.size * share) <= 4 * error).all()
