"""What generated images and points are judged by, against NumPy, SciPy and exact values."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_helpers import distances, frechet_by_scipy

import collapse_jax.data as data
from collapse_jax.metrics import images
from collapse_jax.training.nets import classifier
from collapse_jax.types import Metric

pytestmark = pytest.mark.usefixtures("cache")

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _any_order():
    """A test draws the same numbers whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


LABELLED = {"pca": None, "labels": True}


def rows(num, dim, scale=1.0, shift=0.0):
    return (scale * RNG.normal(size=(num, dim)) + shift).astype(np.float32)


# Known densities


@pytest.mark.parametrize(
    ("make", "spread"),
    [
        (lambda: data.normal(2, mean=0.5, scale=0.7), 4.0),
        (lambda: data.blobs(box=2.0, std=0.4), 4.0),
        (lambda: data.circles(noise=0.1), 2.0),
        (lambda: data.circles(noise=0.3, factor=0.0), 3.0),
        (lambda: data.moons(noise=0.2), 3.5),
        (lambda: data.moons(noise=0.05), 2.1),
    ],
)
def test_densities_integrate_to_one_and_belong_to_the_draws(make, spread):
    source = make()
    side = np.linspace(-spread, spread, 240) + 0.25
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    density = np.exp(np.asarray(jax.jit(source.log_density)(source.arrays, grid), np.float64))
    cell = (side[1] - side[0]) ** 2
    np.testing.assert_allclose(density.sum() * cell, 1, atol=2e-4)
    np.testing.assert_allclose((density @ grid) * cell, source.mean, atol=1e-3)
    # E p(X) by the draws and by the integral of p^2
    draws = source.draw(jax.random.key(1), source.arrays, 20_000)
    drawn = np.exp(np.asarray(jax.jit(source.log_density)(source.arrays, draws)))
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - (density**2).sum() * cell) < 4 * error


def test_densities_far_away_are_finite_and_unknown_ones_absent():
    far = np.array([[50.0, -50.0], [0.0, 0.0]], np.float32)
    for source in (data.normal(), data.blobs(), data.circles(), data.moons()):
        assert np.isfinite(jax.jit(source.log_density)(source.arrays, far)).all(), source.name
    for source in (data.circles(noise=0.0), data.moons(noise=0.0), data.swiss_roll(), data.digits()):
        assert source.log_density is None


# The judge


def judged(judge, *samples):
    """What a judge says of each sample, and its truth."""
    truth, observe, found = judge.truth(), jax.jit(judge.observe), []
    for x in samples:
        found.append(jax.device_get(observe(truth, jnp.asarray(x, jnp.float32))))
        assert set(found[-1]) == {metric.name for metric in judge.metrics}
    return *found, truth


def test_points_of_known_density():
    """A normal law of another scale s: KL = d (s^2 - 1 - 2 log s) / 2, and its mass beyond the 99% region."""
    source = data.normal(2)
    judge = images.image_judge(source)
    roles = {metric.role for metric in judge.metrics}
    assert {"excess_risk", "log_variance", "tail", "hallucination"} <= roles
    assert next(metric for metric in judge.metrics if metric.role == "excess_risk").name == "reverse_kl"
    scales = (1.0, 0.5, 1e-3)
    *found, _ = judged(judge, *(rows(1000, 2, scale) for scale in scales))
    for scale, seen in zip(scales, found, strict=True):
        kl = scale**2 - 1 - 2 * np.log(scale)
        assert abs(seen["reverse_kl"] - kl) < 0.12, (scale, seen["reverse_kl"], kl)
        for name, share in (("low_density_mass", 0.01), ("hallucinated_mass", 0.001)):
            mass = share ** (1 / scale**2)  # |x|^2 / 2 is exponential
            assert abs(seen[name] - mass) <= 4 * np.sqrt(mass * (1 - mass) / 1000) + 0.1 * mass, (name, seen[name])
        np.testing.assert_allclose(seen["log_trace_ratio"], 2 * np.log(scale), atol=0.1)
        np.testing.assert_allclose(seen["trace_ratio"], np.exp(seen["log_trace_ratio"]), rtol=1e-5)
        frechet = 2 * (1 - scale) ** 2
        assert abs(seen["frechet_distance"] - frechet) < 0.1


