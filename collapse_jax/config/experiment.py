"""From a YAML file to an experiment: strict, and the only file that knows names.

What a config may say of a setting, a policy or a source is read off the signature of its factory, so whatever is
registered can be configured, and an argument is never listed twice.
"""

import dataclasses
import importlib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from collapse_jax.config.parse import parse_fields
from collapse_jax.config.schema import Mesh, Spec, either, union_of
from collapse_jax.config.sweep_section import read_section
from collapse_jax.config.yaml_io import ConfigError, apply_overrides, put, read_yaml
from collapse_jax.core import registry
from collapse_jax.core.errors import UsageError
from collapse_jax.core.suggestions import describe_choices
from collapse_jax.core.yaml_text import write_yaml
from collapse_jax.planning.paths import ALL_METRICS, SIZES, DesignAxis, expand_name, refuse_overlaps, targets

if TYPE_CHECKING:  # at run time these cost the import of JAX, and `--help` must not
    from collapse_jax.planning.design import Design
    from collapse_jax.planning.grid import Grid
    from collapse_jax.planning.options import Options
    from collapse_jax.planning.recipes import Recipe
    from collapse_jax.types import Policy, Setting


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment is one setting under some policies: everything that decides the numbers of a run.

    Attributes:
      setting: The setting says what is fitted.
      policies: The policies say which data are kept; all of them see the same random numbers.
      num_samples: Number of rows of the first real batch and of every synthetic one.
      num_generations: Number of fits in a chain; the first one sees real data only.
      num_chains: Number of independent chains.
      seed: Seed of the run; the key of chain c depends on the seed and on c alone.
      metrics: Names of the metrics to record; null records the setting's default ones, `[all]` all that it has.
      precision: Floating-point type of the arithmetic.
      rng: Random-number implementation of JAX.
      backend: `rows` draws rows, `law` draws their sufficient statistics; `auto` draws statistics where every policy
        can, `each` decides for each policy.
      chains_per_block: Number of chains that run side by side on a device; null lets memory decide.
      checkpoint_every: Number of generations between two checkpoints; null saves whole units only.
      mesh: Devices of one chain; null takes one device.
      sweep: Axes of a grid.
      trace: Paths of whole numbers whose values share one program.
      curator: What is done to each synthetic batch at its birth: one curator, a list of them one after the other, or
        null for nothing.
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
    sweep: tuple[DesignAxis, ...] = ()
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

    def design(self) -> "Design":
        """Return what a sweep of this experiment runs, as ``cj.sweep`` would make it of its arguments."""
        make_design = importlib.import_module("collapse_jax.planning.design").make_design
        moved = {path for axis in self.sweep for path in axis.paths}
        return make_design(
            self.setting.recipe(),
            [spec.recipe() for spec in self.policies],
            **{name: None if name in moved else getattr(self, name) for name in SIZES},
            axes={
                axis.paths if len(axis.paths) > 1 else axis.paths[0]: _axis_values(axis.values, len(axis.paths))
                for axis in self.sweep
            },
            curator=_recipe(self.curator),
            trace=self.trace,
        )

    def grid(self) -> "Grid":
        """Return the points of this experiment; every part of the first one is built to see that it can be.

        Raises:
          UsageError: a part refuses its arguments, or there is no such metric.
        """
        grid = importlib.import_module("collapse_jax.planning.grid").Grid(self.design())
        point = grid.point(0, [0] * len(grid.axes))
        names = [metric.name for metric in point.setting.metrics]
        for i, name in enumerate(self.metrics or ()):
            if name not in names and self.metrics != ALL_METRICS:
                raise ConfigError(
                    f"metrics.{i}: {point.setting.name} has no metric {name!r}; {describe_choices(name, names)}"
                )
        return grid

    def build(self) -> "tuple[Setting, list[Policy]]":
        """Return the setting and the policies at the first point of the grid."""
        grid = self.grid()
        points = [grid.point(i, [0] * len(grid.axes)) for i in range(len(self.policies))]
        return points[0].setting, [point.policy for point in points]

    def options(self) -> "Options":
        """Return the options of a sweep besides its design."""
        options = importlib.import_module("collapse_jax.planning.options").Options
        same = {name: getattr(self, name) for name in options._fields if name != "mesh"}
        return options(**same, mesh=None if self.mesh is None else dataclasses.asdict(self.mesh))


