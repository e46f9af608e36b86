"""The tables of a report: the evidence of each definition, the numbers, and the same numbers as files."""

import base64
import csv
import io
import itertools
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.analysis.verdicts import DEFINITIONS, UNKNOWN
from collapse_jax.reporting.html.text import is_done
from collapse_jax.results import summary
from collapse_jax.results.variables import grid_dims, select_scalars

_SHOWN = 300  # rows of the table of a grid


def evidence(ds: xr.Dataset, verdicts: xr.Dataset) -> list[dict[str, Any]]:
    """One table a point of the grid: a row a definition, a cell a policy."""
    axes = [dim for dim in grid_dims(ds) if dim != "policy"]
    tables = []
    for place in itertools.product(*(range(ds.sizes[axis]) for axis in axes)):
        here = verdicts.isel(dict(zip(axes, place, strict=True)))
        here = here if "policy" in here.dims else here.expand_dims("policy")
        columns = [here.isel(policy=i) for i in range(here.sizes["policy"])]
        rows = []
        for number, definition in enumerate(DEFINITIONS):
            cells = [_evidence(column.isel(definition=number)) for column in columns]
            rows.append({"name": definition.name.replace("_", " "), "rule": definition.rule, "cells": cells})
        title = ", ".join(f"{axis} = {here[axis].item()}" for axis in axes if axis in here.coords)
        tables.append({"title": title, "rows": rows})
    return tables


def _evidence(found: xr.Dataset) -> dict[str, str]:
    verdict, estimate, low, high = (found[key].item() for key in ("verdict", "estimate", "low", "high"))
    number = "" if np.isnan(estimate) else f"{estimate:.3g}"
    number += "" if np.isnan(low) else f" ({low:.3g}, {high:.3g})"
    mark = "unknown" if verdict == UNKNOWN else verdict
    return {"verdict": verdict, "mark": mark, "number": number, "metric": found["metric"].item(),
            "reason": found["reason"].item()}  # fmt: skip


def numbers(ds: xr.Dataset) -> dict[str, Any]:
    """The last generation: a row a metric and a column a curve, or the other way round where there are many curves."""
    found, shown = summary.summarize(ds), select_scalars(ds)
    names = list(map(str, shown.data_vars))
    labels = list(dict.fromkeys(row.column for row in found))
    missing = "not finite" if is_done(ds) else "not yet"
    cells = {(row.metric, row.column): _cell(row, missing) for row in found}
    kinds = {row.metric: row.kind if ds.sizes["chain"] > 1 else "one chain" for row in found}
    heads = [(name, " · ".join([*_units(shown[name]), kinds[name]]) if name in kinds else "") for name in names]
    if len(labels) <= 8:
        columns: Any = [(label, "") for label in labels]
        rows: Any = [(head, [cells[head[0], label] for label in labels]) for head in heads]
    else:
        columns = heads
        rows = [((label, ""), [cells[name, label] for name in names]) for label in labels]
    generation = int(ds["generation"].to_numpy()[-1])
    return {"columns": columns, "rows": rows[:_SHOWN], "left_out": len(rows[_SHOWN:]), "generation": generation}


def _units(values: xr.DataArray) -> list[str]:
    units = str(values.attrs.get("units", "1"))
    return [] if units in ("", "1") else [units]


def _cell(row: summary.Summary, missing: str) -> tuple[str, str]:
    if np.isnan(row.centre):
        return missing, ""
    return f"{row.centre:.3g}", "" if np.isnan(row.low) else f"({row.low:.3g}, {row.high:.3g})"


def records(ds: xr.Dataset, charts: dict[str, Any]) -> list[dict[str, Any]]:
    """What the charts draw, one record a (metric, policy, point, generation)."""
    found = []
    positions = summary.curve_positions(ds).values()
    for metric in charts["metrics"]:
        for curve, position in zip(metric["curves"], positions, strict=True):
            where = {dim: _label(ds, dim, i) for dim, i in position.items()}
            theory = curve["theory"] or [None] * len(charts["generations"])
            for number, *limits, exact in zip(
                charts["generations"], curve["centre"], curve["low"], curve["high"], theory, strict=True
            ):
                cells = dict(zip(("centre", "low", "high"), limits, strict=True))
                found.append({"metric": metric["name"], "units": metric["units"] or "1", **where, "generation": number,
                              "kind": metric["centre"], **cells, "exact": exact})  # fmt: skip
    return found


def _label(ds: xr.Dataset, dim: str, index: int) -> Any:
    return ds[dim].to_numpy()[index].item() if dim in ds.coords else index


def as_csv(records: list[dict[str, Any]]) -> str:
    """A data URI."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else ["metric"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return _uri("text/csv;charset=utf-8", text.getvalue().encode())


def as_parquet(records: list[dict[str, Any]]) -> str | None:
    """A data URI; None without the extra ``parquet``."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records), file)
    return _uri("application/vnd.apache.parquet", file.getvalue())


def as_yaml(text: str) -> str:
    """A data URI."""
    return _uri("text/yaml;charset=utf-8", text.encode())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
