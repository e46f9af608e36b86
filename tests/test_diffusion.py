"""Diffusion models on small laws: what is learned, what is drawn, and what labels, guidance and averages do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import LABELLED, PICTURES, chains
from oracle_helpers import assert_law
from scipy.special import roots_hermitenorm
from test_flow_matching import COVARIANCE, MEAN, normal_source
from test_ideal_diffusion import polynomial

from collapse_jax import data, policies, settings
from collapse_jax.core import batch
from collapse_jax.core.worlds import same_world
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.memory_estimate import check_memory
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.settings import diffusion
from collapse_jax.settings.diffusion import _estimate, _said, _sample, _test_loss
from collapse_jax.training import diffusion_objectives, diffusion_samplers
from collapse_jax.training.nets import classifier
from collapse_jax.training.row_transform import make_row_transform
from collapse_jax.training.sgd import AveragedParams, average_params
from collapse_jax.types import Batch

TINY = {"width": 8, "depth": 1, "steps": 5, "warmup": 1, "batch_size": 8, "sampler_steps": 4, "num_test": 12}
KEY = jax.random.key(5)


def task_of(setting):
    return setting.sample.args[0]


@pytest.mark.fast
def test_the_average_follows():
    inner, rng = optax.sgd(0.1), np.random.default_rng(0)
    made = average_params(inner, 0.6)
    params = AveragedParams({"w": jnp.ones(3)}, {"w": jnp.zeros(3)})
    state, now, average = made.init(params), np.ones(3), np.zeros(3)
    for t in range(1, 12):
        gradient = rng.normal(size=3)
        updates, state = made.update(AveragedParams({"w": jnp.asarray(gradient)}, None), state, params)
        params = optax.apply_updates(params, updates)
        now = now - 0.1 * gradient
        decay = min(0.6, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * now
        np.testing.assert_allclose(params.now["w"], now, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(params.average["w"], average, rtol=1e-5, atol=1e-6)


def fitted(setting, rows):
    return jax.jit(lambda rows: setting.fit(KEY, batch.make_batch(rows), setting.init(KEY, None)))(rows)


def test_no_decay_is_no_average():
    for ema, alike in ((0.0, True), (0.9, False)):
        params = fitted(diffusion(LABELLED, ema=ema, **TINY), jax.random.normal(KEY, (20, 2)))
        pairs = zip(jax.tree.leaves(params.net.now), jax.tree.leaves(params.net.average), strict=True)
        assert all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs) == alike


@pytest.mark.parametrize(
    "objective",
    [o if o == "flow" else pytest.param(o, marks=pytest.mark.nightly) for o in diffusion_objectives.OBJECTIVES],
)
def test_a_model_learns_a_normal(objective):
    """Its test loss comes near the least there is, which is known for this law, and its rows near those of the law."""
    source = normal_source()
    setting = diffusion(source, objective, width=48, depth=2, steps=800, learning_rate=1e-2, num_test=400)
    world = setting.world()
    params = fitted(setting, setting.sample_real(KEY, world, 4000))
    drawn = np.asarray(jax.jit(lambda p: setting.sample(KEY, p, 3000))(params))
    np.testing.assert_allclose(drawn.mean(0), MEAN, atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), COVARIANCE, atol=0.07)
    how, sigma, scale = task_of(setting).objective, world.truth.sigma, task_of(setting).frame.scale
    (a, b), (p, q) = (tuple(np.asarray(x, float) for x in pair) for pair in (how.path(sigma), how.target(sigma)))
    variances = np.linalg.eigvalsh(COVARIANCE) / scale**2  # in the network's frame
    least = np.mean([(p * b - q * a) ** 2 * v / (a**2 * v + b**2) for v in variances])
    judge = jax.jit(lambda net: _test_loss(task_of(setting), net, world))
    loss = float(judge(params.net.average))
    silent = next(m.baseline for m in setting.metrics if m.name == "test_loss")
    assert 0.96 * least < loss < 1.06 * least + 0.01 < silent
    still = float(judge(jax.tree.map(jnp.zeros_like, params.net.average)))
    np.testing.assert_allclose(still, silent, rtol=0.05)  # held-out rows are not quite the law


def test_classes_are_drawn_as_often_as_trained_on_and_rows_as_their_class():
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1, 2], [300, 100, 200])
    rows = np.hstack([3.0 * label[:, None] + 0.3 * rng.normal(size=(600, 1)), label[:, None]])
    source = data.array(rows, labels=True)
    setting = diffusion(source, conditional=True, width=32, depth=2, steps=600, learning_rate=1e-2, num_test=60)
    weight = np.where(label == 1, 3.0, 1.0)  # now 1 is the most frequent: 300, 300, 200
    spoilt = np.where((weight == 1.0)[:, None] & (label == 2)[:, None], np.nan, rows)
    weight = np.where(label == 2, 0.0, weight)  # and 2 is absent
    train = Batch(jnp.asarray(spoilt, jnp.float32)[None], jnp.asarray(weight)[None])
    params = jax.jit(lambda train: setting.fit(KEY, train, setting.init(KEY, None)))(train)
    np.testing.assert_allclose(params.classes, [300, 300, 0])
    drawn = np.asarray(jax.jit(lambda p: setting.sample(KEY, p, 2000))(params))
    assert abs((drawn[:, 1] == 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    assert set(np.unique(drawn[:, 1])) == {0.0, 1.0}
    assert (np.abs(drawn[:, 0] - 3.0 * drawn[:, 1]) < 1.5).mean() > 0.99


def test_guidance_at_one_and_at_zero():
    """1 is the conditional estimate, 0 the unconditional one; 2 lies as far beyond as 0 before."""
    made = lambda g: diffusion(LABELLED, conditional=True, guidance=g, **TINY)  # noqa: E731
    params = fitted(made(1.0), jnp.asarray(LABELLED.arrays, float))
    net, x, sigma = params.net.average, jax.random.normal(KEY, (9, 2)), jnp.float32(0.7)
    label = jnp.arange(9) % 3
    estimate = jax.jit(lambda g, label: _estimate(task_of(made(g)), net, label, x, sigma))
    task = task_of(made(1.0))
    sigma_B = jnp.full(9, sigma)
    given, free = (
        diffusion_objectives.estimate_row_and_noise(task.objective, x, _said(task, net, x, sigma_B, told), sigma_B)
        for told in (label, jnp.full(9, 3))
    )
    assert not np.allclose(given[0], free[0], atol=1e-3)
    for k in (0, 1):
        np.testing.assert_allclose(estimate(1.0, label)[k], given[k], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(estimate(0.0, label)[k], free[k], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(estimate(2.0, label)[k], 2 * given[k] - free[k], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(_estimate(task, net, label, x, sigma)[k], given[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 30.0])
def test_expected_pixels_are_pixels(sigma):
    """And still make up the noised image together with the expected noise."""
    setting = diffusion(PICTURES, "ddpm", **TINY)
    task, net = task_of(setting), jax.jit(lambda key: setting.init(key, None))(KEY).net.average
    x = 5 * jax.random.normal(KEY, (30, 16))
    row, noise = jax.jit(lambda net, x: _estimate(task, net, None, x, jnp.float32(sigma)))(net, x)
    pixel = np.asarray(task.frame.center + task.frame.scale * row)
    outside = (pixel < -1e-5) | (pixel > 1 + 1e-5)
    assert outside.any() == (sigma < 1)  # the network is untrained
    assert np.abs(pixel - 0.5).max() < 1 + 1e-5  # and what runs away is held
    a, b = task.objective.path(sigma)
    np.testing.assert_allclose(a * row + b * noise, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("objective", "sampler", "steps"), [("flow", "midpoint", 48), ("edm", "heun", 40)])
def test_a_chain_with_the_exact_score_follows_the_hermite_law(objective, sampler, steps):
    """Coefficients c_k of each fit: exp(-k delta) [alpha c_k(real) + (1 - alpha) c_k(last fit)]; for any n."""
    source = data.blobs(num_centers=2, dim=1, std=0.5, box=1.5)
    delta, share, horizon, how = 0.15, 0.3, 4, diffusion_objectives.make_objective(objective, "linear", 1.0)
    sigma = jnp.asarray(how.grid(steps), jnp.float32)

    def sample(key, params, num):
        rows, _ = batch.weighted_rows(params.train)  # all weigh 1 under this policy

        def estimate(x, sigma):
            a, b = how.path(sigma)
            near = jax.nn.softmax(-0.5 * ((x - a * rows[:, 0]) / b) ** 2, axis=1)
            row = near @ rows
            return row, (x - a * row) / b

        return diffusion_samplers.sample_rows(estimate, how.path, key, (num, 1), sigma, sampler, params.delta)

    setting = settings.ideal_diffusion(delta, source=source)._replace(sample=sample)
    seen = chains(setting, policies.fresh_real(share), n=20, horizon=horizon, num=1500)
    nodes, weights = roots_hermitenorm(20)
    degrees = np.arange(1, 5)
    real = np.array([
        np.mean([(weights * polynomial(k, c + 0.5 * nodes)).sum() / weights.sum() for c in source.modes[:, 0]])
        for k in degrees
    ])  # fmt: skip
    shrink, right = np.exp(-delta * degrees), []
    for _ in range(horizon):
        right.append(shrink * (share * real + (1 - share) * (right[-1] if right else real)))
    found = np.stack([seen[f"hermite_{k}"] for k in degrees], -1)
    assert_law(f"{objective}, {sampler}", found, np.stack(right), 0.8 * np.stack(right))


@pytest.mark.fast
def test_rows_are_drawn_in_equal_parts():
    """One row more than fit at once costs no second part in full."""
    setting, sizes = diffusion(LABELLED, conditional=True, rows_at_once=5, **TINY), []
    drawn = lambda estimate, key, shape: (sizes.append(shape), jax.random.normal(key, shape))[1]  # noqa: E731
    params = setting.init(KEY, None)
    for num, rows in ((4, 4), (5, 5), (6, 3), (11, 4)):
        seen = _sample(task_of(setting)._replace(draw=drawn), KEY, params, num)
        assert (set(sizes), seen.shape) == ({(rows, 2)}, (num, 3))
        assert len(np.unique(seen[:, 0])) == num
        sizes.clear()


@pytest.mark.nightly
def test_plans_train_no_classifier(monkeypatch):
    """An outline is the world's, but for what its rows are judged by, of which it has the shapes."""
    made = lambda **options: diffusion(PICTURES, **TINY | options)  # noqa: E731
    world = made().world()
    monkeypatch.setattr(classifier, "train_classifier", None)
    outline = made().info.world_shapes()
    assert same_world(outline._replace(truth=outline.truth._replace(judged=None)),
                world._replace(truth=world.truth._replace(judged=None)))  # fmt: skip
    judged = (w.truth.judged for w in (outline, world))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), *judged))
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(outline.truth.judged.net))
    for other in ({"objective": "edm"}, {"objective": "ddpm"}, {"num_test": 9}, {"conditional": True}):
        assert not same_world(outline, made(**other).info.world_shapes())
    plan = make_plan(make_grid(made, policies.replace(), num_samples=8, num_generations=2), Options(num_chains=1))
    check_memory(plan)
    assert made(features=lambda x: x).info.world_shapes is None