def load(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Reads a YAML file, with the words of a command line (``--num-chains 10 --setting.source.pca 4``) put over it."""
    return from_dict(apply_overrides(read_yaml(path), overrides))


def from_dict(raw: Any) -> Experiment:
    """The experiment that a mapping describes; raises `ConfigError` at the first thing that is not as it should be."""
    if not isinstance(raw, Mapping) or "sweep" not in raw:
        return _plain_experiment(raw)
    base: Any = {key: value for key, value in raw.items() if key != "sweep"}
    count = len(base["policies"]) if isinstance(base.get("policies"), list) else 0
    section = read_section(raw["sweep"] or {}, lambda name: _expand(name, base), ConfigError)
    try:
        refuse_overlaps(list(section.lists))
    except UsageError as error:
        raise ConfigError(f"sweep: {error}") from None

    def put_at(path: str, value: Any) -> Any:
        changed = base
        for target in targets(path, count):
            changed = put(changed, target.split("."), value, path)
        return changed

    for path, values in section.lists.items():
        base = put_at(path, values[0])
    experiment = _plain_experiment(base)
    parsed = {path: [_get(_plain_experiment(put_at(path, v)), targets(path, count)[0]) for v in values]
              for path, values in section.lists.items()}  # fmt: skip
    axes = [DesignAxis(tuple(axis), tuple(zip(*(parsed[path] for path in axis), strict=True))) for axis in section.axes]
    return dataclasses.replace(experiment, sweep=tuple(axes), trace=section.trace)


def _expand(name: str, raw: Mapping[str, Any]) -> str:
    """Return the whole path of a name in a ``sweep:`` section, where the parts' kinds are known."""
    is_whole = name in (*SIZES, "curator") or name.partition(".")[0] in ("setting", "policies", "curator")
    if not is_whole and name in [field.name for field in dataclasses.fields(Experiment)]:
        raise ConfigError(f"sweep: {name} cannot be an axis; {', '.join(SIZES)} and what lies in the parts can")
    if name in ("setting", "policies"):
        raise ConfigError(f"sweep: {name} cannot be an axis; what lies in it can")
    if is_whole:
        return expand_name(name, {})
    design = importlib.import_module("collapse_jax.planning.design")
    policies: Any = raw.get("policies")
    words = design.short_forms(
        _raw_recipe("setting", raw.get("setting")),
        [known for one in policies if (known := _raw_recipe("policy", one))] if isinstance(policies, list) else [],
        _raw_recipe("curator", raw.get("curator")),
    )
    try:
        return expand_name(name, words)
    except UsageError as error:
        raise ConfigError(f"sweep: {error}") from None


def _raw_recipe(group: str, raw: Any) -> "Recipe | None":
    """Return the factory that a config names, if it names one: parsing will say what is wrong with it."""
    kind = raw.get("kind") if isinstance(raw, Mapping) else raw
    factory = registry.factories(group).get(kind) if isinstance(kind, str) else None
    recipe = importlib.import_module("collapse_jax.planning.recipes").Recipe
    return None if factory is None else recipe(group, kind, factory, {})


def _recipe(value: Any) -> Any:
    """Return a spec as a recipe, several curators as one recipe of one after the other, anything else as it is."""
    if isinstance(value, tuple) and value and all(isinstance(item, Spec) for item in value):
        then_recipe = importlib.import_module("collapse_jax.planning.recipes").then_recipe
        return then_recipe([item.recipe() for item in value])
    return value.recipe() if isinstance(value, Spec) else value


def _axis_values(values: Sequence[Sequence[Any]], count: int) -> list[Any]:
    points = [tuple(map(_recipe, point)) for point in values]
    return points if count > 1 else [point[0] for point in points]


def _plain_experiment(raw: Any) -> Experiment:
    hints = typing.get_type_hints(Experiment)
    one = union_of("curator")
    hints |= {"setting": union_of("setting"), "policies": tuple[union_of("policy"), ...]}  # type: ignore[misc]  # made at run time
    hints["curator"] = either([one, tuple[one, ...], type(None)])  # type: ignore[valid-type]  # made at run time
    if isinstance(raw, Mapping) and "trace" in raw:
        raise ConfigError("trace: unknown key; it belongs under sweep")
    return parse_fields(raw, Experiment, hints, "")


def _get(node: Any, path: str) -> Any:
    """What lies at a dotted path of an experiment."""
    for key in path.split("."):
        node = node.kind if key == "kind" else node[int(key)] if isinstance(node, tuple) else getattr(node, key)
    return node


def to_dict(value: Any) -> Any:
    """Return an experiment or a part of it as plain values, defaults too; `from_dict` reads an experiment back."""
    if isinstance(value, Experiment):
        config_text = importlib.import_module("collapse_jax.results.config_text")
        return config_text.describe_experiment(value.design(), value.options())
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    if isinstance(value, Spec):
        return importlib.import_module("collapse_jax.planning.recipe_text").write_recipe(value.recipe(), value.kind)
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def dumps(experiment: Experiment) -> str:
    """Return the experiment as YAML that `load` reads back."""
    return write_yaml(to_dict(experiment))
