"""The grid of a sweep: policies, static axes (a program a point) and traced ones (floats of one program)."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.suggestions import describe_choices
from collapse_jax.types import Curator, Policy, Setting


class Axis(NamedTuple):
    """One dimension of a sweep.

    Attributes:
      dim: its name.
      names: the parameters that move along it, together.
      values: ``[points][names]``.
      traced: whether all of its points share one program.
    """

    dim: str
    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    traced: bool

    def point(self, index: int) -> dict[str, Any]:
        """The parameters at one point."""
        return dict(zip(self.names, self.values[index], strict=True))


class Point(NamedTuple):
    """The parts that one chain is made of."""

    setting: Setting
    policy: Policy
    curator: Curator | None
    num_samples: Any


class Grid(NamedTuple):
    """Policies by axes, and how the parts of a point are made.

    Attributes:
      policies: their names, unique.
      axes: in the order of the dimensions.
      make: ``(policy number, {parameter: value}) -> Point``; traced values may be tracers.
    """

    policies: tuple[str, ...]
    axes: tuple[Axis, ...]
    make: Callable[[int, dict[str, Any]], Point]

    @property
    def dims(self) -> tuple[str, ...]:
        """Of the results."""
        return ("policy", *(axis.dim for axis in self.axes), "chain", "generation")

    def values(self, point: Sequence[int]) -> dict[str, Any]:
        """The parameters at one index an axis."""
        return {k: v for axis, i in zip(self.axes, point, strict=True) for k, v in axis.point(i).items()}


def grid_of(
    setting: Any, policy: Any, num_samples: int | None, axes: Mapping[Any, Sequence], curator: Any = None
) -> Grid:
    """The grid of ``sweep``'s arguments.

    Raises:
      UsageError: an axis that is empty, or no parameter of a factory.
    """
    policies = list(policy) if isinstance(policy, Sequence) and not isinstance(policy, Policy) else [policy]
    if not policies:
        raise UsageError("policy: an empty list; give at least one")
    several = isinstance(curator, Sequence) and not isinstance(curator, Curator)
    if several and not curator:
        raise UsageError("curator: an empty list; give at least one, or None")
    single = {"policy": policies[0] if len(policies) == 1 else None, "curator": None if several else curator}
    factories = {"setting": setting, **single}
    made: list[Axis] = []
    homes: dict[str, tuple[str, str]] = {}
    for key, values in axes.items():
        names = key if isinstance(key, tuple) else (key,)
        if isinstance(values, str) or len(values) == 0:
            raise UsageError(f"axis {key!r} must be a list of one or more values")
        points = tuple(tuple(map(_plain, v)) if isinstance(key, tuple) else (_plain(v),) for v in values)
        if any(len(point) != len(names) for point in points):
            raise UsageError(f"axis {key!r}: each of its values must be {len(names)} values")
        for name in names:
            home = _home(name, factories, num_samples)
            if home in homes.values():
                raise UsageError(f"axis {name!r} moves what another axis moves; keep one")
            homes[name] = home
        columns = zip(names, zip(*points, strict=True), strict=True)
        traced = all(_is_float(factories.get(homes[n][0]), homes[n][1], v) for n, v in columns)
        floats = tuple(tuple(float(x) for x in point) for point in points) if traced else points
        made.append(Axis("_".join(names), names, floats, traced))
    if several:
        labels = _unique(["none" if c is None else c.name for c in curator])
        values = [None if c is None else c._replace(name=n) for c, n in zip(curator, labels, strict=True)]
        made.append(Axis("curator", ("curator",), tuple((c,) for c in values), False))
        homes["curator"] = "curator", ""
    if num_samples is None and ("num_samples", "") not in homes.values():
        raise UsageError("num_samples is needed, as an argument or as an axis")

    settings = Once(lambda **values: _build("setting", setting, Setting, values))

    def make(number: int, values: dict[str, Any]) -> Point:
        given: dict[str, dict[str, Any]] = {"setting": {}, "policy": {}, "curator": {}, "num_samples": {}}
        for name, value in values.items():
            part, parameter = homes[name]
            given[part][parameter] = value
        curated = given["curator"].pop("", curator)
        return Point(
            settings(**given["setting"]),
            _build("policy", policies[number], Policy, given["policy"]),
            None if curated is None else _build("curator", curated, Curator, given["curator"]),
            given["num_samples"].get("", num_samples or 0),
        )

    first = {k: v for axis in made for k, v in axis.point(0).items()}
    return Grid(_unique([make(i, first).policy.name for i in range(len(policies))]), tuple(made), make)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names, numbered where they are alike."""
    return tuple(n if names.count(n) == 1 else f"{n}_{names[: i + 1].count(n)}" for i, n in enumerate(names))


