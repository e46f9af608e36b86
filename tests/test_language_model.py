"""Language models: fits that learn a known law, where they start, what they refuse and what a generation costs."""

import itertools
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from collapse_jax import policies, settings
from collapse_jax.core import batch
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.core.random import chain_keys
from collapse_jax.core.worlds import same_world
from collapse_jax.data import texts
from collapse_jax.execution.runner import Runner
from collapse_jax.execution.sweep import run, sweep
from collapse_jax.planning.cost import count_operations
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.memory_estimate import check_memory
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.training.nets.transformer import Transformer, resolve_size
from collapse_jax.training.nnx_functional import make_functional
from collapse_jax.training.sgd import fit_sgd, make_adamw
from collapse_jax.types import Batch

lm = sys.modules[settings.language_model.__module__]  # the factory has the module's name
KEY = jax.random.key(3)
LAW = texts.markov_chain()
TINY = {"text": LAW, "width": 8, "depth": 1, "heads": 1, "length": 8, "steps": 20, "batch_size": 8, "num_test": 8,
        "warmup": 2, "ngram": 2, "gram_bits": 2**13, "rows_at_once": 4}  # fmt: skip


@pytest.fixture(scope="module")
def learned():
    """A model of a known law, trained on much and on little of it; observations of both."""
    options = {"width": 32, "heads": 2, "steps": 400, "batch_size": 32, "num_test": 256, "learning_rate": 1e-2}
    setting = settings.language_model(**TINY | options | {"rows_at_once": 128, "length": 16, "gram_bits": 2**21})
    world = setting.world()

    @jax.jit
    def fits(key, rows):
        params = setting.fit(key, batch.make_batch(rows), setting.init(key, world))
        new = setting.sample(key, params, 256)
        grams = jax.tree.map(lambda x: x[0, 0], setting.extras.summarize(world, batch.make_batch(rows)).items)
        return new, setting.observe(key, world, params, grams, new)

    much, little = (
        setting.sample_real(jax.random.key(1), world, 8192),
        setting.sample_real(jax.random.key(1), world, 32),
    )
    return world, fits(KEY, much), fits(KEY, little)


@pytest.mark.nightly
def test_excess_loss_goes_to_zero_with_data(learned):
    world, (new, much), (_, little) = learned
    table = LAW.arrays[1]
    entropy = -(LAW.arrays[0][:, None] * table * np.log(np.where(table > 0, table, 1))).sum()
    assert -0.005 < float(much["forward_kl_per_symbol"]) < 0.05
    assert float(little["forward_kl_per_symbol"]) > 0.1
    assert float(much["forward_kl_per_symbol"]) > -4 * float(much["forward_kl_per_symbol_error"])
    assert float(much["forward_kl_per_symbol_error"]) < 0.01
    loss = float(much["test_nll_per_symbol"]) - float(much["forward_kl_per_symbol"])
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
    begun = jax.jit(setting.init)(KEY, world)
    rows = jax.jit(lambda world: batch.make_batch(setting.sample_real(KEY, world, 16)))(world)
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


def test_a_base_is_trained_once_and_when_it_is_needed(monkeypatch):
    """Plans know its shapes alone; then all points of a sweep share one."""
    trained = []
    monkeypatch.setattr(lm, "_trained", lambda *args, train=lm._trained: (trained.append(1), train(*args))[1])
    make = partial(settings.language_model, **TINY | {"start": "base", "base_steps": 3})
    policy, options = policies.replace(), Options(num_chains=2)
    sizes, axes = {"num_samples": 16, "num_generations": 2}, {"temperature": [0.5, 1.0], "steps": [10, 20]}
    plan = make_plan(make_grid(make, policy, **sizes, axes=axes), options)
    outlined = len(trained)  # by shape
    assert all(isinstance(x, jax.ShapeDtypeStruct) for p in plan.programs for x in jax.tree.leaves(p.world.real.base))
    assert len(plan.programs) == 2
    check_memory(plan)
    runner = Runner(plan, lambda _: None)
    worlds = [runner._worlds.world_of(program.setting, program.world) for program in plan.programs]
    assert len(trained) == outlined + 1
    assert all(world is worlds[0] for world in worlds)
    whole = make().world()
    jax.tree.map(np.testing.assert_array_equal, worlds[0], whole)
    with pytest.raises(ValueError, match="axes: values that change the real law"):
        make_plan(make_grid(make, policy, **sizes, axes={"learning_rate": [1e-3, 1e-2]}), options)


