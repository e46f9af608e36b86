"""Draw a run: each metric against the generation, its mean over chains with its interval, and the exact mean dashed."""

import io
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from collapse_jax import results
from collapse_jax.core.errors import UsageError
from collapse_jax.numerics.confidence_intervals import (
    MIN_CHAINS,
    mean_band,
    median_interval,
    name_interval,
    range_interval,
)
from collapse_jax.reporting.figures import save_figure
from collapse_jax.reporting.plot_grid import THEORY, draw_grid, draw_legend
from collapse_jax.results import store
from collapse_jax.results.summary import curve_positions, select_position
from collapse_jax.results.theory_variables import exact_line
from collapse_jax.results.variables import select_scalars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which any colour vision can tell apart, without its yellow, too pale on white
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
MAX_CURVES = 12  # in a panel; a larger grid has a picture of its own
LONG = 500  # generations; in longer runs the first ones need a logarithmic axis to be seen


class Curve(NamedTuple):
    """One line of a picture and its band.

    Attributes:
      centre: ``[generation]``, the line.
      low: ``[generation]``, the lower end of the band.
      high: ``[generation]``, the upper end of the band.
      lost: the number of chains with a value that cannot be averaged.
    """

    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray
    lost: int


def plot_curves(ds: xr.Dataset, path: Path | str) -> Path:
    """Draw a run into a picture file: a panel for each metric, a colour for each policy.

    Args:
      ds: a dataset that ``sweep``, ``run`` or ``open`` returned.
      path: the picture to write; its suffix chooses the format.

    Returns:
      The path.

    Raises:
      UsageError: matplotlib cannot write the suffix, or no metric is one number a generation.
    """
    return save_figure(draw_curves(ds), path)


def write_curves(ds: xr.Dataset, out: Any) -> str:
    """Draw a run into its results folder, or a bucket (extra ``cloud``), and return the path of the picture."""
    if not store.is_bucket(out):
        return str(plot_curves(ds, Path(out) / results.PICTURE))
    data = io.BytesIO()
    draw_curves(ds).savefig(data, dpi=150, format="png")
    store.put_object(out, results.PICTURE, data.getvalue())
    return str(store.join_path(out, results.PICTURE))


