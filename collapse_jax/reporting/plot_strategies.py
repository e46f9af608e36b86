"""The picture of strategies side by side: risk above, spread kept below."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from collapse_jax.analysis.strategies import Strategy, strategies
from collapse_jax.reporting.figures import save_figure

# Okabe and Ito's palette, told apart with any colour vision, and two more
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B5A2B", "#999999")


_MARKERS = "osD^vPX*<>"


def plot(datasets: Sequence[xr.Dataset], path: Path | str) -> Path:
    """Draws all strategies into a picture file: risk against the real rows used, and against the spread kept.

    One column of panels a setting. A line joins the strategies of which no other has a lower risk for as few real rows.

    Raises:
      UsageError: a suffix that matplotlib cannot write.
    """
    return save_figure(draw([strategies(ds) for ds in datasets]), path)


def draw(groups: Sequence[Sequence[Strategy]]) -> "Figure":
    """The figure that `plot` saves, of the strategies of each dataset."""
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
            below.plot(row.spread[0], row.risk[0], **style, **hollow)
        best = np.array(frontier([(row.real_rows, row.risk[0]) for row in rows])).reshape(-1, 2)
        above.plot(*best.T, color="0.6", drawstyle="steps-post", zorder=0)
        _frame(above, below, rows)
    shape: dict[str, Any] = {"color": "0.4", "linestyle": "none"}
    handles = [Line2D([], [], marker=marker[p], label=p, **shape) for p in policies]
    handles += [Line2D([], [], marker="o", linestyle="none", color=colour[r], label=r) for r in rests if r]
    if any(row.candidates > 1 for rows in groups for row in rows):
        handles += [Line2D([], [], marker="o", markerfacecolor="white", label="several candidates a row", **shape)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    return figure


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, risk) those that cost less than any of lower or equal risk, by rising cost."""
    best: list[tuple[float, float]] = []
    for cost, risk in sorted(point for point in points if not np.isnan(point[1])):
        if not best or risk < best[-1][1]:
            best.append((cost, risk))
    return best


def _frame(above: "Axes", below: "Axes", rows: Sequence[Strategy]) -> None:
    """Scales and words of a setting's two panels."""
    from matplotlib.ticker import LogLocator, NullFormatter

    above.set_title(rows[0].setting, fontsize=11)
    above.set_xscale("log")
    below.set_xscale("log")
    below.axvline(1.0, color="0.8", zorder=0)
    above.set_xlabel("real rows a chain", fontsize=9)
    below.set_xlabel("spread kept", fontsize=9)
    for ax in (above, below):
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        if rows[0].is_ratio:
            ax.set_yscale("log")
        ax.set_ylabel("last risk over the first" if rows[0].is_ratio else "rise of the risk", fontsize=9)
        ax.tick_params(which="both", labelsize=8)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
