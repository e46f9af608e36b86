"""List the flags by which the values of an experiment can be changed on the command line."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from collapse_jax.config.experiment import Experiment, to_dict
from collapse_jax.config.parse import describe
from collapse_jax.config.schema import Spec
from collapse_jax.config.template import format_flow, read_argument_docs

_SPEC = "a kind, or a mapping of the kind and its arguments"


class Flag(NamedTuple):
    """One flag of a config.

    Attributes:
      name: its dotted path, ``--setting.source.dim``.
      value: the value in the config, as YAML on one line.
      expected: what it may be, in words.
      meaning: what its docstring says.
    """

    name: str
    value: str
    expected: str
    meaning: str

    @property
    def description(self) -> str:
        """Return what the value means and what it may be, on one line."""
        return f"{self.meaning} ({self.expected})".lstrip()


def list_flags(experiment: Experiment) -> Iterator[Flag]:
    """Yield every flag of an experiment, those of its parts after the part itself."""
    yield from _list_fields(experiment, "")


def _list_fields(owner: Any, path: str) -> Iterator[Flag]:
    hints, docs = typing.get_type_hints(type(owner)), read_argument_docs(type(owner))
    for field in dataclasses.fields(owner):
        if field.name in ("sweep", "trace"):  # axes replace single values, and have no flag of their own here
            continue
        value, name = getattr(owner, field.name), f"{path}{field.name}"
        meaning = docs.get(field.name, "")
        yield Flag(f"--{name.replace('_', '-')}", _format(value), _describe_expected(hints[field.name]), meaning)
        yield from _list_parts(value, name)


def _list_parts(value: Any, name: str) -> Iterator[Flag]:
    if dataclasses.is_dataclass(value):
        yield from _list_fields(value, f"{name}.")
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        for number, item in enumerate(value):
            item_flag = f"--{name.replace('_', '-')}.{number}"
            yield Flag(item_flag, _format(item), _SPEC, "")
            yield from _list_parts(item, f"{name}.{number}")


def _describe_expected(hint: Any) -> str:
    """Return what a value may be; the fields of an experiment name parts by ``Spec``, and parts each kind of theirs."""
    if not _mentions_spec(hint):
        return describe(hint)
    members = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple:
        return f"a list (items: {_SPEC})"
    lists = f", or a list (items: {_SPEC})" if len(members) > 1 and any(map(typing.get_origin, members)) else ""
    return f"{_SPEC}{lists}" + (", or null" if type(None) in members else "")


def _mentions_spec(hint: Any) -> bool:
    return hint is Spec or any(map(_mentions_spec, typing.get_args(hint)))


def _format(value: Any) -> str:
    if isinstance(value, Spec):  # its arguments have flags of their own
        return value.kind
    if isinstance(value, tuple) and any(isinstance(item, Spec) for item in value):
        return format_flow([item.kind for item in value])
    return format_flow(to_dict(value))
