"""The risk of least squares on its own labels, and the bound pi^2 / 6 (arXiv 2404.01413)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.theory.regression import first_risk
from experiments.published import Claim, Published, legend, lines, mean, number, panels, ratio, values

N, DIM, NOISE = 100, 10, 1.0


def claims(ds: xr.Dataset) -> list[Claim]:
    first, last = first_risk(N, DIM, NOISE), ds.sizes["generation"]
    total = float((1 / np.arange(1, last + 1) ** 2).sum())
    risk = lambda policy, generation: values(ds, "excess_mse", generation, policy=policy)  # noqa: E731
    return [
        Claim("excess risk of the first fit: sigma^2 d / (n - d - 1)", number(first), mean(risk("replace", 0))),
        Claim(f"replace: {last} times that at fit {last}", number(first * last), mean(risk("replace", -1))),
        Claim(f"accumulate: the sum of 1 / t^2 times it at fit {last}, below pi^2 / 6 = 1.645", number(total),
              ratio(risk("accumulate", -1), risk("accumulate", 0))),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    figure, axes = panels(1, size=(5.2, 3.4))
    ax = axes[0, 0]
    lines(ax, ds, "excess_mse", {policy: {"policy": policy} for policy in ("replace", "accumulate")})
    ax.axhline(np.pi**2 / 6 * first_risk(N, DIM, NOISE), color="0.6", linestyle=":", label="pi²/6 times the first")
    ax.set(yscale="log", ylabel="mean excess risk")
    legend(ax)
    return figure


PUBLISHED = Published(
    "Linear regression on its own labels: growth without end, or at most pi²/6",
    "arXiv 2404.01413, theorem 1 (linear regression)",
    ("configs/papers/accumulate_regression/linear.yaml",),
    claims,
    draw,
)
