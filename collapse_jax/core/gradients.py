"""Gradients that cannot be had: choices are marked, so that a derivative through them is refused, not silently 0."""

from typing import Any

import jax

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import is_traced
from collapse_jax.types import Array


def refuse_gradient(x: Any, reason: str) -> Any:
    """Return `x` as it is; a derivative with respect to it is refused when it is traced.

    It costs nothing and changes no bits: compiled programs do not contain it.

    Args:
      x: a pytree that decides a choice which is constant between jumps, such as the weights by which rows are chosen.
      reason: why there is no gradient and what would have one, in one line.

    Returns:
      `x`.

    Raises:
      UsageError: while ``jax.grad``, ``jax.jvp`` or their like trace a function whose tangent passes here.

    Example:
      >>> import jax
      >>> refuse_gradient(2.0, "rows are counted")
      2.0
      >>> jax.grad(lambda x: refuse_gradient(x, "rows are counted"))(2.0)
      Traceback (most recent call last):
      collapse_jax.core.errors.UsageError: there is no gradient: rows are counted...
    """
    if not any(is_traced(leaf) for leaf in jax.tree.leaves(x)):
        return x

    @jax.custom_jvp
    def identity(x: Any) -> Any:
        return x

    @identity.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise UsageError(f"there is no gradient: {reason}")

    return identity(x)


def require_gradient(x: Array, value: Array, reason: str) -> Array:
    """Return `x` as it is; where a derivative by `value` is taken and `x` has none, it is refused when it is traced.

    Args:
      x: a result.
      value: what the derivative is taken by.
      reason: why there is no gradient and what would have one, in one line.

    Returns:
      `x`.

    Raises:
      UsageError: while ``jax.grad`` or ``jax.jvp`` trace a function in which `value` has a tangent and `x` has none.
    """

    @jax.custom_jvp
    def identity(x: Any, value: Any) -> Any:
        return x

    def check(primals: Any, tangents: Any) -> Any:
        if isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
            raise UsageError(f"there is no gradient: {reason}")
        return primals[0], tangents[0]

    identity.defjvp(check, symbolic_zeros=True)
    return identity(x, value)
