"""Multivariate Gaussians under three workflows (arXiv 2410.16713)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.published import Claim, Published, at_least, at_most, legend, lines, mean, number, over, panels, values

DIM = 10


def claims(ds: xr.Dataset) -> list[Claim]:
    few = {"dim": DIM, "num_samples": 10}
    limit = np.pi / np.sqrt(10)
    error = lambda policy: values(ds, "squared_error_of_mean", policy=policy, **few)  # noqa: E731
    between = error("accumulate_subsample") - error("accumulate"), error("replace") - error("accumulate_subsample")
    return [
        Claim("replace, n = 10: the variance dies (mean log of the trace ratio at T = 100)", at_most(np.log(0.01)),
              mean(values(ds, "log_trace_ratio", policy="replace", **few))),
        Claim("accumulate, n = 10: the variance tends to sin(pi / sqrt n) / (pi / sqrt n) of the truth's",
              number(np.sin(limit) / limit), mean(values(ds, "trace_ratio", policy="accumulate", **few))),
        Claim("accumulate_subsample, n = 10: worse than accumulate (rise of the mean's squared error)", at_least(0),
              mean(between[0])),
        Claim("accumulate_subsample, n = 10: better than replace (fall of the same)", at_least(0), mean(between[1])),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    policies = ds["policy"].to_numpy().tolist()
    figure, axes = panels(len(policies), 2, (3.3, 2.5), sharex=True, sharey="row")
    shown = {"squared_error_of_mean": "squared error of the mean", "trace_ratio": "trace ratio"}
    for row, (name, words) in zip(axes, shown.items(), strict=True):
        for ax, policy in zip(row, policies, strict=True):
            lines(ax, ds, name, over(ds, "num_samples", "n = {}", policy=policy, dim=DIM))
        row[0].set_ylabel(words)
    for ax, policy in zip(axes[0], policies, strict=True):
        ax.set(title=policy, xlabel="", yscale="log")
    legend(axes[1, 1])
    return figure


PUBLISHED = Published(
    "Multivariate Gaussians under three workflows, d = 10",
    "arXiv 2410.16713, multivariate Gaussian modelling",
    ("configs/papers/collapse_or_thrive/gaussian.yaml",),
    claims,
    draw,
    small=((f"--sweep.product.setting.dim=[{DIM}]", "--sweep.product.num_samples=[10, 100, 1000]"),),
)
