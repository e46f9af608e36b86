"""The work of the benchmarks by the loop that a user would write: one chain at a time, NumPy or scikit-learn."""

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
    """Run a Gaussian under accumulate-subsample: n rows of the pool, without replacement, anew at each fit."""
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


def logistic_regression(rng: np.random.Generator, dim: int, n: int, generations: int) -> np.ndarray:
    """Excess risk of one label-only chain of plain Newton steps, ``[generations, 1]``, over 300 test inputs."""
    with_one = lambda m: np.concatenate([rng.normal(size=(m, dim)), np.ones((m, 1))], 1)  # noqa: E731
    rate = lambda x, w: 1 / (1 + np.exp(-x @ w))  # noqa: E731
    x, test, w, out = with_one(n), with_one(300), np.append(np.full(dim, dim**-0.5), 0.0), []
    truth, ridge = rate(test, w), np.append(np.full(dim, 1e-4), 0.0)  # none for the intercept
    for _ in range(generations):
        label, w = rng.random(n) < rate(x, w), np.zeros(dim + 1)
        for _ in range(8):
            p = rate(x, w)
            hessian = (x * (p * (1 - p))[:, None]).T @ x / n + np.diag(ridge)
            w = w - np.linalg.solve(hessian, x.T @ (p - label) / n + ridge * w)
        fit = rate(test, w)
        out.append([np.mean(rel_entr(truth, fit) + rel_entr(1 - truth, 1 - fit))])
    return np.array(out)


def discrete(rng: np.random.Generator, n: int, generations: int, num: int, rows: bool) -> np.ndarray:
    """Entropy and symbols alive of one chain under replace, ``[generations, 2]``: rows are drawn, or their counts."""
    share, out = np.full(num, 1 / num), []
    for _ in range(generations):
        counts = np.bincount(rng.choice(num, n, p=share), minlength=num) if rows else rng.multinomial(n, share)
        share = counts / n
        alive = share[share > 0]
        out.append((-np.sum(alive * np.log(alive)), len(alive)))
    return np.array(out)


def poisson(rng: np.random.Generator, n: int, generations: int, rate: float) -> np.ndarray:
    """Log ratio of the rate and divergence of one chain under replace, ``[generations, 2]``."""
    fit, out = rate, []
    for _ in range(generations):
        fit = rng.poisson(fit, n).mean()
        out.append((np.log(fit / rate), fit * np.log(fit / rate) - fit + rate))
    return np.array(out)


def bernoulli(rng: np.random.Generator, n: int, generations: int, p: float) -> np.ndarray:
    """Divergence of one chain under replace, and whether it died, ``[generations, 2]``."""
    fit, out = p, []
    for _ in range(generations):
        fit = (rng.random(n) < fit).mean()
        out.append((rel_entr(fit, p) + rel_entr(1 - fit, 1 - p), fit in (0.0, 1.0)))
    return np.array(out)


def kde_accumulate(seed: int, test: np.ndarray, n: int, generations: int, bandwidth: float) -> np.ndarray:
    """Test NLL of one chain on moons, ``[generations]``."""
    from sklearn.datasets import make_moons
    from sklearn.neighbors import KernelDensity

    (pool, _), out = make_moons(n, noise=0.05, random_state=seed), []
    for generation in range(generations):
        model = KernelDensity(bandwidth=bandwidth).fit(pool)
        out.append(-model.score_samples(test).mean())
        pool = np.concatenate([pool, model.sample(n, random_state=seed * generations + generation)])
    return np.array(out)


def mixture_replace(seed: int, centers: np.ndarray, n: int, generations: int, steps: int) -> np.ndarray:
    """Test NLL and smallest weight's logarithm of one chain of scikit-learn's mixtures, ``[generations, 2]``."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore", ConvergenceWarning)  # all its steps are asked for, as ours are
    rng = np.random.default_rng(seed)
    real = lambda num: centers[rng.integers(len(centers), size=num)] + rng.normal(size=(num, centers.shape[1]))  # noqa: E731
    rows, test, out = real(n), real(500), []
    for generation in range(generations):
        model = GaussianMixture(len(centers), max_iter=steps, tol=0.0, init_params="k-means++",
                                random_state=seed * generations + generation).fit(rows)  # fmt: skip
        out.append((-model.score(test), np.log(model.weights_.min())))
        rows, _ = model.sample(n)
    return np.array(out)


def ideal_diffusion(
    rng: np.random.Generator, centers: np.ndarray, n: int, generations: int, delta: float
) -> np.ndarray:
    """Hermite coefficients 1 to 4 of one chain with half its rows fresh, ``[generations, 4]``."""
    real = lambda num: rng.choice(centers, num) + 0.5 * rng.normal(size=num)  # noqa: E731
    shrink, noise, rows, out = np.exp(-delta), np.sqrt(1 - np.exp(-2 * delta)), real(n), []
    for _ in range(generations):
        h = [np.ones(n), rows]
        for k in range(1, 4):
            h.append((rows * h[k] - np.sqrt(k) * h[k - 1]) / np.sqrt(k + 1))
        out.append([shrink**k * h[k].mean() for k in range(1, 5)])
        new = shrink * rng.choice(rows, n) + noise * rng.normal(size=n)
        rows = np.concatenate([real(n // 2), new[n // 2 :]])
    return np.array(out)


def markov_replace(
    rng: np.random.Generator, rows: np.ndarray, size: int, generations: int, smoothing: float
) -> np.ndarray:
    """Entropy rate of one chain of bigram models, all rows side by side, ``[generations, 1]``."""
    (n, length), out = rows.shape, []
    for _ in range(generations):
        codes = rows[:, :-1].astype(int) * size + rows[:, 1:]
        count = np.bincount(codes.ravel(), minlength=size**2).reshape(size, size)
        share = (count + smoothing) / (count + smoothing).sum(1, keepdims=True)
        context = count.sum(1) / count.sum()
        out.append(-(context[:, None] * share * np.log(share)).sum())
        cumulative = share.cumsum(1)
        rows = np.empty_like(rows)
        rows[:, 0] = rng.choice(size, n, p=(count + smoothing).sum(1) / (count + smoothing).sum())
        for i in range(1, length):
            rows[:, i] = (rng.random((n, 1)) >= cumulative[rows[:, i - 1]]).sum(1).clip(max=size - 1)
    return np.array(out)[:, None]
