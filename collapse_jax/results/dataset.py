"""Make a labelled dataset of the arrays of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.planning.design import find_plugins
from collapse_jax.planning.grid import Axis, Grid, coordinates
from collapse_jax.planning.options import Options
from collapse_jax.planning.paths import SIZES
from collapse_jax.planning.plan import Plan
from collapse_jax.results.config_text import config_attributes
from collapse_jax.results.provenance import provenance
from collapse_jax.results.theory_variables import theory_variables


def run_attributes(plan: Plan) -> dict[str, Any]:
    """Return what decides the numbers of a run, in short; sizes that are axes are left out."""
    design, options = plan.grid.design, plan.options
    sizes = {name: getattr(design, name) for name in SIZES}
    return {
        "setting": plan.programs[0].setting.name,
        **{name: size for name, size in sizes.items() if size is not None},
        "num_chains": options.num_chains,
        "precision": options.precision,
        "rng": options.rng,
        "backend": " and ".join(sorted({"law" if p.law else "rows" for p in plan.programs})),
        **({"mesh": dict(options.mesh)} if options.mesh else {}),
    }


def record_attributes(plan: Plan) -> dict[str, Any]:
    """Return what one needs to make the results again: the config, plugins, versions, machine and time."""
    design = plan.grid.design
    plugins = find_plugins(design)
    return {
        **config_attributes(design, plan.options),
        **({"plugins": plugins} if plugins else {}),
        **provenance(),
    }


def coordinate_labels(grid: Grid, options: Options) -> dict[str, list[Any]]:
    """The coordinates of the results."""
    return {
        "policy": list(grid.policies),
        **{axis.dim: coordinates(axis) for axis in grid.axes},
        "chain": list(range(options.num_chains)),
        "generation": list(range(1, grid.num_generations + 1)),
    }


def metric_attributes(plan: Plan) -> dict[str, dict[str, Any]]:
    """The attributes of each metric.

    What points of the grid may differ by, a baseline say, is one value, or (nested) lists along the axes it varies
    with, which ``baseline_dims`` then names, and ``baseline_labels`` tells apart, a list of labels each.
    """
    axes = plan.grid.axes
    known = any(metric.baseline is not None or metric.attrs for metric in plan.metrics.values())
    made = [plan.grid.point(0, index).setting for index in plan.grid.indices()] if known else []
    described: dict[str, dict[str, Any]] = {}
    for name, metric in plan.metrics.items():
        attrs = {key: getattr(metric, key) for key in ("long_name", "units", "source", "scale")}
        attrs |= {"role": metric.role} if metric.role else {}
        attrs |= {"value_dims": [dim for dim, _ in metric.dims]} if metric.dims else {}
        given = [{"baseline": m.baseline, **m.attrs} for setting in made for m in setting.metrics if m.name == name]
        for key in given[0] if len(given) == len(made) > 0 else ():
            values = [here[key] for here in given]
            attrs |= {} if None in values else _along(axes, key, values)
        described[name] = attrs
    return described


def _along(axes: Sequence[Axis], name: str, values: Sequence[Any]) -> dict[str, Any]:
    """An attribute of which there is a value at each point of the grid."""
    table = np.empty(len(values), object)
    for i, value in enumerate(values):  # at once, lists would be taken apart
        table[i] = value
    table = table.reshape([len(axis.values) for axis in axes])
    moves = [bool((table != table.take([0], i)).any()) for i in range(len(axes))]
    part = table[tuple(slice(None) if m else 0 for m in moves)]
    along = [axis for axis, m in zip(axes, moves, strict=True) if m]
    if not along:
        return {name: part}
    dims, known = [axis.dim for axis in along], [coordinates(axis) for axis in along]
    return {name: part.tolist(), f"{name}_dims": dims, f"{name}_labels": known}


def make_dataset(plan: Plan, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> xr.Dataset:
    """Return the results with their labels, units and origin, and what theory says of them (see ``theory_variables``).

    Args:
      plan: of the sweep.
      arrays: ``{metric: values}``.
      attrs: further attributes.
    """
    described = metric_attributes(plan)
    dims = {name: (*plan.grid.dims, *described[name].get("value_dims", ())) for name in arrays}
    variables = {name: (dims[name], value, described[name]) for name, value in arrays.items()}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in attrs.items()}
    attributes = run_attributes(plan) | record_attributes(plan) | rounded
    labels = coordinate_labels(plan.grid, plan.options)
    return xr.Dataset(variables, {**labels, **theory_variables(plan.grid, plan.metrics)}, attributes)
