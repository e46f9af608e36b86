"""How the parts of an experiment were called: what theory, which speaks of names and arguments, may say of a run."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.types import Setting

P = ParamSpec("P")
T = TypeVar("T")
_MOST = 1000  # items of a list that is still worth writing down


class Call(NamedTuple):
    """A call of a registered factory.

    Attributes:
      kind: the factory's name.
      arguments: all of them, defaults too.
      made: what it returned. Who has replaced a part of that since has something else.
    """

    kind: str
    arguments: dict[str, Any]
    made: Any


def recorded(factory: Callable[P, T]) -> Callable[P, T]:
    """`factory`, whose products (named tuples with a field ``call``) say how they were called."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        made: Any = factory(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _with_call(made, Call(factory.__name__, dict(bound.arguments), made))

    return call


def call_of(part: Any) -> Call | None:
    """Return the recorded call that made `part`; None where its factory is not registered."""
    call = part.info.call if isinstance(part, Setting) else getattr(part, "call", None)
    return call if isinstance(call, Call) else None


def _with_call(product: Any, call: Call) -> Any:
    if isinstance(product, Setting):
        return product._replace(info=product.info._replace(call=call))
    return product._replace(call=call)


def _fields_of(part: Any) -> dict[str, Any]:
    """Return all fields but the name and the call."""
    fields = part._asdict()
    if isinstance(part, Setting):
        fields |= fields.pop("info")._asdict()
    return {name: value for name, value in fields.items() if name not in ("name", "call")}


def written(value: Any) -> Any:
    """`value` as a config would say it; a product of a recorded factory as its call.

    Raises:
      UsageError: what no config can say, or what is too long for one.
    """
    call = call_of(value)
    if call is not None:
        made = _fields_of(call.made)
        if any(part is not made[name] for name, part in _fields_of(value).items()):
            raise UsageError(f"parts of {call.kind} were replaced")
        return {"kind": call.kind, **{name: written(argument) for name, argument in call.arguments.items()}}
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields") and len(value) <= _MOST:
        return [written(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise UsageError(f"{type(value).__name__} cannot be written")
