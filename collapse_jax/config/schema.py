"""What a config may say, read off the signatures of the registered factories."""

import collections.abc
import dataclasses
import functools
import importlib
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union

from collapse_jax.core import registry
from collapse_jax.core.errors import UsageError

if TYPE_CHECKING:  # at run time these cost the import of JAX, and `--help` must not
    from collapse_jax.planning.recipes import Recipe
    from collapse_jax.types import Metric

WORDS = {float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): "null"}


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices a chain: `data` of them share out the rows of its minibatches, over `model` its parameters are cut."""

    data: int = 1
    model: int = 1


@dataclasses.dataclass(frozen=True)
class Spec:
    """A call of a registered factory, written down but not made."""

    kind: ClassVar[str]
    factory: ClassVar[Callable[..., Any]]

    group: ClassVar[str]

    def recipe(self) -> "Recipe":
        """Return the factory with its arguments, ready to be built."""
        recipes = importlib.import_module("collapse_jax.planning.recipes")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arguments = {name: value.recipe() if isinstance(value, Spec) else value for name, value in values.items()}
        return recipes.Recipe(self.group, self.kind, type(self).factory, arguments)

    def build(self, path: str = "") -> Any:
        """Return what the factory makes; what it refuses is told with `path` before it."""
        return self.recipe().build(path or self.kind)


def spec_types(group: str) -> tuple[type[Spec], ...]:
    """Return one spec class for each factory of a group (a key of ``registry.GROUPS``) that a config can call."""
    return _specs_of(group, registry.factories(group))


def _inner_specs(group: str, parameter: str) -> "tuple[type[Spec], ...]":
    """Return the specs of a group whose factories take no `parameter`: those that others of the group are made of."""
    known = registry.factories(group)
    return _specs_of(group, {k: f for k, f in known.items() if parameter not in inspect.signature(f).parameters})


def _specs_of(group: str, factories: Mapping[str, Callable[..., Any]]) -> "tuple[type[Spec], ...]":
    specs = (_spec_type(group, kind, factory, registry.revision()) for kind, factory in factories.items())
    return tuple(spec for spec in specs if spec is not None)


def usage(spec: type[Spec]) -> str:
    """The call in short: ``window(k=5)``, ``table(path, ...)``."""
    words = (f.name + ("" if f.default is dataclasses.MISSING else f"={f.default!r}") for f in dataclasses.fields(spec))
    return f"{spec.kind}({', '.join(words)})"


def metrics_of(spec: type[Spec]) -> "tuple[Metric, ...]":
    """The metrics of a setting with default arguments; none where it needs some."""
    needs = any(field.default is dataclasses.MISSING for field in dataclasses.fields(spec))
    return () if needs else spec().build().metrics


@functools.cache  # one class a factory, so that equal configs are equal; its fields name what is registered so far
def _spec_type(group: str, kind: str, factory: Callable[..., Any], revision: int) -> type[Spec] | None:
    """Return the factory's signature as a dataclass; None where it needs an argument that YAML cannot write."""
    try:
        hints = typing.get_type_hints(factory)
    except NameError as error:
        raise UsageError(f"{group} {kind}: a type hint of its arguments is not known: {error}") from error
    fields: list[Any] = []
    for name, parameter in inspect.signature(factory).parameters.items():
        annotation = _configurable(hints.get(name))
        required = parameter.default is parameter.empty
        if annotation is None and required:
            return None
        if annotation is not None:
            fields.append((name, annotation) if required else (name, annotation, _frozen(parameter.default)))
    namespace = {"group": group, "kind": kind, "factory": staticmethod(factory), "__doc__": factory.__doc__}
    return dataclasses.make_dataclass(kind, fields, bases=(Spec,), namespace=namespace, frozen=True, kw_only=True)


def _configurable(hint: Any) -> Any:
    """The part of a type hint that YAML can write (of ``Array | float``: float), or None."""
    parts = importlib.import_module("collapse_jax.types")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    groups = {parts.Source: "source", parts.Symbols: "symbols", parts.Text: "text", parts.Pretext: "objective"}
    if isinstance(hint, type) and hint in groups:
        return union_of(groups[hint])
    if hint is parts.Setting:
        return either(_inner_specs("setting", "generator"))
    if hint is parts.Policy:
        return either(_inner_specs("policy", "policy"))
    if hint is Path:
        return str
    if hint in WORDS or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        members = tuple(member for member in map(_configurable, args) if member is not None)
        return either(members) if set(members) - {type(None)} else None
    if origin in (tuple, list, collections.abc.Sequence):
        items = tuple(item for item in map(_configurable, args) if item is not None)
        return tuple[either(items), ...] if items else None  # type: ignore[misc]  # made at run time
    return None


def union_of(group: str) -> Any:
    """Return the union of the spec classes of a group, as a type hint."""
    return either(spec_types(group))


def either(members: Sequence[Any]) -> Any:
    """Return the union of some type hints."""
    return functools.reduce(operator.or_, members)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
