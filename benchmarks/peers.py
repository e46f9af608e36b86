"""The same work as the benchmarks', by the loop that a user would write: one chain at a time, NumPy or scikit-learn."""

import numpy as np


def gaussian_1d(rng: np.random.Generator, n: int, generations: int, accumulate: bool) -> np.ndarray:
    """Mean and variance of one chain in one dimension, ``[generations, 2]``."""
    pool, out = rng.normal(size=n), []
    for _ in range(generations):
        mean, variance = pool.mean(), pool.var()
        out.append((mean**2, variance))
        new = rng.normal(mean, np.sqrt(variance), size=n)
        pool = np.concatenate([pool, new]) if accumulate else new
    return np.array(out)


def gaussian(rng: np.random.Generator, dim: int, n: int, generations: int, accumulate: bool) -> np.ndarray:
    """Squared error of the mean, trace and log determinant ratios of one chain, ``[generations, 3]``."""
    pool, out = rng.normal(size=(n, dim)), []
    for _ in range(generations):
        mean, covariance = pool.mean(0), np.cov(pool.T, bias=True)
        out.append((np.sum(mean**2), np.trace(covariance) / dim, np.linalg.slogdet(covariance)[1]))
        new = rng.multivariate_normal(mean, covariance, size=n)
        pool = np.concatenate([pool, new]) if accumulate else new
    return np.array(out)


def gaussian_subsample(rng: np.random.Generator, dim: int, n: int, generations: int) -> np.ndarray:
    """The same under accumulate-subsample: n rows of the pool, without replacement, anew at each fit."""
    pool, out = rng.normal(size=(n, dim)), []
    for _ in range(generations):
        train = pool[rng.choice(len(pool), n, replace=False)]
        mean, covariance = train.mean(0), np.cov(train.T, bias=True)
        out.append((np.sum(mean**2), np.trace(covariance) / dim, np.linalg.slogdet(covariance)[1]))
        pool = np.concatenate([pool, rng.multivariate_normal(mean, covariance, size=n)])
    return np.array(out)


def linear_regression(rng: np.random.Generator, dim: int, n: int, generations: int, accumulate: bool) -> np.ndarray:
    """Excess risk of one label-only chain, ``[generations, 1]``: inputs drawn once, labels drawn from each fit."""
    x, w = rng.normal(size=(n, dim)), np.ones(dim)
    new = x @ w + rng.normal(size=n)
    pool_x, pool_y, out = x, new, []
    for _ in range(generations):
        fit = np.linalg.lstsq(pool_x, pool_y)[0]
        out.append([np.sum((fit - w) ** 2)])
        new = x @ fit + rng.normal(size=n)
        pool_x, pool_y = (np.concatenate([pool_x, x]), np.concatenate([pool_y, new])) if accumulate else (x, new)
    return np.array(out)


def kde_accumulate(seed: int, n: int, generations: int, bandwidth: float, num_test: int) -> np.ndarray:
    """Test NLL of one chain on moons, ``[generations]``."""
    from sklearn.datasets import make_moons
    from sklearn.neighbors import KernelDensity

    pool, _ = make_moons(n, noise=0.05, random_state=seed)
    test, _ = make_moons(num_test, noise=0.05, random_state=seed + 1)
    out = []
    for generation in range(generations):
        model = KernelDensity(bandwidth=bandwidth).fit(pool)
        out.append(-model.score_samples(test).mean())
        pool = np.concatenate([pool, model.sample(n, random_state=generation)])
    return np.array(out)
