"""Kernel density estimates under three workflows (arXiv 2410.16713)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.published import Claim, Published, at_least, at_most, legend, lines, mean, over, panels, values

POINT = {"source": "moons", "num_samples": 100}


def claims(ds: xr.Dataset) -> list[Claim]:
    """Compare logarithms with what was published, since losses have heavy tails."""

    def log_loss(policy: str, bandwidth: float, generation: int = -1) -> np.ndarray:
        return np.log(values(ds, "test_nll", generation, policy=policy, bandwidth=bandwidth, **POINT))

    late = {policy: log_loss(policy, 0.5) - log_loss(policy, 0.5, 49) for policy in ("replace", "accumulate")}
    subsample = log_loss("accumulate_subsample", 0.1)
    return [
        Claim("replace: the test loss goes on rising (log of its ratio, fit 100 over fit 50)", at_least(0),
              mean(late["replace"])),
        Claim("accumulate: it does not diverge (the same)", at_most(0.1), mean(late["accumulate"])),
        Claim("accumulate_subsample: worse than accumulate (log of the ratio, bandwidth 0.1)", at_least(0),
              mean(subsample - log_loss("accumulate", 0.1))),
        Claim("accumulate_subsample: better than replace (the same)", at_least(0),
              mean(log_loss("replace", 0.1) - subsample)),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    policies, bandwidths = ds["policy"].to_numpy().tolist(), (0.1, 0.5)
    figure, axes = panels(len(policies), 2, (3.3, 2.5), sharex=True, sharey="row")
    for row, bandwidth in zip(axes, bandwidths, strict=True):
        for ax, policy in zip(row, policies, strict=True):
            point = {"policy": policy, "source": "moons", "bandwidth": bandwidth}
            lines(ax, ds, "test_nll", over(ds, "num_samples", "n = {}", **point))
        row[0].set_ylabel(f"test loss, nats a row\n(bandwidth {bandwidth})")
        row[0].set_yscale("log")
    for ax, policy in zip(axes[0], policies, strict=True):
        ax.set(title=policy, xlabel="")
    legend(axes[1, 1])
    return figure


PUBLISHED = Published(
    "Kernel density estimates of the moons under three workflows",
    "arXiv 2410.16713, kernel density estimation",
    ("configs/papers/collapse_or_thrive/kde.yaml",),
    claims,
    draw,
    small=(
        (
            "--sweep.product.setting.source=[moons]",
            "--sweep.product.setting.bandwidth=[0.1, 0.5]",
            "--sweep.product.num_samples=[10, 100, 1000]",
        ),
    ),
)
