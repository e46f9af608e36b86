"""What a compiled program depends on, as a key that is known before anything is traced."""

import hashlib
import itertools
import os
import types
from collections.abc import Collection, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from collapse_jax.core import registry
from collapse_jax.core.validation import is_traced
from collapse_jax.planning.recipes import Recipe, are_floats, is_part, off_values, recipe_of_value
from collapse_jax.types import Tree

_MAX_FILES = 10_000  # of a folder that is looked through
_MAX_PATH = 1024


class NoKeyError(Exception):
    """A part has no key: nobody can say whether two of its kind are the same."""


def list_floats(recipe: Recipe) -> dict[str, float]:
    """Return the numbers among the arguments of a part that one program can take as inputs, by dotted path.

    Numbers of parts within a setting change the real law, and stay constants; so does a number at the value at which it
    turns something off (see ``OffAt``).
    """
    return dict(_walk_floats(recipe, ""))


def _walk_floats(recipe: Recipe, prefix: str) -> Iterator[tuple[str, float]]:
    if recipe.kind is None:
        return
    if recipe.kind == "then":
        for i in range(len(recipe.arguments["curators"])):
            yield from _walk_floats(recipe.inner(str(i)), f"{prefix}{i}.")
        return
    off = off_values(recipe.factory)
    for name, value in recipe.all_arguments.items():
        if are_floats([value], recipe.hint(name)) and not is_traced(value):
            if float(value) not in off.get(name, ()):
                yield f"{prefix}{name}", float(value)
        elif recipe.group in ("policy", "curator") and is_part(value):
            yield from _walk_floats(recipe_of_value(value), f"{prefix}{name}.")


def recipe_key(recipe: Recipe | None, inputs: Collection[str] = ()) -> Hashable:
    """Return a key of the part that a recipe makes, apart from the arguments at the dotted paths `inputs`.

    Raises:
      NoKeyError: the part was not made by a registered factory, or an argument cannot be compared.
    """
    if recipe is None:
        return None
    if recipe.kind is None or recipe.factory is None:
        name = getattr(recipe.part, "name", None) or getattr(recipe.factory, "__name__", "a part")
        raise NoKeyError(f"{recipe.group} {name} was not made by a registered factory")
    arguments = []
    for name, value in sorted(recipe.all_arguments.items()):
        if recipe.kind == "then":
            items = [recipe.inner(str(i)) for i in range(len(value))]
            arguments.append(tuple(recipe_key(item, _below(str(i), inputs)) for i, item in enumerate(items)))
        elif name in inputs:
            arguments.append((name, float))
        elif is_part(value):
            arguments.append((name, recipe_key(recipe_of_value(value), _below(name, inputs))))
        else:
            arguments.append((name, value_key(value, f"{recipe.kind}: {name}")))
    return recipe.group, recipe.kind, recipe.factory, reads_key(recipe), tuple(arguments)


def _below(name: str, paths: Collection[str]) -> list[str]:
    return [path.removeprefix(f"{name}.") for path in paths if path.startswith(f"{name}.")]


def value_key(value: Any, where: str) -> Hashable:
    """Return a key of an argument: equal for arguments of which a factory makes the same part.

    Raises:
      NoKeyError: it is of a kind whose values cannot be compared, a function say; `where` is said in the error.
    """
    if value is None or isinstance(value, bool | int | bytes):
        return type(value), value
    if isinstance(value, float):
        return float, value.hex()
    if isinstance(value, str | os.PathLike):
        return type(value), str(value), _files_key(value, where)
    if is_part(value):
        return recipe_key(recipe_of_value(value))
    if isinstance(value, Mapping):
        return dict, tuple((value_key(name, where), value_key(item, where)) for name, item in value.items())
    if isinstance(value, list | tuple | range):
        return type(value), tuple(value_key(item, where) for item in value)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and _holds_numbers(value):
        array = np.asarray(value)
        return array.shape, array.dtype.str, hashlib.blake2b(array.tobytes()).digest()
    raise NoKeyError(f"{where} is a {type(value).__name__}, which cannot be compared with another")


def _holds_numbers(array: Any) -> bool:
    """Return whether the bytes of an array say all about it: not of tracers, keys, objects and records."""
    is_plain = not is_traced(array) and not isinstance(array, np.ma.MaskedArray)
    return is_plain and getattr(array.dtype, "kind", "O") in "biufcSUmM"


def reads_key(recipe: Recipe) -> Hashable:
    """Return a key of what a user's factory reads beside its arguments (see ``registry.read_beside_arguments``).

    Functions, classes and modules are told apart by being the same object.

    Raises:
      NoKeyError: it reads something whose values cannot be compared.
    """
    assert recipe.factory is not None
    call = None if recipe.part is None else registry.call_of(recipe.part)
    known = registry.read_beside_arguments(recipe.factory) if call is None else call.reads
    return tuple((name, _object_key(value, name)) for name, value in known.items())


def _object_key(value: Any, where: str) -> Hashable:
    if is_part(value) or not (isinstance(value, types.ModuleType | type) or callable(value)):
        return value_key(value, where)
    try:
        hash(value)
    except TypeError:
        raise NoKeyError(f"{where} is a {type(value).__name__}, which cannot be compared with another") from None
    return value


def _files_key(path: str | os.PathLike, where: str) -> Hashable:
    """Return the sizes and times of the files that a text may name; None where it names none."""
    if len(os.fspath(path)) > _MAX_PATH or not os.path.exists(path):
        return None
    try:
        below = [Path(path)] if os.path.isfile(path) else list(itertools.islice(Path(path).rglob("*"), _MAX_FILES + 1))
        files = sorted(file for file in below if file.is_file())
        states = [file.stat() for file in files]
    except OSError as error:
        raise NoKeyError(f"{where} names files that cannot be read ({error.strerror})") from None
    if len(below) > _MAX_FILES:
        raise NoKeyError(f"{where} is a folder of more than {_MAX_FILES:,} files")
    return tuple((str(file), state.st_size, state.st_mtime_ns) for file, state in zip(files, states, strict=True))


def tree_key(tree: Tree) -> Hashable:
    """Return a key of the structure of a tree and of the shapes and types of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(map(_leaf_key, leaves))


def _leaf_key(leaf: Any) -> Hashable:
    shaped = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return shaped.shape, str(shaped.dtype), bool(getattr(shaped, "weak_type", False))


def flags_key() -> Hashable:
    """Return a key of JAX's configuration, as it is in this thread."""
    return tuple((name, getattr(jax.config, name, value)) for name, value in jax.config.values.items())
