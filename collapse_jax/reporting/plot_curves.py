"""The picture of a run: each metric against generation, mean over chains with a 95% band, and the exact one dashed."""

import io
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from collapse_jax import results as results
from collapse_jax.analysis.predictions import Lines
from collapse_jax.core.errors import UsageError
from collapse_jax.numerics.confidence_intervals import median_interval
from collapse_jax.reporting.figures import save_figure
from collapse_jax.reporting.plot_grid import THEORY, draw_grid, legend
from collapse_jax.results import store
from collapse_jax.results.summary import curve_positions, select_position
from collapse_jax.results.variables import select_scalars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision; its yellow is left out, too pale on white
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
MOST_CURVES = 12  # in a panel; a larger grid has a picture of its own
_RESAMPLES = 400
LONG = 500  # generations from which the first ones need a logarithmic axis to be seen


class Curve(NamedTuple):
    """One line and its band, ``[generation]`` each; `lost` chains had a value somewhere that cannot be averaged."""

    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray
    lost: int


def plot(ds: xr.Dataset, path: Path | str) -> Path:
    """Draws `ds` into a picture file: one panel a metric, one colour a policy.

    Args:
      ds: what ``sweep`` returned.
      path: of the picture; its suffix chooses the format.

    Returns:
      The path.

    Raises:
      UsageError: a suffix that matplotlib cannot write, or a dataset without a metric that is one number a generation.
    """
    return save_figure(draw(ds), path)


def plot_into(ds: xr.Dataset, out: Any) -> str:
    """Draws `ds` into a results folder, or a bucket (extra ``cloud``); returns where the picture is."""
    if not store.is_bucket(out):
        return str(plot(ds, Path(out) / results.PICTURE))
    data = io.BytesIO()
    draw(ds).savefig(data, dpi=150, format="png")
    store.put_object(out, results.PICTURE, data.getvalue())
    return str(store.join_path(out, results.PICTURE))


def draw(ds: xr.Dataset) -> "Figure":
    """The figure that `plot` saves."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    labels, ds = curve_positions(ds), select_scalars(ds)
    names = [str(name) for name in ds.data_vars]
    if not names:
        raise UsageError("nothing to plot: no metric here is one number a generation")
    if len(labels) > MOST_CURVES:
        return draw_grid(ds)
    width = min(len(names), min((3, 4), key=lambda columns: -len(names) % columns))  # fewest empty panels
    height = math.ceil(len(names) / width)
    figure = Figure(figsize=(max(4.2 * width, 5.5), 3.1 * height + 1.2), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False).ravel()
    draws = resamples(ds.sizes["chain"])
    drawn, lines = styles(labels), Lines(ds)
    for ax, name in zip(axes, names, strict=False):
        curves = {label: curve(ds[name], position, draws) for label, position in labels.items()}
        _panel(ax, ds["generation"].to_numpy(), curves, drawn, ds[name].attrs, ds.sizes["chain"])
        in_logs = ds[name].attrs.get("summary") == "median"
        for expected in (lines.at(name, position, in_logs=in_logs) for position in labels.values()):
            if expected is not None:
                ax.plot(ds["generation"].to_numpy(), expected, **THEORY)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    _frame(figure, ds, axes[0])
    return figure


def resamples(num_chains: int) -> np.ndarray:
    """How often each chain is in each resample, ``[resample, chain]``: the same ones for every metric and policy."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(num_chains, size=num_chains) for _ in range(_RESAMPLES))
    return np.stack([np.bincount(draw, minlength=num_chains) for draw in draws]).astype(np.float32)


def curve(values: xr.DataArray, position: dict[str, int], draws: np.ndarray) -> Curve:
    """A metric along the generations at one position of ``results.columns``; `draws` are those of ``resamples``."""
    rows = select_position(values, position).transpose("chain", "generation").to_numpy().astype(float)
    if values.attrs.get("summary") == "median":
        centre, low, high = np.transpose([median_interval(column) for column in rows.T])
        return Curve(centre, low, high, int(np.isnan(rows).any(1).sum()))
    return Curve(*_mean_band(rows, draws), int((~np.isfinite(rows)).any(1).sum()))


def _mean_band(rows: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the finite values of ``[chain, generation]`` and its 95% percentile bootstrap, chains resampled."""
    finite = np.isfinite(rows)
    values = np.where(finite, rows, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where no value is finite: NaN, which is not drawn
        mean = values.sum(0) / finite.sum(0)
        means = (draws @ values) / (draws @ finite)
        low, high = np.quantile(means, [0.025, 0.975], axis=0) if len(rows) > 1 else (mean * np.nan, mean * np.nan)
    return mean, low, high


def styles(labels: dict[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    """One colour a policy, or a point of the swept grid where there is one policy; else these differ by line style."""
    seen: dict[int, int] = {}
    found = {}
    alone = len({position.get("policy", 0) for position in labels.values()}) == 1
    for label, position in labels.items():
        policy = position.get("policy", 0)
        nth = seen[policy] = seen.get(policy, -1) + 1
        colour, other = (nth, nth // len(COLOURS)) if alone else (policy, nth + policy // len(COLOURS))
        found[label] = {"color": COLOURS[colour % len(COLOURS)], "linestyle": STYLES[other % len(STYLES)]}
    return found


def _panel(
    ax: "Axes",
    generations: np.ndarray,
    curves: dict[str, Curve],
    styles: dict[str, dict[str, Any]],
    attrs: dict[str, Any],
    num_chains: int,
) -> None:
    for label, curve in curves.items():
        alone: dict[str, Any] = {"marker": "o", "markersize": 4} if len(generations) == 1 else {}
        shown = np.where(np.isfinite(curve.centre), curve.centre, np.nan)
        ax.plot(generations, shown, label=label, linewidth=1.6, **styles[label], **alone)
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
    _tell_lost(ax, curves, num_chains)


def _tell_lost(ax: "Axes", curves: dict[str, Curve], num_chains: int) -> None:
    """Says in the panel whose chains have values that are not shown."""
    lines = [f"{label}: {c.lost:,} of {num_chains:,} chains" for label, c in curves.items() if c.lost]
    if lines:
        text = "not finite, left out:\n" + "\n".join(lines)
        paper = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
        ax.text(0.02, 0.03, text, transform=ax.transAxes, fontsize=7, color="0.3", va="bottom", bbox=paper)


def _frame(figure: "Figure", ds: xr.Dataset, ax: "Axes") -> None:
    """The title, and one legend for all panels."""
    attrs, chains = ds.attrs, ds.sizes["chain"]
    words = [str(attrs["setting"])] if "setting" in attrs else []
    words += [f"n = {attrs['num_samples']:,}"] if isinstance(attrs.get("num_samples"), int) else []
    words += [f"mean over {chains:,} chains, 95% band" if chains > 1 else "one chain"]
    figure.suptitle(" · ".join(words), fontsize=12)
    handles, _ = ax.get_legend_handles_labels()
    legend(figure, handles, most=4, fontsize=9)
