"""Strategies side by side: what each does to the risk and to the spread, and what it costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr
import yaml

from collapse_jax.analysis.verdicts import DEFINITIONS, score
from collapse_jax.config import experiment as config
from collapse_jax.numerics.confidence_intervals import Interval, median_interval
from collapse_jax.planning.grid import Point
from collapse_jax.results.io import at, columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

# Okabe and Ito's palette, told apart with any colour vision, and two more
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B5A2B", "#999999")
_MARKERS = "osD^vPX*<>"


class Strategy(NamedTuple):
    """A policy and a curator (and whatever else was swept) in one setting.

    Attributes:
      setting: its name.
      policy: its label.
      rest: of the strategy's label: what else was swept.
      risk: at the last generation over that at the first, median over chains; where the risk is not 0 at the truth
        (a test loss) the difference of the two instead.
      is_ratio: which of the two.
      spread: what is kept of it from first to last: variance, else entropy, else real modes alive, else the tail.
      real_rows: that a chain uses, the first batch among them.
      candidates: rows sampled for each row kept.
      verdicts: titles of the definitions of collapse that say yes.
    """

    setting: str
    policy: str
    rest: str
    risk: Interval
    is_ratio: bool
    spread: Interval
    real_rows: float
    candidates: int
    verdicts: tuple[str, ...]


def strategies(ds: xr.Dataset) -> list[Strategy]:
    """One a curve of a dataset that carries its config.

    Raises:
      ValueError: a dataset without a config.
    """
    if "config" not in ds.attrs:
        raise ValueError("compare: the dataset carries no config; open the folder of a run")
    experiment = config.from_dict(yaml.safe_load(ds.attrs["config"]))
    grid, verdicts, found = experiment.grid(), score(ds)["verdict"], []
    for label, position in columns(ds).items():
        point = grid.make(position["policy"], grid.values([position[axis.dim] for axis in grid.axes]))
        said = verdicts.isel(position).to_numpy()
        risk, is_ratio = _risk(ds, position)
        found.append(
            Strategy(
                point.setting.name,
                *_label(ds, label, position),
                risk,
                is_ratio,
                _spread(ds, position),
                _real_rows(point, ds.sizes["generation"]),
                1 if point.curator is None else point.curator.oversample,
                tuple(
                    d.title.replace("-\n", "").replace("\n", " ")
                    for d, word in zip(DEFINITIONS, said, strict=True)
                    if word == "yes"
                ),
            )
        )
    return found


def _label(ds: xr.Dataset, label: str, position: dict[str, int]) -> tuple[str, str]:
    """A curve's policy, and the rest of its label; of a swept curator its name is enough."""
    policy = str(ds["policy"].to_numpy()[position["policy"]]) if "policy" in position else ""
    return policy, label.removeprefix(policy).strip().replace("curator=", "")


def _named(ds: xr.Dataset, *roles: str) -> tuple[str, str]:
    """The first metric of the first of these roles, and the role."""
    for role in roles:
        for name in map(str, ds.data_vars):
            if role in ds[name].attrs.get("role", "").split():
                return name, role
    return "", ""


def _ends(ds: xr.Dataset, name: str, position: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """A metric of each chain, at the first generation and at the last."""
    values = at(ds[name], position).transpose("chain", "generation").to_numpy().astype(float)
    return values[:, 0], values[:, -1]


def _risk(ds: xr.Dataset, position: dict[str, int]) -> tuple[Interval, bool]:
    name, role = _named(ds, "excess_risk", "risk")
    if not name:
        return (np.nan, np.nan, np.nan), True
    first, last = _ends(ds, name, position)
    if role == "risk":
        return median_interval(last - first), False
    # Over the median of the first: of some chains it may be all but 0.
    return median_interval(last / np.median(first)), True


def _spread(ds: xr.Dataset, position: dict[str, int]) -> Interval:
    name, role = _named(ds, "log_variance", "spread", "modes", "tail")
    if not name:
        return np.nan, np.nan, np.nan
    first, last = _ends(ds, name, position)
    with np.errstate(divide="ignore", invalid="ignore"):
        return median_interval(np.exp(last - first) if role == "log_variance" else last / first)


def _real_rows(point: Point, generations: int) -> float:
    _, policy, curator, n = point
    sizes = [*policy.sizes, *generations * [policy.sizes[-1] if policy.sizes else n]][: generations - 1]
    total = float(n)
    for size in sizes:  # the last batch joins what no fit sees
        if policy.real == "fresh":
            total += size if policy.real_rows is None else int(policy.real_rows(size))
        if curator is not None:
            total += float(curator.real_rows) * (size if policy.new_rows is None else policy.new_rows(n))
    return total


def table(datasets: Sequence[xr.Dataset]) -> "Table":
    """All strategies of all datasets, for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = "Strategies at the last generation: medians over chains, 95% intervals"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.add_column("setting")
    result.add_column("strategy", overflow="fold")
    for name in ("risk: ratio (x)\nor rise (+)", "spread kept", "real rows\na chain", "candidates\na row"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("collapsed by", overflow="fold")
    for ds in datasets:
        for row in strategies(ds):
            sign = "x" if row.is_ratio else "+"
            cells = [_cell(row.risk, sign), _cell(row.spread), f"{row.real_rows:,.0f}", str(row.candidates)]
            result.add_row(
                *map(Text, (row.setting, f"{row.policy} {row.rest}", *cells, ", ".join(row.verdicts) or "none"))
            )
    return result


def _cell(interval: Interval, sign: str = "") -> str:
    if np.isnan(interval[0]):
        return "?"
    centre, low, high = (f"{value:.3g}" for value in interval)
    return f"{sign}{centre} ({low}, {high})"


def plot(datasets: Sequence[xr.Dataset], path: Path | str) -> Path:
    """Draws all strategies into a picture file: risk against the real rows used, and against the spread kept.

    One column of panels a setting. A line joins the strategies of which no other has a lower risk for as few real rows.

    Raises:
      ValueError: a suffix that matplotlib cannot write.
    """
    draw([strategies(ds) for ds in datasets]).savefig(path, dpi=150)
    return Path(path)


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