def draw_curves(ds: xr.Dataset) -> "Figure":
    """Return the figure that ``plot_curves`` saves.

    Raises:
      UsageError: no metric is one number a generation.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    labels, whole, ds = curve_positions(ds), ds, select_scalars(ds)
    names = [str(name) for name in ds.data_vars]
    if not names:
        raise UsageError("there is nothing to plot: no metric is one number a generation")
    if len(labels) > MAX_CURVES:
        return draw_grid(whole)
    columns = min(len(names), min((3, 4), key=lambda columns: -len(names) % columns))  # fewest empty panels
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(4.2 * columns, 5.5), 3.1 * rows + 1.2), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    styles = choose_styles(labels)
    for ax, name in zip(axes, names, strict=False):
        curves = {label: summarize_curve(ds[name], position) for label, position in labels.items()}
        _draw_panel(ax, ds["generation"].to_numpy(), curves, styles, ds[name].attrs, ds.sizes["chain"])
        is_median = ds[name].attrs.get("summary") == "median"
        for position in labels.values():
            if (expected := exact_line(whole, name, position, follows_median=is_median)) is not None:
                ax.plot(ds["generation"].to_numpy(), expected, **THEORY)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    _add_title_and_legend(figure, ds, axes[0])
    return figure


def summarize_curve(values: xr.DataArray, position: dict[str, int]) -> Curve:
    """Summarize a metric over chains along the generations, with 95% intervals, or the range of fewer than 6 chains.

    The line is the mean over finite values; a metric with the attribute ``summary="median"`` has its median.

    Args:
      values: the metric.
      position: the position of the curve, as ``curve_positions`` gives it.
    """
    rows = select_position(values, position).transpose("chain", "generation").to_numpy().astype(float)
    finite, few = np.isfinite(rows), len(rows) < MIN_CHAINS
    if values.attrs.get("summary") == "median":
        interval = range_interval if few else median_interval
        centre, low, high = np.transpose([interval(column) for column in rows.T])
        return Curve(centre, low, high, int(np.isnan(rows).any(1).sum()))
    centre, low, high = mean_band(rows)
    if few and len(rows) > 1:
        low, high = np.where(finite, rows, np.inf).min(0), np.where(finite, rows, -np.inf).max(0)
    return Curve(centre, low, high, int((~finite).any(1).sum()))


def choose_styles(labels: dict[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    """Return the colour and line style of each curve.

    Policies differ by colour, and the points of a grid by line style; under one policy the points differ by colour.
    """
    counts: dict[int, int] = {}
    styles = {}
    one_policy = len({position.get("policy", 0) for position in labels.values()}) == 1
    for label, position in labels.items():
        policy = position.get("policy", 0)
        nth = counts[policy] = counts.get(policy, -1) + 1
        colour, other = (nth, nth // len(COLOURS)) if one_policy else (policy, nth + policy // len(COLOURS))
        styles[label] = {"color": COLOURS[colour % len(COLOURS)], "linestyle": STYLES[other % len(STYLES)]}
    return styles


def _draw_panel(
    ax: "Axes",
    generations: np.ndarray,
    curves: dict[str, Curve],
    styles: dict[str, dict[str, Any]],
    attrs: dict[str, Any],
    num_chains: int,
) -> None:
    for label, curve in curves.items():
        marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(generations) == 1 else {}
        finite = np.where(np.isfinite(curve.centre), curve.centre, np.nan)
        ax.plot(generations, finite, label=label, linewidth=1.6, **styles[label], **marker)
        band = np.isfinite(curve.low) & np.isfinite(curve.high)
        colour = styles[label]["color"]
        ax.fill_between(generations, curve.low, curve.high, where=band, color=colour, alpha=0.22, linewidth=0)
    centres = np.concatenate([curve.centre for curve in curves.values()])
    centres = centres[np.isfinite(centres)]
    if attrs.get("scale") == "log" and len(centres) and (centres > 0).all():
        ax.set_yscale("log")
    if len(generations) >= LONG:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:,.0f}")
    else:
        ax.locator_params(axis="x", integer=True)
    units, title = (str(attrs.get(key, "")).replace("^2", "²") for key in ("units", "long_name"))
    ax.set_title("\n".join(textwrap.wrap(title, 44)), fontsize=10)
    ax.set_ylabel("" if units in ("", "1") else units, fontsize=9)
    ax.set_xlabel("generation", fontsize=9)
    ax.tick_params(which="both", labelsize=8)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    _note_lost_chains(ax, curves, num_chains)


def _note_lost_chains(ax: "Axes", curves: dict[str, Curve], num_chains: int) -> None:
    """Note in the panel how many chains have values that are left out."""
    lines = [f"{label}: {c.lost:,} of {num_chains:,} chains" for label, c in curves.items() if c.lost]
    if lines:
        text = "left out, not finite:\n" + "\n".join(lines)
        background = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
        ax.text(0.02, 0.03, text, transform=ax.transAxes, fontsize=7, color="0.3", va="bottom", bbox=background)


def _add_title_and_legend(figure: "Figure", ds: xr.Dataset, ax: "Axes") -> None:
    """Add the title, and one legend for all panels."""
    attrs, chains = ds.attrs, ds.sizes["chain"]
    title = [str(attrs["setting"])] if "setting" in attrs else []
    title += [f"n = {attrs['num_samples']:,}"] if isinstance(attrs.get("num_samples"), int) else []
    title += [f"mean over {chains:,} chains, {name_interval(chains)}" if chains > 1 else "one chain"]
    figure.suptitle(" · ".join(title), fontsize=12)
    handles, _ = ax.get_legend_handles_labels()
    draw_legend(figure, handles, max_columns=4, fontsize=9)
