"""Frequencies of equally likely symbols, until one is left (arXiv 2410.16713)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.published import (
    COLOURS,
    Claim,
    Published,
    at_least,
    legend,
    lines,
    mean,
    number,
    over,
    panels,
    ratio,
    share,
)

K = 10


def times(ds: xr.Dataset, n: int) -> np.ndarray:
    """The first fit of one symbol; T + 1 where none came."""
    alive = ds.symbols_alive.isel(policy=0).sel(num=K, num_samples=n)
    return (alive > 1).sum("generation").to_numpy() + 1.0


def claims(ds: xr.Dataset) -> list[Claim]:
    few, many = times(ds, 10), times(ds, 100)
    predicted = -2 * 100 * K * (1 - 1 / K) * np.log(1 - 1 / K)
    return [
        Claim("replace, n = 10: one symbol is left in the end (share of chains)", at_least(0.5),
              share(few <= ds.sizes["generation"])),
        Claim("the time to it is about proportional to n (mean at n = 100 over that at n = 10)", (7, 14),
              ratio(many, few)),
        Claim("mean fits until one is left, n = 100 (Wright-Fisher diffusion: -2n times the sum of (1-x) log(1-x))",
              number(predicted), mean(many)),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    figure, axes = panels(2, size=(4.0, 3.0))
    lines(axes[0, 0], ds, "entropy", over(ds, "num_samples", "n = {}", policy="replace", num=K))
    axes[0, 0].set(xscale="log", ylabel=f"entropy of the fit, nats (K = {K})")
    axes[0, 0].xaxis.set_major_formatter("{x:g}")
    legend(axes[0, 0])
    for colour, n in zip(COLOURS, ds["num_samples"].to_numpy().tolist(), strict=False):
        found = np.sort(times(ds, n))
        axes[0, 1].step(found / n, np.arange(1, len(found) + 1) / len(found), color=colour, label=f"n = {n}")
    axes[0, 1].set(xlabel="first fit of one symbol, over n", ylabel="share of chains", xlim=(0, 6))
    legend(axes[0, 1])
    return figure


PUBLISHED = Published(
    "Equally likely symbols under replace: until one is left",
    "arXiv 2410.16713, discrete distributions",
    ("configs/papers/collapse_or_thrive/discrete.yaml",),
    claims,
    draw,
    small=(
        (
            f"--sweep.product.setting.probabilities.num=[{K}]",
            "--sweep.product.num_samples=[10, 100]",
            "--num_chains=4000",
        ),
    ),
)
