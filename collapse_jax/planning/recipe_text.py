"""Write recipes of parts as a config says them: mappings of a kind and its arguments."""

import collections.abc
import types
import typing
from pathlib import Path
from typing import Any, Literal

from collapse_jax.core.errors import UsageError
from collapse_jax.planning.recipes import Recipe, groups_of, is_part, own_name, plain, recipe_of_value, same_value

_MAX_ITEMS = 1000  # of a list that is still worth writing down


def write_recipe(recipe: Recipe, path: str) -> Any:
    """Return a recipe as a config says it: a mapping of the kind and all arguments.

    Raises:
      UsageError: a factory is not registered, or an argument is one that YAML cannot say.
    """
    name = own_name(recipe)
    if recipe.kind is None or recipe.factory is None:
        name = name or getattr(recipe.factory, "__name__", "a part")
        raise UsageError(f"{path}: {name} was not made by a registered factory")
    if name is not None:
        raise UsageError(f"{path}: no config can say the name {name!r} of a {recipe.kind}")
    if recipe.kind == "then":
        return [write_value(item, f"{path}.{i}") for i, item in enumerate(recipe.arguments["curators"])]
    written = {"kind": recipe.kind}
    for name, value in recipe.all_arguments.items():
        if not is_writable(recipe.hint(name)):
            if not same_value(value, recipe.parameters[name].default):
                raise UsageError(f"{path}.{name}: no config can say a {type(value).__name__}")
        else:
            written[name] = write_value(value, f"{path}.{name}")
    return written


def write_value(value: Any, path: str) -> Any:
    """Return an argument as a config says it.

    Raises:
      UsageError: what YAML cannot say.
    """
    if is_part(value):
        return write_recipe(recipe_of_value(value), path)
    value = plain(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields") and len(value) <= _MAX_ITEMS:
        return [write_value(item, f"{path}.{i}") for i, item in enumerate(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    what = f"a {type(value).__name__}" if not isinstance(value, list | tuple) else f"a list of {len(value)} items"
    raise UsageError(f"{path}: no config can say {what}")


def is_writable(hint: Any) -> bool:
    """Return whether YAML can write a value of a type (of ``Array | float``: a float)."""
    if hint in (float, int, str, bool, Path) or typing.get_origin(hint) is Literal or groups_of(hint):
        return True
    members = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, list, collections.abc.Sequence):
        return any(is_writable(member) for member in members)
    return False
