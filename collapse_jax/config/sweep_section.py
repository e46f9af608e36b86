"""The ``sweep:`` section of a config: dotted paths and the values they take, as the axes of a grid."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collapse_jax.planning.grid import Grid
    from collapse_jax.types import Curator


class ConfigAxis(NamedTuple):
    """One dimension of a sweep.

    Attributes:
      paths: dotted paths that move together (more than one under ``zip``).
      values: ``[points][paths]``, parsed as the config's own values are.
    """

    paths: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]


class Section(NamedTuple):
    """A ``sweep:`` section as it is written.

    Attributes:
      product: ``{path: values}``, an axis each.
      together: ``{path: values}`` of one axis (``zip:``).
      trace: paths of whole numbers that share a program too (``num_samples``).
    """

    product: dict[str, list[Any]]
    together: dict[str, list[Any]]
    trace: tuple[str, ...]


def read_section(raw: Any, fail: Callable[[str], Exception]) -> Section:
    """Checks the form of a ``sweep:`` section; its values are checked where they are put."""
    if not isinstance(raw, Mapping):
        raise fail(f"sweep: expected product, zip or trace, got {raw!r}")
    unknown = [key for key in raw if key not in ("product", "zip", "trace")]
    if unknown:
        raise fail(f"sweep.{unknown[0]}: unknown key; one of product, zip, trace")
    lists = {}
    for part in ("product", "zip"):
        lists[part] = _flat(raw.get(part) or {}, "")
        for path, values in lists[part].items():
            if not isinstance(values, list) or not values:
                raise fail(f"sweep.{part}.{path}: expected a list of one or more values, got {values!r}")
    if len({len(values) for values in lists["zip"].values()}) > 1:
        raise fail("sweep.zip: its lists must be equally long")
    for path in (*lists["product"], *lists["zip"]):
        head, _, rest = path.partition(".")
        rest = rest.partition(".")[2] if rest.partition(".")[0].isdecimal() else rest
        if path not in ("num_samples", "curator") and not (head in ("setting", "policies", "curator") and rest):
            what = "num_samples, curator and what lies in setting, policies or curator"
            raise fail(f"sweep: {path} cannot be an axis; {what} can")
    paths = [*lists["product"], *lists["zip"]]
    for i, path in enumerate(paths):
        for other in paths[:i]:
            if path != other and _overlap(path, other):
                raise fail(f"sweep: {path} and {other} move the same thing; keep one")
    trace = raw.get("trace") or []
    both = [path for path in lists["zip"] if path in lists["product"]]
    if both:
        raise fail(f"sweep: {both[0]} is both in product and in zip")
    for path in trace:
        if path != "num_samples" or path not in lists["product"]:
            raise fail(f"sweep.trace: {path!r} cannot be traced; num_samples can, as an axis of product")
    return Section(lists["product"], lists["zip"], tuple(trace))


def _overlap(a: str, b: str) -> bool:
    """Whether one path lies in the other; ``policies.share`` lies in every policy."""
    (number_a, rest_a), (number_b, rest_b) = _parts(a), _parts(b)
    apart = None not in (number_a, number_b) and number_a != number_b
    return not apart and (f"{rest_a}.".startswith(f"{rest_b}.") or f"{rest_b}.".startswith(f"{rest_a}."))


def _parts(path: str) -> tuple[str | None, str]:
    """The policy's number, if one is named, and the path without it."""
    words = path.split(".")
    number = words[1] if words[0] == "policies" and words[1].isdecimal() else None
    return number, ".".join(words if number is None else [words[0], *words[2:]])


def _flat(node: Any, prefix: str) -> dict[str, Any]:
    """``{a: {b: [1]}}`` as ``{a.b: [1]}``: both forms may be written."""
    if not isinstance(node, Mapping):
        return {prefix.removesuffix(".kind"): node}
    return {path: value for key, inner in node.items() for path, value in _flat(inner, _join(prefix, str(key))).items()}


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def dims(paths: list[str], taken: tuple[str, ...]) -> dict[str, str]:
    """A short name a path: its last word, or all of it where that is taken."""
    last = {path: path.rpartition(".")[2] for path in paths}
    names = list(last.values())
    return {path: name if names.count(name) == 1 and name not in taken else path for path, name in last.items()}


