"""The design of a sweep: its parts, its sizes, and the axes along which they move, from Python and YAML alike."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from collapse_jax.core.errors import UsageError
from collapse_jax.core.suggestions import describe_choices
from collapse_jax.core.validation import MAX_SEED, one_line, reject, require_integer
from collapse_jax.planning.paths import SIZES, DesignAxis, below, expand_name, refuse_overlaps, targets
from collapse_jax.planning.recipes import Recipe, plain, plugins_of, read_value, recipe_of
from collapse_jax.types import Curator, Policy


class Design(NamedTuple):
    """What a sweep runs.

    Attributes:
      setting: what is fitted.
      policies: which data are kept.
      curator: what is done to each synthetic batch, or None.
      num_samples: rows of a batch; None where it is an axis.
      num_generations: fits in a chain; None where it is an axis.
      seed: of the whole sweep; None where it is an axis.
      axes: the dimensions, in order.
      trace: paths of whole numbers that share one program too.
    """

    setting: Recipe
    policies: tuple[Recipe, ...]
    curator: Recipe | None
    num_samples: int | None
    num_generations: int | None
    seed: int | None
    axes: tuple[DesignAxis, ...] = ()
    trace: tuple[str, ...] = ()

    def moved(self, policy: int, values: Mapping[str, Any]) -> tuple[Recipe, Recipe, Recipe | None]:
        """Return the recipes of the setting, of one policy and of the curator at values of some paths."""
        curator = values.get("curator", self.curator)
        return (
            _moved(self.setting, below("setting", values)),
            _moved(self.policies[policy], below("policies", values) | below(f"policies.{policy}", values)),
            _moved(curator, below("curator", values)) if curator is not None else None,
        )

    def recipe_at(self, path: str) -> tuple[Recipe, str]:
        """Return the recipe whose argument a path is (that of the first policy, if of all), and the argument's name."""
        head, _, rest = path.partition(".")
        number, _, below = rest.partition(".")
        if head == "policies":
            recipe, rest = (self.policies[int(number)], below) if number.isdecimal() else (self.policies[0], rest)
        else:
            recipe = self.setting if head == "setting" else self.curator or _no_curator()
        while "." in rest:
            name, _, rest = rest.partition(".")
            recipe = recipe.inner(name)
        return recipe, rest


def make_design(
    setting: Any,
    policy: Any,
    *,
    num_samples: Any = None,
    num_generations: Any = None,
    seed: Any = 0,
    axes: Mapping[Any, Any] | None = None,
    curator: Any = None,
    trace: Sequence[str] = (),
) -> Design:
    """Return the design of ``sweep``'s arguments, of which parts may be recipes too.

    Raises:
      UsageError: a part, a size or an axis is wrong, in one line.
    """
    is_list = isinstance(policy, Sequence) and not isinstance(policy, str | Policy)
    policies = tuple(policy) if is_list else (policy,)
    if not policies:
        raise UsageError("policy: an empty list; give at least one")
    recipes = [recipe_of("policy", p, f"policy.{i}" if is_list else "policy") for i, p in enumerate(policies)]
    several = isinstance(curator, Sequence) and not isinstance(curator, str | Curator)
    if several and not curator:
        raise UsageError("curator: an empty list; give at least one, or None")
    first = curator[0] if several else curator
    design = Design(
        recipe_of("setting", setting, "setting"),
        tuple(recipes),
        None if first is None else recipe_of("curator", first, "curator"),
        num_samples=plain(num_samples),
        num_generations=plain(num_generations),
        seed=plain(seed),
    )
    if not isinstance(axes or {}, Mapping):
        reject("axes", axes, "a mapping of names to lists of values")
    found = [_read_axis(design, key, values) for key, values in (axes or {}).items()]
    if several:
        found.append(_read_axis(design, "curator", curator))
    refuse_overlaps([path for axis in found for path in axis.paths])
    return _with_sizes(design._replace(axes=tuple(found), trace=_read_trace(trace, found)))


def find_plugins(design: Design) -> list[str]:
    """Return the plugins that registered a part of the sweep (see ``registry.load_plugin``)."""
    values = [value for axis in design.axes for point in axis.values for value in point]
    recipes = [design.setting, *design.policies, design.curator, *values]
    return sorted({plugin for recipe in recipes if isinstance(recipe, Recipe) for plugin in plugins_of(recipe)})


def short_forms(setting: Recipe | None, policies: Sequence[Recipe], curator: Recipe | None) -> dict[str, list[str]]:
    """Return the paths that each word stands for, ``{word: paths}``; a word of several paths is no short form."""
    names: dict[str, list[str]] = {size: [size] for size in SIZES}
    for name in setting.parameters if setting is not None else ():
        names.setdefault(name, []).append(f"setting.{name}")
    for name in dict.fromkeys(name for recipe in policies for name in recipe.parameters):
        owners = [i for i, recipe in enumerate(policies) if name in recipe.parameters]
        every = len(owners) == len(policies)
        names.setdefault(name, []).extend(["policies." + name] if every else [f"policies.{i}.{name}" for i in owners])
    if curator is not None and curator.kind != "then":
        for name in curator.parameters:
            names.setdefault(name, []).append(f"curator.{name}")
    return names


