"""Exact laws that the chains are held to, written in NumPy without the library, and the z-scores they are held by.

The truth has mean 0 and variance s2 in a column; a fit is a maximum-likelihood one unless a name says otherwise; fit 1
sees real data. "exact" = for every n and T. The variance of a chain is heavy-tailed (a product of T independent
factors): where T / n > 0.5, logarithms are tested and never means.
"""

import numpy as np
import pytest
from scipy.special import digamma, gammaln, polygamma

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
    """The same for the variance over chains; standard error from the fourth moment."""
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


def c4(n):
    """E s / sigma of the unbiased variance s^2 of n normal rows."""
    return np.sqrt(2 / (n - 1)) * np.exp(gammaln(n / 2) - gammaln((n - 1) / 2))


def log_variance_drift(n, ddof=0, column=1):
    """E log of the `column`-th (from 1) conditional variance of a normal fit: chi^2_{n - column} / (n - ddof)."""
    return digamma((n - column) / 2) + np.log(2 / (n - ddof))


def log_variance_spread(n, column=1):
    """Its variance; neither depends on earlier generations (replace), so T of them add up."""
    return polygamma(1, (n - column) / 2)


def accumulate_variance(n, num_generations):
    """E S_T of T = 1 .. num_generations under accumulate (arXiv 2410.16713, 2404.01413): prod (1 - 1 / (n t^2))."""
    t = np.arange(1, num_generations + 1)
    return np.cumprod(1 - 1 / (n * t**2))


def subsample_moments(n, num_generations, num=None, replacement=False, h=0.0, s2=1.0):
    """(E m_t^2, E V_t) of the fits under accumulate-subsample; exact, derived here.

    The pool of N = n t rows has variance W and squared mean A; a fit sees m of its rows (default n). Without
    replacement E V = c W, c = N (m - 1) / ((N - 1) m), and their mean has variance r W about the pool's,
    r = (N - m) / ((N - 1) m); with replacement c = 1 - 1 / m and r = 1 / m. The next batch of n, normal (or a KDE of
    bandwidth h) about that fit, has a mean of variance r W + (c W + h^2) / n about the pool's and an own variance of
    (1 - 1 / n)(c W + h^2).
    """
    pool_variance, pool_square, fits = (1 - 1 / n) * s2, s2 / n, []
    for t in range(1, num_generations + 1):
        rows, m = n * t, min(num or n, n * t)
        if replacement:
            m = num or n
            c, r = 1 - 1 / m, 1 / m
        elif rows == m:
            c, r = 1.0, 0.0
        else:
            c, r = rows * (m - 1) / ((rows - 1) * m), (rows - m) / ((rows - 1) * m)
        fit = c * pool_variance
        fits.append((pool_square + r * pool_variance, fit))
        step = r * pool_variance + (fit + h**2) / n
        pool_square += step / (t + 1) ** 2
        pool_variance = (t * pool_variance + (1 - 1 / n) * (fit + h**2)) / (t + 1) + t * step / (t + 1) ** 2
    return np.array(fits).T


def policy_moments(name, n, num_generations, *, share=0.5, k=3, gamma=0.5, weight=0.5, h=0.0, s2=1.0):
    """(E mu_t^2, E V_t) of the fits of t = 1 .. num_generations under any mixture policy; exact, derived here.

    A batch's mean is the mean of the fit it came from plus noise of variance (V + h^2) / rows, uncorrelated with all
    before it; a fit's mean is a weighted mean of batches. So every mean is a linear form in uncorrelated noises. The
    second moment of a fit (about the truth's mean) is the same weighted mean of its batches' second moments, and a KDE
    adds h^2 to those. V is the second moment less mu^2.
    """
    noises, real_rows = [], int(np.floor(share * n + 0.5))

    def batch(centre, spread, second, rows):
        noises.append(spread / rows)
        mean = np.zeros(2 * num_generations + 3)
        mean += centre
        mean[len(noises) - 1] = 1.0
        return mean, second

    def real(rows):
        return batch(0.0, s2, s2, rows)

    first = real(real_rows) if name == "fixed_real" else None
    pool = [(real_rows, first), (n - real_rows, real(n - real_rows))] if first else [(n, real(n))]
    fits = []
    for _ in range(num_generations):
        total = sum(mass for mass, _ in pool)
        mean = sum(mass * b[0] for mass, b in pool) / total
        second = sum(mass * b[1] for mass, b in pool) / total
        square = (mean[: len(noises)] ** 2 * noises).sum()
        fits.append((square, second - square))

        def new(rows, fit=(mean, second - square + h**2, second + h**2)):
            return batch(*fit, rows)

        match name:
            case "replace":
                pool = [(n, new(n))]
            case "accumulate":
                pool = [*pool, (n, new(n))]
            case "window":
                pool = [*pool, (n, new(n))][-k:]
            case "decay":
                pool = [*((gamma * mass, b) for mass, b in pool), (n, new(n))]
            case "fixed_real":
                pool = [(real_rows, first), (n - real_rows, new(n - real_rows))]
            case "fresh_real":
                pool = [(real_rows, real(real_rows)), (n - real_rows, new(n - real_rows))]
            case "weighted_fresh":
                pool = [(weight, real(n)), (1 - weight, new(n))]
            case "contaminated":
                pool = [*pool, (real_rows, real(real_rows)), (n - real_rows, new(n - real_rows))]
            case _:
                raise ValueError(name)
    return np.array(fits).T


def golden(w, n_real, n_synthetic):
    """n_real times the stationary squared error of the weighted fresh loop (arXiv 2502.18049), MLE variance; exact.

    Where the variance is known the denominator is w (2 - w); the fitted one's own error adds (1 - w)^2 / n_synthetic.
    """
    ratio = n_real / n_synthetic
    return (w**2 + ratio * (1 - w) ** 2) / (w * (2 - w) + (1 - w) ** 2 / n_synthetic)


def nll_float64(rows, weight, test, h):
    """Mean negative log likelihood of a weighted Gaussian KDE by a plain log-sum-exp in float64."""
    rows, weight, test = (np.asarray(x, np.float64) for x in (rows, weight, test))
    squares = ((test[:, None] - rows) ** 2).sum(-1) / (2 * h**2)
    squares = np.where(weight > 0, squares, np.inf)
    nearest = squares.min(1, keepdims=True)
    log_kernel = np.log((weight * np.exp(nearest - squares)).sum(1) / weight.sum()) - nearest[:, 0]
    return rows.shape[1] * np.log(h * np.sqrt(2 * np.pi)) - log_kernel.mean()
