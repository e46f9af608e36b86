"""Gradient-trained settings: the nnx seam, stochastic fits by weight, and flow matching on small laws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx

from collapse_jax import policies
from collapse_jax.core import batch
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.settings import flow_matching as by_default
from collapse_jax.settings.flow_matching import energy_distance, flow_matching, integrate
from collapse_jax.training.diffusion_objectives import draw_probes
from collapse_jax.training.nets.mlp import TimedMLP
from collapse_jax.training.nnx_functional import make_functional
from collapse_jax.training.sgd import fit_sgd
from collapse_jax.types import Batch, Metric, Setting, Source, World

MEAN = np.array([0.5, -0.3], np.float32)
COVARIANCE = np.array([[0.6, 0.3], [0.3, 0.4]], np.float32)
TINY = {"width": 8, "depth": 1, "steps": 5, "batch_size": 8, "sampler_steps": 4, "num_test": 16}


def normal_source():
    root = np.linalg.cholesky(COVARIANCE)

    def draw(key, arrays, num):
        mean, root = arrays
        return mean + jax.random.normal(key, (num, 2)) @ root.T

    held_out = lambda num: draw(jax.random.key(5), (MEAN, root), num)  # noqa: E731
    return Source("normal", 2, (MEAN, root), draw, held_out, MEAN, COVARIANCE)


def regression(key, num):
    """Rows (x, y), y = 1 + 2 x + noise for x < 0 and 1 - x + noise above: weights decide the best line."""
    key_x, key_noise = jax.random.split(key)
    x = jax.random.uniform(key_x, (num,), minval=-1.0)
    return {"x": x, "y": 1 + jnp.where(x < 0, 2 * x, -x) + 0.1 * jax.random.normal(key_noise, (num,))}


def line_loss(params, key, items):
    return jnp.mean((params["a"] + params["b"] * items["x"] - items["y"]) ** 2)


def line_fit(steps=400, **kwargs):
    adam = optax.adam(optax.cosine_decay_schedule(0.1, steps))
    init = lambda key: {"a": jax.random.normal(key), "b": jnp.zeros(())}  # noqa: E731
    return fit_sgd(line_loss, adam, init=init, steps=steps, batch_size=64, **kwargs)


def weighted_line(items, weight):
    design = np.stack([np.ones_like(items["x"]), items["x"]], 1)
    return np.linalg.solve(design.T @ (weight[:, None] * design), design.T @ (weight * np.asarray(items["y"])))


def test_the_seam_gives_what_the_module_gives():
    build = lambda rngs: TimedMLP(2, 8, 2, rngs=rngs)  # noqa: E731
    init, apply = make_functional(build)
    x, t = jax.random.normal(jax.random.key(1), (5, 2)), jnp.linspace(0, 1, 5)
    params = init(jax.random.key(3))
    np.testing.assert_array_equal(apply(params, x, t), build(nnx.Rngs(jax.random.key(3)))(x, t))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    assert type(params) is dict

    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(init))(keys)
    out = jax.jit(jax.vmap(apply, (0, None, None)))(many, x, t)
    for c in range(3):
        np.testing.assert_allclose(out[c], apply(init(keys[c]), x, t), rtol=1e-5, atol=1e-6)
    step = lambda p, _: (jax.tree.map(lambda leaf: 0.5 * leaf, p), apply(p, x, t))  # noqa: E731
    assert jax.lax.scan(step, params, None, length=3)[1].shape == (3, 5, 2)


def test_the_seam_refuses_state_that_is_no_parameter():
    with pytest.raises(ValueError, match=r"all nnx\.Param; .*rngs.* is Rng") as error:
        make_functional(lambda rngs: nnx.Dropout(0.1, rngs=rngs))
    assert "\n" not in str(error.value)


def test_sgd_finds_the_weighted_solution():
    items = regression(jax.random.key(0), 400)
    weight = np.where(np.asarray(items["x"]) < 0, 0.2, 3.0).astype(np.float32)
    train = batch.make_batch(items, weight)
    fitted = jax.jit(jax.vmap(lambda key: line_fit()(key, train, None)))(jax.random.split(jax.random.key(1), 32))
    exact, unweighted = weighted_line(items, weight), weighted_line(items, np.ones_like(weight))
    for i, name in enumerate("ab"):
        values = np.asarray(fitted[name])
        assert abs(values.mean() - exact[i]) < 4 * values.std(ddof=1) / np.sqrt(32) + 2e-3
        assert abs(values.mean() - unweighted[i]) > 10 * values.std(ddof=1) / np.sqrt(32)


def test_weight_two_is_twice():
    items = regression(jax.random.key(0), 100)
    twice = np.asarray(items["x"]) > 0.3
    doubled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[twice]]), items)
    keys = jax.random.split(jax.random.key(2), 64)
    fits = jax.jit(lambda keys, train: jax.vmap(lambda key: line_fit(200)(key, train, None))(keys))
    a, b = fits(keys, batch.make_batch(items, np.where(twice, 2.0, 1.0))), fits(keys, batch.make_batch(doubled))
    for name in "ab":
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert abs(x.mean() - y.mean()) < 4 * np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 64)


@pytest.mark.parametrize("width", [1, 6])
def test_a_row_of_weight_zero_is_never_read(width):
    """Blocks that weigh alike, and rows that each have a weight."""
    items = jax.tree.map(lambda leaf: leaf.reshape(4, 6), regression(jax.random.key(0), 24))
    weight = jnp.array([1.0, 0.0, 2.0, 0.0])[:, None] * (jnp.ones((1, width)).at[0, -1].set(1.0 if width == 1 else 0.0))
    fit = jax.jit(line_fit(50))
    absent = jnp.broadcast_to(weight == 0, (4, 6))
    poisoned = jax.tree.map(lambda leaf: jnp.where(absent, jnp.nan, leaf), items)
    clean = fit(jax.random.key(1), Batch(items, weight), None)
    assert np.isfinite(clean["a"])
    jax.tree.map(np.testing.assert_array_equal, clean, fit(jax.random.key(1), Batch(poisoned, weight), None))


def test_previous_goes_on_and_init_forgets():
    train = batch.make_batch(regression(jax.random.key(0), 100))
    good = {"a": jnp.float32(7.0), "b": jnp.float32(-7.0)}
    still = optax.sgd(0.0)
    init = lambda key: {"a": jax.random.normal(key), "b": jnp.zeros(())}  # noqa: E731
    fit = lambda start: fit_sgd(line_loss, still, init=init, steps=2, batch_size=4, start=start)  # noqa: E731
    assert float(fit("previous")(jax.random.key(0), train, good)["a"]) == 7.0
    a = [float(fit("init")(jax.random.key(k), train, good)["a"]) for k in (0, 0, 1)]
    assert a[0] == a[1] != a[2] != 7.0


def test_energy_distance_against_scipy_and_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=300), 0.4 + 1.5 * rng.normal(size=211)
    mean = lambda a, b: np.abs(a[:, None] - b[None]).mean()  # noqa: E731
    # SciPy's is the root of the biased form, whose means within a sample include the pairs (i, i).
    expected = scipy.stats.energy_distance(x, y) ** 2 - mean(x, x) / 299 - mean(y, y) / 210
    distance = jax.jit(energy_distance)
    np.testing.assert_allclose(distance(x[:, None], y[:, None]), expected, rtol=1e-4)

    x, y = rng.normal(size=(300, 3)), rng.normal(size=(77, 3)) * [1, 2, 3]
    norm = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1).sum()  # noqa: E731
    expected = 2 * norm(x, y) / (300 * 77) - norm(x, x) / (300 * 299) - norm(y, y) / (77 * 76)
    np.testing.assert_allclose(distance(x, y), expected, rtol=1e-4)
    assert np.isfinite(jax.jit(jax.grad(energy_distance))(jnp.asarray(x, float), y)).all()


def test_energy_distance_of_equal_laws_is_zero_in_the_mean():
    def one(key):
        key_x, key_y = jax.random.split(key)
        return energy_distance(jax.random.normal(key_x, (60, 2)), jax.random.normal(key_y, (40, 2)))

    values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 400)))
    assert abs(values.mean()) < 4 * values.std(ddof=1) / 20


def test_the_sampler_does_not_shrink_a_gaussian():
    """Along the exact velocity field of N(0, s^2); Euler's rule would lose 8% to 25% of the variance here."""
    for scale in (1.0, 0.3):
        field = lambda x, t: x * ((t * scale**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * scale**2))[:, None]  # noqa: B023, E731
        x = jnp.linspace(-2, 2, 5)[:, None]
        np.testing.assert_allclose(integrate(field, x, 32), scale * x, rtol=1e-3, atol=1e-6)