def test_modes_are_classes():
    source = data.blobs(num_centers=4, box=20.0, seed=1)
    judge = images.image_judge(source)
    draws = np.asarray(source.draw(jax.random.key(0), source.arrays, 800))
    nearest = distances(draws, np.asarray(source.modes)).argmin(1)
    samples = draws[:500], draws[nearest != 2][:500], np.full((500, 2), 1e3)
    seen, lost, away, _ = judged(judge, *samples)
    assert (seen["classes_alive"], seen["class_total_variation"] < 0.08) == (4, True)
    assert (lost["classes_alive"], lost["smallest_class_ratio"]) == (3, 0)
    assert abs(lost["class_total_variation"] - 0.25) < 0.05
    assert abs(lost["class_entropy"] - np.log(3)) < 0.02
    assert (away["classes_alive"], away["class_total_variation"], away["class_entropy"]) == (0, 1, 0)


@pytest.fixture(scope="module")
def digits():
    source = data.digits(**LABELLED, minority=0.2, minority_classes=2)
    judge = images.image_judge(source, num_test=250, labelled=True)
    return source, judge, judge.truth(), jax.jit(judge.observe)


def test_the_classifier_knows_digits(digits):
    source, _, truth, _ = digits
    held_out = source.held_out(250)
    features, logits = classifier.apply_classifier(truth.net, jnp.asarray(held_out[:, :64], jnp.float32))
    assert (logits.argmax(1) == held_out[:, 64]).mean() > 0.94
    assert 0.7 < np.asarray(features).var(0).sum() < 1.3  # the unit is the training images' total variance
    again = classifier.train_classifier(source.arrays[:, :64], source.arrays[:, 64], 10)
    assert again is truth.net


def test_real_digits_are_like_real_digits(digits):
    source, judge, truth, observe = digits
    x = source.held_out(250)
    seen = observe(truth, jnp.asarray(x[:, :64], jnp.float32), jnp.asarray(x[:, 64]))
    assert set(seen) == {metric.name for metric in judge.metrics}
    assert seen["frechet_distance"] < 0.15
    assert min(seen["precision"], seen["recall"], seen["coverage"]) > 0.95
    assert (seen["classes_alive"], seen["class_total_variation"] < 0.12, seen["label_agreement"] > 0.94) == (
        10,
        True,
        True,
    )
    share = np.bincount(source.arrays[:, 64].astype(int)) / len(source.arrays)
    rare = share[share < 0.05].sum()
    np.testing.assert_allclose(seen["minority_share"] / seen["minority_ratio"], rare, rtol=1e-5)
    assert 0.5 < seen["minority_ratio"] < 1.5
    assert seen["copied"] < -1  # the rows are the held-out ones
    np.testing.assert_array_equal(seen["sample_image"], x[:8, :64].reshape(8, 8, 8).astype(np.float32))
    few = observe(truth, jnp.asarray(x[:3, :64], jnp.float32), jnp.asarray(x[:3, 64]))["sample_image"]
    assert (np.isfinite(few).reshape(8, -1).all(1) == (np.arange(8) < 3)).all()
    np.testing.assert_allclose(seen["class_share"].sum(), 1, rtol=1e-6)
    real = np.diagonal(source.covariance)[:64].reshape(8, 8)
    ratio = np.divide(x[:, :64].var(0, ddof=1).reshape(8, 8), real, out=np.full((8, 8), np.nan), where=real > 0)
    np.testing.assert_allclose(seen["pixel_variance_ratio"], ratio, rtol=1e-3, atol=1e-5)
    assert 0 < np.isnan(ratio).sum() < 16  # corners are never written on


def alike(outline, tree):
    """Whether an outline has the structure, the shapes and the types of a tree."""
    assert jax.tree.structure(outline) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(outline), jax.tree.leaves(tree), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_an_outline_is_of_the_truth_and_trains_nothing(digits, monkeypatch):
    _, judge, truth, _ = digits
    monkeypatch.setattr(classifier, "train_classifier", None)
    alike(judge.truth_shapes(), truth)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(judge.truth_shapes().net))
    for source, options in (
        (data.blobs(box=2.0), {}), (data.digits(pca=None), {}), (data.digits(pca=3), {"features": lambda x: x[:, :2]})
    ):  # fmt: skip
        judge = images.image_judge(source, num_test=20, **options)
        alike(judge.truth_shapes(), judge.truth())


def test_copies_are_found_among_all_training_images():
    """All rows are copies, and half of them are, in a set of any size."""
    values = RNG.uniform(size=(7000, 4))
    source = data.array(values)._replace(shape=(2, 2, 1))
    judge = images.image_judge(source, num_test=500)
    copies = np.asarray(source.arrays)[-400:]
    seen, half, _ = judged(judge, copies, np.vstack([copies[:200], RNG.uniform(size=(200, 4))]))
    assert seen["copied"] == 1
    spread = 0.5 / np.sqrt(200) * np.sqrt(len(source.arrays) / 500)  # of a rare event, held out being nearer
    assert abs(half["copied"] - 0.5) < 4 * spread


