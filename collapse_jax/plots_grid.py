"""The picture of a sweep over a grid: rows are metrics, columns policies, colours the last axis."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":")
_MOST_ROWS = 8


def draw_grid(ds: xr.Dataset) -> "Figure":
    """Medians over chains; line styles (and, beyond four points, shades) tell the other axes apart."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = [str(name) for name in ds.data_vars][:_MOST_ROWS]
    axes = [str(d) for d in ds[names[0]].dims if d not in ("policy", "chain", "generation")]
    policies = [str(p) for p in ds["policy"].to_numpy()]
    figure = Figure(figsize=(3.6 * len(policies) + 1.2, 2.4 * len(names) + 1.6), layout="constrained")
    panels = figure.subplots(len(names), len(policies), squeeze=False, sharex=True, sharey="row")
    colours = colormaps["viridis"](np.linspace(0, 0.88, ds.sizes[axes[-1]]))
    generations = ds["generation"].to_numpy()
    for row, name in zip(panels, names, strict=True):
        medians = ds[name].median("chain").transpose("policy", *axes, "generation").to_numpy()
        medians = np.where(np.isfinite(medians), medians, np.nan)
        for ax, policy, values in zip(row, policies, medians, strict=True):
            flat = values.reshape(-1, values.shape[-2], values.shape[-1])  # [others, last axis, generation]
            for i, lines in enumerate(flat):
                for colour, line in zip(colours, lines, strict=True):
                    ax.plot(generations, line, color=colour, linestyle=_STYLES[i % 4], linewidth=1.0, alpha=0.9)
            if ds[name].attrs.get("scale") == "log" and not (medians <= 0).any():
                ax.set_yscale("log")
            ax.set_title(policy if name == names[0] else "", fontsize=10)
            ax.grid(alpha=0.25, linewidth=0.6)
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(which="both", labelsize=7)
        units = str(ds[name].attrs.get("units", ""))
        label = "\n".join(textwrap.wrap(str(ds[name].attrs.get("long_name", name)), 30))
        row[0].set_ylabel(label + (f"\n({units})" if units not in ("", "1") else ""), fontsize=8)
    for ax in panels[-1]:
        ax.set_xlabel("generation", fontsize=9)
    _legend(figure, ds, axes, colours)
    return figure


def _legend(figure: "Figure", ds: xr.Dataset, axes: list[str], colours: np.ndarray) -> None:
    from matplotlib.lines import Line2D

    values = ds[axes[-1]].to_numpy()
    handles = [Line2D([], [], color=c, label=f"{axes[-1]} = {v}") for c, v in zip(colours, values, strict=True)]
    others = np.array(np.meshgrid(*(ds[a].to_numpy().astype(str) for a in axes[:-1]), indexing="ij"))
    points: list = others.reshape(len(axes) - 1, -1).T.tolist() if len(axes) > 1 else []
    for i, point in enumerate(points[:4]):
        later = [", ".join(p) for p in points[i + 4 :: 4]]
        words = ", ".join(f"{a} = {v}" for a, v in zip(axes[:-1], point, strict=True))
        handles.append(Line2D([], [], color="0.3", linestyle=_STYLES[i], label=" / ".join([words, *later])))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=8)
    chains = ds.sizes["chain"]
    figure.suptitle(f"{ds.attrs.get('setting', '')} · median over {chains:,} chains", fontsize=12)
