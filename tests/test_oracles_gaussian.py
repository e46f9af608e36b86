"""Gaussian chains against every exact law known of them, in z-scores over independent chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle_helpers import MIXTURES, POWER, assert_law, policy_moments, subsample_moments, z_score_of_variance

import collapse_jax
from collapse_jax import policies
from collapse_jax.core import batch
from collapse_jax.numerics import gaussian_moments
from collapse_jax.settings import gaussian
from collapse_jax.theory.gaussian import (
    accumulate_limit,
    accumulate_square,
    accumulate_variance,
    c4,
    golden_ratio_error,
    log_variance_drift,
    variance_of_log_variance,
)
from collapse_jax.types import Metric, Source

MEAN = np.array([0.5, -1.0])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 2.0]])


def correlated(d):
    """A normal law of one or two columns, which differ in mean and spread and are correlated."""
    mean, root = MEAN[:d], np.linalg.cholesky(COVARIANCE)[:d, :d]
    draw = lambda key, arrays, num: mean + jax.random.normal(key, (num, d)) @ jnp.asarray(root, float).T  # noqa: E731
    held_out = lambda num: np.random.default_rng(0).normal(size=(num, d)) @ root.T + mean  # noqa: E731
    return Source("correlated", d, (), draw, held_out, mean, COVARIANCE[:d, :d])


def observing(setting, **observables):
    """`setting` with other metrics: each a function of the fit."""
    observe = lambda key, world, params, summary, generated: {k: f(params) for k, f in observables.items()}  # noqa: E731
    metrics = tuple(Metric(name, name, "1", "tests") for name in observables)
    return setting._replace(observe=observe, metrics=metrics)


def raw_moments(d):
    """The correlated Gaussian, observed by its fit's mean and covariance themselves."""
    means = {f"m{i}": lambda p, i=i: p.mean[i] for i in range(d)}
    entry = lambda p, i, j: (gaussian_moments.cholesky_factor(p)[i] * gaussian_moments.cholesky_factor(p)[j]).sum()  # noqa: E731
    covariances = {f"s{i}{j}": lambda p, i=i, j=j: entry(p, i, j) for i in range(d) for j in range(i, d)}
    return observing(gaussian(source=correlated(d)), **means, **covariances)


ROWS_NIGHTLY = pytest.param("rows", marks=pytest.mark.nightly)

N, T = 12, 6  # T / n = 0.5: means of variances are still fair statistics
POLICIES = {
    "replace": (policies.replace(), {}),
    "accumulate": (policies.accumulate(), {}),
    "accumulate_subsample": (policies.accumulate_subsample(), {}),
    **MIXTURES,
}
# The others wait for the night: ``collapse-jax verify`` holds one column under each policy to these laws.
ON_EVERY_CHANGE = (("replace", "law"), ("contaminated", "law"), ("fixed_real", "rows"))
CASES = [(name, backend) for name in POLICIES for backend in ("law", "rows") if name != "accumulate_subsample"]
CASES += [("accumulate_subsample", "rows")]
CASES = [case if case in ON_EVERY_CHANGE else pytest.param(*case, marks=pytest.mark.nightly) for case in CASES]


# One column compiles faster; two see the correlation too.
TWO_COLUMNS = ("replace", "weighted_fresh", "contaminated")


def fits(name, backend, power):
    """Errors of the mean (their products) and covariances, ``[chains, entries, T]``; the truth's, ``[entries, 1]``."""
    d = 2 if power > 1 or name in TWO_COLUMNS else 1
    options = {"num_samples": N, "num_generations": T, "seed": 11, "backend": backend}
    result = collapse_jax.run(raw_moments(d), POLICIES[name][0], num_chains=20_000 * power, **options).astype(float)
    error = [result[f"m{i}"].values - MEAN[i] for i in range(d)]
    entries = [(i, j) for i in range(d) for j in range(i, d)]
    products = np.stack([error[i] * error[j] for i, j in entries], 1)
    covariances = np.stack([result[f"s{i}{j}"].values for i, j in entries], 1)
    return products, covariances, np.array([[COVARIANCE[i, j]] for i, j in entries])


def expected(name):
    """(E mu^2, E V) at unit variance."""
    return (
        subsample_moments(N, T) if name == "accumulate_subsample" else policy_moments(name, N, T, **POLICIES[name][1])
    )