def shapes_of_base(**change):
    """The world of a setting that starts from a base, as plans know it."""
    return settings.language_model(**TINY | {"start": "base", "base_steps": 3} | change).info.world_shapes()


@pytest.fixture(scope="module")
def base_shapes():
    return shapes_of_base()


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"temperature": 0.5, "steps": 9, "prompt": 2, "remat": True, "rows_at_once": 2}, True),
        *(({name: value}, False) for name, value in {
            "base_steps": 4, "batch_size": 4, "schedule": "constant", "warmup": 1, "dtype": "bfloat16", "heads": 2,
            "activation": "gelu", "length": 9, "learning_rate": 1e-2, "weight_decay": 0.2, "clip": 2.0,
            "text": LAW._replace(name="other"),
        }.items()),
    ],
    ids=lambda change: "-".join(change) if isinstance(change, dict) else str(change),
)  # fmt: skip
def test_a_base_is_shared_where_all_that_made_it_agrees(change, shared, base_shapes):
    assert same_world(base_shapes, shapes_of_base(**change)) == shared


@pytest.mark.nightly
def test_points_of_a_sweep_over_base_models_equal_their_own_runs():
    make = partial(settings.language_model, **TINY | {"start": "base", "steps": 3, "gram_bits": 0})
    options = {"num_samples": 8, "num_generations": 1, "num_chains": 1, "metrics": ["test_nll_per_symbol"]}
    found = sweep(make, policies.replace(), axes={"base_steps": [3, 40]}, **options).test_nll_per_symbol[0]
    own = [run(make(base_steps=steps), policies.replace(), **options).test_nll_per_symbol for steps in (3, 40)]
    np.testing.assert_array_equal(found, own)
    assert own[1].item() < own[0].item() - 0.01


def test_metrics_against_numpy():
    """Losses by a softmax of NumPy's; what was given as a prompt is not judged."""
    words = "größer kleiner größer als 12 Mäuse " * 60
    text = texts.text_from_string("t", words)
    setting = settings.language_model(**TINY | {"text": text, "prompt": 3, "num_test": 6})
    world, bits = setting.world(), text.num_symbols
    start = jax.jit(setting.init)(KEY, world)
    model = start._replace(first=jax.tree.map(lambda x: 1.5 * np.asarray(x), start.net))
    new = np.asarray(jax.jit(lambda world: setting.sample_real(KEY, world, 10))(world)).astype(int)
    summarise = jax.jit(lambda world, rows: setting.extras.summarize(world, batch.make_batch(rows)).items)
    known = jax.tree.map(lambda x: np.asarray(x)[0, 0], summarise(world, new[:5, 2:]))
    seen = jax.jit(setting.observe)(KEY, world, model, known, jnp.asarray(new))
    size = resolve_size("tiny", {"width": 8, "depth": 1, "heads": 1})
    _, apply = make_functional(lambda rngs: Transformer(bits, size, rngs=rngs))
    apply = jax.jit(apply)

    def losses(net, rows):
        before = np.concatenate([np.full((len(rows), 1), bits), rows[:, :-1]], 1)
        logits = np.asarray(apply(net, jnp.asarray(before))[0], np.float64)
        log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -np.take_along_axis(log, rows[..., None], -1)[..., 0]

    test = np.asarray(world.test).astype(int)
    assert float(seen["test_nll_per_symbol"]) == pytest.approx(losses(model.net, test).mean(), rel=1e-4)
    assert float(seen["first_model_nll_per_symbol"]) == pytest.approx(
        losses(model.first, new[:6])[:, 3:].mean(), rel=1e-4
    )
    judged = "".join(map(text.decode, test))  # not all that is held out
    per_byte = losses(model.net, test).mean() / np.log(2) * test.size / len(judged.encode())
    assert float(seen["bits_per_byte"]) == pytest.approx(per_byte, rel=1e-4)
    after = new[:, 3:]
    share = np.bincount(after.reshape(-1), minlength=bits) / after.size
    assert float(seen["unigram_entropy"]) == pytest.approx(
        -(share[share > 0] * np.log(share[share > 0])).sum(), rel=1e-4
    )
    pairs = [tuple(pair) for row in after for pair in itertools.pairwise(row)]
    trained = {tuple(pair) for row in new[:5, 2:] for pair in itertools.pairwise(row)}
    assert float(seen["distinct"]) == pytest.approx(len(set(pairs)) / len(pairs))
    assert float(seen["novel_to_training"]) == pytest.approx(np.mean([p not in trained for p in pairs]), abs=1e-4)
    assert float(seen["novel_to_real"]) == 0
    assert float(seen["copied_from_real"]) == 5


