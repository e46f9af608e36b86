"""Data that users choose: rewards rise, and their variance dies (arXiv 2407.09499)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.reporting.plot_grid import THEORY
from collapse_jax.theory.selection import chosen_mean
from experiments.published import COLOURS, Claim, Published, absent, at_least, at_most, legend, mean, panels

P, N = 0.2, 400  # share of real rows of reward 1; the others have reward 0


def rewards(ds: xr.Dataset, policy: str, k: int) -> np.ndarray:
    """Expected reward of the fits, ``[chain, generation]``."""
    kind = next(label for label in ds["policy"].to_numpy().tolist() if label.startswith(policy))
    logs = ds.log_probability_ratio.sel(policy=kind, k=k).transpose("chain", "generation")
    return np.minimum(P * np.exp(logs.to_numpy().astype(float)), 1.0)


def claims(ds: xr.Dataset) -> list[Claim]:
    many, pair, real = rewards(ds, "replace", 64), rewards(ds, "replace", 2), rewards(ds, "fresh_real", 64)
    odds = np.log(many[:, :2] / (1 - many[:, :2]))
    variance = lambda p: p[:, -1] * (1 - p[:, -1])  # noqa: E731
    return [
        Claim("pairs: the expected reward rises (fit 15 less fit 1)", at_least(0), mean(pair[:, -1] - pair[:, 0])),
        Claim("64 candidates: it is maximal in the end (fit 15; at most 1)", at_least(0.99), mean(many[:, -1])),
        Claim("64 candidates: its variance vanishes", at_most(0.01), mean(variance(many))),
        Claim("many candidates: a generation multiplies the law by exp(reward) (growth of the log odds, fit 1 to 2)",
              (0.95, 1.05), mean(odds[:, 1] - odds[:, 0])),
        Claim("half of it real: rewards rise above the real ones (fit 15)", at_least(P), mean(real[:, -1])),
        Claim("half of it real: their variance stays", at_least(0.1), mean(variance(real))),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    figure, axes = panels(2, size=(4.0, 3.1), sharey=True)
    t, titles = ds["generation"].to_numpy(), {"replace": "curated rows only", "fresh_real": "half of them real"}
    for ax, (policy, title) in zip(axes[0], titles.items(), strict=True):
        for colour, k in zip(COLOURS, ds["k"].to_numpy().tolist(), strict=False):
            ax.plot(t, rewards(ds, policy, k).mean(0), color=colour, label=f"one of {k}")
            if policy == "replace":
                ax.plot(t, chosen_mean(P, N, len(t), k, 1.0), **THEORY)
        ax.set(title=title, xlabel="generation")
    axes[0, 0].set_ylabel("expected reward")
    legend(axes[0, 0])
    return figure


PUBLISHED = Published(
    "Curation by reward: users choose one of k",
    "arXiv 2407.09499, iterated retraining with curated data",
    ("configs/papers/curation/bernoulli.yaml",),
    claims,
    draw,
    absent=(absent("flow matching on CIFAR-10, curated by a classifier: some classes take over", "needs GPU-days"),),
)