@POWER
@pytest.mark.parametrize(("name", "backend"), CASES)
def test_every_policy_conserves_mean_square_plus_variance(name, backend, power):
    """E[(mu - m)(mu - m)^T + S] = Sigma at every T, under any mixture policy with MLE moments (derived here).

    And its two parts, exact for every n and T, which tell the policies from each other.
    """
    squares, covariances, sigma = fits(name, backend, power)
    square, variance = expected(name)
    assert_law(f"{name}/{backend} conserved", squares + covariances, sigma + np.zeros(T), sigma * (1 + square))
    other = policy_moments("accumulate" if name == "replace" else "replace", N, T)
    assert_law(f"{name}/{backend} E mu^2", squares, sigma * square, sigma * other[0])
    unbiased = variance * N / (N - 1)
    assert_law(f"{name}/{backend} E V", covariances, sigma * variance, sigma * other[1], sigma * unbiased)


@POWER
@pytest.mark.parametrize(
    ("ddof", "backend"), [(0, "law"), (0, "rows"), (1, "law"), pytest.param(1, "rows", marks=pytest.mark.nightly)]
)
def test_replace_in_one_column(ddof, backend, power, optimised):
    """Means while T / n <= 0.5, logarithms far into collapse (arXiv 2305.17493, 2307.01850).

    E log s^2 = T [psi((n-1)/2) - log((n - ddof)/2)] and Var log s^2 = T psi1((n-1)/2).
    ddof = 1: E s = c4^T, E mu^2 = T / n, E W2^2 = T / n + 2 (1 - c4^T).
    ddof = 0: E s^2 = (1 - 1/n)^T, E mu^2 = 1 - (1 - 1/n)^T.
    """
    n, early, late = 20, np.array([1, 2, 5, 10]), np.array([1, 5, 20, 60])
    names = ["squared_error_of_mean", "log_trace_ratio", "wasserstein2_squared"]
    options = {"num_samples": n, "num_generations": 60, "num_chains": 20_000 * power, "seed": 21, "metrics": names}
    result = collapse_jax.run(gaussian(1, ddof), policies.replace(), backend=backend, **options).astype(float)
    squares, log_variance, distance = (result[name].values for name in names)
    squares, distance = squares[:, early - 1], distance[:, early - 1]
    case, spread, left = f"ddof {ddof}, {backend}", np.exp(0.5 * log_variance[:, early - 1]), (1 - 1 / n) ** early
    log_variance = log_variance[:, late - 1]
    drift, other = log_variance_drift(n, ddof), log_variance_drift(n, 1 - ddof)
    assert_law(f"E log s^2, {case}", log_variance, late * drift, late * other, (late - 1) * drift)
    width = variance_of_log_variance(n)
    wrong = late * variance_of_log_variance(n + 2), late * 2 * width
    assert_law(f"Var log s^2, {case}", log_variance, late * width, *wrong, z_of=z_score_of_variance)
    if ddof == 1:
        assert_law(f"E s, {case}", spread, c4(n) ** early, (c4(n) * np.sqrt(1 - 1 / n)) ** early, np.ones(4))
        assert_law(f"E mu^2, {case}", squares, early / n, 1 - left, np.full(4, 1 / n))
        assert_law(f"E W2^2, {case}", distance, early / n + 2 * (1 - c4(n) ** early), early / n)
        assert_law(f"E mu^2 + s^2 grows, {case}", squares + spread**2, 1 + early / n, np.ones(4))
    else:
        assert_law(f"E s^2, {case}", spread**2, left, np.ones(4), (1 - 1 / n) ** (early - 1))
        assert_law(f"E mu^2, {case}", squares, 1 - left, early / n)
        # E W2^2 = E mu^2 + E s^2 - 2 E s + 1, the first two of which are conserved.
        exact = 2 - 2 * (c4(n) * np.sqrt(1 - 1 / n)) ** early
        assert_law(f"E W2^2, {case}", distance, exact, 2 - 2 * c4(n) ** early)


