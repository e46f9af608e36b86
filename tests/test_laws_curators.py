"""Curators: laws that each obeys, by itself, with every setting and under every policy; numbers by NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import CHAINS, HORIZON, NUM, POLICIES, SETTINGS, chains, fitted, floats_of, is_valid, step_by_step
from oracle_helpers import assert_law

from collapse_jax import curators, policies
from collapse_jax.core import batch, registry
from collapse_jax.core.lineage import Descendant
from collapse_jax.core.random import stream
from collapse_jax.curators import best_of, curate, detect, diverse, edit, self_correct, then, top_fraction
from collapse_jax.execution.sweep import run
from collapse_jax.types import Extras, Setting, World

SMALL = {"num_samples": NUM, "num_generations": HORIZON, "num_chains": CHAINS}
# Curators that, with these arguments, change nothing: bit for bit, or where they weigh each row, in law.
NOTHING = {
    "verify": {"keep_right": 1.0, "keep_wrong": 1.0},
    "verifier": {"k": 1},
    "best_of": {"k": 1},
    "curate": {"k": 1},
    "top_fraction": {"fraction": 1.0},
    "detect": {"accuracy": 0.5},
    "self_correct": {"strength": 0.0},
    "diverse": {"k": 1},
}
OWN, KEY = World((), (), None), jax.random.key(0)


def judge(scores=None, real=None):
    """A setting of numbers that judges them by themselves."""
    return Setting(
        name="judge",
        world=lambda: OWN,
        sample_real=real or (lambda key, world, num: 100 + jnp.arange(num) * 1.0),
        fit=lambda key, train, start: (),
        sample=lambda key, params, num: jax.random.normal(key, (num,)),
        observe=lambda *_: {},
        metrics=(),
        extras=Extras(
            row_scores={"value": lambda world, params, x: x, "right": lambda world, params, x: (x > 0) * 1.0}
            if scores is None
            else scores
        ),
    )


def apply(curator, x, weight=1.0, key=0, setting=None):
    """Rows and weights that are left of candidates."""
    items = jnp.asarray(x)
    num = items.shape[0] // curator.oversample
    # In one program: one operation at a time compiles dozens.
    curated = jax.jit(lambda key, candidates: curator.apply(setting or judge(), key, OWN, (), candidates, num))
    out = curated(jax.random.key(key), batch.make_batch(items, jnp.asarray(weight)))
    assert batch.num_rows(out) == num
    return np.asarray(out.items[0]), np.asarray(batch.full_weight(out)[0])


@pytest.mark.fast
@pytest.mark.parametrize("name", NOTHING)
def test_a_curator_may_change_nothing(name):
    x = np.arange(6.0) - 3
    rows, weight = apply(
        registry.factories("curator")[name](**NOTHING[name], **({"by": "value"} if name == "curate" else {})), x
    )
    np.testing.assert_array_equal(rows, x)
    np.testing.assert_array_equal(weight, 1.0)


@pytest.mark.fast
def test_the_best_is_taken_and_the_absent_are_not():
    x = np.array([1.0, 3.0, 2.0, 9.0, 5.0, np.nan])
    weight = np.array([1.0, 1.0, 1.0, 0.0, 0.5, 0.0])
    rows, left = apply(best_of(2), x, weight)
    np.testing.assert_array_equal(rows, [3.0, 2.0, 5.0])
    np.testing.assert_array_equal(left, [1.0, 1.0, 0.5])
    rows, _ = apply(best_of(3), x, weight)
    np.testing.assert_array_equal(rows, [3.0, 5.0])
    shy = judge({"none": lambda world, params, x: jnp.full(x.shape, -jnp.inf)})
    rows, left = apply(best_of(3), x, weight[::-1], setting=shy)  # any that is there is better than one that is not
    np.testing.assert_array_equal(rows, [3.0, 9.0])
    assert (left > 0).all()


@pytest.mark.fast
def test_the_upper_part_is_kept():
    x = np.array([4.0, 1.0, 3.0, 2.0, 5.0])
    traced = jax.jit(
        lambda f: curators.top_fraction(f).apply(judge(), None, OWN, (), batch.make_batch(jnp.asarray(x)), 5)
    )
    for fraction, kept in ((0.0, {5}), (0.2, {5}), (0.5, {5, 4, 3}), (0.6, {5, 4, 3}), (1.0, {1, 2, 3, 4, 5})):
        rows, weight = apply(top_fraction(fraction), x)
        assert set(rows[weight > 0]) == kept
        np.testing.assert_array_equal(traced(fraction).weight[0], weight)
    rows, weight = apply(top_fraction(0.5), x, [1.0, 1.0, 1.0, 1.0, 0.0])
    assert set(rows[weight > 0]) == {4, 3}
    rows, weight = apply(top_fraction(0.5), [2.0, 1.0, 1.0, 1.0, 1.0, 0.0])  # of equals the first
    np.testing.assert_array_equal(weight, [1, 1, 1, 0, 0, 0])
    x = np.round(np.random.default_rng(0).normal(size=200), 1) * 10.0 ** np.arange(-50, 50).repeat(2).clip(-30, 30)
    rows, weight = apply(top_fraction(0.4), x.astype(np.float32))
    np.testing.assert_array_equal(np.sort(rows[weight > 0]), np.sort(rows)[-80:])


@pytest.mark.fast
def test_the_first_that_passes_is_kept():
    x = np.array([-1.0, 2.0, -3.0, -4.0, 5.0, 6.0])
    certain = {"keep_right": 1.0, "keep_wrong": 0.0}
    rows, weight = apply(curators.verify(**certain, k=2), x)
    np.testing.assert_array_equal(weight, [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(rows[weight > 0], [2.0, 5.0])
    _, weight = apply(curators.verify(**certain), -np.abs(x))  # nothing passes: all is kept
    np.testing.assert_array_equal(weight, 1.0)
    x = np.repeat([1.0, -1.0], 20_000)
    _, weight = apply(curators.verify(0.7, 0.2), x)
    assert_law("kept of right ones", weight[:20_000], 0.7, 0.6)
    assert_law("kept of wrong ones", weight[20_000:], 0.2, 0.3)


@pytest.mark.fast
def test_choices_follow_bradley_and_terry():
    x = np.tile([0.0, 1.0, 2.0], 20_000)
    share = np.exp(0.7 * np.arange(3)) / np.exp(0.7 * np.arange(3)).sum()
    rows, _ = apply(curate(0.7, 3), x)
    chosen = rows[:, None] == np.arange(3)
    assert_law("shares", chosen, share, np.full(3, 1 / 3))
    two = judge({"up": lambda world, params, x: x, "down": lambda world, params, x: -x})
    rows, _ = apply(curate(0.7, 3, ["up", "down"]), x, setting=two)
    assert_law("users who differ", rows[:, None] == np.arange(3), (share + share[::-1]) / 2, share)


@pytest.mark.fast
def test_an_imperfect_judge():
    x = np.tile([0.0, 1.0], 20_000)
    two = judge({"good": lambda world, params, x: x, "value": lambda world, params, x: -x})
    np.testing.assert_array_equal(apply(curators.verifier(0.0), x, setting=two)[0], 1.0)
    np.testing.assert_array_equal(apply(curators.verifier(0.0, 2.0), x, setting=two)[0], 0.0)
    probit = 0.5 * (1 + float(jax.scipy.special.erf(1 / (2 * 0.8))))  # of a difference with noise sqrt 2 * 0.8
    assert_law("right choices", apply(curators.verifier(0.8), x, setting=two)[0], probit, 0.5)


@pytest.mark.fast
def test_a_detector_weighs():
    x = np.zeros(40_000)
    _, weight = apply(detect(0.8, 2.0), x)
    low, high = (p**2 / (0.8 * 0.8**2 + 0.2 * 0.2**2) for p in (0.2, 0.8))
    np.testing.assert_allclose(np.unique(weight), [low, high], rtol=1e-5)
    assert_law("found", weight < 0.5, 0.8, 0.7)


@pytest.mark.fast
def test_a_share_is_corrected():
    rows, weight = apply(self_correct(0.5), np.zeros(20_000))
    assert_law("real ones", rows > 0, 1 / 3, 0.4)
    np.testing.assert_array_equal(weight, 1.0)
    _, weight = apply(self_correct(1e9), np.zeros(5), np.zeros(5))
    np.testing.assert_array_equal(weight, 1.0)  # real rows are there whatever they replace


def test_the_farthest_is_taken():
    x = np.array([0.0, 0.1, 0.05, 3.0, 2.9, -1.0])
    np.testing.assert_array_equal(apply(diverse(2), x)[0], [0.0, 3.0, -1.0])
    rows = np.array([[0, 0], [1, 1], [0, 1], [0, 0], [9, 9], [0, 0]], np.int32)
    np.testing.assert_array_equal(apply(diverse(2), rows)[0], [[0, 0], [0, 1], [9, 9]])
    rows, weight = apply(diverse(2), [np.nan, np.nan, 1.0, np.nan, 2.0, 5.0], [0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(rows[weight > 0], [1.0, 5.0])
    rows, weight = apply(diverse(2), [0.0, 0.0, 1.0, 9.0], [0.0, 0.0, 1.0, 1.0])  # of nothing all are as far
    np.testing.assert_array_equal(rows[weight > 0], [1.0])
    for columns in (1, 40):  # beside a search row by row
        x = np.random.default_rng(1).normal(size=(30, 2, columns))
        chosen = [x[0, 0]]
        for pair in x[1:]:
            chosen.append(pair[np.argmax([min(((row - other) ** 2).sum() for other in chosen) for row in pair])])
        np.testing.assert_allclose(apply(diverse(2), x.reshape(60, columns))[0], chosen, rtol=1e-6)
    for columns in (3, 64, 300):  # symbols
        x = np.random.default_rng(1).integers(0, 3, (30, 2, columns)).astype(np.uint8)
        chosen = [x[0, 0]]
        for pair in x[1:]:
            chosen.append(pair[np.argmax([min((row != other).sum() for other in chosen) for row in pair])])
        np.testing.assert_array_equal(apply(diverse(2), x.reshape(60, columns))[0], chosen)
    spread = [np.ptp(apply(c, np.random.default_rng(0).normal(size=60))[0]) for c in (diverse(3), best_of(3))]
    assert spread[0] > 1.5 * spread[1]


@pytest.mark.fast
def test_ancestors_are_no_distance():
    x = jnp.array([0.0, 0.1, 3.0, 2.9])
    root = jnp.array([[0, 0], [9, 9], [0, 0], [9, 9]], jnp.uint32)  # of rows 1 and 3, which lie nearer
    new = diverse(2).apply(judge(), KEY, OWN, (), batch.make_batch(Descendant(x, root)), 2)
    np.testing.assert_array_equal(new.items.row[0], [0.0, 3.0])
    np.testing.assert_array_equal(new.items.root[0], [[0, 0], [0, 0]])


@pytest.mark.fast
def test_one_after_another():
    x = np.array([-1.0, 2.0, 3.0, -4.0, 5.0, 6.0, -7.0, -8.0])
    both = then(curators.verify(1.0, 0.0, k=2), best_of(2))
    assert (both.name, both.oversample) == ("verify then best_of", 4)
    rows, weight = apply(both, x)
    np.testing.assert_array_equal(rows, [3.0, 5.0])
    np.testing.assert_array_equal(weight, 1.0)
    np.testing.assert_array_equal(apply(then(best_of(2)), x)[0], apply(best_of(2), x)[0])
    with pytest.raises(ValueError, match="at least one"):
        then()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (curators.verify, {"keep_right": 1.1}, "keep_right"), (curators.verify, {"k": 0}, "k must be"),
        (best_of, {"k": 1.5}, "k must be a whole number"), (curate, {"strength": -1.0}, "strength"),
        (curate, {"by": []}, "at least one score"), (top_fraction, {"fraction": 2.0}, "fraction"),
        (detect, {"accuracy": 1.0}, "accuracy"), (detect, {"power": float("nan")}, "power"),
        (self_correct, {"strength": -0.1}, "strength"), (edit, {"fraction": -0.1}, "fraction"),
        (curators.verifier, {"noise": -1.0}, "noise"), (curators.verifier, {"bias": float("nan")}, "bias"),
        (diverse, {"k": 0}, "k must be a whole number of at least 1"),
    ],
)  # fmt: skip
def test_curators_check_their_arguments(factory, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        factory(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("setting", "curator", "message"),
    [
        ("kde", best_of(by="likelihood"), "by: setting kde has no score 'likelihood'; one of nearest, value"),
        ("poisson", edit(), "curator edit: rows of setting poisson are no sequences"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_any_compute(setting, curator, message, monkeypatch):
    monkeypatch.setattr("collapse_jax.execution.runner.run_blocks", lambda *_, **__: pytest.fail("it computed"))
    with pytest.raises(ValueError, match=message):
        run(SETTINGS[setting](), policies.replace(), curator=curator, **SMALL)


def allowed(setting, curator):
    """Whether the setting has what the curator needs."""
    return (curator != "verify" or "right" in setting.extras.row_scores) and (
        curator != "edit" or setting.extras.rewrite is not None
    )


# Networks and the slower of the others wait for the night; batches of all settings are batches.
NIGHTLY = ("flow_matching", "diffusion", "diffusion-images", "language_model", "gaussian_mixture",
           "logistic_regression-3", "ideal_diffusion", "self_supervised", "vae")  # fmt: skip
EVERY = [
    pytest.param(name, marks=pytest.mark.nightly) if name in NIGHTLY else name
    for name in (
        *registry.factories("setting"),
        "kde-lineage",
        "discrete-lineage",
        "logistic_regression-3",
        "diffusion-images",
    )
]


@pytest.mark.parametrize("name", EVERY)
def test_every_curator_with_every_setting(name):
    """Rows of the fit's shapes and dtypes, each of them sampled or real; weights that are multiplicities."""
    setting = SETTINGS[name]()
    made = {kind: factory() for kind, factory in registry.factories("curator").items() if allowed(setting, kind)}
    most = max(c.oversample for c in made.values())

    @jax.jit
    def draw(world):
        params, _ = fitted(setting, world, batch.make_batch(setting.sample_real(KEY, world, NUM)), KEY)
        return params, batch.make_batch(setting.sample(KEY, params, NUM * most))

    @jax.jit  # a program of its own: in one, rows may be computed once a reader, with other roundings
    def curate(world, params, drawn):
        def curated(curator):
            candidates = drawn._replace(items=jax.tree.map(lambda x: x[:, : NUM * curator.oversample], drawn.items))
            return curator.apply(setting, KEY, world, params, candidates, NUM)

        return {kind: curated(curator) for kind, curator in made.items()}

    world = setting.world()
    params, drawn = draw(world)
    curated = curate(world, params, drawn)
    assert setting.extras.row_scores
    for kind, new in curated.items():
        shape = jax.tree.map(lambda x: (x.shape, x.dtype), new.items)
        assert shape == jax.tree.map(lambda x: ((1, NUM, *x.shape[2:]), x.dtype), drawn.items), kind
        weight = np.asarray(batch.full_weight(new))
        assert np.isfinite(weight).all(), kind
        assert (weight >= 0).all(), kind
        assert (weight > 0).any(), kind
        if kind not in ("self_correct", "edit"):
            assert codes(new) <= codes(drawn), kind


