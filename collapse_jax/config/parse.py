"""The strict loader: a value as its type, or an error that says what would be right."""

import dataclasses
import math
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from collapse_jax.config.schema import WORDS, Mesh, Spec
from collapse_jax.config.yaml_io import ConfigError
from collapse_jax.core.suggestions import describe_choices, suggest_word

MAX_WHOLE = 2**63 - 1
MAX_FLOAT = int(sys.float_info.max)


def parse_value(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type `hint`, or a `ConfigError` that says what would have been right."""
    members = _members(hint)
    specs = {member.kind: member for member in members if isinstance(member, type) and issubclass(member, Spec)}
    if specs and isinstance(value, Mapping | str):
        return _parse_spec(value, specs, path)
    for member in members:
        if member is Mesh and isinstance(value, Mapping):
            return parse_fields(value, member, typing.get_type_hints(member), path)
        if typing.get_origin(member) is tuple and isinstance(value, list | tuple):
            return tuple(parse_value(item, typing.get_args(member)[0], f"{path}.{i}") for i, item in enumerate(value))
        if _fits(value, member):
            return float(value) if member is float else value
    choices = [choice for member in members for choice in typing.get_args(member) if isinstance(choice, str)]
    close = suggest_word(value, choices)
    suffix = f"; {close}" if close else ""
    if type(value) is int and abs(value) > MAX_WHOLE and int in members:
        raise ConfigError(f"{path}: {reprlib.repr(value)} is too large; whole numbers have at most 64 bits")
    raise ConfigError(f"{path}: expected {describe(hint)}, got {reprlib.repr(value)}{suffix}")


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, member: Any) -> bool:
    if typing.get_origin(member) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(member))
    if member is float:  # NaN would pass every check of a bound
        return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) <= MAX_FLOAT)
    return type(value) is member and (member is not int or abs(value) <= MAX_WHOLE)


def _parse_spec(value: Mapping[str, Any] | str, specs: dict[str, type[Spec]], path: str) -> Spec:
    """``{kind: window, k: 5}``, or ``window`` where its defaults will do."""
    raw = {"kind": value} if isinstance(value, str) else dict(value)
    if "kind" not in raw:
        raise ConfigError(f"{path}.kind: missing; one of {', '.join(specs)}")
    kind = raw.pop("kind")
    if not isinstance(kind, str) or kind not in specs:
        raise ConfigError(f"{path}.kind: unknown {reprlib.repr(kind)}; {describe_choices(kind, specs)}")
    return parse_fields(raw, specs[kind], typing.get_type_hints(specs[kind]), path)


def parse_fields(raw: Any, cls: type, hints: dict[str, Any], path: str) -> Any:
    """Return `cls` made of the mapping `raw`, each value parsed as its field's hint."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path or 'config'}: expected keys and values, got {reprlib.repr(raw)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in raw:
        if key not in fields:
            owner = f" of {cls.kind}" if issubclass(cls, Spec) else ""
            raise ConfigError(f"{_join(path, key)}: unknown key{owner}; {describe_choices(key, fields)}")
    for name, field in fields.items():
        if name not in raw and field.default is dataclasses.MISSING:
            raise ConfigError(f"{_join(path, name)}: missing; expected {describe(hints[name])}")
    return cls(**{name: parse_value(value, hints[name], _join(path, name)) for name, value in raw.items()})


def describe(hint: Any) -> str:
    """A type hint in words: "a number or one of 'scott', 'silverman'"."""
    members = _members(hint)
    kinds = [member.kind for member in members if isinstance(member, type) and issubclass(member, Spec)]
    words = [f"a kind among {', '.join(kinds)}"] if kinds else []
    for member in members:
        if member is Mesh:
            words.append("the keys data and model")
        if member in WORDS:
            words.append(WORDS[member])
        elif typing.get_origin(member) is Literal:
            words.append("one of " + ", ".join(map(repr, typing.get_args(member))))
        elif typing.get_origin(member) is tuple:
            words.append(f"a list (items: {describe(typing.get_args(member)[0])})")
    return " or ".join(words)


def _join(path: str, key: Any) -> str:
    word = key if isinstance(key, str) and len(key) <= 60 else reprlib.repr(key)
    return f"{path}.{word}" if path else word
