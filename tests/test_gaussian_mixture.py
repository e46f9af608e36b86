"""Mixtures of Gaussians: EM as scikit-learn does it, its floor, its logarithms, and modes that die."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from laws import z_score
from oracle_helpers import z_score_of_two
from sklearn.mixture import GaussianMixture

import collapse_jax
from collapse_jax import data, policies
from collapse_jax.core import batch
from collapse_jax.settings.gaussian_mixture import NEAR, Mixture, gaussian_mixture

K, D, FLOOR = 4, 3, 1e-3
SOURCE = data.blobs(num_centers=K, dim=D, box=4.0, seed=3)
KINDS = {"full": "full", "diagonal": "diag", "spherical": "spherical"}


def rows(num=120, seed=0):
    return np.asarray(SOURCE.draw(jax.random.key(seed), SOURCE.arrays, num))


def fit(x, weight=1.0, previous=None, **options):
    setting = gaussian_mixture(**({"components": K, "floor": FLOOR, "source": SOURCE} | options))
    return jax.jit(setting.fit)(None, batch.make_batch(jnp.asarray(x, jnp.float32), weight), previous)


def observe(setting, world, mixture):
    return jax.jit(setting.observe)(None, world, mixture, None, None)


def covariances(mixture):
    factor = np.eye(mixture.mean.shape[1]) if mixture.factor is None else np.asarray(mixture.factor, float)
    lower = factor * np.exp(np.asarray(mixture.log_scale, float))[:, None]
    return lower @ lower.swapaxes(1, 2)


def far_apart(x, num):
    """Rows far apart, by a plain loop, and the number of each row's nearest."""
    centres = [x[((x - x.mean(0)) ** 2).sum(1).argmax()]]
    while len(centres) < num:
        centres.append(x[np.min([((x - c) ** 2).sum(1) for c in centres], 0).argmax()])
    return np.argmin([((x - c) ** 2).sum(1) for c in centres], 0)


def scikit(x, kind, steps, start):
    """scikit-learn's model after `steps` steps from weights, means and covariances."""
    weight, mean, covariance = start
    precision = np.linalg.inv(covariance)
    diagonal = precision.diagonal(axis1=1, axis2=2)
    given = {"full": precision, "diagonal": diagonal, "spherical": diagonal[:, 0]}[kind]
    model = GaussianMixture(len(weight), covariance_type=KINDS[kind], reg_covar=FLOOR, max_iter=steps, tol=0.0,
                            weights_init=weight, means_init=mean, precisions_init=given)  # fmt: skip
    with pytest.warns(match="did not converge"):
        return model.fit(x)


def first_step(x, kind):
    """Weights, means and covariances of the rows nearest to each of some rows far apart."""
    nearest = far_apart(x, K)
    parts = [x[nearest == k] for k in range(K)]
    square = np.stack([np.cov(part.T, ddof=0) for part in parts])
    if kind != "full":
        diagonal = square.diagonal(axis1=1, axis2=2)
        diagonal = diagonal.mean(1, keepdims=True) + 0 * diagonal if kind == "spherical" else diagonal
        square = np.stack([np.diag(d) for d in diagonal])
    weight = np.array([len(part) for part in parts]) / len(x)
    return weight, np.stack([part.mean(0) for part in parts]), square + FLOOR * np.eye(D)


@pytest.mark.parametrize("kind", KINDS)
def test_em_is_scikit_learns(kind):
    """Both take one start, steps and floor; weights are multiplicities, which scikit-learn takes as repeated rows."""
    x = rows()
    weight = np.random.default_rng(0).integers(0, 4, len(x))
    repeated = np.repeat(x, weight, axis=0).astype(float)
    model = scikit(repeated, kind, 20, first_step(repeated, kind))
    mixture = fit(np.where(weight[:, None] > 0, x, np.nan), weight, steps=20, covariance=kind)
    np.testing.assert_allclose(np.exp(mixture.log_weight), model.weights_, rtol=2e-3)
    np.testing.assert_allclose(mixture.mean, model.means_, rtol=2e-3, atol=2e-3)
    expected = model.covariances_ if kind == "full" else np.stack([c * np.eye(D) for c in model.covariances_])
    np.testing.assert_allclose(covariances(mixture), expected, rtol=5e-3, atol=5e-3)
    before = fit(x, weight, steps=1, covariance=kind)
    assert not np.allclose(before.mean, model.means_, rtol=2e-2, atol=2e-2)  # the steps did something


