"""Make the numbers of the charts of a report: a browser draws what ``plot_curves`` draws in a picture.

The result holds plain lists of numbers rounded to five digits; a value that is not finite is None.
"""

import itertools
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.numerics.confidence_intervals import name_interval
from collapse_jax.reporting import plot_curves
from collapse_jax.results.summary import curve_positions, select_position
from collapse_jax.results.theory_variables import exact_line
from collapse_jax.results.variables import grid_dims, select_scalars

MAX_CELLS = 20_000  # (metric, curve, generation); where there are more, some generations are left out
_BINS, _MAX_BINS = 60, 150_000  # of each histogram, and of all
_MAX_STEPS = 24  # generations of the slider of histograms
_MIN_CHAINS = 100  # fewer chains make no histogram
_DASHES = dict(zip(plot_curves.STYLES, ("solid", "dash", "dot", "dashdot"), strict=True))


def make_charts(ds: xr.Dataset) -> dict[str, Any]:
    """Return what is drawn: axes of the sweep, curves in the order of ``curve_positions``, metrics and histograms.

    Up to twelve curves are means, all drawn at once; those of a larger grid are medians, drawn one point at a time
    (``select``), as in the pictures of ``plot_curves``.
    """
    scalars = select_scalars(ds)
    labels, names = curve_positions(ds), list(map(str, scalars.data_vars))
    axes = [dim for dim in grid_dims(ds) if dim != "policy"]
    select = len(labels) > plot_curves.MAX_CURVES
    chosen = thin_generations(scalars.sizes["generation"], MAX_CELLS // max(1, len(names) * len(labels)))
    part = ds.isel(generation=chosen)
    return {
        "generations": part["generation"].to_numpy().tolist(),
        "chains": ds.sizes["chain"],
        "interval": name_interval(ds.sizes["chain"]),
        "select": select,
        "long": bool(scalars.sizes["generation"] >= plot_curves.LONG),
        "policies": [str(p) for p in np.atleast_1d(ds["policy"].to_numpy())] if "policy" in ds.coords else ["all"],
        "axes": [{"name": axis, "values": axis_labels(ds, axis), "numbers": _axis_numbers(ds, axis)} for axis in axes],
        "curves": _style_curves(labels, [ds.sizes[axis] for axis in axes], axes, select),
        "metrics": [_summarize_metric(part, name, labels, select) for name in names],
        "histograms": _make_histograms(scalars, labels, axes),
    }


def thin_generations(number: int, limit: int) -> np.ndarray:
    """Return at most `limit` (at least two) indices of `number` generations, dense at the beginning, with both ends."""
    if number <= max(limit, 2):
        return np.arange(number)
    return np.unique(np.geomspace(1, number, max(limit, 2)).round().astype(int)) - 1


def round_values(values: Any) -> Any:
    """Return nested lists of numbers of five digits; None where a value is not finite."""
    if np.ndim(values):
        return [round_values(value) for value in values]
    return float(f"{float(values):.5g}") if np.isfinite(values) else None


def axis_labels(ds: xr.Dataset, dim: str) -> list[str]:
    """Return the labels of a dimension."""
    return [str(value) for value in (ds[dim].to_numpy() if dim in ds.coords else range(ds.sizes[dim]))]


def _axis_numbers(ds: xr.Dataset, axis: str) -> list[float] | None:
    """Return the labels of an axis where they are numbers, else None."""
    values = ds[axis].to_numpy() if axis in ds.coords else np.arange(ds.sizes[axis])
    return values.astype(float).tolist() if values.dtype.kind in "iuf" else None


def _style_curves(
    labels: dict[str, dict[str, int]], shape: list[int], axes: list[str], select: bool
) -> list[dict[str, Any]]:
    styles, curves = plot_curves.choose_styles(labels), []
    for label, position in labels.items():
        policy, colour, dash = position.get("policy", 0), styles[label]["color"], styles[label]["linestyle"]
        if select:  # one point is shown at a time, under all policies
            colour, dash = (
                plot_curves.COLOURS[policy % len(plot_curves.COLOURS)],
                plot_curves.STYLES[policy // len(plot_curves.COLOURS) % 4],
            )
        point = int(np.ravel_multi_index([position[axis] for axis in axes], shape)) if axes else 0
        curves.append({"label": label, "policy": policy, "point": point, "colour": colour, "dash": _DASHES[dash]})
    return curves


def _summarize_metric(ds: xr.Dataset, name: str, labels: dict[str, dict[str, int]], select: bool) -> dict[str, Any]:
    """Return a metric's curves with the predictions of theory."""
    values = ds[name]
    attrs = values.attrs
    in_logs = select or attrs.get("summary") == "median"
    shown = values.assign_attrs(summary="median") if in_logs else values
    curves = []
    for position in labels.values():
        curve = plot_curves.summarize_curve(shown, position)
        theory = exact_line(ds, name, position, follows_median=in_logs)
        unfinished = int(select_position(values, position).isnull().all("generation").sum())
        band = {key: round_values(getattr(curve, key)) for key in ("centre", "low", "high")}
        expected = None if theory is None else round_values(theory)
        curves.append({**band, "theory": expected, "lost": curve.lost - unfinished})
    return {
        "name": str(values.name),
        "title": str(attrs.get("long_name", values.name)).replace("^2", "²"),
        "units": "" if attrs.get("units", "1") in ("", "1") else str(attrs["units"]).replace("^2", "²"),
        "log": attrs.get("scale") == "log",
        "centre": "median" if in_logs else "mean",
        "curves": curves,
    }


def _make_histograms(ds: xr.Dataset, labels: dict[str, dict[str, int]], axes: list[str]) -> dict[str, Any] | None:
    """Return histograms over chains, with bins that all generations of a point share; None where they are too many."""
    bins = len(ds.data_vars) * len(labels) * _BINS  # of one generation
    if ds.sizes["chain"] < _MIN_CHAINS or not bins or _MAX_BINS // bins < 2:
        return None
    chosen = thin_generations(ds.sizes["generation"], min(_MAX_STEPS, _MAX_BINS // bins))
    part, metrics = ds.isel(generation=chosen), []
    points = list(itertools.product(*(range(ds.sizes[axis]) for axis in axes)))
    for name in map(str, part.data_vars):
        histograms, is_log = [], part[name].attrs.get("scale") == "log"
        for point in points:
            values = part[name].isel(dict(zip(axes, point, strict=True)))
            rows = values.transpose(..., "generation", "chain").to_numpy().astype(float)
            histograms.append(_make_histogram(rows.reshape(-1, *rows.shape[-2:]), is_log))
        metrics.append(histograms)
    return {"generations": part["generation"].to_numpy().tolist(), "points": metrics}


def _make_histogram(rows: np.ndarray, scale_is_log: bool) -> dict[str, Any]:
    """Return the shares of the chains by bin of ``[policy, generation, chain]``, without the outermost 0.2%."""
    finite = rows[np.isfinite(rows)]
    log = bool(scale_is_log and len(finite) and (finite > 0).all())
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.log10(rows) if log else rows
    if not len(finite):
        return {"log": log, "edges": [], "shares": []}
    low, high = np.quantile(scaled[np.isfinite(scaled)], [0.002, 0.998])
    margin = max((high - low) * 0.02, abs(high) * 1e-6, 1e-12)
    edges = np.linspace(low - margin, high + margin, _BINS + 1)
    counts = np.stack([[np.histogram(chains, edges)[0] for chains in policy] for policy in scaled])
    shares = counts / np.maximum(np.isfinite(rows).sum(-1), 1)[..., None]
    return {"log": log, "edges": round_values(10**edges if log else edges), "shares": np.round(shares, 4).tolist()}
