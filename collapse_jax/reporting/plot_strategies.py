"""Draw the picture of several strategies: risk above, the share of the diversity that is kept below."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from collapse_jax.analysis.strategies import Strategy, score_strategies
from collapse_jax.reporting.figures import save_figure

# The palette of Okabe and Ito, which any colour vision can tell apart, and two more
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B5A2B", "#999999")


_MARKERS = "osD^vPX*<>"


def plot_strategies(datasets: Sequence[xr.Dataset], path: Path | str) -> Path:
    """Draw all strategies into a picture file: risk against the real rows used, and against the diversity kept.

    Each dataset has a column of panels. A line joins the strategies whose risk no other reaches with as few real rows.

    Args:
      datasets: datasets that carry their config.
      path: the picture to write; its suffix chooses the format.

    Returns:
      The path.

    Raises:
      UsageError: matplotlib cannot write the suffix, or a dataset carries no config.
    """
    return save_figure(draw_strategies([score_strategies(ds) for ds in datasets]), path)


def draw_strategies(groups: Sequence[Sequence[Strategy]]) -> "Figure":
    """Return the figure that ``plot_strategies`` saves, from the strategies of each dataset."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rests = list(dict.fromkeys(row.rest for rows in groups for row in rows))
    policies = list(dict.fromkeys(row.policy for rows in groups for row in rows))
    colour = {rest: _COLOURS[i % len(_COLOURS)] for i, rest in enumerate(rests)}
    marker = {policy: _MARKERS[i % len(_MARKERS)] for i, policy in enumerate(policies)}
    figure = Figure(figsize=(max(3.4 * len(groups), 5.0), 6.8), layout="constrained")
    panels = figure.subplots(2, len(groups), squeeze=False, sharey="col")
    for (above, below), rows in zip(panels.T, groups, strict=True):
        for row in rows:
            style: dict[str, Any] = {
                "color": colour[row.rest],
                "marker": marker[row.policy],
                "linestyle": "none",
                "markersize": 7,
            }
            hollow: dict[str, Any] = {"markerfacecolor": "white"} if row.candidates > 1 else {}
            above.plot(row.real_rows, row.risk[0], **style, **hollow)
            below.plot(row.diversity[0], row.risk[0], **style, **hollow)
        best = np.array(find_frontier([(row.real_rows, row.risk[0]) for row in rows])).reshape(-1, 2)
        above.plot(*best.T, color="0.6", drawstyle="steps-post", zorder=0)
        _style_panels(above, below, rows)
    shape: dict[str, Any] = {"color": "0.4", "linestyle": "none"}
    handles = [Line2D([], [], marker=marker[p], label=p, **shape) for p in policies]
    handles += [Line2D([], [], marker="o", linestyle="none", color=colour[r], label=r) for r in rests if r]
    if any(row.candidates > 1 for rows in groups for row in rows):
        label = "several candidates for each row"
        handles += [Line2D([], [], marker="o", markerfacecolor="white", label=label, **shape)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    return figure


def find_frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, risk) that cost less than any of lower or equal risk, by rising cost."""
    best: list[tuple[float, float]] = []
    for cost, risk in sorted(point for point in points if not np.isnan(point[1])):
        if not best or risk < best[-1][1]:
            best.append((cost, risk))
    return best


def _style_panels(above: "Axes", below: "Axes", rows: Sequence[Strategy]) -> None:
    """Set the scales and labels of a setting's two panels."""
    from matplotlib.ticker import LogLocator, NullFormatter

    above.set_title(rows[0].setting, fontsize=11)
    above.set_xscale("log")
    below.set_xscale("log")
    below.axvline(1.0, color="0.8", zorder=0)
    above.set_xlabel("real rows of a chain", fontsize=9)
    below.set_xlabel("share of the diversity kept", fontsize=9)
    for ax in (above, below):
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        if rows[0].is_ratio:
            ax.set_yscale("log")
        ax.set_ylabel("last risk over first risk" if rows[0].is_ratio else "rise of the risk", fontsize=9)
        ax.tick_params(which="both", labelsize=8)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
