"""Recipes of parts: a factory with its arguments, whether a user called it, named it, or wrote it in a config."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from collapse_jax.core import registry
from collapse_jax.core.errors import UsageError
from collapse_jax.core.suggestions import describe_choices
from collapse_jax.core.validation import is_traced, one_line
from collapse_jax.curators import then
from collapse_jax.types import Curator, OffAt, Policy, Pretext, Setting, Source, Symbols, Text

TYPES: dict[str, type] = {
    "setting": Setting, "policy": Policy, "curator": Curator, "source": Source, "symbols": Symbols, "text": Text,
    "objective": Pretext,
}  # fmt: skip
_GROUPS = {type_: group for group, type_ in TYPES.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """How a part is made.

    Attributes:
      group: a key of ``registry.GROUPS``.
      kind: the name of the factory in the registry; None where it is not registered.
      factory: what is called; None where nobody knows how `part` was made.
      arguments: of the factory, by name: what is not here has its default. A part among them may be a recipe itself.
      part: what the factory makes of these arguments, where that is made already.
    """

    group: str
    kind: str | None
    factory: Callable[..., Any] | None
    arguments: Mapping[str, Any]
    part: Any = None

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the factory by name; none where it is not known."""
        return {} if self.factory is None else _parameters(self.factory)

    @property
    def all_arguments(self) -> dict[str, Any]:
        """The arguments, with the defaults of those that were not given."""
        defaults = {n: p.default for n, p in self.parameters.items() if p.default is not p.empty}
        return {**defaults, **self.arguments}

    def build(self, path: str = "") -> Any:
        """Return the part.

        Args:
          path: where the recipe stands, for errors.

        Raises:
          UsageError: the factory refuses its arguments, or returns something else.
        """
        if self.part is not None:
            return self.part
        assert self.factory is not None
        places = {n: path if self.kind == "then" else f"{path}.{n}" for n in self.arguments}
        arguments = {n: _build_argument(value, places[n]) for n, value in self.arguments.items()}
        try:
            part = self.factory(*arguments["curators"]) if self.kind == "then" else self.factory(**arguments)
        except (UsageError, OSError) as error:
            raise UsageError(f"{path}: {error}") from error
        if not isinstance(part, TYPES[self.group]):
            wanted = TYPES[self.group].__name__
            raise UsageError(f"{path}: must be a {wanted} or a factory of one, not {type(part).__name__}")
        return part

    def replace(self, path: str, value: Any) -> "Recipe":
        """Return the recipe with `value` at a dotted path such as ``source.dim``."""
        name, _, rest = path.partition(".")
        if name.isdecimal():  # of curators one after the other
            items = list(self.arguments["curators"])
            inner = recipe_of(self.group, items[int(name)], name)
            items[int(name)] = inner.replace(rest, value) if rest else value
            return dataclasses.replace(self, arguments={"curators": tuple(items)}, part=None)
        if rest:
            value = self.inner(name).replace(rest, value)
        return dataclasses.replace(self, arguments={**self.arguments, name: value}, part=None)

    def inner(self, name: str) -> "Recipe":
        """Return the recipe of the part that is the argument `name`, or the item of that number.

        Raises:
          UsageError: there is no such part, or nobody knows how it was made.
        """
        if name.isdecimal() and int(name) < len(self.arguments.get("curators", ())):
            return recipe_of(self.group, self.arguments["curators"][int(name)], name)
        value = self.all_arguments.get(name)
        groups = groups_of(self.hint(name))
        recipe = value if isinstance(value, Recipe) else None
        if recipe is None and type(value) in _GROUPS:
            recipe = recipe_of(_GROUPS[type(value)], value, name)
        if recipe is None or recipe.factory is None:
            what = "it is None" if value is None else "it was not made by a registered factory"
            wanted = " or ".join(groups) or "part"
            raise UsageError(f"{name}: {what}, so its arguments cannot be moved; give a {wanted}")
        return recipe

    def hint(self, name: str) -> Any:
        """Return the type that the factory annotates a parameter with, or None."""
        return _hints(self.factory).get(name)


