"""Self-consuming loops: fully synthetic, with fixed real data, with fresh real data (arXiv 2307.01850)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.numerics.confidence_intervals import Interval
from experiments.published import (
    Claim,
    Published,
    absent,
    at_least,
    at_most,
    legend,
    lines,
    mean,
    panels,
    ratio,
    values,
)

LOOPS = {
    "fully synthetic": "replace",
    "synthetic augmentation (fixed half)": "fixed_real",
    "fresh data (half)": "fresh_real",
}


def claims(ds: xr.Dataset) -> list[Claim]:
    def distance(policy: str, generation: int = -1) -> np.ndarray:
        return values(ds, "wasserstein2_squared", generation, policy=policy, temperature=1.0)

    def later(policy: str) -> Interval:
        found = ds.wasserstein2_squared.sel(policy=policy, temperature=1.0)
        return ratio(
            found.sel(generation=slice(51, 100)).mean("generation"),
            found.sel(generation=slice(21, 50)).mean("generation"),
        )

    logs = lambda temperature: values(ds, "log_trace_ratio", policy="replace", temperature=temperature)  # noqa: E731
    return [
        Claim("fully synthetic: the distance to the truth goes on rising (fits 51 to 100 over 21 to 50)",
              at_least(1.2), later("replace")),
        Claim("fully synthetic: diversity is lost (mean log of the trace ratio at T = 100)", at_most(0),
              mean(logs(1.0))),
        Claim("fully synthetic, biased sampling (0.9 of the variance): it is lost much faster (the same)",
              at_most(np.log(0.01)), mean(logs(0.9))),
        Claim("fixed real data delay it (distance less that of the fully synthetic loop, T = 100)", at_most(0),
              mean(distance("fixed_real") - distance("replace"))),
        Claim("fixed real data do not prevent it (rise of the distance since fit 1)", at_least(0),
              mean(distance("fixed_real") - distance("fixed_real", 0))),
        Claim("fixed real data only delay it: it goes on rising (fits 51 to 100 over 21 to 50)",
              at_least(1.2), later("fixed_real")),
        Claim("enough fresh real data: no progressive loss (fits 51 to 100 over 21 to 50)", (0.9, 1.1),
              later("fresh_real")),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    figure, axes = panels(2, 2, (4.0, 2.7), sharex=True, sharey="row")
    shown = {"wasserstein2_squared": "squared Wasserstein-2 distance", "trace_ratio": "trace ratio"}
    for row, (name, words) in zip(axes, shown.items(), strict=True):
        for ax, temperature in zip(row, (1.0, 0.9), strict=True):
            point = {"temperature": temperature}
            lines(ax, ds, name, {label: {**point, "policy": policy} for label, policy in LOOPS.items()})
            ax.set_yscale("log" if name != "trace_ratio" else "linear")
        row[0].set_ylabel(words)
    axes[0, 0].set(title="unbiased sampling", xlabel="")
    axes[0, 1].set(title="sampling with 0.9 of the variance", xlabel="")
    legend(axes[0, 0])
    return figure


PUBLISHED = Published(
    "Three self-consuming loops: a Gaussian, n = 100",
    "arXiv 2307.01850, three autophagous loops and sampling bias",
    ("configs/papers/self_consuming_loops/gaussian.yaml",),
    claims,
    draw,
    absent=(absent("StyleGAN2 on FFHQ and DDPM on MNIST: FID, precision and recall of the three loops",
                   "needs GPU-days; the loops are configs away: configs/diffusion/mnist_ddpm.yaml"),),
)  # fmt: skip
