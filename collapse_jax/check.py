"""Checks of arguments. Each raises a ValueError of one line; a tracer passes, since its value is checked outside."""

from typing import Any

import jax
import numpy as np


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


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """`value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _is_real(value: Any) -> bool:
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)