def test_probes_are_fixed_and_spread():
    noise, time = draw_probes(50, 2)
    assert noise.shape == (400, 2)
    assert np.histogram(time, 8, (0, 1))[0].tolist() == [50] * 8
    np.testing.assert_array_equal(noise, draw_probes(50, 2)[0])


@pytest.fixture(scope="module")
def trained():
    """Four fits to 4,000 rows of a normal, their samples, and observations before and after."""
    setting = flow_matching(normal_source())
    world = setting.world()

    @jax.jit
    @jax.vmap
    def one(key):
        real = setting.sample_real(key, world, 4000)
        params = setting.fit(key, batch.make_batch(real), setting.init(key, world))
        rows = setting.sample(key, params, 5000)
        observe = lambda k, p: setting.observe(k, world, p, None, rows)  # noqa: E731
        untrained = setting.init(key, world)
        return real, rows, observe(key, params), observe(jax.random.key(9), params), observe(key, untrained)

    return jax.tree.map(np.asarray, one(jax.random.split(jax.random.key(0), 4)))


@pytest.mark.nightly
def test_a_flow_learns_a_normal(trained):
    real, rows, observed, _, _ = trained
    for c in range(4):
        np.testing.assert_allclose(rows[c].mean(0), real[c].mean(0), atol=0.08)
        np.testing.assert_allclose(np.cov(rows[c].T), np.cov(real[c].T), atol=0.08)
    ratio = np.array([np.trace(np.cov(r.T)) for r in rows]) / np.trace(COVARIANCE)
    np.testing.assert_allclose(observed["trace_ratio"], ratio, rtol=1e-4)
    np.testing.assert_allclose(
        observed["squared_error_of_generated_mean"], ((rows.mean(1) - MEAN) ** 2).sum(1), atol=1e-5
    )


