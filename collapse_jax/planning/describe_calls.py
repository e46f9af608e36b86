"""The recorded calls of a grid, as JSON."""

import json
from typing import Any

from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import written
from collapse_jax.planning.grid import Grid, coordinates


def describe(grid: Grid) -> str | None:
    """The calls at a grid's first point, and what each value of an axis changes, as JSON; None where one is not known.

    ``{"labels": {dim: [...]}, "base": {"setting": ..., "policies": [...], "curator": ..., "num_samples": ...},
    "axes": {dim: [...]}}``; no curator is one of the kind None.
    """

    def at(point: list[int]) -> dict[str, Any]:
        made = [grid.make(i, grid.values(point)) for i in range(len(grid.policies))]
        setting, _, curator, num_samples = made[0]
        return {
            "setting": written(setting),
            "policies": [written(point.policy) for point in made],
            "curator": {"kind": None} if curator is None else written(curator),
            "num_samples": written(num_samples),
        }

    places = [range(len(axis.values)) for axis in grid.axes]
    one_moved = lambda i, value: [value if j == i else 0 for j in range(len(places))]  # noqa: E731
    try:
        base = at([0] * len(places))
        moves = [[_change(base, at(one_moved(i, value))) for value in place] for i, place in enumerate(places)]
        if changed(base, [move[-1] for move in moves]) != at([len(place) - 1 for place in places]):
            return None  # axes that do not act on their own
    except UsageError:
        return None
    dims = [axis.dim for axis in grid.axes]
    labels = {"policy": grid.policies, **{axis.dim: coordinates(axis) for axis in grid.axes}}
    return json.dumps({"labels": labels, "base": base, "axes": dict(zip(dims, moves, strict=True))})


def _change(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What differs in `other`: arguments of the setting, of each policy and of the curator, and num_samples."""
    new = lambda a, b: {name: value for name, value in b.items() if a.get(name) != value}  # noqa: E731
    curators = base["curator"], other["curator"]
    curator = new(*curators) if curators[0]["kind"] == curators[1]["kind"] else curators[1]
    policies = [new(a, b) for a, b in zip(base["policies"], other["policies"], strict=True)]
    size = {} if base["num_samples"] == other["num_samples"] else {"num_samples": other["num_samples"]}
    return {"setting": new(base["setting"], other["setting"]), "policies": policies, "curator": curator, **size}


def changed(base: dict[str, Any], changes: list[dict[str, Any]]) -> dict[str, Any]:
    """`base` with some changes."""
    for change in changes:
        policies = [a | b for a, b in zip(base["policies"], change["policies"], strict=True)]
        curator = change["curator"] if "kind" in change["curator"] else base["curator"] | change["curator"]
        setting = base["setting"] | change["setting"]
        base = {**base, **change, "setting": setting, "policies": policies, "curator": curator}
    return base
