"""Make the tables of a report: the evidence of each definition, the metrics, and the same numbers as files."""

import base64
import csv
import io
import itertools
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.analysis.comparisons import BETTER, HIGHER, LOWER, REFERENCE, WORSE, compare
from collapse_jax.analysis.verdicts import DEFINITIONS, RISING, UNKNOWN
from collapse_jax.reporting.html.text import is_done, policy_labels
from collapse_jax.results import summary
from collapse_jax.results.variables import grid_dims, select_scalars

_MAX_ROWS = 300  # of the table of a grid


def tabulate_evidence(ds: xr.Dataset, verdicts: xr.Dataset) -> list[dict[str, Any]]:
    """Return a table for each point of the grid: a row for each definition, a cell for each policy."""
    axes = [dim for dim in grid_dims(ds) if dim != "policy"]
    tables = []
    for index in itertools.product(*(range(ds.sizes[axis]) for axis in axes)):
        point = verdicts.isel(dict(zip(axes, index, strict=True)))
        point = point if "policy" in point.dims else point.expand_dims("policy")
        columns = [point.isel(policy=i) for i in range(point.sizes["policy"])]
        rows = []
        for number, definition in enumerate(DEFINITIONS):
            cells = [_verdict_cell(column.isel(definition=number)) for column in columns]
            rows.append({"name": definition.name.replace("_", " "), "rule": definition.rule, "cells": cells})
        title = ", ".join(f"{axis} = {point[axis].item()}" for axis in axes if axis in point.coords)
        tables.append({"title": title, "rows": rows})
    return tables


def _verdict_cell(verdicts: xr.Dataset) -> dict[str, str]:
    verdict, estimate, low, high = (verdicts[key].item() for key in ("verdict", "estimate", "low", "high"))
    number = "" if np.isnan(estimate) else f"{estimate:.3g}"
    number += "" if np.isnan(low) else f" ({low:.3g}, {high:.3g})"
    mark = {UNKNOWN: "unknown", RISING: "rising"}.get(verdict, verdict)
    return {"verdict": verdict, "mark": mark, "number": number, "metric": verdicts["metric"].item(),
            "reason": verdicts["reason"].item()}  # fmt: skip


def tabulate_numbers(ds: xr.Dataset) -> dict[str, Any]:
    """Return the metrics at the last generation: a row a metric and a column a curve; for many curves the reverse."""
    summaries, scalars = summary.summarize(ds), select_scalars(ds)
    names = list(map(str, scalars.data_vars))
    labels = list(dict.fromkeys(row.column for row in summaries))
    missing = "not finite" if is_done(ds) else "not yet"
    cells = {(row.metric, row.column): _format_summary(row, missing) for row in summaries}
    heads = [(name, " · ".join(_list_units(scalars[name]))) for name in names]
    if len(labels) <= 8:
        columns: Any = [(label, "") for label in labels]
        rows: Any = [(head, [cells[head[0], label] for label in labels]) for head in heads]
    else:
        columns = heads
        rows = [((label, ""), [cells[name, label] for name in names]) for label in labels]
    generation = int(ds["generation"].to_numpy()[-1])
    return {"columns": columns, "rows": rows[:_MAX_ROWS], "left_out": len(rows[_MAX_ROWS:]), "generation": generation}


def tabulate_differences(ds: xr.Dataset) -> dict[str, Any] | None:
    """Return differences from the first policy in pairs of chains: a row a metric, the risk first; None for one policy.

    A cell is the answer, the difference with its interval, and a class of the page's style sheet.
    """
    if ds.sizes.get("policy", 1) < 2 or not select_scalars(ds):
        return None
    found, positions = compare(ds), summary.curve_positions(ds)
    primary = found.attrs["primary"]
    others = {label: where for label, where in positions.items() if where["policy"] > 0}
    names = sorted(found["metric"].to_numpy().tolist(), key=lambda name: name != primary)
    if len(others) > 8:
        names = names[:1]
    cells = {(name, label): _difference_cell(found.isel(where).sel(metric=name)) for name in names
             for label, where in others.items()}  # fmt: skip
    rows: Any = [(name, [cells[name, label] for label in others]) for name in names]
    columns = list(others)
    if len(others) > 8:
        columns, rows = names, [(label, [cells[names[0], label]]) for label in others]
    return {"reference": policy_labels(ds)[0], "primary": primary, "columns": columns, "rows": rows[:_MAX_ROWS]}


def _difference_cell(cell: xr.Dataset) -> tuple[str, str, str]:
    answer, estimate, low, high = (cell[key].item() for key in ("answer", "difference", "low", "high"))
    if answer == REFERENCE or np.isnan(estimate):
        return UNKNOWN, "", "unknown"
    number = f"{estimate:+.3g}" + ("" if np.isnan(low) else f" ({low:+.3g}, {high:+.3g})")
    return answer, number, {WORSE: "yes", BETTER: "no", HIGHER: "rising", LOWER: "rising"}.get(answer, "unknown")


def _list_units(values: xr.DataArray) -> list[str]:
    units = str(values.attrs.get("units", "1"))
    return [] if units in ("", "1") else [units]


def _format_summary(row: summary.MetricSummary, missing: str) -> tuple[str, str]:
    if np.isnan(row.median):
        return missing, ""
    limits = "" if np.isnan(row.low) else f"({row.low:.3g}, {row.high:.3g}), mean {row.mean:.3g}"
    return f"{row.median:.3g}", limits


def list_records(ds: xr.Dataset, charts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the charts draw, one record for each metric, curve and generation."""
    rows = []
    positions = summary.curve_positions(ds).values()
    for metric in charts["metrics"]:
        for curve, position in zip(metric["curves"], positions, strict=True):
            where = {dim: _label_at(ds, dim, i) for dim, i in position.items()}
            theory = curve["theory"] or [None] * len(charts["generations"])
            for number, *limits, exact in zip(
                charts["generations"], curve["centre"], curve["low"], curve["high"], theory, strict=True
            ):
                cells = dict(zip(("centre", "low", "high"), limits, strict=True))
                rows.append({"metric": metric["name"], "units": metric["units"] or "1", **where, "generation": number,
                             "kind": metric["centre"], **cells, "exact": exact})  # fmt: skip
    return rows


def _label_at(ds: xr.Dataset, dim: str, index: int) -> Any:
    return ds[dim].to_numpy()[index].item() if dim in ds.coords else index


def encode_csv(records: list[dict[str, Any]]) -> str:
    """Return records as a CSV file in a data URI."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else ["metric"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return _data_uri("text/csv;charset=utf-8", text.getvalue().encode())


def encode_parquet(records: list[dict[str, Any]]) -> str | None:
    """Return records as a parquet file in a data URI; None without the extra ``parquet``."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records), file)
    return _data_uri("application/vnd.apache.parquet", file.getvalue())


def encode_yaml(text: str) -> str:
    """Return a YAML text as a file in a data URI."""
    return _data_uri("text/yaml;charset=utf-8", text.encode())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
