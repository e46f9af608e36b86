"""Summarize metrics over chains: a centre and an interval for each metric and curve."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from collapse_jax.numerics.confidence_intervals import SUMMARIES, choose_summary
from collapse_jax.results.variables import grid_dims, select_scalars


class MetricSummary(NamedTuple):
    """One metric of one curve, summarized over chains.

    Attributes:
      metric: the name of the metric.
      column: the label of the curve.
      kind: what the centre is: a key of ``confidence_intervals.SUMMARIES``.
      centre: the centre over chains.
      low: the lower 95% limit; NaN where there is one chain.
      high: the upper 95% limit; NaN where there is one chain.
    """

    metric: str
    column: str
    kind: str
    centre: float
    low: float
    high: float


def curve_positions(ds: xr.Dataset) -> dict[str, dict[str, int]]:
    """Return ``{label: {dim: index}}`` of each curve: one a policy, and one a grid point where axes were swept."""
    dims, positions = grid_dims(ds), {}
    for index in np.ndindex(*(ds.sizes[dim] for dim in dims)):
        labels = [_format_label(ds, dim, i) for dim, i in zip(dims, index, strict=True)]
        positions[" ".join(labels)] = dict(zip(dims, index, strict=True))
    return positions


def select_position(values: xr.DataArray, position: Mapping[str, int]) -> xr.DataArray:
    """Return `values` at a position that ``curve_positions`` gives."""
    return values.isel({dim: i for dim, i in position.items() if dim in values.dims})


def summarize(ds: xr.Dataset, generation: int = -1) -> list[MetricSummary]:
    """Return the centre over chains, with a 95% interval, of every metric and curve.

    A metric has one kind of centre for all curves, chosen by the weight of its tails (see ``choose_summary``).

    Args:
      ds: the dataset of a run.
      generation: a position on the generation axis.
    """
    last, summaries = select_scalars(ds).isel(generation=generation), []
    for name in map(str, last.data_vars):
        samples = {
            label: select_position(last[name], position).to_numpy() for label, position in curve_positions(ds).items()
        }
        kind = choose_summary(samples.values())
        summaries += [MetricSummary(name, label, kind, *SUMMARIES[kind](values)) for label, values in samples.items()]
    return summaries


def _format_label(ds: xr.Dataset, dim: str, index: int) -> str:
    value = ds[dim].to_numpy()[index] if dim in ds.coords else index
    return str(value) if dim == "policy" else f"{dim}={value}"
