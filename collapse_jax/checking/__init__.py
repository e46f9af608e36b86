"""The laws that parts obey, tried on a part of a user's own."""

from collapse_jax.checking.check import check
from collapse_jax.checking.problems import Problem

__all__ = ["Problem", "check"]
