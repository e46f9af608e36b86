"""Render tables for a terminal: summaries, verdicts, strategies and checks of theory."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from collapse_jax.analysis.collapse_times import collapse_times, half_life
from collapse_jax.analysis.strategies import score_strategies
from collapse_jax.analysis.theory_check import TheoryCheck, find_failures
from collapse_jax.analysis.verdicts import DEFINITIONS, UNKNOWN, score
from collapse_jax.numerics.confidence_intervals import Interval
from collapse_jax.results.summary import MetricSummary, curve_positions, select_position, summarize
from collapse_jax.results.variables import select_scalars

if TYPE_CHECKING:
    from rich.table import Table

_MAX_COLUMNS, _MAX_ROWS = 8, 100  # of a table in a terminal


def render_summary(ds: xr.Dataset, generation: int = -1) -> "Table":
    """Return a table of each metric over chains: a row for each metric, a column for each policy.

    A grid of many points has a row for each point instead, and a column for each metric.

    Args:
      ds: a dataset that ``sweep``, ``run`` or ``open`` returned.
      generation: a position on the generation axis.
    """
    from rich.text import Text

    labels = curve_positions(ds)
    if len(labels) > _MAX_COLUMNS:
        return _render_grid(ds, generation)
    summaries, ds = summarize(ds, generation), select_scalars(ds)
    number, chains = int(ds["generation"].to_numpy()[generation]), ds.sizes["chain"]
    kinds = {summary.metric: summary.kind for summary in summaries}
    title = f"Generation {number:,}: {_describe_kinds(set(kinds.values()), chains)}"
    result = _make_table(title, padding=(0, 1, 1, 0))
    result.add_column("metric", no_wrap=True)
    for label in labels:
        result.add_column(Text(label), justify="right", overflow="fold")
    for name in map(str, ds.data_vars):
        kind = f"\n{kinds[name]}" if chains > 1 and len(set(kinds.values())) > 1 else ""
        cells = [Text(_format_summary(summary)) for summary in summaries if summary.metric == name]
        result.add_row(Text(name + _format_units(ds[name].attrs) + kind), *cells)
    return result


def _describe_kinds(kinds: set[str], chains: int) -> str:
    """Return in words how the chains are summarized."""
    if chains == 1:
        return "one chain"
    if len(kinds) == 1:
        return f"{next(iter(kinds))} over {chains:,} chains, 95% interval in parentheses"
    return f"summary of {chains:,} chains (its kind is below each metric), 95% interval in parentheses"


def _render_grid(ds: xr.Dataset, generation: int) -> "Table":
    """Return a table with a row of medians for each point of the grid."""
    from rich.text import Text

    points, ds = curve_positions(ds), select_scalars(ds)
    last = ds.isel(generation=generation).median("chain", skipna=True)
    number = int(ds["generation"][generation])
    result = _make_table(f"Generation {number:,}: median over {ds.sizes['chain']:,} chains")
    result.add_column("")
    for name in map(str, ds.data_vars):
        result.add_column(name + _format_units(ds[name].attrs), justify="right")
    for label, position in list(points.items())[:_MAX_ROWS]:
        cells = [select_position(last[n], position) for n in ds.data_vars]
        result.add_row(Text(label), *(f"{float(cell):.3g}" for cell in cells))
    if len(points) > _MAX_ROWS:
        more = f"... {len(points) - _MAX_ROWS} more rows: open the results with collapse_jax.open"
        result.add_row(more, *("" for _ in ds.data_vars))
    return result


def _make_table(title: str | None = None, padding: tuple[int, int, int, int] = (0, 1, 0, 0)) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=padding)


def _format_units(attrs: Mapping[str, Any]) -> str:
    units = str(attrs.get("units", ""))
    return f"\n({units})" if units not in ("", "1") else ""


def _format_summary(summary: MetricSummary) -> str:
    if np.isnan(summary.low) and np.isnan(summary.high):
        return f"{summary.centre:.3g}"
    return f"{summary.centre:.3g}\n({summary.low:.3g}, {summary.high:.3g})"


def render_verdicts(ds: xr.Dataset) -> "Table":
    """Return a table of the verdicts of ``score`` and the median times to collapse, a row for each curve."""
    from rich.text import Text

    labels = dict(list(curve_positions(ds).items())[:_MAX_ROWS])
    verdicts, times, halves = score(ds), collapse_times(ds), half_life(ds)
    result = _make_table("Model collapse by eight definitions (arXiv 2503.03150); ?: this run cannot tell")
    result.add_column("")
    for definition in DEFINITIONS:
        result.add_column(definition.title, justify="right")
    result.add_column("half-life,\ngenerations", justify="right")
    result.add_column("generations\nto collapse", justify="right")
    last = int(ds["generation"][-1])
    for label, position in labels.items():
        answers = [str(answer) for answer in verdicts["verdict"].isel(position).to_numpy()]
        marks = ["?" if answer == UNKNOWN else answer for answer in answers]
        cells = [_format_survival(survival.isel(position), last) for survival in (halves, times)]
        result.add_row(Text(label), *marks, *cells)
    return result


def _format_survival(survival: xr.Dataset, last: int) -> str:
    """Return a median time with its interval; `last` is the last generation of the run."""
    if not int(survival["chains"]):
        return "?"
    limits = [float(survival[field]) for field in ("median", "low", "high")]
    median, low, high = (f"{limit:,.0f}" if np.isfinite(limit) else f"> {last:,}" for limit in limits)
    return median if low == median == high else f"{median} ({low}, {high})"


def render_strategies(datasets: Sequence[xr.Dataset]) -> "Table":
    """Return a table of all strategies of all datasets.

    Raises:
      UsageError: a dataset carries no config.
    """
    from rich.text import Text

    result = _make_table("Strategies at the last generation: medians over chains, 95% intervals in parentheses")
    result.add_column("setting")
    result.add_column("strategy", overflow="fold")
    for name in ("risk: ratio (x)\nor rise (+)", "diversity\nkept", "real rows\nof a chain", "candidates\nfor a row"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("collapses by", overflow="fold")
    for ds in datasets:
        for strategy in score_strategies(ds):
            cells = [
                strategy.setting,
                f"{strategy.policy} {strategy.rest}",
                _format_interval(strategy.risk, "x" if strategy.is_ratio else "+"),
                _format_interval(strategy.diversity),
                f"{strategy.real_rows:,.0f}",
                str(strategy.candidates),
                ", ".join(strategy.verdicts) or "none",
            ]
            result.add_row(*map(Text, cells))
    return result


def _format_interval(interval: Interval, sign: str = "") -> str:
    if np.isnan(interval[0]):
        return "?"
    centre, low, high = (f"{value:.3g}" for value in interval)
    return f"{sign}{centre} ({low}, {high})"


def render_checks(checks: Sequence[TheoryCheck]) -> "Table":
    """Return a table of predictions compared with chains, a row for each prediction."""
    from rich.text import Text

    result = _make_table()
    for name in ("setting", "policy", "statistic"):
        result.add_column(name, overflow="fold")
    for name in ("n", "generation", "predicted", "simulated", "z"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("source", overflow="fold")
    failed = find_failures(checks)
    for check in checks:
        predicted = f"{check.low:.5g}" if check.low == check.high else f"{check.low:.5g} to {check.high:.5g}"
        cells = [
            check.setting,
            check.policy,
            f"{check.prediction.statistic} of {check.prediction.quantity}",
            f"{check.n}",
            f"{check.generation}",
            predicted,
            f"{check.simulated:.5g} +- {check.error:.1g}",
            f"{check.z:.2f}" + (" FAILS" if check in failed else ""),
            check.prediction.reference,
        ]
        result.add_row(*map(Text, cells))
    return result
