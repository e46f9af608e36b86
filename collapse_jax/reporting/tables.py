"""Tables for a terminal: summaries, verdicts, strategies and checks of theory."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from collapse_jax.analysis.collapse_times import collapse_times, half_life
from collapse_jax.results.summary import Summary, curve_positions, select_position, summarize
from collapse_jax.results.variables import select_scalars

if TYPE_CHECKING:
    from rich.table import Table
from collections.abc import Sequence
from typing import TYPE_CHECKING

from collapse_jax.analysis.verdicts import DEFINITIONS, UNKNOWN, score
from collapse_jax.numerics.confidence_intervals import Interval

if TYPE_CHECKING:
    from rich.table import Table
from typing import TYPE_CHECKING

from collapse_jax.analysis.strategies import strategies

if TYPE_CHECKING:
    from rich.table import Table
from collapse_jax.analysis.theory_check import Row, failures

if TYPE_CHECKING:
    from rich.table import Table


_MOST_COLUMNS, _MOST_ROWS = 8, 100  # of a table in a terminal


def render_summary(ds: xr.Dataset, generation: int = -1) -> "Table":
    """`summary` for a terminal: one row a metric, one column a policy; the other way round where a grid was swept."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    labels = curve_positions(ds)
    if len(labels) > _MOST_COLUMNS:
        return _grid_table(ds, generation)
    rows, ds = summarize(ds, generation), select_scalars(ds)
    number, chains = int(ds["generation"].to_numpy()[generation]), ds.sizes["chain"]
    over = f"centre over {chains:,} chains (which, by tail weight: below each metric), 95% interval in parentheses"
    title = f"Generation {number:,}: {over if chains > 1 else 'one chain'}"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 1, 0))
    result.add_column("metric", no_wrap=True)
    for label in labels:
        result.add_column(Text(label), justify="right", overflow="fold")
    for name in map(str, ds.data_vars):
        found = [row for row in rows if row.metric == name]
        kind = f"\n{found[0].kind}" if chains > 1 else ""
        result.add_row(Text(name + _units(ds[name].attrs) + kind), *(Text(_cell(row)) for row in found))
    return result


def _grid_table(ds: xr.Dataset, generation: int) -> "Table":
    """One row a point of the grid, medians only."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    points, ds = curve_positions(ds), select_scalars(ds)
    last = ds.isel(generation=generation).median("chain", skipna=True)
    title = f"Generation {int(ds['generation'][generation]):,}: median over {ds.sizes['chain']:,} chains"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.add_column("")
    for name in map(str, ds.data_vars):
        result.add_column(name + _units(ds[name].attrs), justify="right")
    for label, position in list(points.items())[:_MOST_ROWS]:
        cells = [select_position(last[n], position) for n in ds.data_vars]
        result.add_row(Text(label), *(f"{float(cell):.3g}" for cell in cells))
    if len(points) > _MOST_ROWS:
        result.add_row(f"... {len(points) - _MOST_ROWS} more: collapse_jax.open", *("" for _ in ds.data_vars))
    return result


def _units(attrs: Mapping[str, Any]) -> str:
    units = str(attrs.get("units", ""))
    return f"\n({units})" if units not in ("", "1") else ""


def _cell(row: Summary) -> str:
    if np.isnan(row.low) and np.isnan(row.high):
        return f"{row.centre:.3g}"
    return f"{row.centre:.3g}\n({row.low:.3g}, {row.high:.3g})"


_MOST_LINES = 100  # of a table in a terminal


def render_verdicts(ds: xr.Dataset) -> "Table":
    """`score` for a terminal, with median times to collapse: one row a policy and grid point."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    labels = dict(list(curve_positions(ds).items())[:_MOST_LINES])
    verdicts, times, halves = score(ds), collapse_times(ds), half_life(ds)
    title = "Model collapse, by eight definitions (arXiv 2503.03150); ? cannot be told from this run"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.add_column("")
    for definition in DEFINITIONS:
        result.add_column(definition.title, justify="right")
    result.add_column("half-life,\ngenerations", justify="right")
    result.add_column("generations\nto collapse", justify="right")
    for label, position in labels.items():
        words = [str(v) for v in verdicts["verdict"].isel(position).to_numpy()]
        marks = ["?" if word == UNKNOWN else word for word in words]
        lasted = [_time(found.isel(position), int(ds["generation"][-1])) for found in (halves, times)]
        result.add_row(Text(label), *marks, *lasted)
    return result


def _time(found: xr.Dataset, last: int) -> str:
    """A median time with its interval, in a cell."""
    if not int(found["chains"]):
        return "?"
    limits = [float(found[field]) for field in ("median", "low", "high")]
    median, low, high = (f"{limit:,.0f}" if np.isfinite(limit) else f"> {last:,}" for limit in limits)
    return median if low == median == high else f"{median} ({low}, {high})"


def render_strategies(datasets: Sequence[xr.Dataset]) -> "Table":
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
            cells = [
                _strategy_cell(row.risk, sign),
                _strategy_cell(row.spread),
                f"{row.real_rows:,.0f}",
                str(row.candidates),
            ]
            result.add_row(
                *map(Text, (row.setting, f"{row.policy} {row.rest}", *cells, ", ".join(row.verdicts) or "none"))
            )
    return result


def _strategy_cell(interval: Interval, sign: str = "") -> str:
    if np.isnan(interval[0]):
        return "?"
    centre, low, high = (f"{value:.3g}" for value in interval)
    return f"{sign}{centre} ({low}, {high})"


def render_checks(rows: Sequence[Row]) -> "Table":
    """For a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("setting", "policy", "statistic"):
        result.add_column(name, overflow="fold")
    for name in ("n", "generation", "predicted", "simulated", "z"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("source", overflow="fold")
    failed = failures(rows)
    for row in rows:
        predicted = f"{row.low:.5g}" if row.low == row.high else f"{row.low:.5g} to {row.high:.5g}"
        words = f"{row.prediction.statistic} of {row.prediction.quantity}"
        figures = (f"{row.n}", f"{row.generation}", predicted, f"{row.simulated:.5g} +- {row.error:.1g}")
        z = f"{row.z:.2f}" + (" FAILS" if row in failed else "")
        result.add_row(*map(Text, (row.setting, row.policy, words, *figures, z, row.prediction.reference)))
    return result
