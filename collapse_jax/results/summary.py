"""Summarize metrics over chains: the median with its interval, and the mean, for each metric and curve."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from collapse_jax.numerics.confidence_intervals import MIN_CHAINS, drop_nans, median_interval, range_interval
from collapse_jax.results.variables import grid_dims, select_scalars


class MetricSummary(NamedTuple):
    """One metric of one curve, summarized over chains.

    Attributes:
      metric: the name of the metric.
      column: the label of the curve.
      median: the median over chains.
      low: the lower 95% limit of the median; in runs of 2 to 5 chains the smallest value; NaN where there is one chain.
      high: the upper 95% limit, or the largest value.
      mean: the mean over chains.
    """

    metric: str
    column: str
    median: float
    low: float
    high: float
    mean: float


def curve_positions(ds: xr.Dataset) -> dict[str, dict[str, int]]:
    """Return ``{label: {dim: index}}`` of each curve: one a policy, and one a grid point where axes were swept."""
    dims = grid_dims(ds)
    positions: dict[str, dict[str, int]] = {}
    for index in np.ndindex(*(ds.sizes[dim] for dim in dims)):
        label = " ".join(_format_label(ds, dim, i) for dim, i in zip(dims, index, strict=True))
        if label in positions:  # else a curve would be lost
            label = f"{label} ({len(positions) + 1})"
        positions[label] = dict(zip(dims, index, strict=True))
    return positions


def select_position(values: xr.DataArray, position: Mapping[str, int]) -> xr.DataArray:
    """Return `values` at a position that ``curve_positions`` gives."""
    return values.isel({dim: i for dim, i in position.items() if dim in values.dims})


def summarize(ds: xr.Dataset, generation: int = -1) -> list[MetricSummary]:
    """Return the median over chains, its 95% interval or range, and the mean, of every metric and curve.

    Args:
      ds: the dataset of a run.
      generation: a position on the generation axis.
    """
    last, summaries = select_scalars(ds).isel(generation=generation), []
    interval = median_interval if last.sizes["chain"] >= MIN_CHAINS else range_interval
    for name in map(str, last.data_vars):
        for label, position in curve_positions(ds).items():
            values = drop_nans(select_position(last[name], position).to_numpy())
            with np.errstate(invalid="ignore"):  # the mean of -inf and inf is NaN
                mean = float(values.mean()) if len(values) else np.nan
            summaries.append(MetricSummary(name, label, *interval(values), mean))
    return summaries


def _format_label(ds: xr.Dataset, dim: str, index: int) -> str:
    value = ds[dim].to_numpy()[index] if dim in ds.coords else index
    return str(value) if dim == "policy" else f"{dim}={value}"
