"""Draw a sweep over a grid: columns are policies, colours the last axis, line styles the axis before it."""

import itertools
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from collapse_jax.results.theory_variables import exact_line
from collapse_jax.results.variables import select_scalars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":")
_MAX_ROWS = 12
THEORY: dict[str, Any] = {"color": "black", "linestyle": (0, (3, 5)), "linewidth": 0.9, "zorder": 3, "label": "_theory"}


def draw_grid(ds: xr.Dataset) -> "Figure":
    """Draw medians over chains: a row of panels for each metric and each point of the axes before the last two.

    Dashed lines are exact means of logarithms, which medians follow; medians of other metrics need not follow theirs.
    Rows of panels beyond the twelfth are left out, and the title says so.
    """
    from matplotlib.figure import Figure

    whole, ds = ds, select_scalars(ds)
    dims = [str(d) for d in next(iter(ds.data_vars.values())).dims]
    axes = [d for d in dims if d not in ("policy", "chain", "generation")]
    points = itertools.product(*(range(ds.sizes[axis]) for axis in axes[:-2]))
    rows = [(str(name), dict(zip(axes[:-2], point, strict=True))) for point in points for name in ds.data_vars]
    left_out, rows = len(rows) - _MAX_ROWS, rows[:_MAX_ROWS]
    policies = [str(p) for p in ds["policy"].to_numpy()]
    figure = Figure(figsize=(3.6 * len(policies) + 1.2, 2.4 * len(rows) + 1.8), layout="constrained")
    panels = figure.subplots(len(rows), len(policies), squeeze=False, sharex=True, sharey="row")
    for row, (name, point) in zip(panels, rows, strict=True):
        medians = ds[name].isel(point).median("chain").transpose("policy", *axes[-2:], "generation")
        for number, (ax, values) in enumerate(zip(row, medians.to_numpy(), strict=True)):
            _draw_panel(ax, ds["generation"].to_numpy(), values.reshape(-1, *values.shape[-2:]))
            for index in np.ndindex(values.shape[:-1]):
                position = {"policy": number, **point, **dict(zip(axes[-2:], index, strict=True))}
                if (expected := exact_line(whole, name, position, follows_median=True)) is not None:
                    ax.plot(ds["generation"].to_numpy(), expected, **THEORY)
        _set_scale(row[0], medians.to_numpy(), ds[name].attrs)
        row[0].set_ylabel(_make_label(ds, name, point), fontsize=8)
    for ax, policy in zip(panels[0], policies, strict=True):
        ax.set_title(policy, fontsize=10)
    for ax in panels[-1]:
        ax.set_xlabel("generation", fontsize=9)
    _add_legend(figure, ds, axes[-2:])
    title = f"{ds.attrs.get('setting', '')} · median over {ds.sizes['chain']:,} chains"
    figure.suptitle(title + (f" · {left_out} rows of panels left out" if left_out > 0 else ""), fontsize=12)
    return figure


def _draw_panel(ax: "Axes", generations: np.ndarray, values: np.ndarray) -> None:
    """Draw the lines of ``[style, colour, generation]``."""
    for i, lines in enumerate(np.where(np.isfinite(values), values, np.nan)):
        for colour, line in zip(_choose_colours(len(lines)), lines, strict=True):
            ax.plot(generations, line, color=colour, alpha=0.9, **_line_style(i))
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(which="both", labelsize=7)


def _set_scale(ax: "Axes", values: np.ndarray, attrs: dict[str, Any]) -> None:
    finite = values[np.isfinite(values)]
    if attrs.get("scale") == "log" and len(finite):
        ax.set_yscale("log") if (finite > 0).all() else ax.set_yscale("symlog", linthresh=1.0)


def _line_style(i: int) -> dict[str, Any]:
    return {"linestyle": _STYLES[i % 4], "linewidth": 1.0 + i // 4}


def _choose_colours(number: int) -> np.ndarray:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.88, number))


def _make_label(ds: xr.Dataset, name: str, point: dict[str, int]) -> str:
    attrs = ds[name].attrs
    lines = textwrap.wrap(str(attrs.get("long_name", name)), 30)
    lines += [f"({attrs['units']})"] if attrs.get("units", "1") not in ("", "1") else []
    return "\n".join([*(f"{axis} = {ds[axis].to_numpy()[i]}" for axis, i in point.items()), *lines])


def _add_legend(figure: "Figure", ds: xr.Dataset, axes: list[str]) -> None:
    from matplotlib.lines import Line2D

    *other, last = axes
    values = ds[last].to_numpy()
    colours = _choose_colours(len(values))
    handles = [Line2D([], [], color=c, label=f"{last} = {v}") for c, v in zip(colours, values, strict=True)]
    for axis in other:
        for i, value in enumerate(ds[axis].to_numpy()):
            handles.append(Line2D([], [], color="0.3", label=f"{axis} = {value}", **_line_style(i)))
    draw_legend(figure, handles, max_columns=5, fontsize=8)


def draw_legend(figure: "Figure", handles: list[Any], max_columns: int, fontsize: int) -> None:
    """Draw one legend for all panels, in as many columns as fit, with an entry for lines of theory if there are any."""
    from matplotlib.lines import Line2D

    if any(line.get_label() == THEORY["label"] for ax in figure.axes for line in ax.lines):
        handles = [*handles, Line2D([], [], **{**THEORY, "label": "exact mean (theory)"})]
    entry_inches = fontsize / 120 * (8 + max(len(handle.get_label()) for handle in handles))
    ncols = max(1, min(max_columns, len(handles), int(figure.get_figwidth() / entry_inches)))
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=fontsize)
