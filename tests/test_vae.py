"""Variational autoencoders: the bound by hand, linear ones against probabilistic PCA, and what sampling draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import LABELLED, PICTURES
from oracle_helpers import z_score, z_score_of_variance
from sklearn.decomposition import PCA

from collapse_jax import data, policies
from collapse_jax.core import batch
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.memory_estimate import check_memory
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.settings import vae
from collapse_jax.settings.vae import _of_held_out, _terms
from collapse_jax.training.nets import classifier
from collapse_jax.types import Batch

TINY = {"latent": 2, "width": 8, "depth": 1, "steps": 5, "warmup": 1, "batch_size": 8, "num_test": 12}
LINEAR = {"depth": 0, "steps": 2000, "batch_size": 256, "learning_rate": 1e-2, "num_test": 400}
KEY = jax.random.key(5)
VARIANCES = np.array([4.0, 2.0, 0.6, 0.3, 0.2])


def task_of(setting):
    return setting.sample.args[0]


def fitted(setting, train):
    return jax.jit(lambda train: setting.fit(KEY, train, setting.init(KEY, None)))(train)


def moved(params):
    """Return the networks with no parameter at 0."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    return tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


def principal():
    """Rows whose covariance has the eigenvalues ``VARIANCES`` up to chance, and held-out ones."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    return data.array(1.5 + (rng.normal(size=(1400, 5)) * np.sqrt(VARIANCES)) @ turn.T, test_fraction=2 / 7)


def by_hand(layers, x, label, classes):
    """A network of ours in NumPy, in double precision."""
    x = np.hstack([x, np.eye(classes)[label]])
    for i in sorted(layers):
        x = x @ np.asarray(layers[i]["kernel"], float) + np.asarray(layers[i]["bias"], float)
        x = x / (1 + np.exp(-x)) if i < max(layers) else x
    return x


@pytest.mark.parametrize("deviation", [None, 0.7])
def test_the_bound_is_what_it_is_by_hand(deviation):
    setting = vae(LABELLED, conditional=True, deviation=deviation, **TINY | {"depth": 2, "latent": 3})
    world, task = setting.world(), task_of(setting)
    net = jax.jit(lambda world: moved(setting.init(KEY, world).net))(world)
    judge = jax.jit(lambda net: _of_held_out(task, net, world))
    seen = judge(net)
    rows, noise = np.tile(np.asarray(world.test, float), (8, 1)), np.asarray(world.truth.noise, float)
    x, label = (rows[:, :2] - task.frame.center) / task.frame.scale, rows[:, 2].astype(int)
    mean, log_variance = np.split(by_hand(net.layers["encoder"], x, label, 3), 2, 1)
    decoded = by_hand(net.layers["decoder"], mean + np.exp(log_variance / 2) * noise, label, 3)
    s = deviation or float(np.exp(net.log_deviation)) * task.frame.scale  # in the units of the rows
    error = rows[:, :2] - (task.frame.center + task.frame.scale * decoded)
    log_given = (-0.5 * (error / s) ** 2 - np.log(s * np.sqrt(2 * np.pi))).sum(1)
    rate = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).mean(0)
    np.testing.assert_allclose(seen["rate_of_latent"], rate, rtol=1e-4)
    np.testing.assert_allclose(seen["rate"], rate.sum(), rtol=1e-4)
    np.testing.assert_allclose(seen["test_negative_elbo"], rate.sum() - log_given.mean(), rtol=1e-4)
    assert seen["active_units"] == (mean.var(0) > 0.01).sum()
    assert judge(net._replace(layers=jax.tree.map(jnp.zeros_like, net.layers)))["active_units"] == 0


def of_linear(params, task):
    """Return a linear decoder's mean, what each latent adds, and its noise variance, in the units of the rows."""
    center, scale, layer = task.frame.center, task.frame.scale, params.net.layers["decoder"][0]
    s = task.deviation if params.net.log_deviation is None else np.exp(params.net.log_deviation) * scale
    mean, columns = center + scale * np.asarray(layer["bias"], float), scale * np.asarray(layer["kernel"], float)
    return mean, columns, float(s) ** 2