def test_without_a_set_of_ngrams():
    setting = settings.language_model(**TINY | {"gram_bits": 0})
    assert setting.extras.summarize is None
    world, new = setting.world(), jnp.zeros((8, 8), jnp.uint8)
    seen = jax.eval_shape(lambda: setting.observe(KEY, world, setting.init(KEY, world), None, new))
    assert sorted(seen) == sorted(m.name for m in setting.metrics)
    assert not {"novel_to_training", "copied_from_training", "chance_hit"} & set(seen)
    chain = make_chain(settings.language_model(**TINY), policies.replace(), num_samples=80, num_generations=2)
    one_line(lambda: jax.eval_shape(chain.init, KEY, world), "gram_bits", "at least 16384", "not 8192")


def test_prompts_are_real_text():
    text = texts.text_from_string("letters", "abcdefgh" * 400)
    setting = settings.language_model(**TINY | {"text": text, "prompt": 3})
    world = setting.world()
    rows = np.asarray(setting.sample(KEY, setting.init(KEY, world), 50)).astype(int)
    assert ((rows[:, 1:3] - rows[:, :2]) % 8 == 1).all()
    assert not ((rows[:, 3:] - rows[:, 2:-1]) % 8 == 1).all()  # an untrained network goes on otherwise
    assert len(set(rows[:, 0])) > 4


@jax.jit
def steps_of_an_epoch(pool):
    """Each step adds 1 to a counter."""
    count = lambda p, key, x: p  # noqa: E731
    fit = fit_sgd(count, lambda _: optax.sgd(-1.0), init=lambda key: jnp.zeros(()), batch_size=4, epochs=1)
    return fit(KEY, pool, None)


def test_epochs_are_of_the_rows_that_are_there():
    """Empty slots and weights count as they should; three epochs are three times as many steps."""
    rows = jnp.zeros((3, 8, 2))
    assert steps_of_an_epoch(Batch(rows, jnp.array([[1.0], [0.0], [0.0]]))) == 2
    assert steps_of_an_epoch(Batch(rows, jnp.array([[1.0], [1.0], [0.0]]))) == 4
    assert steps_of_an_epoch(Batch(rows, jnp.array([[0.6], [0.0], [0.0]]))) == 2
    assert steps_of_an_epoch(Batch(rows, jnp.array([[0.0], [3.5], [0.0]]))) == 7
    assert steps_of_an_epoch(Batch(rows, jnp.ones((3, 8)))) == 6
    assert steps_of_an_epoch(Batch(rows, jnp.zeros((3, 8)).at[1, :3].set(20.0))) == 15


