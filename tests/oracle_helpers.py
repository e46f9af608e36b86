"""The z-scores by which chains are held to ``theory``.

"exact" = for every n and T. The variance of a chain is heavy-tailed (a product of T independent factors): where
T / n > 0.5, logarithms are tested and never means.
"""

import numpy as np
import pytest

from collapse_jax import policies
from collapse_jax.theory import VarianceMap, fit_moments

# Policies between replace and accumulate, and their parameters as theory knows them.
MIXTURES = {
    "fixed_real": (policies.fixed_real(0.25), {"share": 0.25}),
    "fresh_real": (policies.fresh_real(0.25), {"share": 0.25}),
    "weighted_fresh": (policies.weighted_fresh(0.3), {"weight": 0.3}),
    "window": (policies.window(3), {"k": 3}),
    "decay": (policies.decay(0.6), {"gamma": 0.6}),
    "contaminated": (policies.contaminated(0.25), {"share": 0.25}),
}
Z_LIMIT = 4.0  # a true prediction stays below, by chance, in 99.994% of cases
Z_POWER = 10.0  # a wrong one must lie above: the test could have failed

# Every law at the size of a unit test and, before a release, with that many times more chains.
POWER = pytest.mark.parametrize("power", [1, pytest.param(8, marks=pytest.mark.nightly, id="nightly")])


def z_score(samples, prediction):
    """(mean - prediction) / standard error, over the first axis (chains)."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(0, ddof=1) / np.sqrt(samples.shape[0])
    return (samples.mean(0) - prediction) / error


def z_score_of_variance(samples, prediction):
    """Return the z score of the variance over chains, with a standard error from the fourth moment."""
    samples = np.asarray(samples, np.float64)
    num, variance = samples.shape[0], samples.var(0, ddof=1)
    fourth = ((samples - samples.mean(0)) ** 4).mean(0)
    return (variance - prediction) / np.sqrt((fourth - variance**2 * (num - 3) / (num - 1)) / num)


def z_score_of_two(a, b):
    """Difference of two independent means over its standard error."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a.mean(0) - b.mean(0)) / np.sqrt(a.var(0, ddof=1) / a.shape[0] + b.var(0, ddof=1) / b.shape[0])


def assert_law(what, samples, prediction, *wrong, z_of=z_score):
    """The prediction holds, |z| < 4 everywhere; every wrong one is far off, |z| > 10 somewhere."""
    samples = np.asarray(samples)
    assert np.isfinite(samples).all(), f"{what}: not finite"
    z = np.atleast_1d(z_of(samples, prediction))
    print(f"{what}: z = {np.array2string(z, precision=2, max_line_width=100)}")
    assert np.isfinite(z).all(), f"{what}: z = {z}"
    assert np.abs(z).max() < Z_LIMIT, f"{what}: mean {samples.mean(0)}, predicted {prediction}, z = {z}"
    for number, other in enumerate(wrong):
        far = np.abs(np.atleast_1d(z_of(samples, other))).max()
        print(f"{what}: wrong prediction {number} has |z| = {far:.0f}")
        assert far > Z_POWER, f"{what}: no power against wrong prediction {number} ({other}), |z| = {far}"


def subsample_moments(n, num_generations, num=None, replacement=False, h=0.0, s2=1.0):
    """(E m_t^2, E V_t) of the fits under accumulate-subsample, from ``theory``."""
    policy = {"kind": "accumulate_subsample", "num": num, "replacement": replacement}
    return np.array(fit_moments(policy, n, num_generations, VarianceMap(truth=s2, noise=h**2)))


def policy_moments(name, n, num_generations, *, h=0.0, s2=1.0, **options):
    """(E mu_t^2, E V_t) of the fits under any mixture policy, from ``theory``."""
    return np.array(fit_moments({"kind": name, **options}, n, num_generations, VarianceMap(truth=s2, noise=h**2)))


def nll_float64(rows, weight, test, h):
    """Mean negative log likelihood of a weighted Gaussian KDE by a plain log-sum-exp in float64."""
    rows, weight, test = (np.asarray(x, np.float64) for x in (rows, weight, test))
    squares = ((test[:, None] - rows) ** 2).sum(-1) / (2 * h**2)
    squares = np.where(weight > 0, squares, np.inf)
    nearest = squares.min(1, keepdims=True)
    log_kernel = np.log((weight * np.exp(nearest - squares)).sum(1) / weight.sum()) - nearest[:, 0]
    return rows.shape[1] * np.log(h * np.sqrt(2 * np.pi)) - log_kernel.mean()
