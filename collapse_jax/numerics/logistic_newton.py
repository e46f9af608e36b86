"""Logistic and multinomial regression by Newton's method, in plain array operations that vmap well.

With more than two classes each system is solved by conjugate gradients, preconditioned by the quadratic bound of
Boehning (1992). The long axis of all arrays, the axis of rows, is the last one, because sums along it are fastest.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.numerics.ldl import take_index
from collapse_jax.types import Array, Tree

_HIGHEST = jax.lax.Precision.HIGHEST
_MAX_DESCENTS = 30  # steps of conjugate gradients; as many steps as coefficients are exact


class _Problem(NamedTuple):
    x: Array  # inputs [p, m], one column for each row of data; the last entry is 1
    hot: Array  # one-hot labels [logits, m]
    share: Array  # share of the total weight, [m]
    ridge: Array  # of each coefficient, [p, 1]; that of the intercept is 0


def fit_coefficients(
    x: Array,
    label: Array,
    weight: Array,
    classes: int,
    ridge: Array | float,
    steps: int,
    tolerance: float | None = None,
) -> Array:
    """Return coefficients ``[d + 1, logits]``, the intercept last; two classes share one logit, more have one each.

    They minimise the weighted mean of the negative log likelihood plus ``ridge |w|^2 / 2``, without the intercept: a
    column far from 0 fits like the same column about 0. Of a class without rows the intercept has no optimum; each step
    takes it about 1 further down. A step that ends uphill is shortened in the next iteration. The last step is one that
    moves no logit by more than `tolerance`: with two classes, or up to 30 coefficients, each step squares the error
    near the optimum; with more coefficients, for which conjugate gradients may stop early, each step shrinks the error
    by a factor.

    Args:
      x: ``[m, d]``.
      label: ``[m]``, whole numbers from 0.
      weight: ``[m]``, multiplicities.
      classes: number of classes.
      ridge: weight of the penalty; above 0.
      steps: the largest number of Newton steps, which start from 0.
      tolerance: the last step is one that moves no logit by more; the default is the square root of rounding.
    """
    share = weight / weight.sum()
    x = jnp.where(share[None] > 0, x.T, 0.0)  # a row of weight 0 may hold anything, NaN too
    # The intercept makes up for this shift. Float32 could not tell a narrow column far from 0 from that of ones.
    center = _multiply(x, share[:, None])
    x = jnp.where(share[None] > 0, jnp.concatenate([x - center, jnp.ones_like(x[:1])]), 0.0)
    penalty = jnp.where(jnp.arange(len(x)) < len(x) - 1, ridge, 0.0)[:, None]
    hot = (label[None] == jnp.arange(1 if classes == 2 else 0, classes)[:, None]).astype(x.dtype)
    problem = _Problem(x, hot, share, penalty)
    newton_step = _one_logit(problem) if classes == 2 else _many_logits(problem)

    def improve(carry: Tree) -> Tree:
        step_number, _, w, z, doubtful = carry
        gradient, step = newton_step(w, z)
        too_far = (gradient * doubtful).sum() > 0
        step = jnp.where(too_far, -doubtful, step)
        change = _multiply(step.T, x)
        # Along a step the third derivative is at most `reach` times the second. So a whole step goes downhill if r is
        # below 1.79, the root of e^r - 1 - r = r^2, and log1p(r) / r of a step always does. The rest stays in doubt
        # until the next gradient: a convex function that still falls there has fallen all the way.
        reach = (jnp.abs(change) if classes == 2 else jnp.ptp(change, axis=0)).max()
        safe = jnp.where(too_far | (reach < 1.79), 1.0, jnp.log1p(reach) / jnp.maximum(reach, 1.79))
        return step_number + 1, reach, w + step, z + change, (1 - safe) * step

    none = jnp.zeros((len(x), len(hot)), x.dtype)
    enough = float(jnp.finfo(x.dtype).eps) ** 0.5 if tolerance is None else tolerance
    start = jnp.int32(0), jnp.full((), jnp.inf, x.dtype), none, jnp.zeros_like(hot), none

    def is_unfinished(carry: Tree) -> Array:
        step_number, reach, *_ = carry
        return (step_number < steps) & (reach > enough)

    *_, w, _, doubtful = jax.lax.while_loop(is_unfinished, improve, start)
    w = w - doubtful
    if classes > 2:
        w = w - w.mean(1, keepdims=True)  # it says nothing, and is 0 at the optimum: what is there is rounding
    return w.at[-1].add(-_multiply(center.T, w[:-1])[0])


def compute_logits(params: Array, x: Array) -> Array:
    """Return logits ``[logits, m]`` for coefficients ``[d + 1, logits]`` and inputs ``[m, d]``."""
    return jnp.matmul(params[:-1].T, x.T, precision=_HIGHEST) + params[-1][:, None]


def add_reference_logit(z: Array) -> Array:
    """Return logits ``[classes, m]``; with two classes, the first class gets the logit 0."""
    return jnp.pad(z, ((1, 0), (0, 0))) if z.shape[0] == 1 else z


def class_probabilities(z: Array) -> Array:
    """Return the probabilities of the classes, ``[logits, m]``; with two classes, those of the second."""
    return jax.nn.sigmoid(z) if len(z) == 1 else jax.nn.softmax(z, axis=0)


def _multiply(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def solve_ridge(gram: Array, ridge: Array | float, columns: Array) -> Array:
    """Return X with (`gram` + `ridge` I) X = `columns` ``[d, k]``, for `gram` ``[d, d]`` positive semidefinite.

    A ridge ``[d, 1]`` has a number for each diagonal entry.

    Gauss-Jordan elimination is one loop of few operations; for thousands of small systems side by side, the time goes
    into starting operations. X is 0 where rounding swallows a pivot (see ``ldl.factorise_covariance``).
    """
    d = len(gram)
    square = gram + ridge * jnp.eye(d, dtype=gram.dtype)
    variance, index = jnp.diagonal(square), jnp.arange(d)

    def eliminate(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        lines, noise = carry
        column, line = take_index(lines, j, 1), take_index(lines, j)
        pivot, pivot_noise = take_index(column, j), take_index(noise, j)
        share = jnp.where((index != j) & (pivot > pivot_noise), column / pivot, 0.0)
        return lines - share[:, None] * line[None], noise + jnp.where(index > j, share, 0.0) ** 2 * pivot_noise

    start = jnp.concatenate([square, columns], 1), 8 * jnp.finfo(gram.dtype).eps * variance
    lines, noise = jax.lax.fori_loop(0, d, eliminate, start)
    pivot = jnp.diagonal(lines)[:, None]
    alive = pivot > noise[:, None]
    return jnp.where(alive, lines[:, d:] / jnp.where(alive, pivot, 1.0), 0.0)


def _one_logit(problem: _Problem) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Return the function that computes the gradient and the Newton step from coefficients and the rows' logits."""
    x, hot, share_m, ridge = problem
    share = share_m[None]

    def step(w: Array, z: Array) -> tuple[Array, Array]:
        p = class_probabilities(z)
        both = _multiply(x, jnp.concatenate([x * (share * p * (1 - p)), share * (p - hot)]).T)
        gradient = both[:, -1:] + ridge * w
        return gradient, solve_ridge(both[:, :-1], ridge, -gradient)

    return step


