"""The pi^2 / 6 pathway: one rate for all regular estimators (arXiv 2410.22812)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.published import COLOURS, Claim, Published, absent, legend, number, panels, ratio

METRICS = ("squared_error_of_mean", "reverse_kl", "forward_kl")
NAMES = ("Gaussian mean", "Poisson", "logistic regression")


def risks(ds: xr.Dataset, policy: str) -> np.ndarray:
    """``[chain, generation]``."""
    name = next(name for name in METRICS if name in ds)
    return ds[name].sel(policy=policy).transpose("chain", "generation").to_numpy().astype(float)


def claims(*runs: xr.Dataset) -> list[Claim]:
    found = []
    for words, ds in zip(NAMES, runs, strict=True):
        last = ds.sizes["generation"]
        total = float((1 / np.arange(1, last + 1) ** 2).sum())
        for policy, expected in (("accumulate", total), ("replace", float(last))):
            risk = risks(ds, policy)
            why = "the sum of 1 / t^2, which tends to pi^2 / 6" if policy == "accumulate" else "t"
            found.append(Claim(f"{words}, {policy}: risk of fit {last} over the first fit's is {why}", number(expected),
                               ratio(risk[:, -1], risk[:, 0])))  # fmt: skip
    return found


def draw(*runs: xr.Dataset) -> Figure:
    figure, axes = panels(2, size=(4.0, 3.2))
    for ax, policy in zip(axes[0], ("accumulate", "replace"), strict=True):
        for colour, words, ds in zip(COLOURS, NAMES, runs, strict=False):
            mean, t = risks(ds, policy).mean(0), ds["generation"].to_numpy()
            ax.plot(t, mean / mean[0], color=colour, label=words)
        t = np.arange(1, max(ds.sizes["generation"] for ds in runs) + 1)
        ax.plot(t, np.cumsum(1 / t**2) if policy == "accumulate" else t, "k--", linewidth=0.9, label="published limit")
        ax.set(title=policy, xlabel="generation", ylabel="risk over that of the first fit", xscale="log")
        ax.xaxis.set_major_formatter("{x:g}")
    axes[0, 0].axhline(np.pi**2 / 6, color="0.6", linestyle=":", label="pi²/6")
    axes[0, 1].set_yscale("log")
    legend(axes[0, 0])
    return figure


FOLDER = "configs/papers"
PUBLISHED = Published(
    "Universality: every regular estimator keeps within pi²/6 of its first risk where data accumulate",
    "arXiv 2410.22812, main theorem (many rows)",
    (
        f"{FOLDER}/universality/gaussian.yaml",
        f"{FOLDER}/universality/poisson.yaml",
        f"{FOLDER}/accumulate_regression/logistic.yaml",
    ),
    claims,
    draw,
    small=((), (), ("--num_generations=10", "--num_chains=3000")),
    absent=(absent("linear probes of ImageNet features of self-supervised encoders", "needs their features; on the "
                   "embedded digits: configs/papers/accumulate_regression/probe_digits.yaml"),),
)  # fmt: skip
