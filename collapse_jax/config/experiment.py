"""From a YAML file to an experiment: strict, and the only file that knows names.

What a config may say of a setting, a policy or a source is read off the signature of its factory, so whatever is
registered can be configured, and an argument is never listed twice.
"""

import copy
import dataclasses
import importlib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from collapse_jax.config.parse import parse_fields
from collapse_jax.config.schema import Mesh, Spec, either, union_of
from collapse_jax.config.sweep_section import ConfigAxis, build_curator, grid_of, read_section, targets
from collapse_jax.config.yaml_io import ConfigError, apply_overrides, put, read_yaml
from collapse_jax.core.suggestions import describe_choices

if TYPE_CHECKING:  # at run time these cost the import of JAX, and `--help` must not
    from collapse_jax.planning.grid import Grid
    from collapse_jax.planning.options import Options
    from collapse_jax.types import Policy, Setting


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
        return tuple(policy_label(spec, self.policies) for spec in self.policies)

    def build(self) -> "tuple[Setting, list[Policy]]":
        """Makes the parts; raises `ConfigError` where one of them refuses its arguments."""
        setting = self.setting.build("setting")
        names = [metric.name for metric in setting.metrics]
        for i, name in enumerate(self.metrics or ()):
            if name not in names:
                raise ConfigError(
                    f"metrics.{i}: {setting.name} has no metric {name!r}; {describe_choices(name, names)}"
                )
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
    one = union_of("curator")
    hints |= {"setting": union_of("setting"), "policies": tuple[union_of("policy"), ...]}  # type: ignore[misc]
    hints["curator"] = either([one, tuple[one, ...], type(None)])  # type: ignore[valid-type]
    if isinstance(raw, Mapping) and "trace" in raw:
        raise ConfigError("trace: unknown key; it belongs under sweep")
    return parse_fields(raw, Experiment, hints, "")


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


def policy_label(spec: Spec, specs: Sequence[Spec]) -> str:
    """Return the kind of `spec`, with the arguments that tell it from others of its kind among `specs`."""
    kin = [other for other in specs if other.kind == spec.kind]
    differing = [
        (field.name, getattr(spec, field.name))
        for field in dataclasses.fields(spec)
        if any(getattr(other, field.name) != getattr(spec, field.name) for other in kin)
    ]
    return spec.kind + (f"({', '.join(f'{name}={value}' for name, value in differing)})" if differing else "")


# --- the strict loader ------------------------------------------------------------------------------------------------