def codes(pool):
    """A tuple of numbers for each row, the same for the same row."""
    leaves = [np.asarray(x[0]).reshape(x.shape[1], -1).tolist() for x in jax.tree.leaves(pool.items)]
    return {str(row) for row in zip(*leaves, strict=True)}


BY_DAY = ("fixed_real", "mix")  # real rows in the place of synthetic ones, and beside them


@pytest.mark.parametrize(
    "policy", [name if name in BY_DAY else pytest.param(name, marks=pytest.mark.nightly) for name in POLICIES]
)
def test_curators_under_every_policy(policy):
    """All at once, and all that change nothing: generation 1 is untouched, and fits are fits."""
    setting, how = SETTINGS["poisson"](), {"n": 2 * NUM, "horizon": 3, "num": 2}
    seen, same, plain = (
        chains(setting, POLICIES[policy](), **how, **more)["log_rate_ratio"]
        for more in ({"curator": then(*EVERYTHING)}, {"curator": then(*NEUTRAL)}, {"backend": "rows", "fold": "blocks"})
    )
    np.testing.assert_allclose(seen[:, 0], plain[:, 0], rtol=1e-5)
    assert np.isfinite(seen).all()
    assert (seen[:, 1:] != plain[:, 1:]).any()
    np.testing.assert_allclose(same, plain, rtol=1e-5, atol=1e-6)


