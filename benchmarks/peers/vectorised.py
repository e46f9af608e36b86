"""Vectorised NumPy: chains are one more axis of every array. Each returns ``[chains, generations, metrics]``."""

import numpy as np
from scipy.special import logsumexp, rel_entr


def gaussian(seed: int, chains: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Squared error of the mean, trace and log determinant ratios under replace."""
    rng = np.random.default_rng(seed)
    rows, out = rng.normal(size=(chains, n, dim)), []
    for _ in range(generations):
        mean = rows.mean(1)
        centred = rows - mean[:, None]
        covariance = centred.transpose(0, 2, 1) @ centred / n
        trace = np.trace(covariance, axis1=1, axis2=2) / dim
        out.append([np.sum(mean**2, 1), trace, np.linalg.slogdet(covariance)[1]])
        root = np.linalg.cholesky(covariance)
        rows = mean[:, None] + rng.normal(size=rows.shape) @ root.transpose(0, 2, 1)
    return np.transpose(out, (2, 0, 1))


def kde(seed: int, chains: int, test: np.ndarray, n: int, generations: int, bandwidth: float) -> np.ndarray:
    """Test NLL under replace, rows of two columns."""
    rng = np.random.default_rng(seed)
    rows, out = rng.normal(size=(chains, n, 2)), []
    for _ in range(generations):
        squares = (test**2).sum(1)[:, None] + (rows**2).sum(2)[:, None] - 2 * test @ rows.transpose(0, 2, 1)
        log_kernel = logsumexp(-squares / (2 * bandwidth**2), axis=2) - np.log(n)
        out.append(np.log(2 * np.pi * bandwidth**2) - log_kernel.mean(1))
        picked = np.take_along_axis(rows, rng.integers(n, size=(chains, n, 1)), 1)
        rows = picked + bandwidth * rng.normal(size=rows.shape)
    return np.transpose(out)[:, :, None]


def discrete(seed: int, chains: int, num: int, n: int, generations: int) -> np.ndarray:
    """Entropy and symbols alive under replace."""
    rng = np.random.default_rng(seed)
    share, out = np.full((chains, num), 1 / num), []
    for _ in range(generations):
        share = rng.multinomial(n, share) / n
        out.append([-np.sum(share * np.log(share, where=share > 0, out=np.zeros_like(share)), 1), (share > 0).sum(1)])
    return np.transpose(out, (2, 0, 1))


def linear_regression(seed: int, chains: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Excess risk of label-only chains under replace."""
    rng = np.random.default_rng(seed)
    x, w, out = rng.normal(size=(chains, n, dim)), np.ones((chains, dim, 1)), []
    fit, gram = w, x.transpose(0, 2, 1) @ x
    for _ in range(generations):
        y = x @ fit + rng.normal(size=(chains, n, 1))
        fit = np.linalg.solve(gram, x.transpose(0, 2, 1) @ y)
        out.append(np.sum((fit - w) ** 2, (1, 2)))
    return np.transpose(out)[:, :, None]


def logistic_regression(seed: int, chains: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Excess risk of label-only chains under replace, by eight Newton steps."""
    rng = np.random.default_rng(seed)
    with_one = lambda m: np.concatenate([rng.normal(size=(chains, m, dim)), np.ones((chains, m, 1))], 2)  # noqa: E731
    rate = lambda x, w: 1 / (1 + np.exp(-(x @ w)[..., 0]))  # noqa: E731
    x, test = with_one(n), with_one(300)
    w, out = np.tile(np.append(np.full(dim, dim**-0.5), 0.0)[:, None], (chains, 1, 1)), []
    truth, ridge = rate(test, w), np.append(np.full(dim, 1e-4), 0.0)[:, None]  # none for the intercept
    for _ in range(generations):
        label, w = rng.random((chains, n)) < rate(x, w), np.zeros((chains, dim + 1, 1))
        for _ in range(8):
            p = rate(x, w)
            hessian = (x * (p * (1 - p))[..., None]).transpose(0, 2, 1) @ x / n + ridge * np.eye(dim + 1)
            slope = x.transpose(0, 2, 1) @ (p - label)[..., None] / n + ridge * w
            w = w - np.linalg.solve(hessian, slope)
        fit = rate(test, w)
        out.append(np.mean(rel_entr(truth, fit) + rel_entr(1 - truth, 1 - fit), 1))
    return np.transpose(out)[:, :, None]