def test_a_linear_one_is_probabilistic_pca():
    source = principal()
    rows = np.asarray(source.arrays, float)
    setting = vae(source, latent=2, **LINEAR)
    task, world = task_of(setting), setting.world()
    params = fitted(setting, batch.make_batch(jnp.asarray(rows, jnp.float32)))
    mean, columns, noise = of_linear(params, task)
    values = np.linalg.eigvalsh(np.cov(rows.T, ddof=0))[::-1]
    np.testing.assert_allclose(noise, values[2:].mean(), rtol=0.02)
    np.testing.assert_allclose(mean, rows.mean(0), atol=0.1)
    kept = np.linalg.eigvalsh(columns @ columns.T)[::-1]
    np.testing.assert_allclose(kept, values[:2] - values[2:].mean(), rtol=0.05)
    # The bound at held-out rows: below the exact likelihood of the model that was fitted, and tight.
    test = np.asarray(world.test, float)
    model = columns.T @ columns + noise * np.eye(5)
    exact = -0.5 * (
        np.einsum("ni,ij,nj->n", test - mean, np.linalg.inv(model), test - mean)
        + np.linalg.slogdet(model)[1] + 5 * np.log(2 * np.pi)
    )  # fmt: skip
    inside = jnp.tile((world.test - task.frame.center) / task.frame.scale, (8, 1))
    terms, _ = jax.jit(lambda net: _terms(task, net, inside, None, world.truth.noise))(params.net)
    bound = -np.asarray(terms.distortion + terms.rate.sum(1), float) - 5 * np.log(task.frame.scale)
    gap = (np.tile(exact, 8) - bound).reshape(8, -1).mean(0)
    assert z_score(gap, 0.0) > -4
    assert gap.mean() < 0.03
    best, worse = (PCA(latents).fit(rows).score(test) for latents in (2, 1))
    np.testing.assert_allclose(bound.mean(), best, atol=0.05)
    assert bound.mean() > worse + 0.1  # it could have failed
    rate = np.sort(np.asarray(terms.rate).mean(0))[::-1]
    np.testing.assert_allclose(rate, 0.5 * np.log(values[:2] / noise), rtol=0.1)


def test_beta_sets_which_directions_survive():
    """Those of variance v > beta s^2, at v - beta s^2 and log(v / beta s^2) / 2 nats."""
    source = principal()
    rows = np.asarray(source.arrays, float)
    setting = vae(source, latent=4, beta=3.0, deviation=0.5, **LINEAR)
    params = fitted(setting, batch.make_batch(jnp.asarray(rows, jnp.float32)))
    _, columns, _ = of_linear(params, task_of(setting))
    values, threshold = np.linalg.eigvalsh(np.cov(rows.T, ddof=0))[::-1], 3.0 * 0.5**2
    assert (values > threshold).tolist() == [True, True, False, False, False]
    kept = np.linalg.eigvalsh(columns.T @ columns)[::-1]
    np.testing.assert_allclose(kept[:2], values[:2] - threshold, rtol=0.05)
    np.testing.assert_allclose(kept[2:], 0, atol=0.01)
    world = setting.world()
    seen = jax.jit(lambda net: _of_held_out(task_of(setting), net, world))(params.net)
    rate = np.sort(np.asarray(seen["rate_of_latent"]))[::-1]
    np.testing.assert_allclose(rate[:2], 0.5 * np.log(values[:2] / threshold), rtol=0.1)
    np.testing.assert_allclose(rate[2:], 0, atol=0.01)
    assert seen["active_units"] == 2


