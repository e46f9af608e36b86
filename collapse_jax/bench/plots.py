"""The picture of a report: the roofline, what the floors are made of, and scaling."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from collapse_jax.bench.machine import TERMS
from collapse_jax.bench.measure import Scaling
from collapse_jax.bench.report import Report
from collapse_jax.core.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # of TERMS; Okabe and Ito's
_CORNERS = tuple((x, y) for x in (8, -8) for y in (6, -6))  # in points
_MARKS = "os^Dv<>P*Xhp"  # of scaling


def check_suffix(path: Path) -> None:
    """Whether matplotlib can write such a picture.

    Raises:
      UsageError: it cannot.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise UsageError(f"{path}: a picture's suffix must be one of {', '.join(sorted(known))}")


def draw(report: Report, path: Path) -> Path:
    """Draws the report into a picture file; its suffix chooses the format.

    Raises:
      UsageError: a suffix that matplotlib cannot write.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    groups = _groups(report)
    heights = [max(5.0, 0.32 * len(report.rows) + 2)]
    heights += [4.0 + 0.15 * max(map(len, groups.values()))] if groups else []
    figure = Figure(figsize=(14.0, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    axes = list(parts[0].subplots(1, 2))
    _roofline(axes[0], report)
    _floors(axes[1], report)
    if groups:
        below = parts[1].subplots(1, len(groups), squeeze=False)[0]
        for ax, (axis, scalings) in zip(below, groups.items(), strict=True):
            _scaling(ax, axis, scalings)
        axes += list(below)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    about = report.about
    cores = f"{about['cores']} core{'s' * (about['cores'] != 1)}"
    figure.suptitle(f"{about['suite']} · {cores} of {about['processor']} · {about['date']}", fontsize=11)
    figure.savefig(path, dpi=150)
    return path


def _roofline(ax: "Axes", report: Report) -> None:
    """FLOPs a second against FLOPs a byte, below what products and copies allow; numbers are those of the bars."""
    intensity = np.array([row.work.flops / max(row.work.bytes, 1.0) for row in report.rows])
    done = np.array([row.work.flops / row.median for row in report.rows])
    x = np.geomspace(min(intensity.min(), 0.1) / 2, max(intensity.max(), 100) * 2, 100)
    sizes = report.rates.copies
    for size, style in {max(sizes): "--", min(sizes): "-"}.items():
        label = f"copies of {size / 2**20:g} MiB"
        ax.plot(x, np.minimum(x * sizes[size], report.rates.products), color="0.4", linestyle=style, label=label)
    for i, (a, b) in enumerate(zip(intensity, done, strict=True)):
        ax.plot(a, b, "o", markersize=4, color=f"C{i % 10}")
    ax.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="FLOPs a second (random numbers apart)")
    _number(ax, np.stack([intensity, done], axis=1))
    ax.set_title("roofline", fontsize=10)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=7, loc="lower right")


def _number(ax: "Axes", points: np.ndarray) -> None:
    """Numbers points ``[num, 2]``, each at the corner that leaves most room to other points and numbers."""
    ax.autoscale_view()
    at = ax.transData.transform(points) * 72 / ax.figure.dpi
    taken = [*at]
    for i, here in enumerate(at):
        others = np.array([other for j, other in enumerate(taken) if j != i] or [here + 1e3])
        room = {corner: np.hypot(*(here + corner - others).T).min() for corner in _CORNERS}
        best = max(room, key=room.__getitem__)
        taken.append(here + best)
        ax.annotate(str(i + 1), points[i], best, textcoords="offset points", ha="center", va="center", fontsize=8)


def _floors(ax: "Axes", report: Report) -> None:
    """Parts of the floor over the time measured, one bar a case."""
    place = np.arange(len(report.rows))[::-1]
    left = np.zeros(len(report.rows))
    for name, colour in zip(TERMS, COLOURS, strict=True):
        share = np.array([row.floor[name] / row.median for row in report.rows])
        if name == "memory":  # beside the others, not after them
            ax.plot(share, place, "|", color=colour, markersize=11, markeredgewidth=2, label=name)
        else:
            ax.barh(place, share, left=left, color=colour, height=0.7, label=name)
            left += share
    ax.axvline(1.0, color="0.4", linewidth=0.8)
    ax.set_yticks(place, [f"{row.name}  {i}" for i, row in enumerate(report.rows, 1)], fontsize=7)
    ax.set_xlabel("share of the time measured")
    ax.set_title("what the machine's rates account for", fontsize=10)
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4)  # bars may be anywhere above


def _groups(report: Report) -> dict[str, list[Scaling]]:
    """Scalings by what grows; the sizes of settings, whatever they are called, go together."""
    groups: dict[str, list[Scaling]] = {}
    for s in report.scalings:
        groups.setdefault(s.axis if s.axis in ("chains", "generations", "n") else "size of the setting", []).append(s)
    return groups


def _scaling(ax: "Axes", axis: str, scalings: Sequence[Scaling]) -> None:
    """Seconds over those at the smallest size."""
    for i, s in enumerate(scalings):
        label = f"{s.name}: {s.axis} ^ {s.exponent:.2f}"
        growth = np.array(s.seconds) / s.seconds[0]
        ax.plot(np.array(s.values) / s.values[0], growth, f"{_MARKS[i % len(_MARKS)]}-", markersize=5, label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for side in (ax.xaxis, ax.yaxis):
        side.set_major_formatter("{x:g}")
    ax.set(xlabel="size over the smallest", ylabel="time over that of the smallest")
    ax.set_title(f"scaling in {axis}", fontsize=10)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.15))