def targets(path: str, count: int) -> list[str]:
    """``policies.share`` means every policy's share."""
    head, _, rest = path.partition(".")
    if head == "policies" and not rest.partition(".")[0].isdecimal():
        return [f"policies.{i}.{rest}" for i in range(count)]
    return [path]


def grid_of(experiment: Any, metrics: tuple[str, ...]) -> "Grid":
    """The grid of an experiment.

    Args:
      experiment: parsed.
      metrics: names that no dimension may have.
    """
    from collapse_jax.planning.grid import Axis, Grid, Once, Point, are_floats

    paths = [path for axis in experiment.sweep for path in axis.paths]
    short = dims(paths, (*metrics, "policy", "chain", "generation"))
    axes = []
    for axis in experiment.sweep:
        hints = [_hint(experiment, path) for path in axis.paths]
        columns = list(zip(*axis.values, strict=True))
        traced = axis.paths == experiment.trace or all(
            _can_be_traced(path) and are_floats(column, hint)
            for path, column, hint in zip(axis.paths, columns, hints, strict=True)
        )
        whole = axis.paths == experiment.trace
        values = (
            tuple(tuple(int(v) if whole else float(v) for v in point) for point in axis.values)
            if traced
            else axis.values
        )
        axes.append(Axis("_".join(short[p] for p in axis.paths), axis.paths, values, traced))

    settings = Once(lambda **changes: moved(experiment.setting, changes).build("setting"))

    def make(number: int, values: dict[str, Any]) -> Any:
        changes, spec, curator, num = parts_at(experiment, number, values)
        policy = spec.build(f"policies.{number}")._replace(name=experiment.policy_labels[number])
        return Point(settings(**changes), policy, build_curator(curator), num)

    return Grid(experiment.policy_labels, tuple(axes), make)


def build_curator(spec: Any) -> "Curator | None":
    """The curator of a spec, of several specs one after the other, or of None."""
    if not isinstance(spec, tuple):
        return None if spec is None else spec.build("curator")
    from collapse_jax.curators import then

    return then(*(one.build(f"curator.{i}") for i, one in enumerate(spec)))


def parts_at(experiment: Any, number: int, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any, Any, Any]:
    """Policy `number` at swept `values`: what changes in the setting, the policy's and curator's specs, num_samples."""
    here = {target: v for path, v in values.items() for target in targets(path, len(experiment.policies))}
    policy = moved(experiment.policies[number], _under(f"policies.{number}", here))
    curator = moved(here.get("curator", experiment.curator), _under("curator", here))
    return _under("setting", here), policy, curator, here.get("num_samples", experiment.num_samples)


def _under(head: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values below a dotted path."""
    return {path.removeprefix(head + "."): value for path, value in values.items() if path.startswith(head + ".")}


def moved(spec: Any, values: Mapping[str, Any]) -> Any:
    """A spec with new values at dotted paths."""
    for path, value in values.items():
        spec = replaced(spec, path, value)
    return spec


def replaced(spec: Any, path: str, value: Any) -> Any:
    """A spec with `value` at a dotted path; the empty path is the spec itself."""
    if not path:
        return value
    name, _, rest = path.partition(".")
    if isinstance(spec, tuple):  # curators one after the other
        return tuple(replaced(one, rest, value) if i == int(name) else one for i, one in enumerate(spec))
    return dataclasses.replace(spec, **{name: replaced(getattr(spec, name), rest, value) if rest else value})


def _can_be_traced(path: str) -> bool:
    """Parameters of a setting, a policy or a curator can; those of a source change the real law."""
    parts = path.split(".")
    return parts[0] in ("policies", "curator") or (parts[0] == "setting" and len(parts) == 2)


def _hint(experiment: Any, path: str) -> Any:
    node: Any = experiment
    *parents, last = targets(path, len(experiment.policies))[0].split(".")
    for key in parents:
        node = node[int(key)] if isinstance(node, tuple) else getattr(node, key)
    return typing.get_type_hints(type(node)).get(last)
