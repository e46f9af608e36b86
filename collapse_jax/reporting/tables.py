"""Render tables for a terminal: summaries, verdicts, strategies and checks of theory."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from collapse_jax.analysis.collapse_times import collapse_times, half_life
from collapse_jax.analysis.comparisons import BETTER, REFERENCE, UNKNOWN, UNSEEN, WORSE, compare, compare_runs
from collapse_jax.analysis.strategies import score_strategies
from collapse_jax.analysis.theory_check import TheoryCheck, find_failures
from collapse_jax.analysis.verdicts import DEFINITIONS, score
from collapse_jax.numerics.confidence_intervals import Interval, name_interval
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
    result = _make_table(f"Generation {number:,}: {_describe_summary(chains)}", padding=(0, 1, 1, 0))
    result.add_column("metric", no_wrap=True)
    for label in labels:
        result.add_column(Text(label), justify="right", overflow="fold")
    for name in map(str, ds.data_vars):
        cells = [Text(_format_summary(summary)) for summary in summaries if summary.metric == name]
        result.add_row(Text(name + _format_units(ds[name].attrs)), *cells)
    return result


def _describe_summary(chains: int) -> str:
    """Return in words what the cells hold."""
    if chains == 1:
        return "one chain"
    return f"median over {chains:,} chains, {name_interval(chains)} in parentheses, and mean"


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
        return f"{summary.median:.3g}"
    return f"{summary.median:.3g}\n({summary.low:.3g}, {summary.high:.3g})\nmean {summary.mean:.3g}"


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
    if notes := list_exclusions(verdicts):
        result.caption, result.caption_justify = "\n".join(notes), "left"
    return result


def list_exclusions(verdicts: xr.Dataset) -> list[str]:
    """Return a line for each metric of which chains are left out, since it is not finite at fit 1 or became NaN."""
    reasons = zip(verdicts["metric"].to_numpy().ravel(), verdicts["reason"].to_numpy().ravel(), strict=True)
    parts = {f"{metric}: {part}" for metric, reason in reasons for part in reason.split("; ")}
    marks = (": not finite at fit 1", ": NaN at T")
    return [f"left out of the verdicts: {part}" for part in sorted(parts) if any(mark in part for mark in marks)]


def render_differences(ds: xr.Dataset) -> "Table | None":
    """Return a table of each policy's difference from the first one, in pairs of chains; None for one policy.

    The risk comes first. A grid of many points has a row for each point instead, with the risk alone.
    """
    from rich.text import Text

    if ds.sizes.get("policy", 1) < 2 or not select_scalars(ds):
        return None
    found, positions = compare(ds), curve_positions(ds)
    primary, first = found.attrs["primary"], str(found["policy"].to_numpy()[0])
    names = [primary] * bool(primary) + [name for name in found["metric"].to_numpy() if name != primary]
    others = {label: where for label, where in positions.items() if where["policy"] > 0}
    number = int(ds["generation"].to_numpy()[-1])
    title = f"Difference from {first} at generation {number:,}: mean over chains in pairs, Student's 95% interval"
    if primary:
        title += f"\n{primary} decides, its intervals hold together; other intervals hold each, and * marks what is "
        title += "seen by Holm over all other cells"
    result = _make_table(title, padding=(0, 1, 1, 0))
    result.add_column("" if len(others) > _MAX_COLUMNS else "metric", no_wrap=True)
    if len(others) > _MAX_COLUMNS:
        result.add_column(primary or names[0], justify="right")
        for label, where in list(others.items())[:_MAX_ROWS]:
            result.add_row(Text(label), Text(_format_difference(found.isel(where).sel(metric=primary or names[0]))))
        return result
    for label in others:
        result.add_column(Text(label), justify="right", overflow="fold")
    for name in names:
        cells = [_format_difference(found.isel(where).sel(metric=name)) for where in others.values()]
        result.add_row(Text(name + _format_units(ds[name].attrs)), *map(Text, cells))
    return result


def _format_difference(cell: xr.Dataset) -> str:
    answer, estimate, low, high = (cell[key].item() for key in ("answer", "difference", "low", "high"))
    if answer == REFERENCE or np.isnan(estimate):
        return "?"
    mark = "" if answer in (UNSEEN, UNKNOWN, WORSE, BETTER) else " *"
    interval = "" if np.isnan(low) else f"\n({low:+.3g}, {high:+.3g})"
    words = f"\n{answer}" if cell["metric"].item() == cell.attrs["primary"] else ""
    return f"{estimate:+.3g}{mark}{interval}{words}"


def render_run_differences(datasets: Sequence[xr.Dataset], names: Sequence[str] = ()) -> "Table | None":
    """Return a table of the risk of each curve of all runs against the first curve; None where there is one curve."""
    from rich.text import Text

    rows = compare_runs(datasets, names)
    if not rows:
        return None
    first = next(iter(curve_positions(datasets[0])))
    result = _make_table(f"Difference of the risk from {first}, at the last generation; 95% intervals hold together")
    result.add_column("curve", overflow="fold")
    for name in ("difference", "", "chains"):
        result.add_column(name, justify="right")
    for row in rows:
        interval = row.difference[:3]
        chains = f"{row.difference.chains:,}" + (" in pairs" if row.difference.paired else ", not paired")
        result.add_row(Text(row.label), _format_interval(interval), row.answer, chains)
    return result


def _format_survival(survival: xr.Dataset, last: int) -> str:
    """Return a median time with its interval; `last` is the last generation of the run."""
    if not int(survival["chains"]):
        return "?"
    limits = [float(survival[field]) for field in ("median", "low", "high")]
    median, low, high = (f"{limit:,.0f}" if np.isfinite(limit) else f"> {last:,}" for limit in limits)
    if np.isnan(limits[1]):
        return median
    return median if low == median == high else f"{median} ({low}, {high})"


def render_strategies(datasets: Sequence[xr.Dataset]) -> "Table":
    """Return a table of all strategies of all datasets.

    Raises:
      UsageError: a dataset carries no config.
    """
    from rich.text import Text

    result = _make_table(
        "Strategies at the last generation: medians over chains, 95% intervals (below 6 chains ranges) in parentheses"
    )
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