def test_training_lowers_the_test_loss(trained):
    _, _, observed, again, before = trained
    # For this law the least loss is known: the mean over t of the trace of Var(x1 - x0 | x_t).
    t = (np.arange(2000) + 0.5) / 2000
    s = np.linalg.eigvalsh(COVARIANCE)
    least = sum(np.mean(v / ((1 - t) ** 2 + t**2 * v)) for v in s)
    assert (observed["test_loss"] < 0.8 * before["test_loss"]).all()
    np.testing.assert_allclose(observed["test_loss"], least, rtol=0.06)
    np.testing.assert_array_equal(observed["test_loss"], again["test_loss"])  # the points are fixed, the key is unused
    assert (observed["energy_distance"] < 0.02).all()


def test_a_traced_learning_rate_compiles_once():
    traces = []
    source = normal_source()
    world = flow_matching(source, **TINY).world()

    @jax.jit
    def losses(rates, world):
        def one(rate):
            traces.append(rate)
            setting = flow_matching(source, **TINY | {"steps": 50}, learning_rate=rate)
            params = setting.fit(
                jax.random.key(1), batch.make_batch(setting.sample_real(jax.random.key(0), world, 50)), None
            )
            return setting.observe(None, world, params, None, world.test)["test_loss"]

        return jax.vmap(one)(rates)

    low, high = losses(jnp.array([1e-5, 1e-2]), world), losses(jnp.array([2e-5, 2e-2]), world)
    assert len(traces) == 1
    assert low[1] < low[0]
    assert high[1] < high[0]


@pytest.mark.parametrize(
    ("policy", "start"),
    [
        (policies.accumulate, "init"),
        pytest.param(policies.replace, "previous", marks=pytest.mark.nightly),
        pytest.param(policies.accumulate_subsample, "init", marks=pytest.mark.nightly),
    ],
)
def test_chains_under_policies(policy, start):
    setting = flow_matching(normal_source(), **TINY, start=start)
    chain = make_chain(setting, policy(), num_samples=12, num_generations=2)
    run = jax.jit(lambda keys, world: jax.vmap(lambda key: simulate(chain, key, world, 2))(keys))
    observed = run(jax.random.split(jax.random.key(0), 3), setting.world())
    assert set(observed) == {m.name for m in setting.metrics}
    for name, values in observed.items():
        assert values.shape == (3, 2)
        assert np.isfinite(values).all(), name


@pytest.mark.parametrize("policy", [policies.accumulate, policies.accumulate_subsample, policies.contaminated])
def test_empty_slots_are_not_trained_on(policy):
    """All rows are 1, empty slots are 0: the parameter counts the zeros that training reads."""
    loss = lambda p, key, x: -p * jnp.sum(x == 0)  # noqa: E731
    init = lambda key: jnp.zeros(())  # noqa: E731
    fit = fit_sgd(loss, optax.sgd(1.0), init=init, steps=20, batch_size=16)
    ones = lambda key, world, num: jnp.ones((num, 1))  # noqa: E731
    setting = Setting(
        name="ones",
        world=lambda: World((), (), None),
        sample_real=ones,
        fit=fit,
        sample=ones,
        observe=lambda key, world, params, summary, generated: {"zeros": params},
        metrics=(Metric("zeros", "zeros read", "1", "test"),),
        init=lambda key, world: init(key),
    )
    chain = make_chain(setting, policy(), num_samples=5, num_generations=6)
    zeros = jax.jit(jax.vmap(lambda key: simulate(chain, key, setting.world(), 6)["zeros"]))
    np.testing.assert_array_equal(zeros(jax.random.split(jax.random.key(0), 3)), 0)
    assert float(fit(jax.random.key(0), batch.make_batch(jnp.zeros((5, 1))), None)) == 20 * 16


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in TINY for value in (0, -1, 1.5)),
        *(("learning_rate", value) for value in (0.0, -1e-3, float("nan"), float("inf"), "fast")),
        ("start", "base"),
    ],
)
def test_bad_arguments_are_one_line(name, value):
    with pytest.raises(ValueError, match=name) as error:
        flow_matching(normal_source(), **TINY | {name: value})
    assert "\n" not in str(error.value)


def test_default_source_is_moons():
    setting = by_default(**TINY)
    world = setting.world()
    assert world.test.shape == (16, 2)
    np.testing.assert_allclose(world.truth.mean, [0.5, 0.25], atol=1e-6)
    assert setting.sample_real(jax.random.key(0), world, 7).shape == (7, 2)
