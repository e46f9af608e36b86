"""Language models: the network, its sampler, n-gram metrics against plain loops, fits that learn a known law."""

import itertools
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx

from collapse_jax import batch as B
from collapse_jax import policies, settings
from collapse_jax import text_metrics as T
from collapse_jax.chain import make_chain, simulate
from collapse_jax.cost import operations
from collapse_jax.data import known_texts, texts
from collapse_jax.functional import functional
from collapse_jax.gradient import adamw, fit_sgd
from collapse_jax.keys import chain_keys
from collapse_jax.nets.decode import Decoding, decode, pick, weights
from collapse_jax.nets.transformer import PRESETS, Size, Transformer, empty_cache, initial
from collapse_jax.types import Batch

SMALL = Size(16, 2, 4, 2, 24)
V, L = 7, 10
KEY = jax.random.key(3)
LAW = texts.markov_chain()
TINY = {"text": LAW, "width": 8, "depth": 1, "heads": 1, "length": 8, "steps": 20, "batch_size": 8, "num_test": 8,
        "ngram": 2, "gram_bits": 2**10, "rows_at_once": 4}  # fmt: skip


def net(size=SMALL, **options):
    """A network's parameters and its function."""
    by_nnx, apply = functional(lambda rngs: Transformer(V, size, rngs=rngs, **options))
    return initial(KEY, jax.eval_shape(by_nnx, KEY), size.depth), apply


def test_no_symbol_sees_a_later_one():
    for size in (SMALL, SMALL._replace(activation="gelu", tied=False, kv_heads=4)):
        module = Transformer(V, size, rngs=nnx.Rngs(0))
        x = jax.random.normal(KEY, (1, L, 16))
        slopes = jax.jit(jax.jacobian(lambda x, m=module: m.read(x)[0].sum(-1)[0]))(x)[:, 0]  # [L out, L in, 16]
        reach = np.abs(slopes).max(-1)
        assert (reach[np.triu_indices(L, 1)] == 0).all()
        assert (reach[np.tril_indices(L)] > 0).all()


@pytest.mark.parametrize("size", [SMALL, SMALL._replace(kv_heads=1, tied=False), SMALL._replace(activation="gelu")])
def test_a_cached_pass_is_the_full_pass(size):
    """Prompts of any length at once, then one symbol at a time."""
    params, apply = net(size)
    tokens, apply = jax.random.randint(KEY, (3, L), 0, V), jax.jit(apply)
    full = apply(params, tokens)[0]
    for given in (1, 4):
        logits, cache = apply(params, tokens[:, :given], empty_cache(size, 3, L, jnp.float32), 0)
        seen = [logits]
        for position in range(given, L):
            logits, cache = apply(params, tokens[:, position : position + 1], cache, position)
            seen.append(logits)
        np.testing.assert_allclose(np.concatenate(seen, 1), full, rtol=1e-4, atol=1e-5)


def test_positions_are_relative_and_matter():
    """Rotary: what attends to a row shifted as a whole sees the same; the order of symbols is not lost."""
    params, apply = net()
    tokens = jax.random.randint(KEY, (2, 4), 0, V)
    apply = jax.jit(apply)
    at = lambda begin: apply(params, tokens, None, begin)[0]  # noqa: E731
    np.testing.assert_allclose(at(0), at(57), rtol=1e-3, atol=1e-4)
    turned = apply(params, tokens[:, jnp.array([1, 0, 2, 3])])[0]
    assert not np.allclose(turned[:, -1], at(0)[:, -1], rtol=1e-3)


def test_remat_and_bfloat16_compute_the_same():
    tokens = jax.random.randint(KEY, (3, L), 0, V)
    params, apply = net()
    slope = lambda apply: jax.grad(lambda p: (apply(p, tokens)[0] ** 2).mean())(params)  # noqa: E731
    again, half = net(remat=True)[1], net(dtype=jnp.bfloat16)[1]
    words = lambda apply: str(jax.make_jaxpr(lambda _: slope(apply))(params))  # noqa: E731
    assert "remat" in words(again) or "checkpoint" in words(again)
    assert "remat" not in words(apply)
    assert "checkpoint" not in words(apply)
    slopes = jax.jit(lambda: (slope(apply), slope(again), slope(half)))()
    for a, b, c in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
        assert c.dtype == jnp.float32
        assert 1e-4 < np.abs(a - c).max() / np.abs(a).max() < 0.15  # eight bits of precision
    assert jax.eval_shape(half, params, tokens)[0].dtype == jnp.float32