@pytest.mark.fast
def test_frames():
    rng = np.random.default_rng(2)
    values = np.array([1.0, 5.0]) + np.array([0.5, 2.0]) * rng.normal(size=(200, 2))
    source = data.array(values)
    *_, center, scale, spread = make_row_transform(source, False, "unit")
    inside = (np.asarray(source.arrays) - center) / scale
    np.testing.assert_allclose([inside.mean(), (inside**2).mean(), spread], [0, 1, 1], atol=1e-5)
    image = source._replace(shape=(1, 2, 1))
    rms = np.sqrt(((np.asarray(source.arrays) * 2 - 1) ** 2).mean())
    np.testing.assert_allclose(make_row_transform(image, False, "pixels")[3:], [0.5, 0.5, rms], rtol=1e-5)
    raw = make_row_transform(source, False, "raw")[3:]
    np.testing.assert_allclose(raw, [0, 1, np.sqrt((np.asarray(source.arrays) ** 2).mean())], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(({name: 0}, name) for name in ("steps", "batch_size", "sampler_steps", "num_test", "rows_at_once", "width")),
        ({"objective": "vp"}, "objective must be one of ddpm, edm, flow, not 'vp'"),
        ({"sampler": "euler"}, "sampler must be one of ancestral, ddim, heun, midpoint"),
        ({"objective": "ddpm", "sampler_steps": 1001}, "sampler_steps must be a whole number from 1 to 1000"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"ema": 1.5}, "ema must be a number from 0 to 1"),
        ({"drop_label": -0.1, "conditional": True}, "drop_label must be a number from 0 to 1"),
        ({"drop_label": 0.1}, "drop_label needs conditional=True"),
        ({"stop": -1.0}, "stop must be a number of at least 0"),
        ({"temperature": "warm"}, "temperature"),
        ({"warmup": -1}, "warmup"),
        ({"warmup": 5}, r"warmup must be below steps \(5\), not 5"),
        ({"source": 3}, "source must be a Source, such as data.moons\\(\\), not 3"),
        ({"features": 3}, "features must be a function of rows, not 3"),
        ({"heads": 2}, "heads is for net: dit, not for mlp"),
        ({"patch": 2, "net": "unet"}, "patch is for net: dit, not for unet"),
        ({"start": "base"}, "start"),
        ({"frame": "pixels"}, "frame pixels needs images"),
        ({"frame": "zscore"}, "frame must be one of"),
        ({"dtype": "float16"}, "dtype"),
        ({"noise_schedule": "sigmoid", "objective": "ddpm"}, "noise_schedule must be one of linear, cosine"),
        ({"noise_schedule": "linear"}, "noise_schedule is for objective: ddpm, not for flow"),
        ({"noise_schedule": "cosine", "objective": "edm"}, "noise_schedule is for objective: ddpm, not for edm"),
        ({"conditional": True}, "source moons has none"),
        ({"guidance": 2.0}, "guidance needs conditional=True"),
        ({"net": "dit"}, "net dit needs images"),
        ({"net": "resnet"}, "net must be one of"),
    ],
)  # fmt: skip
@pytest.mark.fast
def test_bad_arguments_are_one_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        diffusion(**TINY | options)
    assert "\n" not in str(error.value)