def test_rows_are_looked_at_a_few_at_a_time(digits):
    source, _, truth, observe = digits
    x = source.arrays[:90]
    given = truth, jnp.asarray(x[:, :64], jnp.float32), jnp.asarray(x[:, 64])
    seen = observe(*given)
    few = images.image_judge(source, num_test=250, labelled=True, rows_at_once=7)
    for name, value in jax.jit(few.observe)(*given).items():
        np.testing.assert_allclose(value, seen[name], rtol=1e-4, atol=1e-5, err_msg=name)
    hidden_of_all = re.compile(r"\[90,(1,)?256\]")  # a layer of the classifier
    assert not hidden_of_all.search(str(jax.make_jaxpr(few.observe)(*given)))
    assert hidden_of_all.search(str(jax.make_jaxpr(observe)(*given)))


def test_collapsed_and_copied_digits(digits):
    source, _, truth, observe = digits
    train = source.arrays[:250]
    copies = observe(truth, jnp.asarray(train[:, :64], jnp.float32), jnp.asarray(train[:, 64]))
    assert copies["copied"] == 1
    one = np.repeat(train[train[:, 64] == 3][:1], 250, 0) + 0.01 * RNG.normal(size=(250, 65))
    seen = observe(truth, jnp.asarray(one[:, :64], jnp.float32), jnp.full(250, 3))
    assert (seen["classes_alive"], seen["minority_share"], seen["smallest_class_ratio"]) == (1, 0, 0)
    assert seen["frechet_distance"] > 0.8
    assert seen["recall"] < 0.05
    mean = np.tile(source.mean[:64], (250, 1))
    far = observe(truth, jnp.asarray(mean, jnp.float32), jnp.zeros(250))
    del far["log_trace_ratio"], far["pixel_variance_ratio"]
    assert all(np.isfinite(value).all() for value in far.values()), far


def test_a_batch_of_chains_is_each_alone(digits):
    source, _, truth, observe = digits
    x = jnp.asarray(source.arrays[:500].reshape(2, 250, 65), jnp.float32)
    both = jax.jit(jax.vmap(lambda rows: observe(truth, rows[:, :64], rows[:, 64])))(x)
    alone = [observe(truth, rows[:, :64], rows[:, 64]) for rows in x]
    for name in both:
        np.testing.assert_allclose(both[name], [seen[name] for seen in alone], rtol=1e-3, atol=1e-4, err_msg=name)


def test_features_of_ones_own_and_images_without_labels():
    source = data.digits(pca=None)
    judge = images.image_judge(source, num_test=100, features=lambda x: x[:, 2:5] * 2)
    assert not any(metric.name.startswith("class") for metric in judge.metrics)
    x = source.held_out(100)
    seen, truth = judged(judge, x)
    assert not isinstance(truth.net, classifier.TrainedClassifier)
    mean, covariance = 2 * source.mean[2:5], 4 * np.asarray(source.covariance)[2:5, 2:5]
    np.testing.assert_allclose(seen["frechet_distance"], frechet_by_scipy(2 * x[:, 2:5], mean, covariance), rtol=1e-3)


def test_images_without_labels_are_compared_by_principal_components():
    source = data.glyphs("none", letters=2)
    judge = images.image_judge(source, num_test=70)
    seen, _ = judged(judge, np.tile(source.mean, (20, 1)))
    variance = np.linalg.eigvalsh(np.asarray(source.covariance))[::-1]
    np.testing.assert_allclose(seen["frechet_distance"], variance[:64].sum(), rtol=1e-3)


def test_a_table_has_the_metrics_of_rows_alone():
    judge = images.image_judge(data.digits(pca=3), num_test=50)
    assert [metric.name for metric in judge.metrics][:2] == ["frechet_distance", "precision"]
    assert len(judge.metrics) == 7
    assert all(isinstance(metric, Metric) for metric in judge.metrics)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_test": 0}, "num_test"),
        ({"k": 1.5}, "k"),
        ({"num_rows": -1}, "num_rows"),
        ({"num_shown": 0}, "num_shown"),
        ({"rows_at_once": 0}, "rows_at_once"),
        ({"features": 3}, "features must be a function of rows, not 3"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        images.image_judge(data.moons(), **options)
    assert "\n" not in str(caught.value)
