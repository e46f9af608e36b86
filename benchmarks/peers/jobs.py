"""Jobs that many peers do, each in its own way."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import jax_loop
import libraries
import loops
import numpy as np
import vectorised
from work import Job, Peer, alone, seeded

import collapse_jax as cj
from collapse_jax import data, policies, settings


def torch_peers(name: str, chains: int, many: int, *given: Any, ways: tuple[str, ...]) -> dict[str, Peer]:
    """PyTorch's ways, where it is installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import pytorch

    titles = {"eager": "PyTorch eager", "vmap": "torch.func.vmap", "compile": "torch.compile of vmap",
              "batch": "PyTorch, batched"}  # fmt: skip
    run = getattr(pytorch, name)
    return {
        titles[way]: Peer(chains if way == "eager" else many,
                          lambda seed, number, way=way: run(way, seed, number, *given))
        for way in ways
    }  # fmt: skip


def _ours(setting: Any, n: int, generations: int, chains: int, metrics: tuple[str, ...]) -> Callable[[], Any]:
    sizes = {"num_samples": n, "num_generations": generations, "num_chains": chains}
    return lambda: cj.run(setting, policies.replace(), **sizes, metrics=metrics)


def gaussian(dim: int = 10, n: int = 1000, generations: int = 50) -> Job:
    size, metrics = (dim, n, generations), ("squared_error_of_mean", "trace_ratio", "log_det_ratio")
    return Job(
        f"gaussian d={dim} n={n}",
        _ours(settings.gaussian(dim), n, generations, 4096, metrics),
        metrics,
        {
            "NumPy loop": Peer(16, seeded(loops.gaussian, *size, False)),
            "NumPy vectorised": Peer(16, lambda seed, chains: vectorised.gaussian(seed, chains, *size)),
            "SciPy": Peer(16, alone(lambda seed: libraries.gaussian_scipy(seed, *size))),
            "scikit-learn": Peer(16, alone(lambda seed: libraries.gaussian_sklearn(seed, *size))),
            "JAX loop, jitted": Peer(8, alone(lambda seed: jax_loop.gaussian(seed, *size))),
            **torch_peers("gaussian", 16, 16, *size, ways=("eager", "vmap", "compile")),
        },
    )


def kde(n: int = 1000, generations: int = 10, bandwidth: float = 0.1) -> Job:
    source = data.normal(2)
    test = np.asarray(source.held_out(500))
    size = (test, n, generations, bandwidth)
    return Job(
        f"kde n={n}, 500 test rows",
        _ours(settings.kde(bandwidth, source=source), n, generations, 256, ("test_nll",)),
        ("test_nll",),
        {
            "NumPy vectorised": Peer(8, lambda seed, chains: vectorised.kde(seed, chains, *size)),
            "SciPy": Peer(4, alone(lambda seed: libraries.kde_scipy(seed, *size))),
            "scikit-learn": Peer(2, alone(lambda seed: libraries.kde_sklearn(seed, *size))),
            "JAX loop, jitted": Peer(8, alone(lambda seed: jax_loop.kde(seed, *size))),
            **torch_peers("kde", 8, 8, *size, ways=("eager", "vmap", "compile")),
        },
    )


def discrete(num: int = 10, n: int = 1000, generations: int = 50) -> Job:
    size, metrics = (num, n, generations), ("entropy", "symbols_alive")
    return Job(
        f"discrete K={num} n={n}",
        _ours(settings.discrete(data.symbols.uniform(num)), n, generations, 4096, metrics),
        metrics,
        {
            "NumPy loop": Peer(64, seeded(lambda rng, k, m, t: loops.discrete(rng, m, t, k, False), *size)),
            "NumPy vectorised": Peer(4096, lambda seed, chains: vectorised.discrete(seed, chains, *size)),
            "SciPy": Peer(16, alone(lambda seed: libraries.discrete_scipy(seed, *size))),
            "JAX loop, jitted": Peer(8, alone(lambda seed: jax_loop.discrete(seed, *size))),
            **torch_peers("discrete", 16, 1024, *size, ways=("eager", "batch")),
        },
    )


def linear_regression(dim: int = 10, n: int = 1000, generations: int = 50) -> Job:
    size, metrics = (dim, n, generations), ("excess_risk",)
    return Job(
        f"linear regression d={dim} n={n}",
        _ours(settings.linear_regression(dim), n, generations, 1024, metrics),
        metrics,
        {
            "NumPy loop": Peer(16, seeded(loops.linear_regression, *size, False)),
            "NumPy vectorised": Peer(64, lambda seed, chains: vectorised.linear_regression(seed, chains, *size)),
            "SciPy": Peer(16, alone(lambda seed: libraries.linear_scipy(seed, *size))),
            "scikit-learn": Peer(16, alone(lambda seed: libraries.linear_sklearn(seed, *size))),
            "JAX loop, jitted": Peer(16, alone(lambda seed: jax_loop.linear_regression(seed, *size))),
            **torch_peers("linear_regression", 32, 64, *size, ways=("eager", "vmap", "compile")),
        },
    )


def logistic_regression(dim: int = 5, n: int = 200, generations: int = 20) -> Job:
    size, metrics = (dim, n, generations), ("excess_risk",)
    return Job(
        f"logistic regression d={dim} n={n}",
        _ours(settings.logistic_regression(dim), n, generations, 512, metrics),
        metrics,
        {
            "NumPy loop": Peer(32, seeded(loops.logistic_regression, *size)),
            "NumPy vectorised": Peer(64, lambda seed, chains: vectorised.logistic_regression(seed, chains, *size)),
            "SciPy": Peer(16, alone(lambda seed: libraries.logistic_scipy(seed, *size))),
            "scikit-learn": Peer(16, alone(lambda seed: libraries.logistic_sklearn(seed, *size))),
            "JAX loop, jitted": Peer(32, alone(lambda seed: jax_loop.logistic_regression(seed, *size))),
        },
    )


def gaussian_mixture(n: int = 500, generations: int = 10, steps: int = 20) -> Job:
    source, metrics = data.blobs(num_centers=8, seed=1), ("test_nll", "log_smallest_weight")
    setting = settings.gaussian_mixture(8, steps, source=source)
    run = partial(loops.mixture_replace, centers=np.asarray(source.modes), n=n, generations=generations, steps=steps)
    return Job(
        f"mixture of 8, n={n}, {steps} EM steps",
        _ours(setting, n, generations, 128, metrics),
        metrics,
        {"scikit-learn": Peer(4, alone(run))},
    )


JOBS = (gaussian, kde, discrete, linear_regression, logistic_regression, gaussian_mixture)