def test_previous_goes_on_from_the_last_fit():
    first, second = rows(seed=1), rows(seed=2)
    setting = gaussian_mixture(K, 1, start="previous", floor=FLOOR, source=SOURCE)
    empty = setting.init(None, None)
    begun = fit(first, previous=empty, steps=1, start="previous")
    jax.tree.map(np.testing.assert_array_equal, begun, fit(first, steps=1))
    gone_on = fit(second, previous=begun, steps=3, start="previous")
    start = np.exp(np.asarray(begun.log_weight, float)), np.asarray(begun.mean, float), covariances(begun)
    model = scikit(second.astype(float), "full", 3, (start[0] / start[0].sum(), *start[1:]))
    np.testing.assert_allclose(gone_on.mean, model.means_, rtol=1e-3, atol=1e-3)
    assert not np.allclose(gone_on.mean, fit(second, steps=3).mean, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_scikit_learns(kind):
    setting = gaussian_mixture(K, 10, kind, FLOOR, source=SOURCE, num_test=200)
    world, x = setting.world(), rows().astype(float)
    mixture = fit(x, steps=10, covariance=kind)
    seen = observe(setting, world, mixture)
    model = scikit(x, kind, 10, first_step(x, kind))
    test = np.asarray(world.test, float)
    assert float(seen["test_nll"]) == pytest.approx(-model.score(test), rel=1e-3)
    real = [scipy.stats.multivariate_normal(centre, 1.0).logpdf(test) for centre in np.asarray(SOURCE.modes)]
    divergence = scipy.special.logsumexp(real, axis=0).mean() - np.log(K) - model.score(test)
    assert float(seen["forward_kl"]) == pytest.approx(divergence, abs=2e-3 * abs(model.score(test)))
    entropy = scipy.special.entr(model.predict_proba(test)).sum(1).mean()
    assert float(seen["responsibility_entropy"]) == pytest.approx(entropy, rel=0.02, abs=1e-4)
    assert float(seen["log_smallest_weight"]) == pytest.approx(np.log(model.weights_.min()), rel=1e-3)
    variance = covariances(mixture).trace(axis1=1, axis2=2) / D
    apart = [
        np.linalg.norm(model.means_[a] - model.means_[b]) / np.sqrt((variance[a] + variance[b]) / 2)
        for a in range(K)
        for b in range(a)
    ]
    assert float(seen["separation"]) == pytest.approx(min(apart), rel=5e-3)
    # The whole mixture has the rows' own mean and total variance, plus the floor.
    trace = x.var(0).sum() + D * FLOOR
    assert float(seen["trace_ratio"]) == pytest.approx(trace / np.trace(SOURCE.covariance), rel=1e-4)
    assert float(seen["log_trace_ratio"]) == pytest.approx(np.log(seen["trace_ratio"]), abs=1e-5)
    error = ((x.mean(0) - SOURCE.mean) ** 2).sum()
    assert float(seen["squared_error_of_mean"]) == pytest.approx(error, rel=1e-3)


def test_the_risk_sees_lost_modes_and_lost_spread():
    """The divergence of the law itself is 0; half of each mode's spread leaves the mean alone, and is seen."""
    source = data.blobs(num_centers=3, dim=2)
    modes = np.asarray(source.modes)
    setting = gaussian_mixture(3, source=source)
    world = setting.world()
    look = jax.jit(lambda mixture: setting.observe(None, world, mixture, None, None))

    def seen(mean, weight, scale):
        log_scale = jnp.full((3, 2), np.log(scale))
        return look(Mixture(jnp.log(jnp.asarray(weight)), jnp.asarray(mean, float), log_scale, None))

    whole, narrow = seen(modes, [1 / 3] * 3, 1.0), seen(modes, [1 / 3] * 3, 0.5)
    assert abs(float(whole["forward_kl"])) < 1e-4
    rows = np.asarray(world.test, float)
    nearest = np.linalg.norm(rows[:, None] - modes, axis=2).min(1)
    # Far apart modes hardly overlap: the log ratio of a row is 2 log 2 nats and 3/2 of its squared distance.
    assert float(narrow["forward_kl"]) == pytest.approx(1.5 * (nearest**2).mean() - 2 * np.log(2), rel=0.05)
    assert float(narrow["squared_error_of_mean"]) == pytest.approx(float(whole["squared_error_of_mean"]), abs=1e-6)
    lost = seen(modes[[0, 1, 1]], [1 / 3] * 3, 1.0)
    assert float(lost["forward_kl"]) > 10 * float(narrow["forward_kl"])
    risks = [metric.name for metric in setting.metrics if metric.role == "excess_risk"]
    assert risks == ["forward_kl", "squared_error_of_mean"]  # the first of a role counts
    without = gaussian_mixture(2, source=data.blobs(shared_centers=False))
    assert "forward_kl" not in [metric.name for metric in without.metrics]


def test_a_mode_is_alive_where_enough_mass_lies_near_it():
    modes = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    source = data.blobs(num_centers=3)._replace(modes=modes, covariance=np.cov(modes.T, ddof=0) + 4.0 * np.eye(2))
    setting = gaussian_mixture(3, source=source)
    world = setting.world()
    assert float(world.truth.modes.deviation) == pytest.approx(2.0, rel=1e-5)

    look = jax.jit(lambda mixture: setting.observe(None, world, mixture, None, None)["modes_alive"])

    def alive(mean, weight):
        return float(look(Mixture(jnp.log(jnp.asarray(weight)), jnp.asarray(mean), jnp.zeros((3, 2)), None)))

    share = [1 / 3] * 3
    assert alive(modes, share) == 3
    assert alive(modes + np.array([[0, 5.9], [5.9, 0], [0, -5.9]]), share) == 3
    assert alive(modes + np.array([[0, 6.1], [5.9, 0], [0, -5.9]]), share) == 2  # three standard deviations are six
    assert alive(modes, [0.034, 0.033, 0.933]) == 2  # a tenth of a third is 0.0333
    assert alive(modes[[0, 0, 1]], [0.02, 0.02, 0.96]) == 2  # two components may keep a mode alive together
    assert alive(np.full((3, 2), 10.0), share) == 0


def test_sources_without_modes_have_no_metric_of_them():
    setting = gaussian_mixture(2, source=data.moons())
    assert "modes_alive" not in [metric.name for metric in setting.metrics]
    assert setting.world().truth.modes is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_variance_falls_below_the_floor(kind):
    x = np.zeros((30, D))
    x[:, 0] = np.linspace(-3, 3, 30) * 1e3
    mixture = fit(x, covariance=kind, floor=1e-6)
    least = np.linalg.eigvalsh(covariances(mixture)).min(1)
    assert (least > 0.99e-6).all()
    assert np.isfinite(mixture.mean).all()
    if kind != "spherical":
        np.testing.assert_allclose(least, 1e-6, rtol=1e-3)


def test_fewer_distinct_rows_than_components_leave_the_others_empty():
    x = np.repeat([[0.0, 0, 0], [5.0, 1, 0]], 10, axis=0)
    mixture = fit(x)
    assert sorted(np.exp(mixture.log_weight).tolist()) == pytest.approx([0, 0, 0.5, 0.5])
    assert all(np.isfinite(leaf).all() for leaf in (mixture.mean, mixture.log_scale, mixture.factor))
    setting = gaussian_mixture(K, floor=FLOOR, source=SOURCE)
    assert np.isfinite(jax.jit(lambda m: setting.sample(jax.random.key(0), m, 50))(mixture)).all()
    seen = observe(setting, setting.world(), mixture)
    assert float(seen["log_smallest_weight"]) == -np.inf
    assert float(seen["separation"]) == pytest.approx(np.sqrt(26 / FLOOR), rel=1e-3)
    assert not any(np.isnan(value) for value in seen.values())


def test_a_component_that_underflowed_still_moves():
    """Its responsibilities are exp(-5000): no float, but in exact arithmetic it goes to the row that is nearest."""
    x = np.array([[0.0], [0.5], [1.0]])
    start = Mixture(jnp.log(jnp.array([0.5, 0.5])), jnp.array([[0.5], [101.0]]), jnp.zeros((2, 1)), None)
    source = data.normal(1)
    options = {"components": 2, "steps": 1, "covariance": "diagonal", "start": "previous", "source": source}
    mixture = fit(x, previous=start, **options)
    log_belongs = -0.5 * (x[:, 0] - 101.0) ** 2 + 0.5 * (x[:, 0] - 0.5) ** 2
    assert log_belongs.max() < -4900
    share = scipy.special.softmax(log_belongs)
    assert float(mixture.mean[1, 0]) == pytest.approx(share @ x[:, 0], rel=1e-5)
    assert float(mixture.log_weight[1]) == pytest.approx(scipy.special.logsumexp(log_belongs) - np.log(3), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_fit(kind):
    setting = gaussian_mixture(K, 5, kind, source=SOURCE)
    mixture = fit(rows(), steps=5, covariance=kind)
    x = np.asarray(setting.sample(jax.random.key(5), mixture, 40_000), float)
    weight, mean, square = np.exp(mixture.log_weight), np.asarray(mixture.mean, float), covariances(mixture)
    assert max(abs(z_score(x[:, i], weight @ mean[:, i])) for i in range(D)) < 4
    second = np.einsum("k,kij->ij", weight, square + mean[:, :, None] * mean[:, None])
    assert max(abs(z_score(x[:, i] * x[:, j], second[i, j])) for i in range(D) for j in range(D)) < 4
    only_within = np.einsum("k,kij->ij", weight, square)
    assert abs(z_score(x[:, 0] ** 2, only_within[0, 0])) > 10


def test_modes_die_under_replace():
    source = data.blobs(num_centers=8, box=20.0, seed=1)
    setting = gaussian_mixture(8, 5, "spherical", source=source)
    options = {"num_samples": 40, "num_generations": 16, "num_chains": 64, "metrics": ["modes_alive"]}
    alive = collapse_jax.run(setting, policies.replace(), **options).modes_alive.values
    assert (alive <= 8).all()
    assert z_score_of_two(alive[:, 0], alive[:, -1]) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 1}, "components must be a whole number of at least 2, not 1"),
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"covariance": "tied"}, "covariance must be one of full, diagonal, spherical, not 'tied'"),
        ({"floor": 0.0}, "floor must be a number above 0, not 0.0"),
        ({"start": "base"}, "start must be one of init, previous, not 'base'"),
        ({"num_test": 0}, "num_test must be a whole number of at least 1"),
    ],
)
@pytest.mark.fast
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        gaussian_mixture(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.fast
def test_rows_are_judged_by_the_real_modes():
    source = data.blobs(num_centers=2, dim=2, std=0.5)
    setting = gaussian_mixture(2, num_test=4, source=source)
    rows, world = np.random.default_rng(0).normal(size=(30, 2)) * 4, setting.world()
    laws = [scipy.stats.multivariate_normal(centre, 0.25).logpdf(rows) for centre in np.asarray(source.modes)]
    likelihood, right = (
        np.asarray(setting.extras.row_scores[by](world, None, rows), float) for by in ("likelihood", "right")
    )
    exact = np.logaddexp(*laws)
    np.testing.assert_allclose(likelihood - likelihood[0], exact - exact[0], rtol=1e-3, atol=1e-3)
    near = np.linalg.norm(rows[:, None] - np.asarray(source.modes), axis=2).min(1)
    np.testing.assert_array_equal(right, near <= NEAR * 0.5)