def test_presets_have_the_sizes_that_they_say():
    for name, symbols, millions in (("tiny", 69, 0.105), ("nano", 69, 10.6), ("gpt2", 50257, 124)):
        build = lambda rngs, n=name, v=symbols: Transformer(v, PRESETS[n], rngs=rngs)  # noqa: E731
        shapes = jax.eval_shape(functional(build)[0], KEY)
        assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_initial_spreads():
    size = Size(128, 3, 4, 4, 256, tied=False)
    params, _ = net(size)
    first = params["blocks"][0]
    expected = {"qkv": 128**-0.5, "up": 128**-0.5, "out": (128 * 6) ** -0.5, "down": (256 * 6) ** -0.5}
    for name, spread in expected.items():
        assert float(first[name]["kernel"].std()) == pytest.approx(spread, rel=0.03)
    assert float(params["head"].std()) == pytest.approx(0.02, rel=0.1)
    assert (params["norm"]["scale"] == 1).all()


def kept(logits, **how):
    return [set(np.flatnonzero(row)) for row in np.asarray(weights(jnp.asarray(logits), Decoding(**how)))]


def test_cuts_of_the_law_of_the_next_symbol():
    share = np.array([[0.5, 0.25, 0.15, 0.07, 0.03], [0.2, 0.2, 0.2, 0.2, 0.2]])
    logits = np.log(share) + 3.0
    np.testing.assert_allclose(weights(logits, Decoding()) * share.max(1, keepdims=True), share, rtol=1e-5)
    tempered = weights(logits, Decoding(temperature=2.0))
    np.testing.assert_allclose(tempered[0] / tempered[0].sum(), np.sqrt(share[0]) / np.sqrt(share[0]).sum(), rtol=1e-5)
    assert kept(logits, top_k=2)[0] == {0, 1}
    assert kept(logits, top_p=0.7)[0] == {0, 1}
    assert kept(logits, top_p=0.8)[0] == {0, 1, 2}
    assert kept(logits, top_p=1e-6)[0] == {0}
    assert kept(logits, min_p=0.2)[0] == {0, 1, 2}
    assert kept(logits, min_p=0.2)[1] == {0, 1, 2, 3, 4}
    assert kept(logits, temperature=0.0)[0] == {0}
    # Traced floats take the same cuts.
    traced = jax.jit(lambda t, p, m: weights(logits, Decoding(t, 3, p, m)))
    np.testing.assert_allclose(traced(0.5, 0.9, 0.1), weights(logits, Decoding(0.5, 3, 0.9, 0.1)), rtol=1e-6)
    assert (np.asarray(traced(0.0, 1.0, 0.0))[0] > 0).tolist() == [True, False, False, False, False]


def test_picks_are_in_proportion_and_never_of_weight_zero():
    weight = jnp.tile(jnp.array([0.0, 3.0, 0.0, 1.0, 0.0]), (40_000, 1))
    chosen = np.bincount(pick(weight, jax.random.uniform(KEY, (40_000,))), minlength=5)
    assert chosen[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(chosen[1] - 30_000) < 4 * np.sqrt(40_000 * 0.75 * 0.25)
    assert pick(weight[:2], jnp.array([0.0, 1.0])).tolist() in ([1, 1], [1, 3])  # at the ends, too


def test_decoded_rows_follow_the_full_pass():
    """Every symbol of a row is where its uniform number falls in the law that a pass over the whole row gives."""
    params, apply = net()
    params = jax.tree.map(lambda x: 4 * x, params)  # far from uniform
    full, cache = jax.jit(apply), empty_cache(SMALL, 64, L, jnp.float32)
    for given in (0, 3):
        prompt = jax.random.randint(jax.random.key(9), (64, given), 0, V)
        draw = jax.jit(lambda warm, p=prompt: decode(apply, params, KEY, cache, V, p, L, Decoding(warm)))
        rows = draw(1.0)
        assert (rows[:, :given] == prompt).all()
        start = jnp.concatenate([jnp.full((64, 1), V), rows[:, :-1]], 1)
        share = np.asarray(jax.nn.softmax(full(params, start)[0]))[:, given:]
        uniform = np.asarray(jax.random.uniform(KEY, ((L - given) * 64,))).reshape(L - given, 64).T
        expected = (share.cumsum(-1) <= uniform[..., None]).sum(-1)
        assert (np.asarray(rows)[:, given:] == expected).mean() > 0.99  # but for rounding at a border
    greedy = draw(0.0)
    logits = full(params, jnp.concatenate([jnp.full((64, 1), V), greedy[:, :-1]], 1))[0]
    assert (np.asarray(logits.argmax(-1))[:, 3:] == np.asarray(greedy)[:, 3:]).all()


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


@pytest.fixture(scope="module")
def learned():
    """A model of a known law, trained on much and on little of it; observations of both."""
    options = {"width": 32, "heads": 2, "steps": 400, "batch_size": 32, "num_test": 256, "learning_rate": 1e-2}
    setting = settings.language_model(**TINY | options | {"rows_at_once": 128, "length": 16})
    world = setting.world()

    @jax.jit
    def fits(key, rows):
        params = setting.fit(key, B.unit(rows), setting.init(key, world))
        new = setting.sample(key, params, 256)
        grams = jax.tree.map(lambda x: x[0, 0], setting.summarise(world, B.unit(rows)).items)
        return new, setting.observe(key, world, params, grams, new)

    much, little = setting.real(jax.random.key(1), world, 8192), setting.real(jax.random.key(1), world, 32)
    return world, fits(KEY, much), fits(KEY, little)


def test_excess_loss_goes_to_zero_with_data(learned):
    world, (new, much), (_, little) = learned
    table = LAW.arrays[1]
    entropy = -(LAW.arrays[0][:, None] * table * np.log(np.where(table > 0, table, 1))).sum()
    assert -0.005 < float(much["excess_loss"]) < 0.05
    assert float(little["excess_loss"]) > 0.1
    loss = float(much["test_loss"]) - float(much["excess_loss"])
    assert loss == pytest.approx(-LAW.log_prob(np.asarray(world.test)).mean() / 16, rel=1e-5)
    assert loss == pytest.approx(entropy, abs=0.15)  # a row's first symbol costs more than the rate
    # What it writes has the law's transitions; what it never saw, it hardly writes.
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (np.asarray(new)[:, :-1], np.asarray(new)[:, 1:]), 1)
    assert pairs[table == 0].sum() / pairs.sum() < 0.02
    assert float(much["calibration_error"]) < 0.05
    assert float(much["bigram_kl"]) < 0.05