def recipe_of(group: str, given: Any, path: str) -> Recipe:
    """Return the recipe of a part, of its factory, its name, or its name and arguments in a mapping.

    Args:
      group: a key of ``registry.GROUPS``.
      given: what a user gave.
      path: what it was given as, for errors.

    Raises:
      UsageError: no such name, or something that is no part.
    """
    if isinstance(given, Recipe):
        return given
    if isinstance(given, TYPES[group]):
        return _recipe_of_part(group, given)
    if isinstance(given, str | Mapping):
        return _recipe_of_name(group, given, path)
    if isinstance(given, partial):
        inner = recipe_of(group, given.func, path)
        positional = dict(zip(inner.parameters, given.args, strict=False))
        return dataclasses.replace(inner, arguments={**inner.arguments, **positional, **given.keywords})
    if callable(given) and not isinstance(given, tuple(_GROUPS)):
        return Recipe(group, registry.kind_of(given), given, {})
    if isinstance(given, list | tuple) and group == "curator" and given and type(given) not in _GROUPS:
        items = tuple(recipe_of(group, item, f"{path}.{i}") for i, item in enumerate(given))
        return then_recipe(items)
    wanted = f"a {TYPES[group].__name__}, the name of one, or a factory of one"
    raise UsageError(f"{path}: must be {wanted}, not {type(given).__name__}")


def then_recipe(items: Sequence[Recipe]) -> Recipe:
    """Return the recipe of curators one after the other."""
    return Recipe("curator", "then", then, {"curators": tuple(items)})


def read_value(recipe: Recipe, name: str, value: Any) -> Any:
    """Return a user's value of the parameter `name`: parts as recipes, numbers of NumPy and JAX as plain ones."""
    for group in groups_of(recipe.hint(name)):
        is_name = isinstance(value, str) and value in registry.factories(group)
        is_call = isinstance(value, Mapping) and "kind" in value
        is_part = isinstance(value, Recipe | TYPES[group])
        is_factory = callable(value) and registry.kind_of(value) in registry.factories(group)
        if is_name or is_call or is_part or is_factory:
            return recipe_of(group, value, name)
    return plain(value)


def plain(value: Any) -> Any:
    """Return numbers and arrays of NumPy and JAX as plain Python ones, anything else as it is."""
    if is_traced(value) or not (hasattr(value, "tolist") and hasattr(value, "dtype")):
        return value
    array = np.asarray(value)
    if array.dtype in (np.float16, np.float32) and array.ndim == 0:
        return float(str(array))  # 0.1, and not what float64 has to say of the float32 next to it
    return array.tolist() if array.ndim == 0 or array.dtype.kind in "biufU" else value


def groups_of(hint: Any) -> list[str]:
    """Return the groups of parts that a type hint allows."""
    members = (hint, *typing.get_args(hint))
    return [_GROUPS[member] for member in members if isinstance(member, type) and member in _GROUPS]


def is_part(value: Any) -> bool:
    """Return whether a value is a part or the recipe of one."""
    return isinstance(value, Recipe) or type(value) in _GROUPS


def recipe_of_value(value: Any) -> Recipe:
    """Return the recipe of a part, or the recipe itself (see ``is_part``)."""
    return value if isinstance(value, Recipe) else _recipe_of_part(_GROUPS[type(value)], value)


def are_floats(values: Sequence[Any], hint: Any) -> bool:
    """Return whether `values` of a parameter can be traced: floats, or numbers where `hint` allows no whole number."""
    if any(isinstance(v, bool | str) for v in values) or not all(isinstance(v, int | float) for v in values):
        return False
    allowed = set(typing.get_args(hint) or [hint])
    return any(isinstance(v, float) for v in values) or (float in allowed and int not in allowed)


def off_values(factory: Any) -> dict[str, list[float]]:
    """Return the values at which numbers of a factory turn something off (see ``OffAt``), by name."""
    marks = {name: typing.get_args(hint)[1:] for name, hint in _hints(factory, True).items() if _is_annotated(hint)}
    return {name: [mark.value for mark in found if isinstance(mark, OffAt)] for name, found in marks.items()}


def _is_annotated(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Annotated


def plugins_of(recipe: Recipe) -> set[str]:
    """Return what must be loaded for the factories of a recipe to be registered (see ``registry.load_plugin``)."""
    registered = recipe.factory is not None and recipe.kind not in (None, "then")
    own = registry.plugin_of(recipe.factory) if registered and recipe.factory is not None else None
    found = {own} if own is not None else set()
    for value in recipe.arguments.values():
        for item in value if type(value) in (list, tuple) else (value,):
            if is_part(item):
                found |= plugins_of(recipe_of_value(item))
    return found


# --- labels -----------------------------------------------------------------------------------------------------------


def label_recipes(recipes: Sequence[Recipe], moved: Sequence[Collection[str]] = ()) -> list[str]:
    """Return the kind of each, with the arguments that tell it from others of its kind.

    Args:
      recipes: to be told apart.
      moved: for each of them, arguments that say nothing, since axes move them.

    Raises:
      UsageError: two of them are the same, or of one name and not registered.
    """
    labels = [
        _label_among(recipe, recipes, omit) for recipe, omit in zip(recipes, moved or [()] * len(recipes), strict=True)
    ]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            first = labels.index(label)
            raise UsageError(f"items {first} and {i} are both {label}: leave one out, or give it a name of its own")
    return labels


def label_value(value: Any) -> Any:
    """Return what stands for a value of a parameter: itself if it is a number or text, else a text."""
    if is_part(value):
        recipe = recipe_of_value(value)
        defaults = {n: p.default for n, p in recipe.parameters.items()}
        given = {n: v for n, v in recipe.arguments.items() if not same_value(v, defaults.get(n))}
        return _label_call(recipe, given)
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(label_value(item)) for item in value)}]"
    value = plain(value)
    if value is None or isinstance(value, bool | int | float | str):
        return "none" if value is None else value
    return one_line(getattr(value, "__name__", value))


