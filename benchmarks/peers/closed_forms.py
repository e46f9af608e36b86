"""The closed forms at more sizes and under more policies, each beside the loop that a user would write for a chain."""

from collections.abc import Callable
from functools import partial
from typing import Any

import loops
import numpy as np
from work import Job, Peer, alone, seeded

import collapse_jax as cj
from collapse_jax import data, policies, settings

GAUSSIAN = ("squared_error_of_mean", "trace_ratio", "log_det_ratio")


def _job(
    name: str,
    setting: Any,
    policy: Any,
    sizes: tuple[int, int, int],
    metrics: tuple[str, ...],
    peer: Callable[[int, int], np.ndarray],
    target: float,
    backend: str = "auto",
    library: str = "NumPy loop",
) -> Job:
    """`sizes` are n, T and our chains; the peer times one chain."""
    n, generations, chains = sizes
    options = {"num_samples": n, "num_generations": generations, "num_chains": chains, "metrics": metrics}
    ours = partial(cj.run, setting, policy, **options, backend=backend)
    return Job(name, ours, metrics, {library: Peer(1, peer)}, target)


def gaussian(name: str, policy: Any, dim: int, n: int, chains: int, target: float) -> Job:
    generations, accumulate = 100, policy.name == "accumulate"
    if policy.resample is not None:
        peer = seeded(loops.gaussian_subsample, dim, n, generations)
    elif dim == 1:
        peer = seeded(loops.gaussian_1d, n, generations, accumulate)
    else:
        peer = seeded(loops.gaussian, dim, n, generations, accumulate)
    metrics = GAUSSIAN[:2] if dim == 1 else GAUSSIAN
    return _job(name, settings.gaussian(dim), policy, (n, generations, chains), metrics, peer, target)


def counts(
    setting: Any, what: str, peer: Callable[..., np.ndarray], metrics: tuple[str, ...], n: int, rows: bool, chains: int
) -> Job:
    """A setting whose statistics are counts, under replace; the peer draws what a user would."""
    generations, backend = 100, "rows" if rows else "law"
    name = f"{setting.name} {what}, replace n={n}, {backend}"
    run, target = seeded(peer, n, generations), 20 if rows else 100
    return _job(name, setting, policies.replace(), (n, generations, chains), metrics, run, target, backend)


def discrete(num: int, n: int, rows: bool, chains: int = 1024) -> Job:
    setting, peer = settings.discrete(data.symbols.uniform(num)), partial(loops.discrete, num=num, rows=rows)
    return counts(setting, f"K={num}", peer, ("entropy", "symbols_alive"), n, rows, chains)


def poisson(rate: float, n: int, rows: bool, chains: int = 1024) -> Job:
    peer = partial(loops.poisson, rate=rate)
    return counts(settings.poisson(rate), f"{rate:g}", peer, ("log_rate_ratio", "reverse_kl"), n, rows, chains)


def bernoulli(p: float, n: int, rows: bool, chains: int = 1024) -> Job:
    peer = partial(loops.bernoulli, p=p)
    return counts(settings.bernoulli(p), f"{p:g}", peer, ("reverse_kl", "dead"), n, rows, chains)


def logistic(dim: int = 5, n: int = 200, generations: int = 20) -> Job:
    name, setting = f"Logistic regression replace d={dim} n={n}, labels drawn", settings.logistic_regression(dim)
    peer = seeded(loops.logistic_regression, dim, n, generations)
    return _job(name, setting, policies.replace(), (n, generations, 1024), ("excess_risk",), peer, 20)


def kde(generations: int = 20, n: int = 1000) -> Job:
    setting = settings.kde(0.1, num_test=500, source=data.moons())
    test = np.asarray(data.moons().held_out(500))
    peer = alone(lambda seed: loops.kde_accumulate(seed, test, n, generations, 0.1)[:, None])
    name = f"KDE accumulate n={n}, 500 test points, T={generations}"
    sizes = (n, generations, 128)
    return _job(name, setting, policies.accumulate(), sizes, ("test_nll",), peer, 300, library="scikit-learn")


