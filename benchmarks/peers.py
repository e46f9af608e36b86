"""The same work as the benchmarks', by the loop that a user would write: one chain at a time, NumPy or scikit-learn."""

import numpy as np
from scipy.special import rel_entr


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


def discrete(rng: np.random.Generator, num: int, n: int, generations: int, rows: bool) -> np.ndarray:
    """Entropy and symbols alive of one chain under replace, ``[generations, 2]``: rows are drawn, or their counts."""
    share, out = np.full(num, 1 / num), []
    for _ in range(generations):
        counts = np.bincount(rng.choice(num, n, p=share), minlength=num) if rows else rng.multinomial(n, share)
        share = counts / n
        alive = share[share > 0]
        out.append((-np.sum(alive * np.log(alive)), len(alive)))
    return np.array(out)


def poisson(rng: np.random.Generator, rate: float, n: int, generations: int) -> np.ndarray:
    """Log ratio of the rate and divergence of one chain under replace, ``[generations, 2]``."""
    fit, out = rate, []
    for _ in range(generations):
        fit = rng.poisson(fit, n).mean()
        out.append((np.log(fit / rate), fit * np.log(fit / rate) - fit + rate))
    return np.array(out)


def bernoulli(rng: np.random.Generator, p: float, n: int, generations: int) -> np.ndarray:
    """Divergence of one chain under replace, and whether it died, ``[generations, 2]``."""
    fit, out = p, []
    for _ in range(generations):
        fit = (rng.random(n) < fit).mean()
        out.append((rel_entr(fit, p) + rel_entr(1 - fit, 1 - p), fit in (0.0, 1.0)))
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
