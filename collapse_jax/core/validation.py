"""Checks of arguments: a ValueError of one line, in words that say what would be right.

``check_*`` let a tracer pass, since its value is checked outside; the others return the value as a plain Python one.
"""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NoReturn

import jax
import numpy as np

SEEDS = 2**32  # what jax.random.fold_in takes


def is_traced(value: Any) -> bool:
    """Whether `value` is known only inside a transformation."""
    return isinstance(value, jax.core.Tracer)


def check_at_least(name: str, value: Any, least: int, most: int | None = None) -> None:
    """`value` is a whole number >= `least` (and <= `most`)."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number >= {least}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, not {value}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be <= {most}, not {value}")


def check_share(name: str, value: Any) -> None:
    """`value` lies in [0, 1]."""
    if is_traced(value):
        return
    if isinstance(value, bool) or not _is_real(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, not {value!r}")


def check_positive(name: str, value: Any) -> None:
    """`value` is a finite number > 0."""
    if is_traced(value):
        return
    if isinstance(value, bool) or not _is_real(value) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number > 0, not {value!r}")


def check_not_negative(name: str, value: Any) -> None:
    """`value` is a finite number >= 0."""
    if is_traced(value):
        return
    if isinstance(value, bool) or not _is_real(value) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number >= 0, not {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """`value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _is_real(value: Any) -> bool:
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)


class MissingExtraError(ImportError, ValueError):
    """A file needs a package that is an optional extra of this one."""


def one_line(value: Any, limit: int = 60) -> str:
    """The first `limit` characters of ``str(value)`` on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def wrong(where: str, name: str, value: Any, expected: str) -> NoReturn:
    """Raise the one-line error of a bad argument."""
    raise ValueError(f"{where}: {name}={one_line(repr(value))} is wrong; it must be {expected}")


def integer(where: str, name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int of at least `low` and at most `high`."""
    expected = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        wrong(where, name, value, expected)
    number = int(value)
    if number < low or (high is not None and number > high):
        wrong(where, name, value, expected)
    return number


def seed_number(where: str, value: Any) -> int:
    """`value` as a seed."""
    return integer(where, "seed", value, 0, SEEDS - 1)


def number(where: str, name: str, value: Any, expected: str, accept: Callable[[float], bool]) -> float:
    """`value` as a finite float that `accept` takes; `expected` says in words what that is."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        wrong(where, name, value, expected)
    try:
        result = float(value)
    except OverflowError:
        wrong(where, name, value, expected)
    if not np.isfinite(result) or not accept(result):
        wrong(where, name, value, expected)
    return result


def positive(where: str, name: str, value: Any) -> float:
    """`value` as a float above 0."""
    return number(where, name, value, "a number above 0", lambda x: x > 0)


def not_negative(where: str, name: str, value: Any) -> float:
    """`value` as a float of at least 0."""
    return number(where, name, value, "a number of at least 0", lambda x: x >= 0)


def fraction(where: str, name: str, value: Any) -> float:
    """`value` as a float strictly between 0 and 1."""
    return number(where, name, value, "a number above 0 and below 1", lambda x: 0 < x < 1)


def flag(where: str, name: str, value: Any) -> bool:
    """`value` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        wrong(where, name, value, "True or False")
    return bool(value)
