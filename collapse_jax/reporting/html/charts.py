"""The numbers behind the charts of a report: what ``plots`` draws, for a browser to draw.

Everything is plain lists, rounded to five digits; a value that is not finite is None.
"""

import itertools
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.analysis.predictions import Lines
from collapse_jax.reporting import plot_curves
from collapse_jax.results.summary import curve_positions, select_position
from collapse_jax.results.variables import grid_dims, select_scalars

MOST_CELLS = 20_000  # (metric, curve, generation): of more, some generations are left out
_BINS, _MOST_BINS, _MOST_STEPS = 60, 150_000, 24  # of histograms: of each, of all, and generations of the slider
_FEWEST = 100  # chains: fewer make no histogram
_DASHES = dict(zip(plot_curves.STYLES, ("solid", "dash", "dot", "dashdot"), strict=True))


def charts(ds: xr.Dataset) -> dict[str, Any]:
    """What is drawn: ``axes`` of the sweep, ``curves`` in the order of ``io.columns``, ``metrics``, ``spread``.

    Of up to twelve curves means are drawn, all at once; of a larger grid medians, one point at a time (``select``), as
    in the pictures of ``plots``.
    """
    whole = select_scalars(ds)
    labels, names = curve_positions(ds), list(map(str, whole.data_vars))
    axes = [dim for dim in grid_dims(ds) if dim != "policy"]
    select = len(labels) > plot_curves.MOST_CURVES
    chosen = thinned(whole.sizes["generation"], MOST_CELLS // max(1, len(names) * len(labels)))
    part = whole.isel(generation=chosen)
    draws, lines = plot_curves.resamples(ds.sizes["chain"]), Lines(part)
    return {
        "generations": part["generation"].to_numpy().tolist(),
        "chains": ds.sizes["chain"],
        "select": select,
        "long": bool(whole.sizes["generation"] >= plot_curves.LONG),
        "policies": [str(p) for p in np.atleast_1d(ds["policy"].to_numpy())] if "policy" in ds.coords else ["all"],
        "axes": [{"name": axis, "values": words(ds, axis), "numbers": _numbers(ds, axis)} for axis in axes],
        "curves": _curves(labels, [ds.sizes[axis] for axis in axes], axes, select),
        "metrics": [_metric(part[name], labels, draws, lines, select) for name in names],
        "spread": _spread(whole, labels, axes),
    }


def thinned(number: int, most: int) -> np.ndarray:
    """Indices of at most so many of `number` generations (two at least), dense at the beginning, with both ends."""
    if number <= max(most, 2):
        return np.arange(number)
    return np.unique(np.geomspace(1, number, max(most, 2)).round().astype(int)) - 1


def rounded(values: Any) -> Any:
    """Nested lists of numbers of five digits; None where a value is not finite."""
    if np.ndim(values):
        return [rounded(value) for value in values]
    return float(f"{float(values):.5g}") if np.isfinite(values) else None


def words(ds: xr.Dataset, dim: str) -> list[str]:
    """The labels of a dimension."""
    return [str(value) for value in (ds[dim].to_numpy() if dim in ds.coords else range(ds.sizes[dim]))]


def _numbers(ds: xr.Dataset, axis: str) -> list[float] | None:
    """The labels of an axis as numbers, where they are."""
    values = ds[axis].to_numpy() if axis in ds.coords else np.arange(ds.sizes[axis])
    return values.astype(float).tolist() if values.dtype.kind in "iuf" else None


def _curves(labels: dict[str, dict[str, int]], shape: list[int], axes: list[str], select: bool) -> list[dict[str, Any]]:
    styles, curves = plot_curves.styles(labels), []
    for label, position in labels.items():
        policy, colour, dash = position.get("policy", 0), styles[label]["color"], styles[label]["linestyle"]
        if select:  # only policies are seen together
            colour, dash = (
                plot_curves.COLOURS[policy % len(plot_curves.COLOURS)],
                plot_curves.STYLES[policy // len(plot_curves.COLOURS) % 4],
            )
        point = int(np.ravel_multi_index([position[axis] for axis in axes], shape)) if axes else 0
        curves.append({"label": label, "policy": policy, "point": point, "colour": colour, "dash": _DASHES[dash]})
    return curves


def _metric(
    values: xr.DataArray, labels: dict[str, dict[str, int]], draws: np.ndarray, lines: Lines, select: bool
) -> dict[str, Any]:
    """A metric's curves, with what theory says of them."""
    attrs = values.attrs
    in_logs = select or attrs.get("summary") == "median"
    shown = values.assign_attrs(summary="median") if in_logs else values
    found = []
    for position in labels.values():
        curve = plot_curves.curve(shown, position, draws)
        theory = lines.at(str(values.name), position, in_logs=in_logs)
        unfinished = int(select_position(values, position).isnull().all("generation").sum())
        band = {key: rounded(getattr(curve, key)) for key in ("centre", "low", "high")}
        found.append({**band, "theory": None if theory is None else rounded(theory), "lost": curve.lost - unfinished})
    return {
        "name": str(values.name),
        "title": str(attrs.get("long_name", values.name)).replace("^2", "²"),
        "units": "" if attrs.get("units", "1") in ("", "1") else str(attrs["units"]).replace("^2", "²"),
        "log": attrs.get("scale") == "log",
        "centre": "median" if in_logs else "mean",
        "curves": found,
    }


def _spread(ds: xr.Dataset, labels: dict[str, dict[str, int]], axes: list[str]) -> dict[str, Any] | None:
    """How chains are spread around the curves: histograms with bins that all generations of a point share."""
    each = len(ds.data_vars) * len(labels) * _BINS
    if ds.sizes["chain"] < _FEWEST or not each or _MOST_BINS // each < 2:
        return None
    chosen = thinned(ds.sizes["generation"], min(_MOST_STEPS, _MOST_BINS // each))
    part, metrics = ds.isel(generation=chosen), []
    points = list(itertools.product(*(range(ds.sizes[axis]) for axis in axes)))
    for name in map(str, part.data_vars):
        found = []
        for point in points:
            here = part[name].isel(dict(zip(axes, point, strict=True)))
            rows = here.transpose(..., "generation", "chain").to_numpy().astype(float)
            found.append(_histograms(rows.reshape(-1, *rows.shape[-2:]), part[name].attrs.get("scale") == "log"))
        metrics.append(found)
    return {"generations": part["generation"].to_numpy().tolist(), "points": metrics}


def _histograms(rows: np.ndarray, scale_is_log: bool) -> dict[str, Any]:
    """Of ``[policy, generation, chain]``: shares of the chains by bin, the outermost 0.2% of all values left out."""
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
    return {"log": log, "edges": rounded(10**edges if log else edges), "shares": np.round(shares, 4).tolist()}