@pytest.mark.parametrize(
    "start", ["base", *(pytest.param(start, marks=pytest.mark.nightly) for start in ("init", "previous"))]
)
def test_where_fits_start(start):
    """With a rate so small that a fit stays where it starts; generation 1's model is kept beside."""
    setting = settings.language_model(**TINY, start=start, learning_rate=1e-9, base_steps=3)
    world = setting.world()
    begun = setting.init(KEY, world)
    rows = B.unit(setting.real(KEY, world, 16))
    fit = jax.jit(setting.fit)
    one = fit(jax.random.key(1), rows, begun)
    two = fit(jax.random.key(2), rows, one._replace(net=jax.tree.map(lambda x: x + 1, one.net)))
    for model in (one, two):
        jax.tree.map(np.testing.assert_array_equal, model.first, one.net)
    assert (int(one.age), int(two.age)) == (1, 2)
    at = lambda model: np.asarray(model["embedding"])  # noqa: E731
    close = lambda a, b: np.allclose(a, b, atol=1e-5)  # noqa: E731
    if start == "base":
        assert close(at(one.net), at(world.real.base))
        assert close(at(two.net), at(world.real.base))
        assert not close(at(world.real.base), at(begun.net))
    elif start == "previous":
        assert close(at(one.net), at(begun.net))
        assert close(at(two.net), at(one.net) + 1)
    else:
        assert not close(at(one.net), at(begun.net))
        assert not close(at(two.net), at(one.net) + 1)


def test_prompts_are_real_text():
    text = texts.given("letters", "abcdefgh" * 400)
    setting = settings.language_model(**TINY | {"text": text, "prompt": 3})
    world = setting.world()
    rows = np.asarray(setting.sample(KEY, setting.init(KEY, world), 50)).astype(int)
    assert ((rows[:, 1:3] - rows[:, :2]) % 8 == 1).all()
    assert not ((rows[:, 3:] - rows[:, 2:-1]) % 8 == 1).all()  # an untrained network goes on otherwise
    assert len(set(rows[:, 0])) > 4


def test_epochs_are_of_the_rows_that_are_there():
    """Each step adds 1 to a counter; empty slots and weights count as they should."""

    def steps(batch, epochs):
        loss = lambda p, key, x: p["n"]  # noqa: E731
        fit = fit_sgd(loss, lambda _: optax.sgd(-1.0), init=lambda key: {"n": jnp.zeros(())}, steps=1, batch_size=4,
                      epochs=epochs)  # fmt: skip
        return float(jax.jit(fit)(KEY, batch, None)["n"])

    rows = jnp.zeros((3, 8, 2))
    assert steps(Batch(rows, jnp.array([[1.0], [0.0], [0.0]])), 1) == 2
    assert steps(Batch(rows, jnp.array([[1.0], [1.0], [0.0]])), 3) == 12
    assert steps(Batch(rows, jnp.array([[0.6], [0.0], [0.0]])), 1) == 2
    assert steps(Batch(rows, jnp.ones((3, 8))), 1) == 6


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