@pytest.mark.parametrize(("weight", "rows"), [(2.0, 300), (0.1, 200_000), (1 / 3, 30_000), (7.0, 5_001)])
def test_an_epoch_at_some_weight_is_an_epoch_of_so_many_more_rows(weight, rows):
    times, whole = (round(weight), 1) if weight > 1 else (1, round(1 / weight))
    repeated = jnp.zeros((1, rows * times // whole, 1))
    expected = steps_of_an_epoch(Batch(repeated, jnp.ones((1, 1))))
    assert expected == -(-rows * times // whole // 4)
    assert steps_of_an_epoch(Batch(jnp.zeros((1, rows, 1)), jnp.full((1, 1), weight))) == expected
    assert steps_of_an_epoch(Batch(jnp.zeros((2, rows, 1)), jnp.full((2, rows), weight).at[1].set(0.0))) == expected


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
        ({"text": texts.text_from_string("mine", "ab" * 30), "length": 64}, ["length", "54 symbols of mine"]),
        ({"text": texts.text_from_string("mine", "ab" * 30)}, ["mine: 54 symbols", "8 rows of 8"]),
        ({"top_p": 0.0}, ["top_p"]),
        ({"min_p": 1.5}, ["min_p"]),
        ({"temperature": -1.0}, ["temperature"]),
        ({"top_k": -1}, ["top_k"]),
        ({"dtype": "float16"}, ["dtype", "bfloat16"]),
        ({"start": "scratch"}, ["start", "previous"]),
        ({"schedule": "linear"}, ["schedule"]),
        ({"model": "huge"}, ["model", "nano"]),
        ({"epochs": 0, "steps": None}, ["epochs"]),
        ({"epochs": 2}, ["steps or epochs", "not both"]),
        ({"steps": 0}, ["steps"]),
        ({"warmup": 20}, ["warmup must be below steps (20), not 20"]),
        ({"start": "base", "base_steps": 2}, ["warmup must be below base_steps (2)"]),
        ({"base_steps": 5}, ["base_steps", "start: base"]),
        ({"text": "shakespeare"}, ["text must be a Text", "data.texts.shakespeare()"]),
        ({"tied": "no"}, ["tied", "True or False"]),
        ({"remat": 1}, ["remat", "True or False"]),
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
    one_line(lambda: texts.text_from_string("t", "ab" * 200).held_out(50, 8), "50 test rows", "num_test")
    one_line(lambda: texts.brackets(close=1.0), "close")
    one_line(lambda: texts.hidden_markov(num_states=1), "num_states")
    one_line(lambda: texts.text_from_string("t", "ab" * 50, "bpe", vocabulary=100), "vocabulary")
    one_line(lambda: texts.text_from_string("t", "ab" * 50, "bytes", vocabulary=300), "vocabulary is for tokenizer bpe")
    one_line(
        lambda: texts.text_from_string("t", "ab" * 50, "bytes", characters="ab"),
        "characters is for tokenizer characters",
    )
    one_line(lambda: texts.text_from_string("t", "ab" * 50, characters=""), "characters", "one or more")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    one_line(lambda: texts.text_from_string("t", "never seen before" * 20, "bpe", vocabulary=300), "collapse-jax[text]")


def test_a_generation_costs_the_same_at_any_age():
    """Under accumulate with fixed steps: the same operations as under replace."""
    setting = settings.language_model(**TINY)
    world = setting.world()

    def work(policy):
        chain = make_chain(setting, policy, num_samples=64, num_generations=20)
        state = jax.eval_shape(lambda: chain.init(KEY, world))
        jaxpr = jax.make_jaxpr(lambda s: chain.emit(world, s, jnp.int32(1))[2]["test_nll_per_symbol"])(state)
        return count_operations(jaxpr.jaxpr)

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
        optimizer = make_adamw(0.1, schedule, 4, 0.0, 1.0, steps)
        state, seen = optimizer.init({"x": jnp.zeros(())}), []
        for _ in range(12):
            update, state = optimizer.update({"x": jnp.ones(())}, state, {"x": jnp.zeros(())})
            seen.append(-float(update["x"]))
        return seen

    falling = optax.cosine_decay_schedule(0.1, 8)
    expected = [0.025, 0.05, 0.075, 0.1, *(float(falling(i)) for i in range(8))]
    np.testing.assert_allclose(rates("cosine", 12), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(rates("constant", 12), expected[:4] + [0.1] * 8, rtol=1e-4)
