"""The best weight of new real rows (arXiv 2502.18049)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.theory.gaussian import golden_ratio_error
from experiments.published import Claim, Published, at_most, legend, mean, number, panels

N, BEST = 100, (np.sqrt(5) - 1) / 2


def errors(ds: xr.Dataset) -> xr.DataArray:
    """Squared error of the mean times n, over generations 31 to 50: ``[weight, chain]``."""
    return N * ds.squared_error_of_mean.isel(policy=0).sel(generation=slice(31, None)).mean("generation")


def claims(ds: xr.Dataset) -> list[Claim]:
    error = errors(ds)
    best = error.sel(weight=0.618, method="nearest")
    beside = lambda weight: mean(best - error.sel(weight=weight, method="nearest"))  # noqa: E731
    return [
        Claim("n MSE at the best weight is that weight, (sqrt 5 - 1) / 2", number(BEST), mean(best)),
        Claim("n MSE of pooling, weight 1/2", number(2 / 3), mean(error.sel(weight=0.5))),
        Claim("n MSE at 0.618 less that at 0.5, the same random numbers", at_most(0), beside(0.5)),
        Claim("n MSE at 0.618 less that at 0.7, the same random numbers", at_most(0), beside(0.7)),
    ]


def draw(ds: xr.Dataset) -> Figure:
    figure, axes = panels(1, size=(5.2, 3.4))
    ax, error, w = axes[0, 0], errors(ds), np.linspace(0.28, 0.92, 200)
    found = np.array([mean(error.isel(weight=i)) for i in range(error.sizes["weight"])])
    bars = np.abs(found[:, 1:] - found[:, :1]).T
    ax.errorbar(
        ds.weight,
        found[:, 0],
        bars,
        fmt="o",
        color="#D55E00",
        markersize=4,
        capsize=3,
        label="measured",
    )
    ax.plot(w, (w**2 + (1 - w) ** 2) / (w * (2 - w)), color="#0072B2", label="published")
    ax.plot(w, golden_ratio_error(w, N, N), "k--", linewidth=0.9, label="exact, n = 100")
    ax.axvline(BEST, color="0.6", linestyle=":", label="golden ratio, 0.618")
    ax.set(xlabel="weight of new real rows", ylabel="n x squared error of the mean")
    legend(ax)
    return figure


PUBLISHED = Published(
    "The golden ratio: the best weight of as many new real rows as synthetic ones",
    "arXiv 2502.18049, Gaussian mean",
    ("configs/papers/golden_ratio/gaussian.yaml",),
    claims,
    draw,
)
