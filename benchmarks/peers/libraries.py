"""SciPy and scikit-learn, one chain at a time. Each returns ``[generations, metrics]``."""

import numpy as np
import scipy.linalg
import scipy.optimize
from scipy import stats
from scipy.spatial.distance import cdist
from scipy.special import expit, logsumexp, rel_entr


def gaussian_scipy(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Squared error of the mean, trace and log determinant ratios under replace, by ``scipy.stats``."""
    rng = np.random.default_rng(seed)
    rows, out = rng.normal(size=(n, dim)), []
    for _ in range(generations):
        mean, covariance = stats.multivariate_normal.fit(rows)
        out.append((np.sum(mean**2), np.trace(covariance) / dim, np.linalg.slogdet(covariance)[1]))
        rows = stats.multivariate_normal.rvs(mean, covariance, size=n, random_state=rng)
    return np.array(out)


def gaussian_sklearn(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """The same, by ``sklearn.covariance``."""
    from sklearn.covariance import EmpiricalCovariance

    rng = np.random.default_rng(seed)
    rows, out = rng.normal(size=(n, dim)), []
    for _ in range(generations):
        fit = EmpiricalCovariance(store_precision=False).fit(rows)
        mean, covariance = fit.location_, fit.covariance_
        out.append((np.sum(mean**2), np.trace(covariance) / dim, np.linalg.slogdet(covariance)[1]))
        rows = rng.multivariate_normal(mean, covariance, size=n)
    return np.array(out)


def kde_scipy(seed: int, test: np.ndarray, n: int, generations: int, bandwidth: float) -> np.ndarray:
    """Test NLL under replace, by ``cdist`` and ``logsumexp``."""
    rng = np.random.default_rng(seed)
    rows, out = rng.normal(size=(n, 2)), []
    for _ in range(generations):
        log_kernel = logsumexp(-cdist(test, rows, "sqeuclidean") / (2 * bandwidth**2), axis=1) - np.log(n)
        out.append([np.log(2 * np.pi * bandwidth**2) - log_kernel.mean()])
        rows = rows[rng.integers(n, size=n)] + bandwidth * rng.normal(size=rows.shape)
    return np.array(out)


def kde_sklearn(seed: int, test: np.ndarray, n: int, generations: int, bandwidth: float) -> np.ndarray:
    """The same, by ``KernelDensity``."""
    from sklearn.neighbors import KernelDensity

    rows, out = np.random.default_rng(seed).normal(size=(n, 2)), []
    for generation in range(generations):
        model = KernelDensity(bandwidth=bandwidth).fit(rows)
        out.append([-model.score_samples(test).mean()])
        rows = model.sample(n, random_state=seed * generations + generation)
    return np.array(out)


def discrete_scipy(seed: int, num: int, n: int, generations: int) -> np.ndarray:
    """Entropy and symbols alive under replace, by ``scipy.stats``."""
    rng, share, out = np.random.default_rng(seed), np.full(num, 1 / num), []
    for _ in range(generations):
        share = stats.multinomial.rvs(n, share, random_state=rng) / n
        out.append((stats.entropy(share), np.count_nonzero(share)))
    return np.array(out)


def linear_scipy(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Excess risk of a label-only chain under replace, by ``scipy.linalg.lstsq``."""
    return _linear(seed, dim, n, generations, lambda x, y: scipy.linalg.lstsq(x, y)[0])


def linear_sklearn(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """The same, by ``LinearRegression``."""
    from sklearn.linear_model import LinearRegression

    return _linear(seed, dim, n, generations, lambda x, y: LinearRegression(fit_intercept=False).fit(x, y).coef_)


def _linear(seed: int, dim: int, n: int, generations: int, solve: object) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, w, out = rng.normal(size=(n, dim)), np.ones(dim), []
    fit = w
    for _ in range(generations):
        fit = solve(x, x @ fit + rng.normal(size=n))
        out.append([np.sum((fit - w) ** 2)])
    return np.array(out)


def logistic_scipy(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Excess risk of a label-only chain under replace, by ``scipy.optimize``."""
    ridge = np.append(np.full(dim, 1e-4), 0.0)  # none for the intercept

    def solve(x: np.ndarray, label: np.ndarray) -> np.ndarray:
        def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
            z = x @ w
            value = np.mean(np.logaddexp(0, z) - label * z) + 0.5 * np.sum(ridge * w**2)
            return value, x.T @ (expit(z) - label) / n + ridge * w

        return scipy.optimize.minimize(loss, np.zeros(dim + 1), jac=True, method="L-BFGS-B").x

    return _logistic(seed, dim, n, generations, solve)


def logistic_sklearn(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """The same, by ``LogisticRegression``."""
    from sklearn.linear_model import LogisticRegression

    def solve(x: np.ndarray, label: np.ndarray) -> np.ndarray:
        model = LogisticRegression(C=1e4 / n).fit(x[:, :-1], label)
        return np.append(model.coef_[0], model.intercept_)

    return _logistic(seed, dim, n, generations, solve)


def _logistic(seed: int, dim: int, n: int, generations: int, solve: object) -> np.ndarray:
    rng = np.random.default_rng(seed)
    with_one = lambda m: np.concatenate([rng.normal(size=(m, dim)), np.ones((m, 1))], 1)  # noqa: E731
    x, test, w, out = with_one(n), with_one(300), np.append(np.full(dim, dim**-0.5), 0.0), []
    truth = expit(test @ w)
    for _ in range(generations):
        w = solve(x, rng.random(n) < expit(x @ w))
        fit = expit(test @ w)
        out.append([np.mean(rel_entr(truth, fit) + rel_entr(1 - truth, 1 - fit))])
    return np.array(out)
