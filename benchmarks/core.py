"""Microseconds a chain-generation, beside the loop a user would write. ``python benchmarks/core.py [--json OUT]``.

Ours and the peer run in turn; each figure is the median over rounds and each ratio the median of pairs. Tracing and
compiling are told apart from running. The statistics of both sides are compared before anything is timed.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from peers import loops as peers

import collapse_jax as cj
from collapse_jax import data, policies, settings

GAUSSIAN = ("squared_error_of_mean", "trace_ratio", "log_det_ratio")


class Job(NamedTuple):
    """One comparison; `target` is the ratio we mean to reach."""

    name: str
    ours: Callable[[], Any]  # -> dataset
    peer: Callable[[int], np.ndarray]  # seed -> [generations, metrics] of one chain
    metrics: tuple[str, ...]
    target: float


def gaussian_job(name: str, policy: Any, dim: int, n: int, generations: int, chains: int, target: float) -> Job:
    metrics = GAUSSIAN[:2] if dim == 1 else GAUSSIAN

    def ours() -> Any:
        return cj.run(
            settings.gaussian(dim),
            policy,
            num_samples=n,
            num_generations=generations,
            num_chains=chains,
            metrics=metrics,
        )

    def peer(seed: int) -> np.ndarray:
        rng, accumulate = np.random.default_rng(seed), policy.name == "accumulate"
        if policy.redraw is not None:
            return peers.gaussian_subsample(rng, dim, n, generations)
        if dim == 1:
            return peers.gaussian_1d(rng, n, generations, accumulate)
        return peers.gaussian(rng, dim, n, generations, accumulate)

    return Job(name, ours, peer, metrics, target)


def counts_job(
    setting: Any, what: str, peer: Callable[..., np.ndarray], metrics: tuple[str, ...], n: int, rows: bool, chains: int
) -> Job:
    """A setting whose statistics are counts, under replace; the peer draws what a user would."""
    generations = 100

    def ours() -> Any:
        return cj.run(
            setting,
            policies.replace(),
            num_samples=n,
            num_generations=generations,
            num_chains=chains,
            metrics=metrics,
            backend="rows" if rows else "law",
        )

    name = f"{setting.name} {what}, replace n={n}, {'rows' if rows else 'law'}"
    target = 20 if rows else 100
    return Job(name, ours, lambda seed: peer(np.random.default_rng(seed), n, generations), metrics, target)


def discrete_job(num: int, n: int, rows: bool, chains: int = 1024) -> Job:
    setting, peer = settings.discrete(data.symbols.uniform(num)), partial(peers.discrete, num=num, rows=rows)
    return counts_job(setting, f"K={num}", peer, ("entropy", "symbols_alive"), n, rows, chains)


def poisson_job(rate: float, n: int, rows: bool, chains: int = 1024) -> Job:
    peer = partial(peers.poisson, rate=rate)
    return counts_job(settings.poisson(rate), f"{rate:g}", peer, ("log_rate_ratio", "divergence"), n, rows, chains)


def bernoulli_job(p: float, n: int, rows: bool, chains: int = 1024) -> Job:
    peer = partial(peers.bernoulli, p=p)
    return counts_job(settings.bernoulli(p), f"{p:g}", peer, ("divergence", "dead"), n, rows, chains)


def logistic_job(dim: int, n: int, generations: int = 20, chains: int = 1024) -> Job:
    def ours() -> Any:
        setting, options = settings.logistic_regression(dim), {"num_samples": n, "num_generations": generations}
        return cj.run(setting, policies.replace(), **options, num_chains=chains, metrics=("excess_risk",))

    peer = lambda seed: peers.logistic_regression(np.random.default_rng(seed), dim, n, generations)  # noqa: E731
    return Job(f"Logistic regression replace d={dim} n={n}, labels drawn", ours, peer, ("excess_risk",), 20)


def kde_job(generations: int = 20, n: int = 1000, chains: int = 128) -> Job:
    def ours() -> Any:
        setting = settings.kde(0.1, num_test=500, source=data.moons())
        return cj.run(
            setting,
            policies.accumulate(),
            num_samples=n,
            num_generations=generations,
            num_chains=chains,
            metrics=("test_nll",),
        )

    def peer(seed: int) -> np.ndarray:
        return peers.kde_accumulate(2 * seed, n, generations, 0.1, 500)[:, None]

    return Job(f"KDE accumulate n={n}, 500 test points, T={generations}", ours, peer, ("test_nll",), 300)


def mixture_job(generations: int = 10, n: int = 500, steps: int = 20, chains: int = 1024) -> Job:
    source, metrics = data.blobs(num_centers=8, seed=1), ("test_nll", "log_smallest_weight")

    def ours() -> Any:
        setting = settings.gaussian_mixture(8, steps, source=source)
        return cj.run(setting, policies.replace(), num_samples=n, num_generations=generations, num_chains=chains,
                      metrics=metrics)  # fmt: skip

    peer = lambda seed: peers.mixture_replace(seed, np.asarray(source.modes), n, generations, steps)  # noqa: E731
    return Job(f"mixture of 8, replace d=2 n={n}, {steps} EM steps", ours, peer, metrics, 20)


def diffusion_job(generations: int = 50, n: int = 200, chains: int = 1024) -> Job:
    setting, metrics = settings.ideal_diffusion(0.1), tuple(f"hermite_{k}" for k in range(1, 5))
    centers = np.asarray(setting.world().real)[:, 0]

    def ours() -> Any:
        return cj.run(setting, policies.fresh_real(0.5), num_samples=n, num_generations=generations, num_chains=chains,
                      metrics=metrics)  # fmt: skip

    peer = lambda seed: peers.ideal_diffusion(np.random.default_rng(seed), centers, n, generations, 0.1)  # noqa: E731
    return Job(f"ideal diffusion, half fresh, d=1 n={n}", ours, peer, metrics, 20)


def markov_job(generations: int = 20, n: int = 100, length: int = 64, chains: int = 1024) -> Job:
    setting = settings.markov(1, 0.1, length, "shakespeare")
    world = setting.world()

    def ours() -> Any:
        return cj.run(setting, policies.replace(), num_samples=n, num_generations=generations, num_chains=chains,
                      metrics=("entropy_rate",))  # fmt: skip

    def peer(seed: int) -> np.ndarray:
        rng, text = np.random.default_rng(seed), np.asarray(world.real)
        rows = text[rng.integers(len(text) - length + 1, size=(n, 1)) + np.arange(length)]
        return peers.markov_replace(rng, rows, 27, generations, 0.1)

    return Job(f"bigrams of 27 symbols, replace n={n}, {length} symbols a row", ours, peer, ("entropy_rate",), 20)


def regression_job(name: str, policy: Any, backend: str, dim: int, n: int, chains: int, target: float) -> Job:
    generations = 100 if policy.name == "replace" else 50

    def ours() -> Any:
        return cj.run(
            settings.linear_regression(dim),
            policy,
            num_samples=n,
            num_generations=generations,
            num_chains=chains,
            metrics=("excess_risk",),
            backend=backend,
        )

    def peer(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return peers.linear_regression(rng, dim, n, generations, policy.name == "accumulate")

    return Job(f"Linear regression {name}, T={generations}", ours, peer, ("excess_risk",), target)


JOBS = (
    gaussian_job("Gaussian replace d=1 n=100", policies.replace(), 1, 100, 100, 16384, 150),
    gaussian_job("Gaussian replace d=10 n=1000", policies.replace(), 10, 1000, 100, 4096, 60),
    gaussian_job("Gaussian accumulate d=10 n=1000, T=100", policies.accumulate(), 10, 1000, 100, 4096, 500),
    gaussian_job("Gaussian subsample d=10 n=1000, T=100", policies.accumulate_subsample(), 10, 1000, 100, 64, 1),
    kde_job(),
    mixture_job(),
    diffusion_job(),
    markov_job(),
    regression_job("replace d=10 n=1000, law", policies.replace(), "law", 10, 1000, 1024, 100),
    regression_job("replace d=10 n=1000, labels drawn", policies.replace(), "rows", 10, 1000, 1024, 20),
    regression_job("accumulate d=10 n=1000, law", policies.accumulate(), "law", 10, 1000, 1024, 100),
    regression_job("accumulate d=10 n=1000, labels drawn", policies.accumulate(), "rows", 10, 1000, 1024, 20),
    logistic_job(5, 200),
    discrete_job(10, 100, rows=False),
    discrete_job(10, 1000, rows=False),
    discrete_job(10, 1000, rows=True),
    discrete_job(1000, 1000, rows=False, chains=128),
    poisson_job(10.0, 1000, rows=False),
    poisson_job(10.0, 1000, rows=True),
    bernoulli_job(0.5, 1000, rows=False),
    bernoulli_job(0.5, 1000, rows=True),
)


def compare(job: Job, rounds: int) -> dict[str, Any]:
    """Times one job beside its peer, in turn."""
    rows = []
    for seed in range(rounds):
        runs = job.ours()
        start = time.perf_counter()
        theirs = job.peer(seed)
        peer_seconds = (time.perf_counter() - start) / len(theirs)
        rows.append((runs.attrs["seconds_run"] / runs.sizes["chain"] / runs.sizes["generation"], peer_seconds))
        check_same(job, runs, theirs)
    ours, peer = np.array(rows).T
    return {
        "job": job.name,
        "ours_us": float(np.median(ours) * 1e6),
        "peer_us": float(np.median(peer) * 1e6),
        "ratio": float(np.median(peer / ours)),
        "target": job.target,
        "trace_s": runs.attrs["seconds_trace"],
        "compile_s": runs.attrs["seconds_compile"],
        "backend": runs.attrs["backend"],
    }


def check_same(job: Job, runs: Any, theirs: np.ndarray) -> None:
    """The peer's chain must lie among ours: its last generation within six spreads of our chains' median."""
    for column, metric in enumerate(job.metrics):
        last = runs[metric].isel(generation=-1).values
        middle, spread = np.median(last), np.std(last) + 1e-6
        if not abs(theirs[-1, column] - middle) < 6 * spread:
            raise SystemExit(f"{job.name}: {metric} {theirs[-1, column]:.4g} against ours {middle:.4g} +- {spread:.2g}")


def per_generation(setting: Any, policy: Any, n: int, generations: int, chains: int, **options: Any) -> float:
    """Microseconds a chain-generation."""
    runs = cj.run(setting, policy, num_samples=n, num_generations=generations, num_chains=chains, **options)
    return runs.attrs["seconds_run"] / chains / generations * 1e6


def flatness(rounds: int) -> list[dict[str, Any]]:
    """Costs that should not grow: with the horizon, and from replace to accumulate-subsample."""
    gaussian, kde = settings.gaussian(10), settings.kde(0.1, source=data.moons())
    accumulate, options = policies.accumulate(), {"metrics": GAUSSIAN}
    rows_only = {"metrics": GAUSSIAN, "backend": "rows"}
    subsample = policies.accumulate_subsample()

    def row(name: str, small: Callable[[], float], large: Callable[[], float], most: float) -> dict[str, Any]:
        pairs = [(small(), large()) for _ in range(rounds)]
        a, b = np.array(pairs).T
        return {"job": name, "from_us": float(np.median(a)), "to_us": float(np.median(b)),
                "growth": float(np.median(b / a)), "most": most}  # fmt: skip

    return [
        row("Gaussian accumulate d=10 n=1000, T=50 to T=800",
            lambda: per_generation(gaussian, accumulate, 1000, 50, 1024, **options),
            lambda: per_generation(gaussian, accumulate, 1000, 800, 1024, **options), 1.1),
        row("KDE accumulate n=1000, fixed h, T=10 to T=40",
            lambda: per_generation(kde, accumulate, 1000, 10, 64),
            lambda: per_generation(kde, accumulate, 1000, 40, 64), 1.1),
        row("Gaussian d=10 n=1000, T=100: replace drawing rows to subsample",
            lambda: per_generation(gaussian, policies.replace(), 1000, 100, 64, **rows_only),
            lambda: per_generation(gaussian, subsample, 1000, 100, 64, **rows_only), 4),
        row("Gaussian d=1 n=100, T=100: replace drawing rows to subsample",
            lambda: per_generation(settings.gaussian(1), policies.replace(), 100, 100, 1024, **rows_only),
            lambda: per_generation(settings.gaussian(1), subsample, 100, 100, 1024, **rows_only), 4),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the figures here too")
    parser.add_argument("--only", default="", help="jobs whose names hold this")
    arguments = parser.parse_args()
    print(f"{'job':62s} {'ours us':>10s} {'peer us':>10s} {'ratio':>7s} {'target':>7s} {'compile s':>10s}")
    ratios = []
    for job in JOBS:
        if arguments.only not in job.name:
            continue
        ratios.append(compare(job, arguments.rounds))
        print(
            "{job:62s} {ours_us:10.3f} {peer_us:10.1f} {ratio:7.0f} {target:7.0f} {compile_s:10.1f}".format(
                **ratios[-1]
            ),
            flush=True,
        )
    if arguments.only:
        return
    print(f"\n{'cost that should stay':62s} {'from us':>10s} {'to us':>10s} {'growth':>7s} {'at most':>7s}")
    growths = flatness(arguments.rounds)
    for growth in growths:
        print("{job:62s} {from_us:10.3f} {to_us:10.3f} {growth:7.2f} {most:7.1f}".format(**growth))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"ratios": ratios, "growth": growths}, file, indent=1)


if __name__ == "__main__":
    main()