EVERYTHING = [
    factory(**({"by": "value"} if name == "verify" else {}))
    for name, factory in registry.factories("curator").items() if name != "edit"
]  # fmt: skip
NEUTRAL = [
    registry.factories("curator")[name](**given, **({"by": "value"} if name == "verify" else {}))
    for name, given in NOTHING.items()
]


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["logistic_regression", "linear_regression", "markov"])
def test_curators_in_loops_of_labels_and_of_text(name):
    setting = SETTINGS[name]()
    every = then(*(factory() for kind, factory in registry.factories("curator").items() if allowed(setting, kind)))
    seen = step_by_step(setting, policies.accumulate(), n=NUM, horizon=2, num=1, curator=every)
    plain = step_by_step(setting, policies.accumulate(), n=NUM, horizon=2, num=1, backend="rows", fold="blocks")
    for metric in setting.metrics:
        np.testing.assert_allclose(seen[metric.name][:, 0], plain[metric.name][:, 0], rtol=2e-3, atol=1e-5)
        assert is_valid(metric.name, seen[metric.name])


FLOATS = [
    (name, p) for name, factory in registry.factories("curator").items() if name != "edit" for p in floats_of(factory)
]


@pytest.mark.fast
@pytest.mark.parametrize(("name", "parameter"), FLOATS)
def test_traced_floats_give_what_concrete_ones_give(name, parameter):
    setting, values = judge(), [0.3, 0.8]

    def one(value):
        curator = registry.factories("curator")[name](**{parameter: value})
        drawn = setting.sample(KEY, (), 10 * curator.oversample)
        return curator.apply(setting, KEY, OWN, (), batch.make_batch(drawn), 10)

    traced = jax.jit(jax.vmap(one))(jnp.asarray(values))
    for i, value in enumerate(values):
        concrete = jax.jit(partial(one, value))()
        np.testing.assert_array_equal(traced.items[i], concrete.items)
        np.testing.assert_allclose(traced.weight[i], concrete.weight, rtol=1e-5)


@pytest.mark.fast
def test_text_is_edited_symbol_by_symbol():
    setting = SETTINGS["markov"]()
    world = setting.world()

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def edited(fraction, world):
        real = setting.sample_real(stream(KEY, "real"), world, 400)
        params, _ = fitted(setting, world, batch.make_batch(real), KEY)
        new = edit(fraction).apply(setting, KEY, world, params, batch.make_batch(jnp.zeros_like(real)), 400)
        return real, new.items[0]

    real, new = edited(jnp.array([0.0, 0.25, 0.5, 1.0]), world)
    np.testing.assert_array_equal(new[0], real[0])
    np.testing.assert_array_equal(new[:, :, 0], real[:, :, 0])  # what has no context stays
    _, quarter, half, whole = (np.asarray(new) != np.asarray(real))[:, :, 1:].mean((1, 2))
    np.testing.assert_allclose([quarter, half], [0.25 * whole, 0.5 * whole], atol=0.03)
    assert whole > 0.3
    assert np.isin(np.asarray(new)[3][:, 1], np.asarray(real)[3][:, 1]).all()