class Once:
    """A function of keywords that is called once for each set of them, unless some are tracers."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self._made = function, {}  # type: ignore[var-annotated]

    def __call__(self, **values: Any) -> Any:
        """What the function gives."""
        try:
            key = tuple(sorted(values.items()))
            if key not in self._made:
                self._made[key] = self.function(**values)
        except TypeError:  # tracers cannot be looked up
            return self.function(**values)
        return self._made[key]


def label(value: Any) -> Any:
    """What stands for a value on an axis."""
    value = "none" if value is None else value.name if isinstance(value, Curator) else _plain(value)
    if isinstance(value, list | tuple) and value and all(isinstance(word, str) for word in value):
        return " and ".join(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def coordinates(axis: Axis) -> list[Any]:
    """One label a point; where several parameters move together, their labels side by side."""
    labels = [[label(v) for v in point] for point in axis.values]
    if len(axis.names) > 1:
        return [", ".join(f"{n}={v}" for n, v in zip(axis.names, point, strict=True)) for point in labels]
    column = [point[0] for point in labels]
    kinds = [str(v).partition("(")[0] for v in column]
    if all(isinstance(v, str) for v in column) and len(set(kinds)) == len(kinds):
        return kinds  # what is built from arguments goes by its kind where that is enough
    return [str(v) for v in column] if any(isinstance(v, str) for v in column) else column


def _home(name: str, factories: dict[str, Any], num_samples: int | None) -> tuple[str, str]:
    """Which part an axis belongs to, and which of its parameters it is."""
    if name == "num_samples":
        if num_samples is not None:
            raise UsageError("num_samples is given both as an argument and as an axis; keep one")
        return "num_samples", ""
    part, _, parameter = name.rpartition(".")
    known = {p: _parameters(f) for p, f in factories.items()}
    found = [p for p, names in known.items() if parameter in names and part in ("", p)]
    if len(found) == 1:
        return found[0], parameter
    if found:
        words = " or ".join(f"'{p}.{parameter}'" for p in found)
        raise UsageError(f"axis {name!r} is a parameter of both; write {words}")
    names = ["num_samples", *(n for names in known.values() for n in names)]
    raise UsageError(f"axis {name!r} is no parameter of a factory here; {describe_choices(parameter, names)}")


def _parameters(factory: Any) -> list[str]:
    is_factory = callable(factory) and not isinstance(factory, Setting | Policy | Curator)
    return list(inspect.signature(factory).parameters) if is_factory else []


def _build(part: str, made: Any, kind: type, arguments: dict[str, Any]) -> Any:
    if isinstance(made, kind):
        return made
    built = made(**arguments) if callable(made) else made
    if not isinstance(built, kind):
        raise UsageError(f"{part} must be a {kind.__name__} or a factory of one, not {type(built).__name__}")
    return built


def _is_float(factory: Any, parameter: str, values: Sequence) -> bool:
    """Whether an axis can be traced: floats, or numbers for a parameter that is annotated as a float."""
    function = factory.func if isinstance(factory, partial) else factory
    try:
        hint = typing.get_type_hints(function).get(parameter) if inspect.isfunction(function) else None
    except NameError:  # annotations that exist for type checkers only
        hint = None
    return are_floats(values, hint)


def are_floats(values: Sequence, hint: Any) -> bool:
    """Whether `values` for a parameter annotated with `hint` can be traced."""
    if any(isinstance(v, bool | str) for v in values) or not all(isinstance(v, int | float) for v in values):
        return False
    allowed = set(typing.get_args(hint) or [hint])
    return any(isinstance(v, float) for v in values) or (float in allowed and int not in allowed)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