def _check_path(path: str, design: Design) -> None:
    """Refuse a path that names no parameter of a part."""
    if path in (*SIZES, "curator"):
        return
    head, _, rest = path.partition(".")
    number = rest.partition(".")[0]
    if head == "policies" and number.isdecimal():
        if int(number) >= len(design.policies):
            raise UsageError(f"axis {path!r}: there are {len(design.policies)} policies, which count from 0")
        if number == rest:
            raise UsageError(f"axis {path!r} is a whole policy; give several policies in place of an axis")
    for one in targets(path, len(design.policies)):
        try:
            recipe, name = design.recipe_at(one)
        except UsageError as error:
            raise UsageError(f"axis {path!r}: {error}") from None
        if name.isdecimal() and recipe.kind == "then":
            raise UsageError(f"axis {path!r} is a whole curator; move 'curator' instead")
        if name not in recipe.parameters:
            owner = recipe.kind or getattr(recipe.part, "name", None) or getattr(recipe.factory, "__name__", head)
            unknown = "it was not made by a registered factory" if recipe.factory is None else None
            hint = unknown or describe_choices(name, recipe.parameters)
            raise UsageError(f"axis {path!r} is no parameter of {owner}; {hint}")


def _read_axis(design: Design, key: Any, values: Any) -> DesignAxis:
    names = key if isinstance(key, tuple) else (key,)
    if not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f"axis {key!r}: its name must be text, or a tuple of texts that move together")
    words = short_forms(design.setting, design.policies, design.curator)
    paths = tuple(expand_name(name, words) for name in names)
    for path in paths:
        _check_path(path, design)
    points = [plain(item) for item in _as_list(key, values)]
    if isinstance(key, tuple):
        if any(not isinstance(point, list | tuple) or len(point) != len(names) for point in points):
            raise UsageError(f"axis {key!r}: each of its values must be {len(names)} values")
    else:
        points = [(point,) for point in points]
    read = [tuple(_read_point(design, path, v) for path, v in zip(paths, point, strict=True)) for point in points]
    _check_points(key, read)
    return DesignAxis(paths, tuple(read))


def _check_points(key: Any, points: Sequence[tuple[Any, ...]]) -> None:
    """Refuse an axis of which two points are the same, since their labels would be one, and numbers beyond floats."""
    seen: dict[Any, int] = {}
    for i, point in enumerate(points):
        for value in point:
            if isinstance(value, int) and abs(value) > sys.float_info.max:
                reject(f"axis {key!r}", value, "numbers that a float can hold")
        if not all(isinstance(value, int | float | str | None) for value in point):
            continue  # parts are told apart by their labels
        name = tuple((isinstance(value, bool), value) for value in point)
        if name in seen:
            shown = one_line(repr(point if len(point) > 1 else point[0]))
            raise UsageError(f"axis {key!r}: its values {seen[name]} and {i} are both {shown}; keep one")
        seen[name] = i


def _as_list(key: Any, values: Any) -> list[Any]:
    if hasattr(values, "ndim") and hasattr(values, "dtype"):  # an array of NumPy or JAX
        allowed = (0, 1, 2) if isinstance(key, tuple) else (0, 1)
        if values.ndim not in allowed:
            raise UsageError(f"axis {key!r}: an array of {values.ndim} dimensions; give a list of values")
        values = list(values) if values.ndim else [values]
    if isinstance(values, int | float):
        values = [values]
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence | range) or len(values) == 0:
        raise UsageError(f"axis {key!r} must be a list of one or more values")
    return list(values)


def _read_point(design: Design, path: str, value: Any) -> Any:
    if path in SIZES:
        return _read_size(path, value)
    if path == "curator":
        return None if value is None else recipe_of("curator", value, "curator")
    return read_value(*design.recipe_at(path), value)


def _read_size(name: str, value: Any) -> Any:
    if name == "num_samples":
        return value  # is checked by the chain, which knows how few rows its setting can do with
    return require_integer(name, value, 0, MAX_SEED) if name == "seed" else require_integer(name, value, 1)


def _read_trace(trace: Sequence[str], axes: Sequence[DesignAxis]) -> tuple[str, ...]:
    names = (trace,) if isinstance(trace, str) else tuple(trace)
    for name in names:
        if name != "num_samples" or ("num_samples",) not in [axis.paths for axis in axes]:
            raise UsageError(f"trace: {name!r} cannot be traced; num_samples can, as an axis of its own")
    return names


def _with_sizes(design: Design) -> Design:
    """Return the design with None for each size that is an axis; the others must be given."""
    moved = {path for axis in design.axes for path in axis.paths}
    for name in SIZES:
        given = getattr(design, name)
        if name in moved and given is not None and name != "seed":
            raise UsageError(f"{name} is given both as an argument and as an axis; keep one")
        if name not in moved and given is None:
            raise UsageError(f"{name} is needed, as an argument or as an axis")
        if name not in moved:
            _read_size(name, given)
    for name in SIZES:
        design = design if name not in moved else design._replace(**{name: None})  # type: ignore[arg-type]  # a size
    return design


def _moved(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    for path, value in values.items():
        recipe = recipe.replace(path, value)
    return recipe


def _no_curator() -> Recipe:
    raise UsageError("there is no curator to move; give one")
