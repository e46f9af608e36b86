"""Do synthetic rows help beside real ones? Heat maps of the one-shot mixes of ``configs/strategies/mix_*.yaml``.

``python experiments/one_shot_mix.py [DIR ...] [--out results/one_shot_mix.png]``

Each DIR is the results folder of such a config (default: all five under ``results``; ``collapse-jax run`` makes them).
A cell is the risk of a fit to R real and S synthetic rows over that of the R real rows alone (of a test loss, which is
not 0 at the truth, the difference, in thousandths): blue where the synthetic rows help. For the Gaussian the exact
ratios stand beside.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import collapse_jax as cj
from collapse_jax.theory import fit_moments

KINDS = ("mix_gaussian", "mix_linear_regression", "mix_kde", "mix_language_model", "mix_diffusion")
FOLDERS = [Path("results") / name for name in KINDS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="*", default=FOLDERS)
    parser.add_argument("--out", type=Path, default=Path("results/one_shot_mix.png"))
    arguments = parser.parse_args()
    runs = [cj.open(folder) for folder in arguments.folders]
    columns = [(ds.attrs["setting"], relative(ds), ds) for ds in runs]
    exact = [("gaussian, exact", closed_form(ds), ds) for ds in runs if ds.attrs["setting"] == "gaussian"]
    columns = columns[:1] + exact + columns[1:]
    figure = Figure(figsize=(4.3 * len(columns), 6.4), layout="constrained")
    panels = figure.subplots(2, len(columns), squeeze=False)
    for column, (name, cells, ds) in zip(panels.T, columns, strict=True):
        for ax, cell, kind in zip(column, cells, ("nested", "others"), strict=True):
            show(ax, cell, ds, is_loss(ds))
            ax.set_title(f"{name}: real rows {'of the generator' if kind == 'nested' else 'of their own'}", fontsize=9)
        print(name, cells.round(3).tolist())
    figure.savefig(arguments.out, dpi=150)
    print(f"picture: {arguments.out}")


def is_loss(ds: xr.Dataset) -> bool:
    """Whether the risk is one of which differences count."""
    (risk,) = ds.data_vars.values()
    return str(risk.attrs["role"]) == "risk"


def relative(ds: xr.Dataset) -> np.ndarray:
    """``[policy, real, synthetic]``: mean risk of fit 2 over that without synthetic rows, or the difference."""
    (name,) = ds.data_vars
    mean = ds[name].sel(generation=2).mean("chain").transpose("policy", "real", "synthetic").to_numpy().astype(float)
    return 1000 * (mean - mean[..., :1]) if is_loss(ds) else mean / mean[..., :1]


def closed_form(ds: xr.Dataset) -> np.ndarray:
    """The same, exact, of a Gaussian's mean."""
    n, real, synthetic = (
        yaml.safe_load(ds.attrs["config"])["num_samples"],
        ds["real"].to_numpy(),
        ds["synthetic"].to_numpy(),
    )
    made = [{"kind": "mix", "nested": nested} for nested in (True, False)]
    square = lambda p, r, s: fit_moments({**p, "real": int(r), "synthetic": int(s)}, n, 2).square[1]  # noqa: E731
    mean = np.array([[[square(p, r, s) for s in synthetic] for r in real] for p in made])
    return mean / mean[..., :1]


def show(ax: Axes, cells: np.ndarray, ds: xr.Dataset, differences: bool) -> None:
    """A heat map whose white is no effect."""
    effect = np.sign(cells) * np.log1p(np.abs(cells)) if differences else np.log2(cells)  # small ones show, too
    most = np.abs(effect).max() or 1.0
    ax.imshow(effect, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", origin="lower")
    for (i, j), value in np.ndenumerate(cells):
        words = f"{value:+.0f}" if differences else f"{value:.2f}"
        ink = "white" if abs(effect[i, j]) > 0.65 * most else "black"
        ax.text(j, i, words, ha="center", va="center", fontsize=8, color=ink)
    ax.set_xticks(range(ds.sizes["synthetic"]), ds["synthetic"].to_numpy())
    ax.set_yticks(range(ds.sizes["real"]), ds["real"].to_numpy())
    ax.set_xlabel("synthetic rows S")
    ax.set_ylabel("real rows R")


if __name__ == "__main__":
    main()
