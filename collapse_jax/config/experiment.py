"""From a YAML file to an experiment: strict, and the only file that knows names.

What a config may say of a setting, a policy or a source is read off the signature of its factory, so whatever is
registered can be configured, and an argument is never listed twice.
"""

import collections.abc
import copy
import dataclasses
import functools
import importlib
import inspect
import math
import operator
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union

import yaml

from collapse_jax.config.sweep_section import ConfigAxis, build_curator, grid_of, read_section, targets
from collapse_jax.config.yaml_io import ConfigError, apply_overrides, put, read_yaml
from collapse_jax.core.suggestions import closest, perhaps

if TYPE_CHECKING:  # at run time these cost the import of JAX, and `--help` must not
    from collapse_jax.planning.grid import Grid
    from collapse_jax.planning.plan import Options
    from collapse_jax.types import Metric, Policy, Setting

_HOMES = {
    "setting": "settings",
    "policy": "policies",
    "curator": "curators",
    "source": "data",
    "symbols": "data.symbols",
    "text": "data.texts",
    "generator": "settings",
    "objective": "objectives",
}
_WORDS = {float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): "null"}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A call of a registered factory, written down but not made."""

    kind: ClassVar[str]
    factory: ClassVar[Callable[..., Any]]

    def build(self, path: str = "") -> Any:
        """Calls the factory; what it refuses is told with `path` before it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arguments = {
            name: value.build(f"{path}.{name}") if isinstance(value, Spec) else value for name, value in values.items()
        }
        try:
            return self.factory(**arguments)
        except (ValueError, OSError, ImportError) as error:
            raise ConfigError(f"{path or self.kind}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices a chain: `data` of them share out the rows of its minibatches, over `model` its parameters are cut."""

    data: int = 1
    model: int = 1


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One setting under some policies: everything that decides the numbers of a run.

    Attributes:
      setting: what is fitted.
      policies: which data are kept, one after the other on common random numbers.
      num_samples: rows that a fit sees of one generation's batch.
      num_generations: generations; the first is the fit to real data.
      num_chains: independent repetitions.
      seed: chain c's key depends on (seed, c) alone.
      metrics: those to record; null records all that the setting has.
      precision: of the arithmetic.
      rng: the random-number implementation.
      backend: draw rows, or the law of their sufficient statistics; "auto" draws statistics where every policy can.
      chains_per_block: chains that run side by side on a device; null lets memory decide.
      checkpoint_every: generations between two checkpoints of a block of chains; null saves whole units only.
      mesh: devices a chain; null: one.
      sweep: axes of a grid (see ``config_sweep``).
      trace: the paths of whole numbers that share a program.
      curator: what is done to each batch at its birth; of several, one after the other; null: nothing.
    """

    setting: Spec
    policies: tuple[Spec, ...]
    num_samples: int
    num_generations: int
    num_chains: int
    seed: int = 0
    metrics: tuple[str, ...] | None = None
    precision: Literal["float32", "float64"] = "float32"
    rng: Literal["threefry2x32", "rbg", "unsafe_rbg"] = "threefry2x32"
    backend: Literal["auto", "each", "rows", "law"] = "auto"
    chains_per_block: int | None = None
    checkpoint_every: int | None = None
    mesh: Mesh | None = None
    sweep: tuple[ConfigAxis, ...] = ()
    trace: tuple[str, ...] = ()
    curator: Spec | tuple[Spec, ...] | None = None

    def __post_init__(self):
        for name in ("num_samples", "num_generations", "num_chains", "chains_per_block", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, got {value}")
        if self.curator == ():
            raise ConfigError("curator: the list is empty; null is none")
        for name in ("policies", "metrics"):
            values = getattr(self, name)
            if values is None:
                continue
            if not values:
                raise ConfigError(f"{name}: the list is empty")
            for i, value in enumerate(values):
                if value in values[:i]:
                    raise ConfigError(f"{name}.{i}: the same as {name}.{values.index(value)}")

    @property
    def policy_labels(self) -> tuple[str, ...]:
        """One unique name a policy: its kind, with the arguments that tell it from others of that kind."""
        return tuple(_label(spec, self.policies) for spec in self.policies)

    def build(self) -> "tuple[Setting, list[Policy]]":
        """Makes the parts; raises `ConfigError` where one of them refuses its arguments."""
        setting = self.setting.build("setting")
        names = [metric.name for metric in setting.metrics]
        for i, name in enumerate(self.metrics or ()):
            if name not in names:
                raise ConfigError(f"metrics.{i}: {setting.name} has no metric {name!r}; {perhaps(name, names)}")
        policies = [
            spec.build(f"policies.{i}")._replace(name=label)
            for i, (spec, label) in enumerate(zip(self.policies, self.policy_labels, strict=True))
        ]
        return setting, policies

    def grid(self) -> "Grid":
        """The policies and axes of this experiment, with every part of it built once to see that it can be."""
        setting, _ = self.build()
        build_curator(self.curator)
        return grid_of(self, tuple(name for m in setting.metrics for name in (m.name, *dict(m.dims))))

    def options(self) -> "Options":
        """What a sweep is told besides its grid."""
        made = importlib.import_module("collapse_jax.planning.plan").Options
        same = {name: getattr(self, name) for name in made._fields if name != "mesh"}
        return made(**same, mesh=None if self.mesh is None else dataclasses.asdict(self.mesh))


def load(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Reads a YAML file, with the words of a command line (``--num-chains 10 --setting.source.pca 4``) put over it."""
    return from_dict(apply_overrides(read_yaml(path), overrides))


def from_dict(raw: Any) -> Experiment:
    """The experiment that a mapping describes; raises `ConfigError` at the first thing that is not as it should be."""
    if not isinstance(raw, Mapping) or "sweep" not in raw:
        return _plain_experiment(raw)
    section = read_section(raw["sweep"] or {}, ConfigError)
    raw = {key: value for key, value in raw.items() if key != "sweep"}
    lists = section.product | section.together
    count = len(raw["policies"]) if isinstance(raw.get("policies"), list) else 0

    def at(path: str, value: Any) -> Any:
        changed = base
        for target in targets(path, count):
            changed = put(copy.deepcopy(changed), target.split("."), value, path)
        return changed

    base = raw
    for path, values in lists.items():
        base = at(path, values[0])
    experiment = _plain_experiment(base)
    parsed = {path: [_get(_plain_experiment(at(path, v)), targets(path, count)[0]) for v in values]
              for path, values in lists.items()}  # fmt: skip
    axes = [ConfigAxis((path,), tuple((value,) for value in parsed[path])) for path in section.product]
    if section.together:
        points = zip(*(parsed[path] for path in section.together), strict=True)
        axes.append(ConfigAxis(tuple(section.together), tuple(points)))
    return dataclasses.replace(experiment, sweep=tuple(axes), trace=section.trace)


def _plain_experiment(raw: Any) -> Experiment:
    hints = typing.get_type_hints(Experiment)
    one = _union("curator")
    hints |= {"setting": _union("setting"), "policies": tuple[_union("policy"), ...]}  # type: ignore[misc]
    hints["curator"] = _either([one, tuple[one, ...], type(None)])  # type: ignore[valid-type]
    if isinstance(raw, Mapping) and "trace" in raw:
        raise ConfigError("trace: unknown key; it belongs under sweep")
    return _parse_fields(raw, Experiment, hints, "")


def _get(node: Any, path: str) -> Any:
    """What lies at a dotted path of an experiment."""
    for key in path.split("."):
        node = node.kind if key == "kind" else node[int(key)] if isinstance(node, tuple) else getattr(node, key)
    return node


def to_dict(value: Any) -> Any:
    """The reverse of `from_dict`, with every default written out."""
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    names = [field.name for field in dataclasses.fields(value) if field.name not in ("sweep", "trace")]
    fields = {name: to_dict(getattr(value, name)) for name in names}
    if isinstance(value, Spec):
        return {"kind": value.kind, **fields}
    if isinstance(value, Experiment) and value.sweep:
        column = lambda axis, i: [to_dict(point[i]) for point in axis.values]  # noqa: E731
        product = {axis.paths[0]: column(axis, 0) for axis in value.sweep if len(axis.paths) == 1}
        together = {
            path: column(axis, i) for axis in value.sweep if len(axis.paths) > 1 for i, path in enumerate(axis.paths)
        }
        parts = {"product": product, "zip": together, "trace": list(value.trace)}
        fields["sweep"] = {key: part for key, part in parts.items() if part}
    return fields


def dumps(experiment: Experiment) -> str:
    """The experiment as YAML that `load` reads back."""
    return yaml.safe_dump(to_dict(experiment), sort_keys=False)


def spec_types(group: str) -> tuple[type[Spec], ...]:
    """One spec class for each factory of a group (a key of ``_HOMES``) that a config can call."""
    registry = importlib.import_module(f"collapse_jax.{_HOMES[group]}").REGISTRY
    if group == "generator":  # what a setting may be made of: any that is not made of one itself
        registry = {k: f for k, f in registry.items() if "generator" not in inspect.signature(f).parameters}
    specs = (_spec_type(kind, factory) for kind, factory in registry.items())
    return tuple(spec for spec in specs if spec is not None)


def usage(spec: type[Spec]) -> str:
    """The call in short: ``window(k=5)``, ``table(path, ...)``."""
    words = (f.name + ("" if f.default is dataclasses.MISSING else f"={f.default!r}") for f in dataclasses.fields(spec))
    return f"{spec.kind}({', '.join(words)})"


def metrics_of(spec: type[Spec]) -> "tuple[Metric, ...]":
    """The metrics of a setting with default arguments; none where it needs some."""
    needs = any(field.default is dataclasses.MISSING for field in dataclasses.fields(spec))
    return () if needs else spec().build().metrics


@functools.cache  # one class a factory, so that equal configs are equal
def _spec_type(kind: str, factory: Callable[..., Any]) -> type[Spec] | None:
    """The factory's signature as a dataclass; None where it needs an argument that YAML cannot write."""
    hints = typing.get_type_hints(factory)
    fields: list[Any] = []
    for name, parameter in inspect.signature(factory).parameters.items():
        annotation = _configurable(hints.get(name))
        required = parameter.default is parameter.empty
        if annotation is None and required:
            return None
        if annotation is not None:
            fields.append((name, annotation) if required else (name, annotation, _frozen(parameter.default)))
    namespace = {"kind": kind, "factory": staticmethod(factory), "__doc__": factory.__doc__}
    return dataclasses.make_dataclass(kind, fields, bases=(Spec,), namespace=namespace, frozen=True, kw_only=True)


def _configurable(hint: Any) -> Any:
    """The part of a type hint that YAML can write (of ``Array | float``: float), or None."""
    parts = importlib.import_module("collapse_jax.types")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    groups = {parts.Source: "source", parts.Symbols: "symbols", parts.Text: "text", parts.Setting: "generator",
              parts.Pretext: "objective"}  # fmt: skip
    if isinstance(hint, type) and hint in groups:
        return _union(groups[hint])
    if hint is parts.Policy:  # one that is not made of another
        registry = importlib.import_module(f"collapse_jax.{_HOMES['policy']}").REGISTRY
        plain = (
            _spec_type(*item) for item in registry.items() if "policy" not in inspect.signature(item[1]).parameters
        )
        return _either([spec for spec in plain if spec is not None])
    if hint is Path:
        return str
    if hint in _WORDS or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        members = tuple(member for member in map(_configurable, args) if member is not None)
        return _either(members) if set(members) - {type(None)} else None
    if origin in (tuple, list, collections.abc.Sequence):
        items = tuple(item for item in map(_configurable, args) if item is not None)
        return tuple[_either(items), ...] if items else None  # type: ignore[misc]
    return None


def _union(group: str) -> Any:
    return _either(spec_types(group))


def _either(members: Sequence[Any]) -> Any:
    return functools.reduce(operator.or_, members)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _label(spec: Spec, specs: Sequence[Spec]) -> str:
    kin = [other for other in specs if other.kind == spec.kind]
    differing = [
        (field.name, getattr(spec, field.name))
        for field in dataclasses.fields(spec)
        if any(getattr(other, field.name) != getattr(spec, field.name) for other in kin)
    ]
    return spec.kind + (f"({', '.join(f'{name}={value}' for name, value in differing)})" if differing else "")


# --- the strict loader ------------------------------------------------------------------------------------------------


def _parse(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type `hint`, or a `ConfigError` that says what would have been right."""
    members = _members(hint)
    specs = {member.kind: member for member in members if isinstance(member, type) and issubclass(member, Spec)}
    if specs and isinstance(value, Mapping | str):
        return _parse_spec(value, specs, path)
    for member in members:
        if member is Mesh and isinstance(value, Mapping):
            return _parse_fields(value, member, typing.get_type_hints(member), path)
        if typing.get_origin(member) is tuple and isinstance(value, list | tuple):
            return tuple(_parse(item, typing.get_args(member)[0], f"{path}.{i}") for i, item in enumerate(value))
        if _fits(value, member):
            return float(value) if member is float else value
    choices = [choice for member in members for choice in typing.get_args(member) if isinstance(choice, str)]
    close = closest(value, choices)
    suffix = f"; {close}" if close else ""
    raise ConfigError(f"{path}: expected {describe(hint)}, got {reprlib.repr(value)}{suffix}")


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, member: Any) -> bool:
    if typing.get_origin(member) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(member))
    if member is float:  # NaN would pass every check of a bound
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is member


def _parse_spec(value: Mapping[str, Any] | str, specs: dict[str, type[Spec]], path: str) -> Spec:
    """``{kind: window, k: 5}``, or ``window`` where its defaults will do."""
    raw = {"kind": value} if isinstance(value, str) else dict(value)
    if "kind" not in raw:
        raise ConfigError(f"{path}.kind: missing; one of {', '.join(specs)}")
    kind = raw.pop("kind")
    if kind not in specs:
        raise ConfigError(f"{path}.kind: unknown {reprlib.repr(kind)}; {perhaps(kind, specs)}")
    return _parse_fields(raw, specs[kind], typing.get_type_hints(specs[kind]), path)


def _parse_fields(raw: Any, cls: type, hints: dict[str, Any], path: str) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path or 'config'}: expected keys and values, got {reprlib.repr(raw)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in raw:
        if key not in fields:
            owner = f" of {cls.kind}" if issubclass(cls, Spec) else ""
            raise ConfigError(f"{_join(path, key)}: unknown key{owner}; {perhaps(key, fields)}")
    for name, field in fields.items():
        if name not in raw and field.default is dataclasses.MISSING:
            raise ConfigError(f"{_join(path, name)}: missing; expected {describe(hints[name])}")
    return cls(**{name: _parse(value, hints[name], _join(path, name)) for name, value in raw.items()})


def describe(hint: Any) -> str:
    """A type hint in words: "a number or one of 'scott', 'silverman'"."""
    members = _members(hint)
    kinds = [member.kind for member in members if isinstance(member, type) and issubclass(member, Spec)]
    words = [f"a kind among {', '.join(kinds)}"] if kinds else []
    for member in members:
        if member is Mesh:
            words.append("the keys data and model")
        if member in _WORDS:
            words.append(_WORDS[member])
        elif typing.get_origin(member) is Literal:
            words.append("one of " + ", ".join(map(repr, typing.get_args(member))))
        elif typing.get_origin(member) is tuple:
            words.append(f"a list (items: {describe(typing.get_args(member)[0])})")
    return " or ".join(words)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
