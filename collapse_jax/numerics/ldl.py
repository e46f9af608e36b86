"""The LDL^T factorisation of singular and nearly singular covariances."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST


def take_index(x: Array, index: Array, axis: int = 0) -> Array:
    """Return the slice of `x` at a traced `index` of `axis`, without that axis."""
    return jax.lax.dynamic_index_in_dim(x, index, axis, keepdims=False)


def ldl_on_host(a: np.ndarray, eps: float, max_rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit lower L and the pivots D of L diag(D) L^T = `a`, by NumPy; see ``factorise_covariance``."""
    if len(a) <= max_rank:
        with contextlib.suppress(np.linalg.LinAlgError):
            lower = np.linalg.cholesky(a)
            unit, pivot = lower / np.diagonal(lower), np.diagonal(lower) ** 2
            if (pivot > eps * np.maximum((np.linalg.inv(unit) ** 2).sum(1), 1.0)).all():
                return unit, pivot
    unit, inverse, pivots, rank = np.eye(len(a)), np.eye(len(a)), np.zeros(len(a)), 0
    for j in range(len(a)):
        pivot = a[j, j]
        if rank == max_rank or not pivot > eps * max((inverse[j, : j + 1] ** 2).sum(), 1.0):
            continue
        below = a[j + 1 :, j] / pivot
        a[j + 1 :, j + 1 :] -= pivot * below[:, None] * below
        inverse[j + 1 :, : j + 1] -= below[:, None] * inverse[j, : j + 1]
        unit[j + 1 :, j], pivots[j], rank = below, pivot, rank + 1
    return unit, pivots


def factorise_covariance(covariance: Array, max_rank: Array | int | None = None) -> tuple[Array, Array]:
    """Return the unit lower-triangular factor and the log scales of a positive semidefinite matrix ``[d, d]``.

    A pivot counts as 0 where it is no larger than the rounding that reached it: where variances of 1 are off by E,
    pivot j is off by (L^-1 E L^-T)_jj, here with E = 8 eps I. Pivots beyond `max_rank` others count as 0, too. Such
    directions have no variance.

    The algorithm is an LDL^T in plain array operations, column by column and halved recursively above 12 columns. Under
    vmap this is faster than thousands of small LAPACK calls, and two such calls at once can lock up a small CPU's
    thread pool (seen with jaxlib 0.10.2).
    """
    d = covariance.shape[-1]
    variance = jnp.diagonal(covariance)
    if d == 1:
        has_rank = True if max_rank is None else max_rank > 0
        return jnp.ones_like(covariance), jnp.where(has_rank, 0.5 * jnp.log(variance), -jnp.inf)
    deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    unit, pivot, _ = _factorise_ldl(covariance / deviation[None] / deviation[:, None], None)
    alive = pivot > 0
    if max_rank is not None:
        alive = alive & (jnp.cumsum(alive) <= max_rank)
        unit = jnp.where(alive, unit, 0.0)
    log_scale = jnp.where(alive, 0.5 * jnp.log(jnp.where(alive, pivot, 1.0)) + jnp.log(deviation), -jnp.inf)
    return jnp.where(jnp.eye(d, dtype=bool), 1.0, unit * deviation[:, None] / deviation[None]), log_scale


@jax.jit  # it is traced once for each shape, for all programs of a sweep
def _factorise_ldl(a: Array, noise: Array | None) -> tuple[Array, Array, Array]:
    """Return unit lower L and pivots D with L diag(D) L^T = `a`, and the inverse of L.

    `noise` ``[d, d]`` is the rounding that reached `a`, in units of 8 eps; None stands for the identity, where nothing
    was eliminated yet. A pivot that is no larger than its rounding is 0, and so is its column.
    """
    d = a.shape[0]
    if d <= 12:  # below, loops over columns; above, matrix products: measured from 5 to 31
        return _ldl_by_columns(a, noise)
    h, product = d // 2, partial(jnp.matmul, precision=_HIGHEST)
    top, top_pivot, top_inverse = _factorise_ldl(a[:h, :h], None if noise is None else noise[:h, :h])
    scaled = solve_unit_lower(top, a[:h, h:])
    alive = (top_pivot > 0)[:, None]
    below = jnp.where(alive, scaled / jnp.where(alive, top_pivot[:, None], 1.0), 0.0).T
    back = product(below, top_inverse)
    if noise is None:
        rest_noise = jnp.eye(d - h, dtype=a.dtype) + product(back, back.T)
    else:
        across = product(back, noise[:h, h:])
        rest_noise = noise[h:, h:] - across - across.T + product(product(back, noise[:h, :h]), back.T)
    rest, rest_pivot, rest_inverse = _factorise_ldl(a[h:, h:] - product(below * top_pivot, below.T), rest_noise)
    above = jnp.zeros((h, d - h), a.dtype)
    unit = jnp.block([[top, above], [below, rest]])
    inverse = jnp.block([[top_inverse, above], [-product(rest_inverse, back), rest_inverse]])
    return unit, jnp.concatenate([top_pivot, rest_pivot]), inverse


def _ldl_by_columns(a: Array, noise: Array | None) -> tuple[Array, Array, Array]:
    """Return the results of ``_factorise_ldl`` by a loop over columns."""
    index, eps = jnp.arange(a.shape[0]), 8 * jnp.finfo(a.dtype).eps

    def column(j: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        a, unit, pivots, inverse = carry
        column, row = take_index(a, j, 1), take_index(inverse, j)
        pivot = take_index(column, j)
        reached = (row**2).sum() if noise is None else (row * (noise * row).sum(1)).sum()
        alive = pivot > eps * jnp.maximum(reached, 1.0)  # a pivot's own rounding is 1; a smaller sum is rounding itself
        below = jnp.where((index > j) & alive, column / jnp.where(alive, pivot, 1.0), 0.0)
        a = a - jnp.where(alive, pivot, 0.0) * below[:, None] * below[None]
        unit = unit + below[:, None] * (index == j).astype(below.dtype)[None]
        return a, unit, pivots + jnp.where((index == j) & alive, pivot, 0.0), inverse - below[:, None] * row[None]

    nothing = jnp.eye(a.shape[0], dtype=a.dtype)
    _, unit, pivots, inverse = jax.lax.fori_loop(
        0, a.shape[0], column, (a, nothing, jnp.zeros(a.shape[0], a.dtype), nothing)
    )
    return unit, pivots, inverse


@jax.jit
def solve_unit_lower(unit: Array, columns: Array) -> Array:
    """Return X with `unit` X = `columns` ``[d, k]``, by forward substitution, halved recursively above 8 columns."""
    d = unit.shape[0]
    if d > 8:  # six times as fast as a loop over 100 columns on a CPU, and twice over 10
        h = d // 2
        top = solve_unit_lower(unit[:h, :h], columns[:h])
        rest = columns[h:] - jnp.matmul(unit[h:, :h], top, precision=_HIGHEST)
        return jnp.concatenate([top, solve_unit_lower(unit[h:, h:], rest)])
    for j in range(d - 1):
        below = unit[:, j] * (np.arange(d) > j).astype(unit.dtype)
        columns = columns - below[:, None] * columns[j][None]
    return columns
