"""The ideal diffusion model: exact coefficients of every generation, and an ODE that gives the same law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from laws import chains, z_score
from oracle_helpers import assert_law
from scipy.special import roots_hermitenorm

from collapse_jax import data, policies
from collapse_jax.core import batch
from collapse_jax.settings.ideal_diffusion import hermite, ideal_diffusion

SOURCE = data.blobs(num_centers=2, dim=1, std=0.5, box=1.5)
DEGREE = 4
NAMES = [f"hermite_{k}" for k in range(1, DEGREE + 1)]


def polynomial(k, x):
    """The normalised polynomial h_k, through NumPy."""
    return np.polynomial.hermite_e.hermeval(x, np.eye(k + 1)[k]) / np.sqrt(float(scipy.special.factorial(k)))


def real_coefficients():
    """E h_k of the two blobs, by quadrature."""
    nodes, weights = roots_hermitenorm(20)
    return np.array([
        np.mean([(weights * polynomial(k, c + 0.5 * nodes)).sum() / weights.sum() for c in SOURCE.modes[:, 0]])
        for k in range(1, DEGREE + 1)
    ])  # fmt: skip


def test_polynomials_are_orthonormal_and_numpys():
    nodes, weights = roots_hermitenorm(20)
    values = np.stack([np.ones(20), *(np.asarray(h, float) for h in hermite(jnp.asarray(nodes, jnp.float32), 6))])
    for k in range(7):
        np.testing.assert_allclose(values[k], polynomial(k, nodes), rtol=1e-4, atol=1e-3)
    exact = np.stack([polynomial(k, nodes) for k in range(7)])
    np.testing.assert_allclose(exact * weights / weights.sum() @ exact.T, np.eye(7), atol=1e-10)


def predicted(real, delta, share, horizon, shrinks=True):
    """Coefficients of the fits of generations 1 .. horizon; exact for any number of rows."""
    shrink = np.exp(-delta * np.arange(1, DEGREE + 1)) if shrinks else 1.0
    seen = [shrink * real]
    for _ in range(horizon - 1):
        seen.append(shrink * (share * real + (1 - share) * seen[-1]))
    return np.stack(seen)


@pytest.mark.parametrize(
    ("policy", "share", "delta"),
    [
        (policies.fresh_real(0.3), 0.3, 0.4),
        pytest.param(policies.fresh_real(0.3), 0.3, 0.05, marks=pytest.mark.nightly),
        pytest.param(policies.replace(), 0.0, 0.4, marks=pytest.mark.nightly),
    ],
)
def test_coefficients_follow_their_recursion(policy, share, delta):
    horizon = 12
    seen = chains(ideal_diffusion(delta, source=SOURCE), policy, n=20, horizon=horizon, num=4000)
    real = real_coefficients()
    found = np.stack([seen[name] for name in NAMES], -1)
    right = predicted(real, delta, share, horizon)
    wrong = predicted(real, delta, share + 0.3, horizon), predicted(real, delta, share, horizon, shrinks=False)
    assert_law(f"{policy.name}, delta {delta}", found, right, *wrong)
    if share:
        shrink = np.exp(-delta * np.arange(1, DEGREE + 1))
        limit = share * shrink / (1 - (1 - share) * shrink) * real
        np.testing.assert_allclose(predicted(real, delta, share, 400)[-1], limit, rtol=1e-6)


@pytest.mark.nightly
def test_coefficients_where_all_rows_are_kept():
    """Accumulate: fit t sees the mean of the real batch and of t - 1 synthetic ones."""
    delta, horizon = 0.1, 8
    seen = chains(ideal_diffusion(delta, source=SOURCE), policies.accumulate(), n=10, horizon=horizon, num=4000)
    batches, right = [real_coefficients()], []
    for _ in range(horizon):
        right.append(np.exp(-delta * np.arange(1, DEGREE + 1)) * np.mean(batches, 0))
        batches.append(right[-1])
    found = np.stack([seen[name] for name in NAMES], -1)
    assert_law("accumulate", found, np.stack(right), predicted(real_coefficients(), delta, 0.0, horizon))


ROWS, WEIGHT, DELTA = np.array([-2.0, -0.5, 0.3, 7.0, 1.9]), np.array([1.0, 2.0, 0.5, 0.0, 3.0]), 0.08


def fit(delta=DELTA, **options):
    setting = ideal_diffusion(delta, source=SOURCE, **options)
    rows = jnp.asarray(np.where(WEIGHT > 0, ROWS, np.nan), jnp.float32)[:, None]
    return setting, setting.fit(None, batch.make_batch(rows, WEIGHT), None)


def distribution(delta):
    """Cumulative distribution function of the exact law."""
    share, spread = WEIGHT / WEIGHT.sum(), np.sqrt(1 - np.exp(-2 * delta))
    return lambda x: (share * scipy.stats.norm.cdf((np.asarray(x)[:, None] - np.exp(-delta) * ROWS) / spread)).sum(1)


@pytest.mark.parametrize("steps", [0, 24])
def test_samples_follow_the_exact_law_and_so_does_the_ode(steps):
    setting, params = fit(solver_steps=steps)
    x = np.asarray(jax.jit(lambda key: setting.sample(key, params, 4000))(jax.random.key(1)), float)[:, 0]
    assert scipy.stats.kstest(x, distribution(DELTA)).pvalue > 1e-4
    assert scipy.stats.kstest(x, distribution(3 * DELTA)).pvalue < 1e-8


def test_the_ode_converges_at_second_order():
    """Its end points are a function of its noises; where every step counts, halving them divides the error by 4."""

    def ends(steps):
        setting, params = fit(solver_steps=steps)
        return np.asarray(setting.sample(jax.random.key(2), params, 200), float)

    exact = ends(512)
    coarse, fine = (np.abs(ends(steps) - exact).mean() for steps in (16, 32))
    assert 2.5 < coarse / fine < 8


def test_metrics_are_those_of_the_exact_law():
    setting, params = fit(num_test=50)
    world = setting.world()
    seen = setting.observe(None, world, params, None, None)
    share, shrink, spread = WEIGHT / WEIGHT.sum(), np.exp(-DELTA), np.sqrt(1 - np.exp(-2 * DELTA))
    nodes, weights = roots_hermitenorm(20)
    for k in range(1, DEGREE + 1):
        by_quadrature = [(weights * polynomial(k, shrink * row + spread * nodes)).sum() / weights.sum() for row in ROWS]
        assert float(seen[f"hermite_{k}"]) == pytest.approx(share @ by_quadrature, rel=1e-4, abs=1e-5)
    mean = share @ (shrink * ROWS)
    variance = share @ (shrink * ROWS) ** 2 - mean**2 + spread**2
    assert float(seen["fitted_variance"]) == pytest.approx(variance, rel=1e-5)
    density = (share * scipy.stats.norm.pdf(np.asarray(world.test, float), shrink * ROWS, spread)).sum(1)
    assert float(seen["test_nll"]) == pytest.approx(-np.log(density).mean(), rel=1e-5)


def test_several_columns_are_averaged():
    source = data.blobs(num_centers=2, dim=2, std=0.5, box=1.5)
    setting = ideal_diffusion(degree=3, source=source)
    rows = np.array([[1.0, -2.0], [0.5, 0.0]])
    params = setting.fit(None, batch.make_batch(jnp.asarray(rows)), None)
    seen = setting.observe(None, setting.world(), params, None, None)
    for k in (1, 2, 3):
        assert float(seen[f"hermite_{k}"]) == pytest.approx(np.exp(-0.1 * k) * polynomial(k, rows).mean(), rel=1e-4)
    x = np.asarray(setting.sample(jax.random.key(0), params, 20_000), float)
    assert max(abs(z_score(x[:, i], np.exp(-0.1) * rows[:, i].mean())) for i in (0, 1)) < 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, "delta must be a number above 0, not 0.0"),
        ({"degree": 0}, "degree must be a whole number of at least 1, not 0"),
        ({"solver_steps": -1}, "solver_steps must be a whole number of at least 0, not -1"),
        ({"num_test": 0}, "num_test must be a whole number of at least 1"),
    ],
)
@pytest.mark.fast
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        ideal_diffusion(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
