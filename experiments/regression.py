"""Linear regression under three workflows (arXiv 2410.16713)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.published import Claim, Published, at_least, at_most, legend, lines, mean, number, over, panels, values

POINT = {"dim": 10, "noise_variance": 1.0}


def claims(ds: xr.Dataset) -> list[Claim]:
    def risk(policy: str, generation: int = -1) -> np.ndarray:
        return values(ds, "log_excess_mse", generation, policy=policy, num_samples=100, **POINT)

    last = ds.sizes["generation"]
    return [
        Claim(f"replace: the risk grows as t (log of its ratio, fit {last} over fit 1)", number(float(np.log(last))),
              mean(risk("replace") - risk("replace", 0))),
        Claim(f"accumulate: it levels off (log of its ratio, fit {last} over fit {last // 2})", at_most(0.05),
              mean(risk("accumulate") - risk("accumulate", last // 2 - 1))),
        Claim("accumulate_subsample: worse than accumulate (log of the ratio)", at_least(0),
              mean(risk("accumulate_subsample") - risk("accumulate"))),
        Claim("accumulate_subsample: better than replace (log of the ratio)", at_least(0),
              mean(risk("replace") - risk("accumulate_subsample"))),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    policies = ds["policy"].to_numpy().tolist()
    figure, axes = panels(len(policies), sharey=True)
    for ax, policy in zip(axes[0], policies, strict=True):
        lines(ax, ds, "log_excess_mse", over(ds, "num_samples", "n = {}", policy=policy, **POINT))
        ax.set_title(policy)
    axes[0, 0].set_ylabel("mean log excess risk")
    legend(axes[0, 1])
    return figure


PUBLISHED = Published(
    "Linear regression on its own labels under three workflows, d = 10, noise variance 1",
    "arXiv 2410.16713, linear regression",
    ("configs/papers/collapse_or_thrive/regression.yaml",),
    claims,
    draw,
    small=(
        (
            "--sweep.product.setting.dim=[10]",
            "--sweep.product.setting.noise_variance=[1.0]",
            "--sweep.product.num_samples=[32, 100, 1000]",
        ),
    ),
)
