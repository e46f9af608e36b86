"""The grid of a sweep: policies by axes, and the parts of each point, which are built once."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from collapse_jax.core.errors import UsageError
from collapse_jax.planning.design import Design, make_design
from collapse_jax.planning.paths import SIZES, DesignAxis, short_names
from collapse_jax.planning.recipes import Recipe, are_floats, label_recipes, label_value, own_name
from collapse_jax.types import Curator, Policy, Setting


class Axis(NamedTuple):
    """One dimension of a sweep.

    Attributes:
      dim: its name in the results.
      names: the short names of what moves along it.
      paths: what moves along it, together (see ``DesignAxis``).
      values: ``[points][paths]``.
      traced: whether all of its points share one program.
    """

    dim: str
    names: tuple[str, ...]
    paths: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    traced: bool

    def point(self, index: int) -> dict[str, Any]:
        """Return the value of each path at one point."""
        return dict(zip(self.paths, self.values[index], strict=True))


class Point(NamedTuple):
    """The parts and sizes that one chain is made of.

    Attributes:
      setting: what is fitted.
      policy: which data are kept.
      curator: what is done to each synthetic batch, or None.
      num_samples: rows of a batch.
      num_generations: fits in a chain.
      seed: the chain's key depends on it and on the chain's number alone.
    """

    setting: Setting
    policy: Policy
    curator: Curator | None
    num_samples: Any
    num_generations: int
    seed: int


class Grid:
    """The points of a sweep.

    Args:
      design: what the sweep runs.

    Attributes:
      design: as given.
      policies: the labels of the policies.
      axes: in the order of the dimensions.

    Raises:
      UsageError: a part refuses its arguments, or two policies have one label.
    """

    def __init__(self, design: Design):
        self.design = design
        self._built: dict[Any, Any] = {}
        values = {path: value for axis in design.axes for path, value in zip(axis.paths, axis.values[0], strict=True)}
        first = [design.moved(i, values) for i in range(len(design.policies))]
        self.policies = _label_policies(design, [recipe for _, recipe, _ in first])
        setting = first[0][0].build("setting")
        metrics = [name for m in setting.metrics for name in (m.name, *dict(m.dims))]
        paths = [path for axis in design.axes for path in axis.paths]
        names = short_names(paths, ("policy", "chain", "generation", *metrics))
        self.axes = tuple(_make_axis(design, axis, names) for axis in design.axes)

    @property
    def dims(self) -> tuple[str, ...]:
        """Return the dimensions of the results."""
        return ("policy", *(axis.dim for axis in self.axes), "chain", "generation")

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the axes."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def num_generations(self) -> int:
        """Return the most generations that a point has; results of shorter points end in NaN."""
        return max(self._sizes("num_generations"))

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Yield the index of every point, one number an axis."""
        yield from itertools.product(*map(range, self.shape))

    def full_points(self, traced: Sequence[bool], point: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Yield all points that one program serves: `point`, at any index of the traced axes."""
        spans = zip(self.axes, traced, point, strict=True)
        yield from itertools.product(*(range(len(axis.values)) if t else (i,) for axis, t, i in spans))

    def values(self, index: Sequence[int]) -> dict[str, Any]:
        """Return the value of each path at a point."""
        return {k: v for axis, i in zip(self.axes, index, strict=True) for k, v in axis.point(i).items()}

    def seed(self, index: Sequence[int]) -> int:
        """Return the seed at a point."""
        return int(self.values(index).get("seed", self.design.seed or 0))

    def recipes(self, policy: int, index: Sequence[int]) -> tuple[Recipe, Recipe, Recipe | None]:
        """Return the recipes of the setting, of a policy by its number, and of the curator at a point."""
        return self.design.moved(policy, self.values(index))

    def point(self, policy: int, index: Sequence[int], traced: Mapping[str, Any] | None = None) -> Point:
        """Return the parts of a point; each is built once.

        Args:
          policy: its number.
          index: one number an axis.
          traced: values that take the place of those at `index`, by path; they may be tracers.
        """
        values = self.values(index) | dict(traced or {})
        setting, kept, curated = self.design.moved(policy, values)
        moved = traced or {}
        curator = None if curated is None else self._build("curator", "curator", curated, index, moved)
        made = self._build(f"policies.{policy}", "policies", kept, index, moved)
        return Point(
            self._build("setting", "setting", setting, index, moved),
            made._replace(name=self.policies[policy]),
            curator,
            *(values.get(name, getattr(self.design, name)) for name in SIZES),
        )

    def _build(self, name: str, head: str, recipe: Recipe, index: Sequence[int], traced: Mapping[str, Any]) -> Any:
        if any(_is_at(path, head) for path in traced):
            return recipe.build(name)
        moved = tuple(i for axis, i in zip(self.axes, index, strict=True) if any(_is_at(p, head) for p in axis.paths))
        key = (name, moved)
        if key not in self._built:
            self._built[key] = recipe.build(name)
        return self._built[key]

    def _sizes(self, name: str) -> list[Any]:
        """Return all values that a size takes."""
        given = getattr(self.design, name)
        if given is not None:
            return [given]
        return [axis.point(i)[name] for axis in self.axes for i in range(len(axis.values)) if name in axis.paths]


def make_grid(setting: Any, policy: Any, **arguments: Any) -> Grid:
    """Return the grid of the arguments of ``make_design``."""
    return Grid(make_design(setting, policy, **arguments))


def coordinates(axis: Axis) -> list[Any]:
    """Return one label a point; where several values move together, their labels side by side."""
    columns = [_label_column([point[i] for point in axis.values]) for i in range(len(axis.paths))]
    if len(columns) == 1:
        return columns[0]
    return [", ".join(f"{n}={v}" for n, v in zip(axis.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _label_policies(design: Design, first: Sequence[Recipe]) -> tuple[str, ...]:
    """Return a label for each policy: the name that a user gave it, or its kind with the arguments that tell it apart.

    Args:
      design: of the sweep.
      first: the policies at the first point, at which those that are not registered are built to learn their names.
    """
    recipes, moved = [], []
    for i, (given, built) in enumerate(zip(design.policies, first, strict=True)):
        known = given.kind is not None or own_name(given) is not None
        recipes.append(given if known else Recipe("policy", None, None, {}, built.build(f"policies.{i}")))
        paths = [path for axis in design.axes for path in axis.paths]
        below = [p.removeprefix(head) for head in ("policies.", f"policies.{i}.") for p in paths if p.startswith(head)]
        moved.append({path.partition(".")[0] for path in below})
    try:
        return tuple(label_recipes(recipes, moved))
    except UsageError as error:
        raise UsageError(f"policy: {error}") from None


def _make_axis(design: Design, axis: DesignAxis, names: Mapping[str, str]) -> Axis:
    traced = axis.paths == design.trace or all(
        _can_be_traced(design, path, column)
        for path, column in zip(axis.paths, zip(*axis.values, strict=True), strict=True)
    )
    whole = ("num_samples", "seed")  # numbers that stay whole where they are traced
    values = axis.values
    if traced:
        values = tuple(
            tuple(v if path in whole else float(v) for path, v in zip(axis.paths, point, strict=True))
            for point in axis.values
        )
    short = tuple(names[path] for path in axis.paths)
    return Axis("_".join(short), short, axis.paths, values, traced)


def _can_be_traced(design: Design, path: str, values: Sequence[Any]) -> bool:
    """Return whether one program can serve all values; those of a source change the real law, and cannot."""
    head, _, rest = path.partition(".")
    if path in SIZES:
        return path == "seed"  # which chooses keys, and no program sees
    if not rest or (head == "setting" and "." in rest):
        return False
    recipe, name = design.recipe_at(path)
    return are_floats(values, recipe.hint(name))


def _is_at(path: str, head: str) -> bool:
    return path == head or path.startswith(f"{head}.")


def _label_column(values: Sequence[Any]) -> list[Any]:
    """Return the labels of what one path is along an axis: numbers as they are, unless texts are among them."""
    recipes = [value for value in values if isinstance(value, Recipe)]
    if recipes:
        try:
            texts = iter(label_recipes(recipes))
        except UsageError as error:
            raise UsageError(f"axes: {error}") from None
        return [str(next(texts)) if isinstance(value, Recipe) else str(label_value(value)) for value in values]
    labels = [label_value(value) for value in values]
    words = [isinstance(v, list | tuple) and v and all(isinstance(w, str) for w in v) for v in values]
    labels = [" and ".join(v) if w else label for v, w, label in zip(values, words, labels, strict=True)]
    return [str(v) for v in labels] if any(isinstance(v, str) for v in labels) else labels
