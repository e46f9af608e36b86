"""How fast: generations in proportion to the number of rows, or of a word's occurrences (arXiv 2412.17646)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.reporting.plot_grid import THEORY
from collapse_jax.theory.discrete import survival_exponents
from experiments.published import (
    COLOURS,
    Claim,
    Published,
    at_least,
    at_most,
    legend,
    lines,
    mean,
    panels,
    ratio,
    share,
    statistic,
    values,
)

K, EPSILON = 100, 0.1  # symbols; a standard deviation


def alive(ds: xr.Dataset, count: int) -> np.ndarray:
    """Share of the symbols that are not forgotten, each there `count` times at first: ``[chain, generation]``."""
    found = ds.symbols_alive.isel(policy=0).sel(num=K, num_samples=K * count) / K
    return found.transpose("chain", "generation").to_numpy().astype(float)


def half_time(shares: np.ndarray) -> float:
    """Generations until half of the symbols are forgotten, between whole ones too."""
    mean = shares.mean(0)
    return float(np.interp(-0.5, -mean, np.arange(1, len(mean) + 1)))


def claims(gaussian: xr.Dataset, discrete: xr.Dataset) -> list[Claim]:
    last = gaussian.sizes["generation"]
    logs = lambda n: values(gaussian, "log_trace_ratio", policy="replace", ddof=1, num_samples=n)  # noqa: E731
    both = np.stack([alive(discrete, 10), alive(discrete, 100)], 1)
    return [
        Claim(f"Gaussian, n = 20: P(standard deviation at fit {last} > 0.1) <= 10 exp(-{last} / 4n)",
              at_most(np.exp(-last / 80) / EPSILON), share(logs(20) > 2 * np.log(EPSILON))),
        Claim("Gaussian: the time to collapse is about proportional to n (n times the rate, n = 20 over n = 100)",
              (0.8, 1.25), ratio(20 * logs(20), 100 * logs(100))),
        Claim("symbols: P(not forgotten at fit 50) >= 1 - exp(-count / 50), of 10 occurrences",
              at_least(1 - np.exp(-10 / 50)), mean(alive(discrete, 10)[:, 49])),
        Claim("symbols: the time to forget is about proportional to the count (half-time, 100 times over 10)",
              (8, 12.5), statistic(lambda x: half_time(x[:, 1]) / half_time(x[:, 0]), both)),
    ]  # fmt: skip


def draw(gaussian: xr.Dataset, discrete: xr.Dataset) -> Figure:
    figure, axes = panels(2, size=(4.3, 3.3))
    left, right = axes[0]
    point = {"policy": "replace", "ddof": 1}
    lines(left, gaussian, "log_trace_ratio", {f"n = {n}": {**point, "num_samples": n} for n in (20, 50, 100, 1000)})
    left.set_ylabel("mean log variance over the truth's")
    legend(left)
    t = discrete["generation"].to_numpy()
    for colour, count in zip(COLOURS, (10, 100), strict=False):
        right.plot(t, alive(discrete, count).mean(0), color=colour, label=f"{count} of {K * count:,} rows")
        right.plot(t, 1 - np.exp(-count / t), color=colour, linestyle=":")
        right.plot(t, 1 - np.exp(-count * survival_exponents(len(t))), **THEORY)
    right.plot([], [], color="0.4", linestyle=":", label="published bound")
    right.plot([], [], **{**THEORY, "label": "sharper bound (theory)"})
    right.set(xscale="log", xlabel="generation", ylabel="share of symbols not forgotten")
    right.xaxis.set_major_formatter("{x:g}")
    right.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


PUBLISHED = Published(
    "How fast a Gaussian collapses, and how fast a symbol is forgotten",
    "arXiv 2412.17646, theorems on discrete and Gaussian models",
    ("configs/papers/rates/gaussian.yaml", "configs/papers/collapse_or_thrive/discrete.yaml"),
    claims,
    draw,
    small=(
        ("--sweep.product.setting.ddof=[1]",),
        (
            f"--sweep.product.setting.probabilities.num=[{K}]",
            f"--sweep.product.num_samples=[{10 * K}, {100 * K}]",
            "--num_generations=500",
            "--num_chains=100",
        ),
    ),
)