@POWER
@pytest.mark.parametrize("backend", ["law", ROWS_NIGHTLY])
def test_replace_any_dimension(backend, power):
    """E tr = (1 - 1/n)^T, E det = (prod (n - i)/n)^T, E log det = T sum [psi((n - i)/2) + log(2/n)] and its variance.

    The i-th conditional variance (of a column given those before) is a product of independent chi^2_{n-i} / n: its
    log has the drift psi((n - i)/2) + log(2/n), the exponent of the i-th eigenvalue, already at finite T.
    """
    n, d, T = 40, 3, np.array([1, 3, 8])
    column = np.arange(1, d + 1)
    pivots = {f"pivot{i}": lambda p, i=i: 2 * p.log_scale[i] for i in range(d)}
    setting = observing(gaussian(d), log_trace=gaussian_moments.log_trace, log_det=gaussian_moments.log_det, **pivots)
    options = {"num_samples": n, "num_generations": 30, "num_chains": 20_000 * power, "seed": 31, "backend": backend}
    data = collapse_jax.run(setting, policies.replace(), **options).astype(float)
    trace, det = (np.exp(data[k].values[:, T - 1]) for k in ("log_trace", "log_det"))
    assert_law(f"E tr / d, {backend}", trace / d, (1 - 1 / n) ** T, np.ones(3))
    product = np.prod((n - column) / n)
    assert_law(f"E det, {backend}", det, product**T, ((1 - 1 / n) ** d) ** T, np.ones(3))
    drift, spread = log_variance_drift(n, column=column), variance_of_log_variance(n, column=column)
    late, wrong = np.array([1, 10, 30]), log_variance_drift(n, column=1)
    log_det = data["log_det"].values[:, late - 1]
    assert_law(f"E log det, {backend}", log_det, late * drift.sum(), late * d * wrong)
    wrong_spread = 1.15 * late * spread.sum()
    assert_law(f"Var log det, {backend}", log_det, late * spread.sum(), wrong_spread, z_of=z_score_of_variance)
    logs = np.stack([data[k].values[:, 29] for k in pivots], 1)
    assert_law(f"exponents, {backend}", logs, 30 * drift, 30 * wrong)
    assert_law(f"their variances, {backend}", logs, 30 * spread, 35 * spread, z_of=z_score_of_variance)


@pytest.mark.parametrize(
    ("policy", "backend"),
    [
        pytest.param(policies.replace(), "law", id="replace-law"),
        pytest.param(policies.accumulate(), "rows", id="accumulate-rows"),
        pytest.param(policies.replace(), "rows", id="replace-rows", marks=pytest.mark.nightly),
        pytest.param(policies.accumulate(), "law", id="accumulate-law", marks=pytest.mark.nightly),
    ],
)
def test_rank_stays_below_n(policy, backend):
    """n = 4 rows in 6 columns: rank n - 1 = 3 at the first fit and never more, also where batches pool."""
    n, d, names = 4, 6, ["log_det_ratio", "effective_rank", "trace_ratio", "squared_error_of_mean"]
    options = {"num_samples": n, "num_generations": 20, "num_chains": 4_000, "seed": 41, "backend": backend}
    data = collapse_jax.run(gaussian(d), policy, metrics=names, **options).astype(float)
    assert (data.log_det_ratio == -np.inf).all()
    assert (data.effective_rank <= (n - 1) * (1 + 1e-5)).all()
    assert (data.effective_rank >= 1 - 1e-5).all()
    assert_law("E tr / d, T = 1", data.trace_ratio.values[:, 0], 1 - 1 / n, 1.0)
    # Conserved for singular fits too. Its squares' mean is heavy-tailed under replace: the first two generations.
    until = 20 if policy.name == "accumulate" else 2
    second = (data.squared_error_of_mean + d * data.trace_ratio).values[:, :until]
    assert_law("conserved, singular", second, float(d), d + d / n)


@pytest.mark.parametrize("n", [1, 4, *(pytest.param(n, marks=pytest.mark.nightly) for n in (2, 5, 6))])
def test_rank_is_min_of_d_and_n_minus_1(n):
    """Columns with spread, of fits to rows and of statistics drawn from their law, for n from 1 to d + 2."""
    d, keys = 4, jax.random.split(jax.random.key(42), 100)
    setting = gaussian(d)
    of_rows = lambda key: setting.fit(key, batch.make_batch(jax.random.normal(key, (n, d))), None)  # noqa: E731
    seen = lambda fit: (fit.log_scale, gaussian_moments.log_trace(fit), gaussian_moments.log_det(fit))  # noqa: E731
    for make in (lambda key: seen(of_rows(key)), lambda key: seen(gaussian_moments.draw_normal_moments(key, d, n))):
        scale, trace, det = jax.device_get(jax.jit(jax.vmap(make))(keys))
        np.testing.assert_array_equal(np.isfinite(scale).sum(1), min(d, n - 1))
        assert np.isneginf(trace).all() == (n == 1)
        assert np.isneginf(det).all() == (n <= d)


