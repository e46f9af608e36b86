"""Least squares by Householder's triangles, in plain array operations that vmap well.

Normal equations square the condition number: in float32 they fail for square normal matrices of a hundred columns,
which published grids contain. Rows ``[x, y]`` are therefore reduced to the triangle R of X = Q R, and Q'y.
"""

import jax
import jax.numpy as jnp

from collapse_jax.numerics.ldl import solve_unit_lower, take_index
from collapse_jax.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST
_PANEL = 8  # number of columns that are reduced one by one between two matrix products


def reduce_to_triangle(rows: Array, num: int) -> Array:
    """Return the first `num` rows of Q' `rows` ``[m, k]``, where Q' makes the first `num` columns upper triangular.

    The result is ``[num, k]``, with rows of 0 beyond m. A pivot is 0 where it is no larger than the rounding that
    reached it (8 eps of its column, and what the earlier pivots passed on), and then the first `num` entries of its row
    are 0, too: rows that repeat others add no rank. Columns must be in general position (no two alike).
    """
    m, k = rows.shape
    depth = min(m, num)
    noise = (8 * jnp.finfo(rows.dtype).eps) ** 2 * (rows[:, :num] ** 2).sum(0)  # squared rounding errors
    done: list[Array] = []
    for begin in range(0, depth, _PANEL):
        width = min(_PANEL, depth - begin)
        panel, mirrors, passed = _reflect_panel(rows[:, :width], noise[:width])
        rest = rows[:, width:]
        products = jnp.matmul(mirrors.T, jnp.concatenate([mirrors, rest], 1), precision=_HIGHEST)
        steps = solve_unit_lower(products[:, :width], products[:, width:])
        rest = rest - jnp.matmul(mirrors, steps, precision=_HIGHEST)
        noise = noise[width:] + (passed[:, None] * rest[:width, : num - begin - width] ** 2).sum(0)
        done.append(jnp.concatenate([jnp.zeros((width, begin), rows.dtype), panel[:width], rest[:width]], 1))
        rows = rest[width:]
    reduced = jnp.concatenate([*done, jnp.zeros((num - depth, k), rows.dtype)])
    return jnp.where((jnp.diagonal(reduced) != 0)[:, None] | (jnp.arange(k) >= num)[None], reduced, 0.0)


def _reflect_panel(panel: Array, noise: Array) -> tuple[Array, Array, Array]:
    """Return `panel` ``[m, w]`` made upper triangular by mirrors I - v v', and the v as columns (0 where a pivot is 0).

    The third result is each pivot's noise over its square, which the entries beside it pass on by their own squares.
    """
    index, place = jnp.arange(panel.shape[0]), jnp.arange(panel.shape[1])

    def reduce(j: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        panel, mirrors, noise, passed = carry
        column = take_index(panel, j, 1)
        entry, pivot_noise = take_index(column, j), take_index(noise, j)
        tail = jnp.where(index >= j, column, 0.0)
        square = (tail**2).sum()
        alive = square > pivot_noise
        length = jnp.sqrt(jnp.where(alive, square, 1.0))
        pivot = jnp.where(alive, jnp.where(entry < 0, length, -length), 0.0)
        mirror = jnp.where(index == j, tail - pivot, tail) / jnp.sqrt(length * (length + jnp.abs(entry)))
        mirror = jnp.where(alive, mirror, 0.0)
        panel = panel - mirror[:, None] * (mirror[:, None] * panel).sum(0)[None]
        column = jnp.where(index < j, column, jnp.where(index == j, pivot, 0.0))
        over = jnp.where(alive, pivot_noise / jnp.where(alive, square, 1.0), 0.0)
        return (
            jnp.where((place == j)[None], column[:, None], panel),
            jnp.where((place == j)[None], mirror[:, None], mirrors),
            noise + jnp.where(place > j, over * take_index(panel, j) ** 2, 0.0),
            jnp.where(place == j, over, passed),
        )

    start = panel, jnp.zeros_like(panel), noise, jnp.zeros_like(noise)
    panel, mirrors, _, passed = jax.lax.fori_loop(0, panel.shape[1], reduce, start)
    return panel, mirrors, passed


def solve_triangle(root: Array, target: Array) -> Array:
    """Return the least-norm X ``[d, k]`` with `root` X = `target` ``[d, k]`` in the rows whose pivot is not 0.

    `root` ``[d, d]`` is upper triangular, as ``reduce_to_triangle`` makes it. Where a pivot is 0, the least-norm
    solution is root' (root root')^-1 target, computed with a triangle of root' and two steps of refinement, which win
    back what the product of two triangles loses.
    """
    target = jnp.where(jnp.diagonal(root)[:, None] != 0, target, 0.0)
    square = reduce_to_triangle(root.T, root.shape[0])

    def refine(_: Array, x: Array) -> Array:
        residual = target - jnp.matmul(root, x, precision=_HIGHEST)
        step = _solve_upper(square, _solve_transposed(square, residual))
        return x + jnp.matmul(root.T, step, precision=_HIGHEST)

    least = jax.lax.fori_loop(0, 3, refine, jnp.zeros_like(target))
    return jnp.where((jnp.diagonal(root) != 0).all(), _solve_upper(root, target), least)


def _solve_transposed(root: Array, columns: Array) -> Array:
    """Return X with root' X = `columns`; X is 0 where a pivot is 0."""
    pivot = jnp.diagonal(root)[:, None]
    unit = jnp.where(pivot != 0, root / jnp.where(pivot != 0, pivot, 1.0), 0.0)
    return jnp.where(pivot != 0, solve_unit_lower(unit.T, columns) / jnp.where(pivot != 0, pivot, 1.0), 0.0)


def _solve_upper(root: Array, columns: Array) -> Array:
    """Return X with root X = `columns`; X is 0 where a pivot is 0."""
    pivot = jnp.diagonal(root)[:, None]
    over = jnp.where(pivot != 0, 1.0 / jnp.where(pivot != 0, pivot, 1.0), 0.0)
    return solve_unit_lower((root * over)[::-1, ::-1], (columns * over)[::-1])[::-1]