def _many_logits(problem: _Problem) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Return the same function for several logits, with the step by conjugate gradients."""
    x, hot, share_m, ridge = problem
    share = share_m[None]
    inverse = solve_ridge(0.5 * _multiply(x * share, x.T), ridge, jnp.eye(len(x), dtype=x.dtype))
    solve_bound = partial(_multiply, inverse)

    def penalise(w: Array) -> Array:
        """Penalise the mean of the intercepts, too: nothing else holds it, and rounding would move it."""
        return (ridge * w).at[-1].add(0.5 * w[-1].mean())

    def step(w: Array, z: Array) -> tuple[Array, Array]:
        p = class_probabilities(z)
        gradient = _multiply(x, (share * (p - hot)).T) + penalise(w)

        def hessian(v: Array) -> Array:
            z = _multiply(v.T, x)
            return _multiply(x, (share * p * (z - (p * z).sum(0, keepdims=True))).T) + penalise(v)

        return gradient, _conjugate_gradients(hessian, solve_bound, -gradient)

    return step


def _conjugate_gradients(hessian: Callable[[Array], Array], solve_bound: Callable[[Array], Array], v: Array) -> Array:
    """Solve hessian(step) = v by conjugate gradients, preconditioned by the solver of a bound."""

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
    return jax.lax.fori_loop(0, min(v.size, _MAX_DESCENTS), descend, start)[0]