def same_value(a: Any, b: Any) -> bool:
    """Return whether two arguments are the same, parts by how they were made."""
    if a is b:
        return True
    recipes = [x if isinstance(x, Recipe) else None for x in (a, b)]
    for i, x in enumerate((a, b)):
        if type(x) in _GROUPS:
            recipes[i] = _recipe_of_part(_GROUPS[type(x)], x)
    if recipes[0] is not None and recipes[1] is not None:
        one, other = recipes[0].all_arguments, recipes[1].all_arguments
        known = recipes[0].factory is not None and recipes[0].factory is recipes[1].factory
        return known and one.keys() == other.keys() and all(same_value(one[n], other[n]) for n in one)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    try:
        return bool(np.array_equal(np.asarray(a), np.asarray(b))) and isinstance(a, bool) == isinstance(b, bool)
    except (TypeError, ValueError):
        return False


def _label_among(recipe: Recipe, recipes: Sequence[Recipe], omit: Collection[str]) -> str:
    name = own_name(recipe)
    if name is not None:
        return name
    kin = [other.all_arguments for other in recipes if other.factory is recipe.factory and own_name(other) is None]
    own = {n: value for n, value in recipe.all_arguments.items() if n not in omit}
    differing = {n: value for n, value in own.items() if any(not same_value(other.get(n), value) for other in kin)}
    return _label_call(recipe, differing)


def own_name(recipe: Recipe) -> str | None:
    """Return the name that a user gave a part (or that a part without a recorded call has), or None."""
    part = recipe.part
    if part is None:
        return None
    call = registry.call_of(part)
    return part.name if call is None or recipe.factory is None or part.name != call.product.name else None


def _label_call(recipe: Recipe, arguments: Mapping[str, Any]) -> str:
    name = str(own_name(recipe) or recipe.kind or getattr(recipe.factory, "__name__", "part"))
    if recipe.kind == "then":
        return " then ".join(str(label_value(item)) for item in recipe.arguments["curators"])
    words = ", ".join(f"{n}={label_value(value)}" for n, value in arguments.items())
    return f"{name}({words})" if words else name


def _recipe_of_part(group: str, part: Any) -> Recipe:
    try:
        call = registry.require_unchanged(part)
    except UsageError:
        return Recipe(group, None, None, {}, part)
    return Recipe(group, call.kind, call.factory, call.arguments, part)


def _recipe_of_name(group: str, given: str | Mapping[str, Any], path: str) -> Recipe:
    kind, arguments = (given, {}) if isinstance(given, str) else (str(given.get("kind")), {**given})
    arguments.pop("kind", None)
    known = registry.factories(group)
    if kind not in known:
        raise UsageError(f"{path}: there is no {group} {kind!r}; {describe_choices(kind, known)}")
    recipe = Recipe(group, kind, known[kind], {})
    for name in arguments:
        if name not in recipe.parameters:
            raise UsageError(f"{path}.{name}: {kind} has no such argument; {describe_choices(name, recipe.parameters)}")
    return dataclasses.replace(recipe, arguments={n: read_value(recipe, n, v) for n, v in arguments.items()})


def _build_argument(value: Any, path: str) -> Any:
    if isinstance(value, Recipe):
        return value.build(path)
    if type(value) in (list, tuple) and any(isinstance(item, Recipe) for item in value):
        return type(value)(_build_argument(item, f"{path}.{i}") for i, item in enumerate(value))
    return value


@functools.lru_cache(maxsize=512)
def _hints(factory: Any, include_extras: bool = False) -> dict[str, Any]:
    function = inspect.unwrap(factory) if inspect.isfunction(factory) else factory
    try:
        return typing.get_type_hints(function, None, None, include_extras) if inspect.isfunction(function) else {}
    except NameError:  # annotations that exist for type checkers only
        return {}


@functools.lru_cache(maxsize=512)
def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(factory).parameters