def one_line(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 30, "heads": 4}, ["width", "4 heads", "30"]),
        ({"width": 8, "heads": 4, "kv_heads": 3}, ["heads", "kv_heads (3)"]),
        ({"length": 1}, ["length"]),
        ({"ngram": 9}, ["ngram"]),
        ({"prompt": 7}, ["prompt"]),
        ({"gram_bits": 1000}, ["gram_bits", "power of two"]),
        ({"text": texts.given("mine", "ab" * 30), "length": 64}, ["length", "54 symbols of mine"]),
        ({"text": texts.given("mine", "ab" * 30)}, ["mine: 54 symbols", "8 rows of 8"]),
        ({"top_p": 0.0}, ["top_p"]),
        ({"min_p": 1.5}, ["min_p"]),
        ({"temperature": -1.0}, ["temperature"]),
        ({"top_k": -1}, ["top_k"]),
        ({"dtype": "float16"}, ["dtype", "bfloat16"]),
        ({"start": "scratch"}, ["start", "previous"]),
        ({"schedule": "linear"}, ["schedule"]),
        ({"model": "huge"}, ["model", "nano"]),
        ({"epochs": 0}, ["epochs"]),
        ({"clip": 0.0}, ["clip"]),
    ],
)
def test_bad_arguments_are_one_line(options, words):
    one_line(lambda: settings.language_model(**TINY | options), *words)


def test_bad_texts_are_one_line(tmp_path):
    one_line(lambda: texts.text_file(str(tmp_path / "absent")), "no such file")
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"abc" * 10 + b"\xff" + b"abc" * 10)
    one_line(lambda: texts.text_file(str(bad)), "byte 31", "0xff", "UTF-8")
    fine = tmp_path / "fine.txt"
    fine.write_text("ab\n" * 20 + "aXb" * 5)
    outside = lambda: texts.text_file(str(fine), characters="ab\n")  # noqa: E731
    one_line(outside, "character 62", "line 21", "'X'", "tokenizer: bytes")
    fine.write_text("short")
    one_line(lambda: texts.text_file(str(fine)), "5 characters")
    one_line(lambda: texts.text_file(None), "path")
    one_line(lambda: texts.tfds_text("absent_dataset"), "absent_dataset", "prepared", "array_record")
    one_line(lambda: texts.given("t", "ab" * 200).held_out(50, 8), "50 test rows", "num_test")
    one_line(lambda: texts.brackets(close=1.0), "close")
    one_line(lambda: texts.hidden_markov(num_states=1), "num_states")
    one_line(lambda: texts.given("t", "ab" * 50, "bpe", vocabulary=100), "vocabulary")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    one_line(lambda: texts.given("t", "never seen before" * 20, "bpe", vocabulary=300), "collapse-jax[text]")


def test_a_generation_costs_the_same_at_any_age():
    """Under accumulate with fixed steps: the same operations as under replace."""
    setting = settings.language_model(**TINY)
    world = setting.world()

    def work(policy):
        chain = make_chain(setting, policy, num_samples=64, num_generations=20)
        state = jax.eval_shape(lambda: chain.init(KEY, world))
        jaxpr = jax.make_jaxpr(lambda s: chain.emit(world, s, jnp.int32(1))[2]["test_loss"])(state)
        return operations(jaxpr.jaxpr)

    assert work(policies.accumulate()) < 1.1 * work(policies.replace())


@pytest.mark.nightly
def test_chains_run_from_bfloat16_with_remat():
    setting = settings.language_model(**TINY, dtype="bfloat16", remat=True, prompt=2, start="base", base_steps=3)
    chain = make_chain(setting, policies.accumulate(), num_samples=8, num_generations=2)
    run = jax.jit(jax.vmap(lambda key, world: simulate(chain, key, world, 2), (0, None)))
    seen = run(chain_keys(0, 2), setting.world())
    assert all(np.isfinite(x).all() for x in seen.values())


def test_the_rate_rises_and_falls():
    """Steps of AdamW on a constant slope are the rate itself; against optax's schedules."""

    def rates(schedule, steps):
        optimizer = adamw(0.1, schedule, 4, 0.0, 1.0, steps)
        state, seen = optimizer.init({"x": jnp.zeros(())}), []
        for _ in range(12):
            update, state = optimizer.update({"x": jnp.ones(())}, state, {"x": jnp.zeros(())})
            seen.append(-float(update["x"]))
        return seen

    falling = optax.cosine_decay_schedule(0.1, 8)
    expected = [0.025, 0.05, 0.075, 0.1, *(float(falling(i)) for i in range(8))]
    np.testing.assert_allclose(rates("cosine", 12), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(rates("constant", 12), expected[:4] + [0.1] * 8, rtol=1e-4)