def mixture(generations: int = 10, n: int = 500, steps: int = 20) -> Job:
    source, metrics = data.blobs(num_centers=8, seed=1), ("test_nll", "log_smallest_weight")
    setting = settings.gaussian_mixture(8, steps, source=source)
    peer = alone(lambda seed: loops.mixture_replace(seed, np.asarray(source.modes), n, generations, steps))
    name, sizes = f"mixture of 8, replace d=2 n={n}, {steps} EM steps", (n, generations, 1024)
    return _job(name, setting, policies.replace(), sizes, metrics, peer, 20, library="scikit-learn")


def diffusion(generations: int = 50, n: int = 200) -> Job:
    setting, metrics = settings.ideal_diffusion(0.1), tuple(f"hermite_{k}" for k in range(1, 5))
    peer = seeded(loops.ideal_diffusion, np.asarray(setting.world().real)[:, 0], n, generations, 0.1)
    name, sizes = f"ideal diffusion, half fresh, d=1 n={n}", (n, generations, 1024)
    return _job(name, setting, policies.fresh_real(0.5), sizes, metrics, peer, 20)


def markov(generations: int = 20, n: int = 100, length: int = 64) -> Job:
    setting = settings.markov(1, 0.1, length, "shakespeare")
    text = np.asarray(setting.world().real)

    def peer(rng: np.random.Generator) -> np.ndarray:
        rows = text[rng.integers(len(text) - length + 1, size=(n, 1)) + np.arange(length)]
        return loops.markov_replace(rng, rows, 27, generations, 0.1)

    name = f"bigrams of 27 symbols, replace n={n}, {length} symbols a row"
    return _job(name, setting, policies.replace(), (n, generations, 1024), ("entropy_rate",), seeded(peer), 20)


def regression(what: str, policy: Any, backend: str, target: float, dim: int = 10, n: int = 1000) -> Job:
    generations = 100 if policy.name == "replace" else 50
    peer = seeded(loops.linear_regression, dim, n, generations, policy.name == "accumulate")
    name, setting = f"Linear regression {what}, T={generations}", settings.linear_regression(dim)
    return _job(name, setting, policy, (n, generations, 1024), ("excess_risk",), peer, target, backend)


# Made when they are asked for: some read a text or train a model first.
JOBS: tuple[Callable[[], Job], ...] = (
    partial(gaussian, "Gaussian replace d=1 n=100", policies.replace(), 1, 100, 16384, 150),
    partial(gaussian, "Gaussian replace d=10 n=1000", policies.replace(), 10, 1000, 4096, 60),
    partial(gaussian, "Gaussian accumulate d=10 n=1000, T=100", policies.accumulate(), 10, 1000, 4096, 500),
    partial(gaussian, "Gaussian subsample d=10 n=1000, T=100", policies.accumulate_subsample(), 10, 1000, 64, 1),
    kde,
    mixture,
    diffusion,
    markov,
    partial(regression, "replace d=10 n=1000, law", policies.replace(), "law", 100),
    partial(regression, "replace d=10 n=1000, labels drawn", policies.replace(), "rows", 20),
    partial(regression, "accumulate d=10 n=1000, law", policies.accumulate(), "law", 100),
    partial(regression, "accumulate d=10 n=1000, labels drawn", policies.accumulate(), "rows", 20),
    logistic,
    partial(discrete, 10, 100, rows=False),
    partial(discrete, 10, 1000, rows=False),
    partial(discrete, 10, 1000, rows=True),
    partial(discrete, 1000, 1000, rows=False, chains=128),
    partial(poisson, 10.0, 1000, rows=False),
    partial(poisson, 10.0, 1000, rows=True),
    partial(bernoulli, 0.5, 1000, rows=False),
    partial(bernoulli, 0.5, 1000, rows=True),
)
