"""Logistic and multinomial regression by Newton's method, in plain array operations that vmap well.

Of more than two classes each system is solved by conjugate gradients under the quadratic bound of Boehning (1992). The
long axis of all arrays, that of rows, is the last one: sums along it are fastest.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.types import Array, Tree

_HIGHEST = jax.lax.Precision.HIGHEST
_DESCENTS = 30  # steps of conjugate gradients, at most; as many as coefficients are exact


class _Problem(NamedTuple):
    x: Array  # a row a column, [p, m], and 1 last
    hot: Array  # labels [logits, m], one-hot
    share: Array  # of the weight, [m]
    ridge: Array | float


def fit_coefficients(x: Array, label: Array, weight: Array, classes: int, ridge: Array | float, steps: int) -> Array:
    """Coefficients ``[d + 1, logits]``, the intercept last; two classes share one logit and more have one each.

    They minimise the weighted mean of the negative log likelihood plus ``ridge |w|^2 / 2``, the intercept included.
    A step that ends uphill is shortened at the next one's expense. A step that moves no logit by more than the square
    root of rounding is the last: with two classes, or up to 30 coefficients, errors are squared by each step near the
    optimum; with more, whose steps conjugate gradients may cut short, they shrink by a factor.

    Args:
      x: ``[m, d]``.
      label: ``[m]``, whole numbers from 0.
      weight: ``[m]``, multiplicities.
      classes: number of classes.
      ridge: see above; > 0.
      steps: Newton steps from 0, at most.
    """
    share = weight / weight.sum()
    x = jnp.concatenate([x.T, jnp.ones_like(x.T[:1])])
    x = jnp.where(share > 0, x, 0.0)  # a row of weight 0 may hold anything, NaN too
    hot = (label == jnp.arange(1 if classes == 2 else 0, classes)[:, None]).astype(x.dtype)
    problem = _Problem(x, hot, share, ridge)
    newton_step = _one_logit(problem) if classes == 2 else _many_logits(problem)

    def improve(carry: Tree) -> Tree:
        step_number, _, w, z, doubtful = carry
        gradient, step = newton_step(w, z)
        too_far = (gradient * doubtful).sum() > 0
        step = jnp.where(too_far, -doubtful, step)
        change = _multiply(step.T, x)
        # Along a step the third derivative is at most `reach` times the second. So a whole one goes downhill up to the
        # root 1.79 of e^r - 1 - r = r^2, and log1p(r) / r of one always. What is beyond that stays in doubt until the
        # next gradient: a convex function that still falls there has fallen all the way.
        reach = (jnp.abs(change) if classes == 2 else jnp.ptp(change, axis=0)).max()
        safe = jnp.where(too_far | (reach < 1.79), 1.0, jnp.log1p(reach) / jnp.maximum(reach, 1.79))
        return step_number + 1, reach, w + step, z + change, (1 - safe) * step

    none, enough = jnp.zeros((len(x), len(hot)), x.dtype), float(jnp.finfo(x.dtype).eps) ** 0.5
    start = jnp.int32(0), jnp.full((), jnp.inf, x.dtype), none, jnp.zeros_like(hot), none
    go_on = lambda carry: (carry[0] < steps) & (carry[1] > enough)  # noqa: E731
    *_, w, _, doubtful = jax.lax.while_loop(go_on, improve, start)
    return w - doubtful


def compute_logits(params: Array, x: Array) -> Array:
    """``[logits, m]``, for coefficients ``[d + 1, logits]`` and inputs ``[m, d]``."""
    return jnp.matmul(params[:-1].T, x.T, precision=_HIGHEST) + params[-1][:, None]


def add_reference_logit(z: Array) -> Array:
    """Logits ``[classes, m]``: of two classes the first has log odds 0."""
    return jnp.pad(z, ((1, 0), (0, 0))) if z.shape[0] == 1 else z


def class_probabilities(z: Array) -> Array:
    """Probabilities of the classes, ``[logits, m]``: of two classes the second's."""
    return jax.nn.sigmoid(z) if len(z) == 1 else jax.nn.softmax(z, axis=0)


def _multiply(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def solve_ridge(gram: Array, ridge: Array | float, columns: Array) -> Array:
    """X with (`gram` + `ridge` I) X = `columns` ``[d, k]``, for `gram` ``[d, d]`` positive semidefinite.

    Gauss-Jordan elimination, one loop of few operations: of thousands of small systems side by side the time is what
    operations cost to begin with. Where rounding swallows a pivot, X is 0 (``gaussian_moments.factorise`` tells how).
    """
    d = len(gram)
    square = gram + ridge * jnp.eye(d, dtype=gram.dtype)
    variance, index = jnp.diagonal(square), jnp.arange(d)

    def eliminate(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        lines, noise = carry
        at = lambda x, axis=0: jax.lax.dynamic_index_in_dim(x, j, axis, keepdims=False)  # noqa: E731
        column, line = at(lines, 1), at(lines)
        share = jnp.where((index != j) & (at(column) > at(noise)), column / at(column), 0.0)
        return lines - share[:, None] * line, noise + jnp.where(index > j, share, 0.0) ** 2 * at(noise)

    start = jnp.concatenate([square, columns], 1), 8 * jnp.finfo(gram.dtype).eps * variance
    lines, noise = jax.lax.fori_loop(0, d, eliminate, start)
    pivot = jnp.diagonal(lines)[:, None]
    alive = pivot > noise[:, None]
    return jnp.where(alive, lines[:, d:] / jnp.where(alive, pivot, 1.0), 0.0)


def _one_logit(problem: _Problem) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Gradient and Newton step, of coefficients and their logits at the rows."""
    x, hot, share, ridge = problem

    def step(w: Array, z: Array) -> tuple[Array, Array]:
        p = class_probabilities(z)
        both = _multiply(x, jnp.concatenate([x * (share * p * (1 - p)), share * (p - hot)]).T)
        gradient = both[:, -1:] + ridge * w
        return gradient, solve_ridge(both[:, :-1], ridge, -gradient)

    return step


def _many_logits(problem: _Problem) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The same by conjugate gradients."""
    x, hot, share, ridge = problem
    inverse = solve_ridge(0.5 * _multiply(x * share, x.T), ridge, jnp.eye(len(x), dtype=x.dtype))
    solve_bound = partial(_multiply, inverse)

    def step(w: Array, z: Array) -> tuple[Array, Array]:
        p = class_probabilities(z)
        gradient = _multiply(x, (share * (p - hot)).T) + ridge * w

        def hessian(v: Array) -> Array:
            z = _multiply(v.T, x)
            return _multiply(x, (share * p * (z - (p * z).sum(0))).T) + ridge * v

        return gradient, _conjugate_gradients(hessian, solve_bound, -gradient)

    return step


def _conjugate_gradients(hessian: Callable[[Array], Array], solve_bound: Callable[[Array], Array], v: Array) -> Array:
    """Solves hessian(step) = v, preconditioned by the solver of a bound of it."""

    def descend(_: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        step, residual, direction, size = carry
        bent = hessian(direction)
        curvature = (direction * bent).sum()
        length = jnp.where(curvature > 0, size / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        residual = residual - length * bent
        solved = solve_bound(residual)
        new_size = (residual * solved).sum()
        turn = jnp.where(size > 0, new_size / jnp.where(size > 0, size, 1.0), 0.0)
        return step + length * direction, residual, solved + turn * direction, new_size

    first = solve_bound(v)
    start = jnp.zeros_like(v), v, first, (v * first).sum()
    return jax.lax.fori_loop(0, min(v.size, _DESCENTS), descend, start)[0]
