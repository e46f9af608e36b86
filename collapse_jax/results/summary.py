"""Centres and intervals over chains, one for each metric and curve."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from collapse_jax.numerics.confidence_intervals import SUMMARIES, choose_summary
from collapse_jax.results.variables import grid_dims, select_scalars

if TYPE_CHECKING:
    pass


class Summary(NamedTuple):
    """One cell of the table: a metric of one policy, over chains. Low and high are NaN where there is one chain.

    `kind` says what the centre is: a key of ``intervals.SUMMARIES``.
    """

    metric: str
    column: str
    kind: str
    centre: float
    low: float
    high: float


def curve_positions(ds: xr.Dataset) -> dict[str, dict[str, int]]:
    """Label -> position of each curve: one a policy, and one a point of the grid where other axes were swept."""
    dims, labels = grid_dims(ds), {}
    for index in np.ndindex(*(ds.sizes[dim] for dim in dims)):
        words = [_word(ds, dim, i) for dim, i in zip(dims, index, strict=True)]
        labels[" ".join(words)] = dict(zip(dims, index, strict=True))
    return labels


def select_position(values: xr.DataArray, position: Mapping[str, int]) -> xr.DataArray:
    """`values` at a position of ``curve_positions``."""
    return values.isel({dim: i for dim, i in position.items() if dim in values.dims})


def summarize(ds: xr.Dataset, generation: int = -1) -> list[Summary]:
    """Centre over chains, and its 95% interval, of every metric and policy at one position of the generation axis.

    A metric has one kind of centre under all policies, by the weight of its tails: see ``choose_summary``.
    """
    last, rows = select_scalars(ds).isel(generation=generation), []
    for name in map(str, last.data_vars):
        samples = {
            label: select_position(last[name], position).to_numpy() for label, position in curve_positions(ds).items()
        }
        kind = choose_summary(samples.values())
        rows += [Summary(name, label, kind, *SUMMARIES[kind](values)) for label, values in samples.items()]
    return rows


def _word(ds: xr.Dataset, dim: str, index: int) -> str:
    value = ds[dim].to_numpy()[index] if dim in ds.coords else index
    return str(value) if dim == "policy" else f"{dim}={value}"