def test_new_rows_have_the_law_of_the_model():
    """Latents at a temperature through a linear decoder, and noise: a normal law whose covariance is known."""
    source = principal()
    made = lambda temperature, noise: vae(source, temperature=temperature, noise=noise, **TINY | {"depth": 0})  # noqa: E731
    params = moved(made(1.0, 1.0).init(KEY, None))
    draw = jax.jit(lambda temperature, noise: made(temperature, noise).sample(KEY, params, 4000))
    mean, columns, s2 = of_linear(params, task_of(made(1.0, 1.0)))
    for temperature, noise in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.0), (0.0, 0.6)):
        drawn = np.asarray(draw(temperature, noise))
        variance = temperature**2 * (columns**2).sum(0) + noise**2 * s2
        assert np.abs(z_score(drawn, mean)).max() < 4
        assert np.abs(z_score_of_variance(drawn, variance)).max() < 4
        if temperature:  # and columns belong together
            both = (drawn - mean)[:, 0] * (drawn - mean)[:, 1]
            assert abs(z_score(both, temperature**2 * (columns[:, 0] * columns[:, 1]).sum())) < 4
    still = np.asarray(draw(0.0, 0.0))
    np.testing.assert_allclose(still, np.broadcast_to(mean, still.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.nightly
def test_rows_are_of_the_class_that_they_are_drawn_as():
    """Labels by their weights in the training rows; a linear decoder shifts rows by their class."""
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1, 2], [300, 100, 200])
    rows = np.hstack([3.0 * label[:, None] + 0.3 * rng.normal(size=(600, 2)), label[:, None]])
    setting = vae(data.array(rows, labels=True), conditional=True, latent=1, **LINEAR | {"num_test": 60})
    weight = np.where(label == 2, 0.0, 1.0)
    spoilt = np.where((label == 2)[:, None], np.nan, rows)
    params = fitted(setting, Batch(jnp.asarray(spoilt, jnp.float32)[None], jnp.asarray(weight)[None]))
    np.testing.assert_allclose(params.classes, [300, 100, 0])
    drawn = np.asarray(jax.jit(lambda p: setting.sample(KEY, p, 2000))(params))
    assert abs((drawn[:, 2] == 0).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 2000)
    for k in (0, 1):
        part = rows[label == k, :2], drawn[drawn[:, 2] == k, :2]
        np.testing.assert_allclose(part[1].mean(0), part[0].mean(0), atol=0.06)
        np.testing.assert_allclose(part[1].std(0), part[0].std(0), atol=0.06)


def test_plans_train_no_classifier(monkeypatch):
    monkeypatch.setattr(classifier, "train_classifier", None)
    grid = make_grid(lambda: vae(PICTURES, **TINY), policies.replace(), num_samples=8, num_generations=2)
    plan = make_plan(grid, Options(num_chains=1))
    check_memory(plan)
    assert vae(PICTURES, features=lambda x: x, **TINY).info.world_shapes is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(({name: 0}, f"{name} must be a whole number of at least 1, not 0")
          for name in ("latent", "width", "steps", "batch_size", "num_test", "rows_at_once")),
        ({"depth": -1}, "depth must be a whole number of at least 0, not -1"),
        ({"beta": -1.0}, "beta must be a number of at least 0"),
        ({"deviation": 0.0}, "deviation must be a number above 0"),
        ({"temperature": float("nan")}, "temperature must be a number of at least 0"),
        ({"noise": "off"}, "noise must be a number of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"warmup": 5}, r"warmup must be below steps \(5\), not 5"),
        ({"schedule": "linear"}, "schedule must be one of cosine, constant"),
        ({"start": "base"}, "start"),
        ({"frame": "pixels"}, "frame pixels needs images"),
        ({"conditional": True}, "source moons has none"),
        ({"source": 3}, "source must be a Source, such as data.moons\\(\\), not 3"),
        ({"features": 3}, "features must be a function of rows, not 3"),
    ],
)  # fmt: skip
@pytest.mark.fast
def test_bad_arguments_are_one_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        vae(**TINY | options)
    assert "\n" not in str(error.value)
