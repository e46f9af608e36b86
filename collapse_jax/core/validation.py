"""Checks of arguments: each raises a ``UsageError`` of one line that says what was wrong and what would be right.

A number that is traced passes: its value is known only where the program runs, and is checked outside.
"""

from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, NoReturn

import jax
import numpy as np

from collapse_jax.core.errors import UsageError

MAX_SEED = 2**32 - 1  # the largest number that jax.random.fold_in takes


def is_traced(value: Any) -> bool:
    """Return whether `value` is known only inside a transformation."""
    return isinstance(value, jax.core.Tracer)


def one_line(value: Any, limit: int = 60) -> str:
    """Return the first `limit` characters of ``str(value)`` on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def reject(name: str, value: Any, expected: str) -> NoReturn:
    """Raise the error of a wrong argument; `expected` says in words what would be right."""
    raise UsageError(f"{name} must be {expected}, not {one_line(repr(value))}")


def require_integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an int from `low` to `high`; integers of NumPy and JAX are taken too."""
    if high is not None:
        expected = f"a whole number from {low} to {high}" if low is not None else f"a whole number of at most {high}"
    else:
        expected = "a whole number" if low is None else f"a whole number of at least {low}"
    value = plain_scalar(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        reject(name, value, expected)
    number = int(value)
    if (low is not None and number < low) or (high is not None and number > high):
        reject(name, value, expected)
    return number


def require_number(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Return `value` as a finite float within the bounds, or as it is where it is traced.

    Args:
      name: of the argument, for the error.
      value: a number of Python, NumPy or JAX.
      low: the smallest number allowed.
      high: the largest number allowed.
      above: what the number must be greater than.
      below: what the number must be smaller than.
    """
    if is_traced(value):
        return value
    bounds = [
        "" if low is None or high is not None else f"of at least {low:g}",
        "" if above is None else f"above {above:g}",
        "" if high is None else f"at most {high:g}" if low is None else f"from {low:g} to {high:g}",
        "" if below is None else f"below {below:g}",
    ]
    expected = f"a number {' and '.join(filter(None, bounds))}" if any(bounds) else "a finite number"
    value = plain_scalar(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        reject(name, value, expected)
    try:
        number = float(value)
    except OverflowError:
        reject(name, value, expected)
    inside = (
        (low is None or number >= low)
        and (high is None or number <= high)
        and (above is None or number > above)
        and (below is None or number < below)
    )
    if not np.isfinite(number) or not inside:
        reject(name, value, expected)
    return number


def require_positive(name: str, value: Any) -> Any:
    """Return `value` as a finite float above 0, or as it is where it is traced."""
    return require_number(name, value, above=0)


def require_share(name: str, value: Any) -> Any:
    """Return `value` as a float from 0 to 1, or as it is where it is traced."""
    return require_number(name, value, 0, 1)


def require_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Return `value`, which must be one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        reject(name, value, f"one of {', '.join(choices)}")
    return value


def require_flag(name: str, value: Any, expected: str = "True or False") -> bool:
    """Return `value` as a bool."""
    value = plain_scalar(value)
    if not isinstance(value, bool):
        reject(name, value, expected)
    return value


def plain_scalar(value: Any) -> Any:
    """Return a scalar of NumPy or JAX as a plain Python one, anything else as it is."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and not is_traced(value) and np.ndim(value) == 0:
        return np.asarray(value).item()
    return value