@POWER
@pytest.mark.parametrize("backend", ["law", ROWS_NIGHTLY])
def test_a_constant_column_changes_nothing_for_the_others(backend, power):
    """A column without spread, not the last: the others' variance still falls by 1 - 1/n a generation."""
    n, T, spread = 10, np.arange(1, 6), np.array([1.0, 0.0, 2.0])
    draw = lambda key, arrays, num: jax.random.normal(key, (num, 3)) * spread  # noqa: E731
    held_out = lambda num: np.random.default_rng(0).normal(size=(num, 3)) * spread  # noqa: E731
    source = Source("constant", 3, (), draw, held_out, np.zeros(3), np.diag(spread**2))
    variance = lambda i: lambda p: (gaussian_moments.cholesky_factor(p)[i] ** 2).sum()  # noqa: E731
    setting = observing(gaussian(source=source), v0=variance(0), v1=variance(1), v2=variance(2))
    options = {"num_samples": n, "num_generations": 5, "num_chains": 20_000 * power, "seed": 43, "backend": backend}
    data = collapse_jax.run(setting, policies.replace(), **options).astype(float)
    assert (data.v1 == 0).all()
    left = (1 - 1 / n) ** T
    one_freedom_less = (1 - 1 / n) * (1 - 2 / n) ** (T - 1)
    assert_law("E V before a constant column", data.v0.values, left, one_freedom_less)
    assert_law("E V behind a constant column", data.v2.values, 4 * left, 4 * one_freedom_less)


@pytest.mark.nightly
@POWER
def test_accumulate_long_run(power):
    """E S_T = prod (1 - 1/(n t^2)) -> sin(pi/sqrt n)/(pi/sqrt n) and E mu^2 = 1 - E S_T, exact; n Var mu -> ~pi^2/6."""
    n, T = 20, np.array([1, 2, 5, 20, 100, 200])
    names = ["trace_ratio", "squared_error_of_mean"]
    options = {"num_samples": n, "num_generations": 200, "num_chains": 20_000 * power, "seed": 51, "metrics": names}
    data = collapse_jax.run(gaussian(1), policies.accumulate(), **options).astype(float)
    left = accumulate_variance(n, 200)[T - 1]
    assert_law("accumulate E S_T", data.trace_ratio.values[:, T - 1], left, np.full(6, left[0]), np.ones(6))
    squares = n * data.squared_error_of_mean.values[:, T - 1]
    assert_law("accumulate n Var mu", squares, n * (1 - left), np.ones(6), T.astype(float))


@pytest.mark.fast
def test_limits_of_accumulate_are_intervals():
    """And narrow ones late."""
    n = 20
    for (low, high), exact in (
        (accumulate_limit(n, 10**6), accumulate_variance(n, 10**6)),
        (accumulate_square(n, 10**6), 1 - accumulate_variance(n, 10**6)),
    ):
        assert (low <= exact * (1 + 1e-9)).all()
        assert (exact <= high * (1 + 1e-9)).all()
    np.testing.assert_allclose(*accumulate_limit(n, 10**6)[:, -1], rtol=1e-6)
    np.testing.assert_allclose(n * accumulate_square(n, 10**6)[1, -1], np.pi**2 / 6, rtol=1e-5)


SUBSAMPLES = {
    "n20": (20, {}),
    "n100": (100, {}),
    "replacement": (30, {"replacement": True}),
    "num45": (30, {"num": 45}),
}


@POWER
@pytest.mark.parametrize(
    "case", ["replacement", *(pytest.param(case, marks=pytest.mark.nightly) for case in ("n20", "n100", "num45"))]
)
def test_accumulate_subsample_recursion(case, power, optimised):
    """The exact recursion of the pool's moments (derived here; policy of arXiv 2410.16713), at several T."""
    n, options = SUBSAMPLES[case]
    T, names = np.array([1, 2, 3, 8, 20]), ["trace_ratio", "squared_error_of_mean"]
    run = {"num_samples": n, "num_generations": 20, "num_chains": 15_000 * power, "seed": 61, "metrics": names}
    data = collapse_jax.run(gaussian(1), policies.accumulate_subsample(**options), **run).astype(float)
    square, variance = subsample_moments(n, 20, **options)[:, T - 1]
    # Wrong: the whole pool; and one draw taken for the other kind, which differ most at T = 1.
    num = options.get("num") or n
    other = subsample_moments(n, 20, num, not options.get("replacement", False))[:, T - 1]
    accumulated = policy_moments("accumulate", n, 20)[:, T - 1]
    assert_law(f"subsample {case} E m^2", data.squared_error_of_mean.values[:, T - 1], square, accumulated[0], other[0])
    assert_law(f"subsample {case} E V", data.trace_ratio.values[:, T - 1], variance, accumulated[1] * n / (n - 1))


