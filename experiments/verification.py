"""Verified labels: a threshold of the generator's accuracy (arXiv 2406.07515)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.reporting.plot_grid import THEORY
from collapse_jax.theory.selection import majority_probability, verifier_threshold
from experiments.published import (
    COLOURS,
    Claim,
    Published,
    absent,
    at_least,
    at_most,
    legend,
    number,
    panels,
    share,
    statistic,
)

RIGHT, WRONG = 0.9, 0.3  # probabilities that right and wrong rows pass


def most_are_right(ds: xr.Dataset, n: int) -> np.ndarray:
    """Whether most of what the second fit sees is right, a draw counted half: ``[chain, p]``."""
    logs = ds.log_probability_ratio.isel(policy=0, generation=1).sel(num_samples=n).transpose("chain", "p")
    accuracy = ds["p"].to_numpy() * np.exp(logs.to_numpy().astype(float))
    return np.where(np.isclose(accuracy, 0.5, atol=1e-6), 0.5, accuracy > 0.5)


def claims(ds: xr.Dataset) -> list[Claim]:
    p, few, many = ds["p"].to_numpy(), most_are_right(ds, 50), most_are_right(ds, 400)
    at = lambda flags, value: flags[:, int(np.abs(p - value).argmin())]  # noqa: E731
    jump = lambda flags: at(flags, 0.3) - at(flags, 0.2)  # noqa: E731
    return [
        Claim("the accuracy of verified labels jumps at p* = psi / (phi + psi) (where half of the chains pass 1/2)",
              number(verifier_threshold(RIGHT, WRONG)), statistic(lambda x: float(np.interp(0.5, x.mean(0), p)), many)),
        Claim("below, p = 0.15: most are wrong (share of chains where most are right, n = 400)", at_most(0.05),
              share(at(many, 0.15))),
        Claim("above, p = 0.35: most are right (the same)", at_least(0.95), share(at(many, 0.35))),
        Claim("the jump from p = 0.2 to 0.3 is sharper with more rows (n = 400 less n = 50)", at_least(0),
              statistic(lambda x: float(x.mean()), jump(many) - jump(few))),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    figure, axes = panels(1, size=(5.2, 3.4))
    ax, p = axes[0, 0], ds["p"].to_numpy()
    fine = np.linspace(p[0], p[-1], 41)
    for colour, n in zip(COLOURS, ds["num_samples"].to_numpy().tolist(), strict=False):
        found = np.array([share(flags) for flags in most_are_right(ds, n).T])
        bars = np.abs(found[:, 1:] - found[:, :1]).T
        ax.errorbar(p, found[:, 0], bars, fmt="o", color=colour, markersize=4, capsize=3, label=f"n = {n}")
        ax.plot(fine, [majority_probability(x, n, RIGHT, WRONG) for x in fine], **THEORY)
    ax.axvline(verifier_threshold(RIGHT, WRONG), color="0.6", linestyle=":", label="published threshold")
    ax.set(xlabel="accuracy of the generator before verification", ylabel="P(most verified rows are right)")
    legend(ax)
    return figure


PUBLISHED = Published(
    "Verification: kept with probability 0.9 if right, 0.3 if wrong",
    "arXiv 2406.07515, theory of verified labels",
    ("configs/papers/verification/bernoulli.yaml",),
    claims,
    draw,
    absent=(absent("eigenvalues by transformers, summaries by Llama-2, verified", "needs weights of 7B and GPU-days"),),
)
