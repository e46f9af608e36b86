"""Logistic regression: fits against scikit-learn, the ratios of risk of regular estimators, probes of labelled rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import POLICIES, chains
from oracle_helpers import assert_law
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from collapse_jax import data, policies
from collapse_jax.core import batch
from collapse_jax.settings.logistic_regression import ClassifiedRows, logistic_regression
from collapse_jax.types import Batch


def reference(x, label, weight, ridge):
    """Scikit-learn's minimiser of the same sum."""
    model = LogisticRegression(C=1 / (ridge * weight.sum()), tol=1e-10, max_iter=10_000)
    return model.fit(x, label, sample_weight=weight)


def coefficients(model):
    """Return what a fit returns: of several classes the intercepts have no common part."""
    intercept = model.intercept_ - (model.intercept_.mean() if len(model.intercept_) > 1 else 0)
    return np.vstack([model.coef_.T, intercept])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", ["noisy", "separable"])
def test_a_fit_is_scikit_learns(classes, kind):
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(90, 3))
    scores = x @ rng.normal(size=(3, classes)) + (kind == "noisy") * rng.gumbel(size=(90, classes))
    label, weight, ridge = scores.argmax(1), rng.integers(0, 3, 90).astype(float), 1e-3
    given = np.where(weight[:, None] > 0, x, np.nan)  # a row of weight 0 is absent
    flat = ClassifiedRows(given.astype(np.float32), label)
    items = jax.tree.map(lambda a: jnp.asarray(a).reshape(3, 30, *a.shape[1:]), flat)
    train = Batch(items, jnp.asarray(weight.reshape(3, 30), jnp.float32))
    found = jax.jit(logistic_regression(3, classes, ridge=ridge, steps=15).fit)(None, train, None)
    expected = coefficients(reference(x, label, weight, ridge))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_steps_too_long_are_taken_back():
    """Whole Newton steps from 0 end at an objective of thousands here; the fit takes back four of them."""
    x = np.array([[0.3, 0.0], [4.5, -2.4], [0.0, -0.2], [0.2, 0.1], [-7.6, -0.3]])
    label = np.array([0, 1, 1, 0, 1])
    train = batch.make_batch(ClassifiedRows(jnp.asarray(x, jnp.float32), jnp.asarray(label)))
    found = jax.jit(logistic_regression(2, ridge=1e-3, steps=25).fit)(None, train, None)
    np.testing.assert_allclose(found, coefficients(reference(x, label, np.ones(5), 1e-3)), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_column_far_from_zero_is_no_penalty_on_the_intercept(classes):
    """Years that decide the class: the fit is that of the same years about 0, and scikit-learn's."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(2010, 5, 400), rng.normal(size=400)])
    label = np.digitize(0.4 * (x[:, 0] - 2010) + x[:, 1] + rng.logistic(size=400), [-1.0, 1.0][-classes + 1 :])
    table = np.column_stack([x, label])
    setting = logistic_regression(source=data.array(table, labels=True), num_test=80)
    world = setting.world()
    train, shift = np.asarray(world.real, float), [2010, 0]  # scikit-learn itself does not converge so far from 0
    model = reference(train[:, :-1] - shift, train[:, -1], np.ones(len(train)), 1e-4)
    seen = setting.observe(None, world, world.truth, None, None)
    test_x, test_label = np.asarray(world.test.x, float) - shift, world.test.label
    np.testing.assert_allclose(world.truth[:-1], model.coef_.T, rtol=2e-3, atol=2e-4)
    assert float(seen["accuracy"]) == pytest.approx(model.score(test_x, test_label), abs=1e-6)
    assert float(seen["accuracy"]) > 0.7 - 0.1 * (classes == 3)
    assert float(seen["test_nll"]) == pytest.approx(log_loss(test_label, model.predict_proba(test_x)), rel=1e-3)
    about_zero = logistic_regression(source=data.array(table, labels=True, standardize=True), num_test=80)
    standard = about_zero.world()
    there = about_zero.observe(None, standard, standard.truth, None, None)
    assert float(there["accuracy"]) == pytest.approx(float(seen["accuracy"]), abs=0.02)  # the ridge alone differs


def test_a_class_without_rows_stays_finite():
    """Its intercept has no optimum: each step takes it about 1 down, however many steps there are."""
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    for label, classes in (([1] * 50, 2), ([0, 2] * 25, 3)):
        train = batch.make_batch(ClassifiedRows(jnp.asarray(x), jnp.asarray(label)))
        few, many = (jax.jit(logistic_regression(2, classes, steps=s).fit)(None, train, None) for s in (6, 100))
        assert np.isfinite(few).all()
        assert np.isfinite(many).all()
        few, many = (-w[-1, 0] if classes == 2 else w[-1, 1] - w[-1, 0] for w in (few, many))
        assert -8 < few < -4
        assert many < few


def test_metrics_are_scikit_learns():
    setting = logistic_regression(source=data.digits(pca=5, labels=True), ridge=1e-2, num_test=200)
    world = setting.world()
    items = setting.sample_real(jax.random.key(1), world, 150)
    assert set(np.unique(items.label)) == set(range(10))
    params = setting.fit(None, batch.make_batch(items), None)
    seen = setting.observe(None, world, params, None, None)
    model = reference(np.asarray(items.x, float), np.asarray(items.label), np.ones(150), 1e-2)
    test = np.asarray(world.test.x, float)
    p = model.predict_proba(test)
    assert float(seen["test_nll"]) == pytest.approx(log_loss(world.test.label, p), rel=1e-3)
    assert float(seen["accuracy"]) == pytest.approx(model.score(test, world.test.label), abs=0.006)
    # The truth is the probe of the whole train split.
    train = np.asarray(world.real, float)
    whole = reference(train[:, :-1], train[:, -1], np.ones(len(train)), 1e-2)
    np.testing.assert_allclose(world.truth, coefficients(whole), rtol=5e-3, atol=5e-3)
    truth = whole.predict_proba(test)
    assert float(seen["forward_kl"]) == pytest.approx((truth * np.log(truth / p)).sum(1).mean(), rel=1e-2)
    assert float(seen["label_entropy"]) == pytest.approx(-(p * np.log(p)).sum(1).mean(), rel=1e-3)
    assert float(seen["squared_error_of_coefficients"]) == pytest.approx(
        ((coefficients(model) - coefficients(whole)) ** 2).sum(), rel=1e-2
    )


def test_labels_are_drawn_by_the_fits_odds():
    setting = logistic_regression(2, 3)
    params = jnp.asarray([[1.0, -1.0, 0.0], [0.0, 0.5, -0.5], [0.2, 0.0, -0.2]])
    x = jnp.tile(jnp.asarray([[0.3, -1.0]]), (40_000, 1))
    odds = np.asarray(jax.nn.softmax(x[0] @ params[:2] + params[2]), float)
    inputs = ClassifiedRows(x, jnp.zeros(40_000, int))
    label = np.asarray(setting.label_only.relabel(jax.random.key(0), params, inputs).label)
    share = np.bincount(label, minlength=3) / 40_000
    assert (np.abs(share - odds) < 4 * np.sqrt(odds * (1 - odds) / 40_000)).all()


@pytest.mark.parametrize("policy", ["replace", pytest.param("accumulate", marks=pytest.mark.nightly)])
def test_risk_ratios_are_universal(policy):
    """For large n any regular error grows as t under replace, as sum 1 / k^2 under accumulate (arXiv 2410.22812)."""
    T, n, num = 4, 1000, 400
    setting = logistic_regression(2, ridge=1e-6, steps=5, num_test=2000)
    risk = chains(setting, POLICIES[policy](), n=n, horizon=T, num=num)["forward_kl"].astype(float)
    t = np.arange(1, T + 1)
    ratios = {"replace": t.astype(float), "accumulate": np.cumsum(1 / t**2)}
    other = ratios["accumulate" if policy == "replace" else "replace"]
    # Paired: the first fit's own risk is the unit. Of p coefficients it is p / 2n nats.
    for name, ratio in (("law", ratios[policy]), ("other", other)):
        z = ((d := risk[:, 1:] - ratio[1:] * risk[:, :1]).mean(0)) / (d.std(0, ddof=1) / np.sqrt(num))
        assert (np.abs(z).max() < 4) if name == "law" else (np.abs(z).max() > 10), (name, z)
    assert_law("first fit", risk[:, 0] * 2 * n / 3, 1.0, 0.5, 2.0)


def test_a_probe_of_frozen_features_runs_on_a_users_file(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1, 10, 100]
    label = (x @ [1, 0.1, 0.01] + rng.normal(size=200) > 0).astype(int) + 2 * (x[:, 0] > 1)
    file = tmp_path / "features.csv"
    np.savetxt(file, np.column_stack([x, label]), delimiter=",", header="a,b,c,label", comments="")
    source = data.table(str(file), standardize=True, labels=True)
    assert source.classes == 4
    np.testing.assert_allclose(source.arrays[:, :-1].std(0), 1.0)
    assert set(source.arrays[:, -1]) <= {0, 1, 2, 3}
    setting = logistic_regression(source=source, num_test=40, ridge=1e-2)
    seen = chains(setting, policies.replace(), n=60, horizon=3, num=3)
    assert np.isfinite(seen["test_nll"]).all()
    assert (seen["accuracy"][:, 0] > 0.6).all()


def test_labels_of_digits_belong_to_their_images():
    plain, labelled = data.digits(pca=None), data.digits(pca=None, labels=True)
    np.testing.assert_array_equal(labelled.arrays[:, :-1], plain.arrays)
    np.testing.assert_array_equal(labelled.held_out(50)[:, :-1], plain.held_out(50))
    images, label = data.load_digits()
    known = {tuple(row): int(y) for row, y in zip(images.reshape(-1, 64) / 16, label, strict=True)}
    assert all(known[tuple(row[:-1])] == row[-1] for row in labelled.arrays)
    assert (plain.classes, labelled.classes) == (None, 10)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 0}, "dim must be a whole number of at least 1, not 0"),
        ({"classes": 1}, "classes must be a whole number of at least 2, not 1"),
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"num_test": 0}, "num_test must be a whole number of at least 1, not 0"),
        ({"ridge": 0.0}, "ridge must be a number above 0, not 0.0"),
        ({"source": data.normal(2)}, "source normal has no labels: give labels: true"),
        ({"source": data.array(np.eye(9)[:, 4:], labels=True), "classes": 3}, "has 4 features and 2 classes, not"),
    ],
)
def test_bad_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=message) as error:
        logistic_regression(**given)
    assert "\n" not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 0.5]] * 9, r"array: row 1 has 0.5 in the last column; labels are whole numbers or words"),
        ([[1.0, 0.0]] * 9, "array: all labels are 0; two classes or more are needed"),
        ([[1.0]] * 9, "array: one column where labels are asked for"),
    ],
)
def test_columns_that_are_no_labels_are_refused(rows, message):
    with pytest.raises(ValueError, match=message) as error:
        data.array(rows, labels=True)
    assert "\n" not in str(error.value)
