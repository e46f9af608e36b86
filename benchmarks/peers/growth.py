"""Costs that should not grow."""

from collections.abc import Callable
from typing import Any

import numpy as np
from closed_forms import GAUSSIAN

import collapse_jax as cj
from collapse_jax import data, policies, settings


def per_generation(setting: Any, policy: Any, n: int, generations: int, chains: int, **options: Any) -> float:
    """Microseconds a chain-generation."""
    runs = cj.run(setting, policy, num_samples=n, num_generations=generations, num_chains=chains, **options)
    return runs.attrs["seconds_run"] / chains / generations * 1e6


def rows(rounds: int) -> list[dict[str, Any]]:
    """Costs that should not grow: with the horizon, and from replace to accumulate_subsample."""
    gaussian, kde = settings.gaussian(10), settings.kde(0.1, source=data.moons())
    accumulate, options = policies.accumulate(), {"metrics": GAUSSIAN}
    rows_only = {"metrics": GAUSSIAN, "backend": "rows"}
    subsample = policies.accumulate_subsample()

    def row(name: str, small: Callable[[], float], large: Callable[[], float], most: float) -> dict[str, Any]:
        pairs = [(small(), large()) for _ in range(rounds)]
        a, b = np.array(pairs).T
        grown = {"job": name, "from_us": float(np.median(a)), "to_us": float(np.median(b)),
                "growth": float(np.median(b / a)), "most": most}  # fmt: skip
        print("| {job} | {from_us:.4g} | {to_us:.4g} | {growth:.2f} | {most:g} |".format(**grown), flush=True)
        return grown

    print("| cost that should stay | from, us | to, us | growth | at most |\n|---|---|---|---|---|")
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
