"""The ``sweep:`` section of a config: paths and the values they take."""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Section(NamedTuple):
    """A ``sweep:`` section as it is written.

    Attributes:
      axes: ``{path: values}`` for each axis, of several paths where they move together.
      trace: paths of whole numbers that share a program too (``num_samples``).
    """

    axes: list[dict[str, list[Any]]]
    trace: tuple[str, ...]

    @property
    def lists(self) -> dict[str, list[Any]]:
        """Return the values of every path."""
        return {path: values for axis in self.axes for path, values in axis.items()}


def read_section(raw: Any, expand: Callable[[str], str], fail: Callable[[str], Exception]) -> Section:
    """Check the form of a ``sweep:`` section; its values are checked where they are put.

    Args:
      raw: what the config says: ``{product: ..., zip: ..., trace: ...}``, or a list of such sections, whose axes follow
        one another.
      expand: returns the whole path of a short name.
      fail: makes the error of a message.
    """
    axes: list[dict[str, list[Any]]] = []
    trace: list[str] = []
    for section in raw if isinstance(raw, list) else [raw]:
        if not isinstance(section, Mapping):
            raise fail(f"sweep: expected product, zip or trace, got {reprlib.repr(section)}")
        unknown = [key for key in section if key not in ("product", "zip", "trace")]
        if unknown:
            raise fail(f"sweep.{unknown[0]}: unknown key; one of product, zip, trace")
        axes += [{path: values} for path, values in _read_lists(section, "product", expand, fail).items()]
        together = _read_lists(section, "zip", expand, fail)
        if len({len(values) for values in together.values()}) > 1:
            raise fail("sweep.zip: its lists must be equally long")
        axes += [together] if together else []
        names = section.get("trace") or []
        trace += names if isinstance(names, list) else [names]
    paths = [path for axis in axes for path in axis]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise fail(f"sweep: {path} is there twice; keep one")
    for path in trace:
        if path != "num_samples" or {path} not in [set(axis) for axis in axes]:
            raise fail(f"sweep.trace: {path!r} cannot be traced; num_samples can, as an axis of product")
    return Section(axes, tuple(trace))


def _read_lists(
    section: Mapping[str, Any], part: str, expand: Callable[[str], str], fail: Callable[[str], Exception]
) -> dict[str, list[Any]]:
    lists = {}
    for name, values in _flatten(section.get(part) or {}, "").items():
        values = [values] if type(values) in (int, float) else values
        if not isinstance(values, list) or not values:
            raise fail(f"sweep.{part}.{name}: expected a list of one or more values, got {reprlib.repr(values)}")
        lists[expand(name)] = values
    return lists


def _flatten(node: Any, prefix: str) -> dict[str, Any]:
    """Return ``{a: {b: [1]}}`` as ``{a.b: [1]}``; both forms may be written."""
    if not isinstance(node, Mapping):
        return {prefix.removesuffix(".kind"): node}
    return {
        path: value
        for key, inner in node.items()
        for path, value in _flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
