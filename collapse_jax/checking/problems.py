"""A law that a part breaks, and how laws are tried one after another."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from collapse_jax.types import Tree

HOST_CALL = re.compile(r"\b(\w*callback|debug_print)\[")  # as a jaxpr writes primitives that call the host


class Problem(NamedTuple):
    """One law that a part breaks.

    Attributes:
      law: what holds of every part of its kind.
      message: what this part does instead.
    """

    law: str
    message: str

    def __str__(self) -> str:
        return f"{self.law}: {self.message}"


Law = tuple[str, Callable[[], Iterable[str]]]


def try_laws(laws: Iterable[Law]) -> tuple[Problem, ...]:
    """Return what is wrong, law by law; a law that raises is broken, and those after it are not tried."""
    problems: list[Problem] = []
    for law, find in laws:
        try:
            problems += [Problem(law, message) for message in find()]
        except Exception as error:  # whatever a user's function raises is what is wrong with it
            first_line = str(error).strip().partition("\n")[0]
            return (*problems, Problem(law, f"it raises {type(error).__name__}: {first_line}"))
    return tuple(problems)


def find_impurities(name: str, function: Callable[..., Any], *arguments: Any) -> Iterator[str]:
    """Yield what a traced function does besides computing: host callbacks, and state that Python keeps.

    Args:
      name: of the function, for the message.
      function: traced twice; a difference means that something outside of its arguments has changed.
      *arguments: pytrees of arrays.
    """
    first, second = (jax.make_jaxpr(lambda *given: function(*given))(*arguments) for _ in range(2))
    for callback in sorted(set(HOST_CALL.findall(str(first)))):
        yield f"{name} calls the host ({callback}); a chain is one compiled program"
    consts = zip(first.consts, second.consts, strict=False)
    if str(first) != str(second) or any(not np.array_equal(a, b, equal_nan=True) for a, b in consts if _is_plain(a)):
        yield f"{name} gives another program when it is traced again: it keeps state in Python, or draws from NumPy"


def _is_plain(value: Any) -> bool:
    return not jax.dtypes.issubdtype(getattr(value, "dtype", np.dtype(float)), jax.dtypes.prng_key)


def describe_shapes(tree: Tree) -> str:
    """Return the shapes and dtypes of a pytree's leaves in words, such as ``float32[5, 2]``."""
    leaves = [f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(tree)]
    return ", ".join(leaves) if leaves else "no arrays"


def have_same_shapes(a: Tree, b: Tree) -> bool:
    """Return whether two pytrees agree in structure, shapes and dtypes."""
    try:
        chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    except (AssertionError, ValueError, TypeError):
        return False
    return True


def are_close(a: Tree, b: Tree, rtol: float = 1e-4, atol: float = 1e-5) -> bool:
    """Return whether two pytrees agree up to rounding, infinities among them."""
    try:
        chex.assert_trees_all_close(a, b, rtol=rtol, atol=atol)
    except AssertionError:
        return False
    return True


def are_equal(a: Tree, b: Tree) -> bool:
    """Return whether two pytrees agree bit for bit, where NaN equals NaN."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=np.issubdtype(np.asarray(x).dtype, np.inexact)) for x, y in pairs)


def names_that_differ(a: dict[str, Any], b: dict[str, Any], same: Callable[[Any, Any], bool]) -> list[str]:
    """Return the names under which two dicts of metrics do not agree."""
    return [name for name in a if not same(a[name], b[name])]
