"""Draw the picture of a benchmark: the roofline, the parts of the floors, and scaling."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collapse_jax.bench.machine import TERMS
from collapse_jax.bench.measure import Scaling
from collapse_jax.bench.report import BenchReport
from collapse_jax.core.errors import UsageError, explain_write_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # of TERMS, from the palette of Okabe and Ito
_CORNERS = tuple((x, y) for x in (8, -8) for y in (6, -6))  # where a number stands beside its point; in points
_MARKERS = "os^Dv<>P*Xhp"  # of the panels of scaling


def check_suffix(path: Path) -> None:
    """Refuse a picture file whose suffix matplotlib cannot write.

    Raises:
      UsageError: it cannot write such files.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise UsageError(f"{path}: the suffix of a picture must be one of {', '.join(sorted(known))}")


def plot_report(report: BenchReport, path: Path) -> Path:
    """Draw a report into a picture file and return its path; the suffix chooses the format.

    Raises:
      StoreError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    groups = _group_scalings(report)
    heights = [max(5.0, 0.32 * len(report.timings) + 2)]
    heights += [4.0 + 0.15 * max(map(len, groups.values()))] if groups else []
    figure = Figure(figsize=(14.0, sum(heights)), layout="constrained")
    panels = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    axes = list(panels[0].subplots(1, 2))
    _draw_roofline(axes[0], report)
    _draw_floors(axes[1], report)
    if groups:
        below = panels[1].subplots(1, len(groups), squeeze=False)[0]
        for ax, (axis, scalings) in zip(below, groups.items(), strict=True):
            _draw_scaling(ax, axis, scalings)
        axes += list(below)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    origin = report.origin
    cores = f"{origin['cores']} core{'s' * (origin['cores'] != 1)}"
    figure.suptitle(f"{origin['suite']} · {cores} of {origin['processor']} · {origin['date']}", fontsize=11)
    with explain_write_errors(path):
        figure.savefig(path, dpi=150)
    return path


def _draw_roofline(ax: "Axes", report: BenchReport) -> None:
    """Draw FLOPs a second against FLOPs a byte, and what products and copies allow; bars have the same numbers."""
    intensity = np.array([row.work.flops / max(row.work.bytes, 1.0) for row in report.timings])
    speed = np.array([row.work.flops / row.median for row in report.timings])
    x = np.geomspace(min(intensity.min(), 0.1) / 2, max(intensity.max(), 100) * 2, 100)
    sizes = report.rates.copies
    for size, style in {max(sizes): "--", min(sizes): "-"}.items():
        label = f"copies of {size / 2**20:g} MiB"
        ax.plot(x, np.minimum(x * sizes[size], report.rates.products), color="0.4", linestyle=style, label=label)
    for i, (a, b) in enumerate(zip(intensity, speed, strict=True)):
        ax.plot(a, b, "o", markersize=4, color=f"C{i % 10}")
    ax.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="FLOPs a second (without random numbers)")
    _number_points(ax, np.stack([intensity, speed], axis=1))
    ax.set_title("roofline", fontsize=10)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=7, loc="lower right")


def _number_points(ax: "Axes", points: np.ndarray) -> None:
    """Number points ``[num, 2]``, each at the corner that leaves most room to other points and numbers."""
    ax.autoscale_view()
    positions = ax.transData.transform(points) * 72 / ax.figure.dpi
    taken = [*positions]
    for i, position in enumerate(positions):
        others = np.array([other for j, other in enumerate(taken) if j != i] or [position + 1e3])
        room = {corner: np.hypot(*(position + corner - others).T).min() for corner in _CORNERS}
        best = max(room, key=room.__getitem__)
        taken.append(position + best)
        ax.annotate(str(i + 1), points[i], best, textcoords="offset points", ha="center", va="center", fontsize=8)


def _draw_floors(ax: "Axes", report: BenchReport) -> None:
    """Draw the parts of the floor over the time measured, one bar for each case."""
    height = np.arange(len(report.timings))[::-1]
    left = np.zeros(len(report.timings))
    for name, colour in zip(TERMS, COLOURS, strict=True):
        share = np.array([row.floor[name] / row.median for row in report.timings])
        if name == "memory":  # beside the others, not after them
            ax.plot(share, height, "|", color=colour, markersize=11, markeredgewidth=2, label=name)
        else:
            ax.barh(height, share, left=left, color=colour, height=0.7, label=name)
            left += share
    ax.axvline(1.0, color="0.4", linewidth=0.8)
    ax.set_yticks(height, [f"{row.name}  {i}" for i, row in enumerate(report.timings, 1)], fontsize=7)
    ax.set_xlabel("share of the time measured")
    ax.set_title("floors by the rates of this machine", fontsize=10)
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4)  # bars may be anywhere above


def _group_scalings(report: BenchReport) -> dict[str, list[Scaling]]:
    """Return scalings by the size that grows; the sizes of settings, whatever their names, are one group."""
    groups: dict[str, list[Scaling]] = {}
    for s in report.scalings:
        groups.setdefault(s.axis if s.axis in ("chains", "generations", "n") else "size of the setting", []).append(s)
    return groups


def _draw_scaling(ax: "Axes", axis: str, scalings: Sequence[Scaling]) -> None:
    """Draw the seconds over those at the smallest size."""
    for i, s in enumerate(scalings):
        label = f"{s.name}: {s.axis} ^ {s.exponent:.2f}"
        growth = np.array(s.seconds) / s.seconds[0]
        ax.plot(np.array(s.values) / s.values[0], growth, f"{_MARKERS[i % len(_MARKERS)]}-", markersize=5, label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for side in (ax.xaxis, ax.yaxis):
        side.set_major_formatter("{x:g}")
    ax.set(xlabel="size over the smallest", ylabel="time over that of the smallest")
    ax.set_title(f"scaling in {axis}", fontsize=10)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.15))