def test_subsample_plateaus_of_large_samples():
    """n E m^2 -> pi^2/2 - 2 without, pi^2/3 with replacement, as n and then T grow; by the recursion (derived here)."""
    n, T = 10**7, 20_000
    tail = 2 / T  # what generations after T add: at most 2 / t^2 each
    assert abs(n * subsample_moments(n, T)[0, -1] - (np.pi**2 / 2 - 2)) < 2 * tail
    assert abs(n * subsample_moments(n, T, replacement=True)[0, -1] - np.pi**2 / 3) < 2 * tail


@pytest.mark.nightly
@pytest.mark.parametrize("replacement", [False, True])
def test_subsample_plateaus_are_reached(replacement):
    """Chains at n = 100, T = 100, where the plateau is 3% high, agree: a sanity check with 6% allowed."""
    n = 100
    policy = policies.accumulate_subsample(replacement=replacement)
    run = {"num_samples": n, "num_generations": 100, "num_chains": 20_000, "seed": 62}
    data = collapse_jax.run(gaussian(1), policy, metrics=["squared_error_of_mean"], **run).astype(float)
    late = n * data.squared_error_of_mean.values[:, 60:].mean(1)
    exact = n * subsample_moments(n, 100, replacement=replacement)[0, 60:].mean()
    assert_law(f"plateau, replacement={replacement}", late, exact, np.pi**2 / 6)
    plateau = np.pi**2 / 3 if replacement else np.pi**2 / 2 - 2
    assert abs(exact / plateau - 1) < 0.06
    assert abs(late.mean() / plateau - 1) < 0.06


WEIGHTS = [0.2, 0.4, (np.sqrt(5) - 1) / 2, 0.8]


@pytest.mark.nightly
@POWER
def test_golden_ratio(power):
    """Stationary n MSE(w) of the weighted fresh loop with its exact MLE correction (arXiv 2502.18049); k = 1, d = 1."""
    n, T, names = 10, 40, ["squared_error_of_mean", "trace_ratio"]
    run = {"num_samples": n, "num_generations": T, "num_chains": 8_000 * power, "seed": 71, "metrics": names}
    data = collapse_jax.sweep(gaussian(1), policies.weighted_fresh, axes={"weight": WEIGHTS}, **run).isel(policy=0)
    # The last 10 generations of a chain are one number; the mean forgets its past as (1 - w)^t, by T = 30 to 1e-3.
    errors = n * data.squared_error_of_mean.values.astype(float)[:, :, -10:].mean(2).T
    w = np.array(WEIGHTS)
    exact = golden_ratio_error(w, n, n)
    finite = n * np.array([policy_moments("weighted_fresh", n, T, weight=x)[0][-10:].mean() for x in w])
    np.testing.assert_allclose(finite, exact, rtol=1e-5)
    known_variance = (w**2 + (1 - w) ** 2) / (w * (2 - w))
    assert_law("golden ratio n MSE(w)", errors, exact, known_variance, exact[::-1])
    # w* beats its neighbours on common random numbers, and its value is w* itself up to the MLE correction.
    assert_law("MSE(0.4) - MSE(w*)", errors[:, 1] - errors[:, 2], exact[1] - exact[2], 0.0)
    assert_law("MSE(0.8) - MSE(w*)", errors[:, 3] - errors[:, 2], exact[3] - exact[2], 0.0)
    assert_law("E V", data.trace_ratio.values[:, :, -1].T, 1 - exact / n, np.ones(4))


@POWER
def test_golden_ratio_of_unequal_batches(power):
    """fresh_real(share) is the weighted fresh loop at w = share and k = share / (1 - share): the same formula."""
    n, T, shares = 20, 24, [0.25, 0.5, 0.75]
    run = {"num_samples": n, "num_generations": T, "num_chains": 8_000 * power, "seed": 72}
    run["metrics"] = ["squared_error_of_mean"]
    data = collapse_jax.sweep(gaussian(1), policies.fresh_real, axes={"share": shares}, **run).isel(policy=0)
    w = np.array(shares)
    rows = n * w
    exact = golden_ratio_error(w, rows, n - rows) / rows
    finite = np.array([policy_moments("fresh_real", n, T, share=x)[0][-1] for x in w])
    np.testing.assert_allclose(finite, exact, rtol=1e-5)
    assert_law(
        "fresh loop, k != 1", data.squared_error_of_mean.values[:, :, -1].T, exact, golden_ratio_error(w, n, n) / n
    )
