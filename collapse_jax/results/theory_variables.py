"""What theory says of a sweep, beside the metrics of its dataset: the mean over chains of a metric.

These variables are coordinates: loops over the data variables, sums and tables see the metrics alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax import theory
from collapse_jax.core.errors import UsageError
from collapse_jax.planning.grid import Grid
from collapse_jax.types import Metric

ENDS = ("low", "high")


def theory_name(metric: str, end: str) -> str:
    """Return the name of the variable that holds one end, ``low`` or ``high``, of what theory says of a metric."""
    return f"{metric}_theory_{end}"


def theory_variables(
    grid: Grid, metrics: Mapping[str, Metric]
) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]:
    """Return two coordinates for each metric of which theory knows the mean over chains at some point of the sweep.

    The ends of its interval are equal where the mean is known exactly, and NaN where it is not known, or where so few
    chains cannot be held to it. Both have the dimensions of the metric but ``chain``.

    Args:
      grid: the points of the sweep.
      metrics: of the sweep, by name.

    Returns:
      ``{name: (dims, values, attributes)}``. The attribute ``theory_of`` names the metric, ``source`` says where the
      formulas are from, and ``follows_median`` whether medians over chains lie at the mean too.
    """
    found: dict[str, np.ndarray] = {}
    sources: dict[str, dict[str, None]] = {}
    medians: dict[str, bool] = {}
    shape = (2, len(grid.policies), *grid.shape, grid.num_generations)
    for policy in range(len(grid.policies)):
        for index in grid.indices():
            for name, prediction, limits in _predictions_at(grid, metrics, policy, index):
                ends = found.setdefault(name, np.full(shape, np.nan))
                for i in (policy, *index):  # views into the whole
                    ends = ends[:, i]
                ends[:, : limits.shape[-1]] = limits
                sources.setdefault(name, {})[prediction.source] = None
                medians[name] = prediction.in_logs
    dims = tuple(dim for dim in grid.dims if dim != "chain")
    return {
        theory_name(name, end): (dims, found[name][i], _attributes(metrics[name], end, sources[name], medians[name]))
        for name in metrics
        if name in found
        for i, end in enumerate(ENDS)
    }


def exact_line(ds: xr.Dataset, name: str, position: Mapping[str, int], *, follows_median: bool = False) -> Any:
    """Return the exact mean over chains of a metric, ``[generation]``; NaN where it is not known, None if nowhere.

    Args:
      ds: what ``sweep`` returned, or a part of it.
      name: of the metric.
      position: the index of a curve on each dimension (see ``curve_positions``).
      follows_median: only means that medians over chains follow too.
    """
    low, high = (ds.get(theory_name(name, end)) for end in ENDS)
    if low is None or high is None or (follows_median and not low.attrs.get("follows_median")):
        return None
    ends = [end.isel({d: i for d, i in position.items() if d in end.dims}).to_numpy() for end in (low, high)]
    line = np.where(ends[0] == ends[1], ends[0], np.nan).reshape(-1)
    return line if np.isfinite(line).any() else None


def exact_means(ds: xr.Dataset) -> xr.Dataset:
    """Return the exact mean over chains of each metric of which theory knows it somewhere; NaN elsewhere."""
    ends = {str(name): values for name, values in ds.coords.items() if "theory_of" in values.attrs}
    known = {}
    for name, low in ends.items():
        metric = low.attrs["theory_of"]
        if name == theory_name(metric, "low"):
            exact = np.where(low.values == ds[theory_name(metric, "high")].values, low.values, np.nan)
            if np.isfinite(exact).any():
                known[metric] = (low.dims, exact, {key: low.attrs[key] for key in ("units", "source")})
    labels = {name: values for name, values in ds.coords.items() if name not in ends and name != "chain"}
    return xr.Dataset(
        known, {name: values.drop_vars(set(values.coords) & set(ends)) for name, values in labels.items()}
    )


def _predictions_at(
    grid: Grid, metrics: Mapping[str, Metric], policy: int, index: tuple[int, ...]
) -> list[tuple[str, theory.Prediction, np.ndarray]]:
    """Return the metrics of which something is known at a point: each with the first prediction about it, and ends."""
    point = grid.point(policy, index)
    try:
        case = theory.make_case(
            point.setting,
            point.policy,
            num_samples=int(point.num_samples),
            num_generations=point.num_generations,
            curator=point.curator,
        )
    except UsageError:  # a part that is not registered: only its own theory is missing
        return []
    found: dict[str, tuple[str, theory.Prediction, np.ndarray]] = {}
    for prediction in theory.find_predictions(case):
        name = prediction.metrics[0]
        about_mean = prediction.statistic == "mean" and prediction.samples is None
        if about_mean and name in metrics and name not in found:
            found[name] = name, prediction, np.where(prediction.is_fair(case), prediction.interval(case), np.nan)
    return list(found.values())


def _attributes(metric: Metric, end: str, sources: Mapping[str, None], median: bool) -> dict[str, Any]:
    which = {"low": "lower", "high": "upper"}[end]
    return {
        "long_name": f"mean over chains by theory, {which} end: {metric.long_name}",
        "units": metric.units,
        "source": "; ".join(sources),
        "scale": metric.scale,
        "theory_of": metric.name,
        "follows_median": int(median),
    }
