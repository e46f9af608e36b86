"""Language models: fits that learn a known law, where they start, what they refuse and what a generation costs."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from collapse_jax import batch as B
from collapse_jax import policies, settings
from collapse_jax.chain import make_chain, simulate
from collapse_jax.cost import operations
from collapse_jax.data import texts
from collapse_jax.gradient import adamw, fit_sgd
from collapse_jax.keys import chain_keys
from collapse_jax.types import Batch

KEY = jax.random.key(3)
LAW = texts.markov_chain()
TINY = {"text": LAW, "width": 8, "depth": 1, "heads": 1, "length": 8, "steps": 20, "batch_size": 8, "num_test": 8,
        "ngram": 2, "gram_bits": 2**10, "rows_at_once": 4}  # fmt: skip


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
    np.testing.assert_array_equal(much["sample_text"], np.asarray(new)[:4])
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
