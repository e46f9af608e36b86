"""Nearest neighbours among rows, and the measures of generative models that rest on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.numerics.exact_distances import (
    Lattice,
    count_steps,
    find_lattice,
    find_nearest,
    rank_distances,
    rank_steps,
)
from collapse_jax.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST
_BATCH_ROWS = 256  # rows whose distances to all others are in memory at once


class Manifold(NamedTuple):
    """Rows ``[M, F]``, and balls around them that reach to the k-th nearest other row.

    Attributes:
      rows: the centres.
      radius: squared radii ``[M]``, or their ranks on the lattice of the rows.
      unit: of the lattice that the rows lie on (``exact_distances.Lattice``), or 0.
    """

    rows: Array
    radius: Array
    unit: Array


class Overlap(NamedTuple):
    """How far two manifolds overlap. For a perfect model all four are near 1; density is 1 on average.

    Attributes:
      precision: share of the generated rows within some real row's radius (arXiv 1904.06991, eq. 1 and 2).
      recall: share of the real rows within some generated row's radius.
      density: number of real balls that hold a generated row, over k, averaged over generated rows (arXiv 2002.09797).
      coverage: share of the real balls that hold some generated row (arXiv 2002.09797).
    """

    precision: Array
    recall: Array
    density: Array
    coverage: Array


def squared_distances(x_NxF: Array, y_MxF: Array) -> Array:
    """Return squared distances ``[N, M]`` as ``|x|^2 - 2 x y + |y|^2`` about the mean of y.

    Differences would take ten times as long. In float32, rows nearer to each other than 1e-3 of their distance from
    that mean cannot be told apart; a distance is never below 0.
    """
    middle_1xF = y_MxF.mean(0, keepdims=True)
    x_NxF, y_MxF = x_NxF - middle_1xF, y_MxF - middle_1xF
    products_NxM = jnp.matmul(x_NxF, y_MxF.T, precision=_HIGHEST)
    return jnp.maximum(jnp.sum(x_NxF**2, 1)[:, None] - 2 * products_NxM + jnp.sum(y_MxF**2, 1)[None], 0.0)


def normalise_rows(x_NxF: Array) -> Array:
    """Return rows of length 1; a row of 0 stays 0."""
    square_Nx1 = jnp.sum(x_NxF**2, 1, keepdims=True)
    return x_NxF * jnp.where(square_Nx1 > 0, jax.lax.rsqrt(jnp.where(square_Nx1 > 0, square_Nx1, 1.0)), 0.0)


def find_kth_smallest(squared_NxM: Array, k: int) -> Array:
    """Return the k-th smallest entry of each row, ``[N]``, by k searches for the next larger value."""

    def find_next(_: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        value_N, rank_N = found
        next_N = jnp.where(squared_NxM > value_N[:, None], squared_NxM, jnp.inf).min(1)
        next_N = jnp.where(rank_N < k, next_N, value_N)
        return next_N, (squared_NxM <= next_N[:, None]).sum(1)

    num, dtype = squared_NxM.shape[0], squared_NxM.dtype
    start = jnp.full(num, -jnp.inf, dtype), jnp.zeros(num, int)
    return jax.lax.fori_loop(0, k, find_next, start)[0]


def build_manifold(rows_MxF: Array, k: int) -> Manifold:
    """Return the balls around rows that reach to the k-th nearest other row, or to the farthest of at most k."""
    lattice = find_lattice(rows_MxF)
    return Manifold(rows_MxF, _find_radius(lattice, rows_MxF, k), lattice.unit)


def _find_radius(lattice: Lattice, rows_MxF: Array, k: int) -> Array:
    rank_MxM = rank_distances(lattice, rows_MxF, rows_MxF)
    return find_kth_smallest(rank_MxM, min(k + 1, rows_MxF.shape[0]))  # the nearest row is itself


def _change_lattice(ball: Manifold, lattice: Lattice) -> Array:
    """Return the radii of a manifold as they compare with distances on another lattice, or on none."""
    steps = count_steps(ball.radius)
    ratio = lattice.unit // jnp.maximum(ball.unit, 1)
    square = steps.astype(ball.radius.dtype) / jnp.maximum(ball.unit, 1).astype(ball.radius.dtype) ** 2
    squared_radius = jnp.where(ball.unit > 0, square, ball.radius)
    return jnp.where(lattice.unit > 0, rank_steps(steps * ratio**2, ball.radius.dtype), squared_radius)


def measure_overlap(real: Manifold, generated_NxF: Array, k: int) -> Overlap:
    """Return precision and recall, density and coverage of generated rows, in time and memory O(N (N + M)).

    Distances that are equal compare as equal, where all entries are multiples of a unit (``exact_distances``).
    """
    lattice = find_lattice(real.rows, generated_NxF)
    generated_radius = _find_radius(lattice, generated_NxF, k)
    rank_NxM = rank_distances(lattice, generated_NxF, real.rows)
    in_real_NxM = rank_NxM <= _change_lattice(real, lattice)[None]
    in_generated_NxM = rank_NxM <= generated_radius[:, None]
    return Overlap(
        in_real_NxM.any(1).mean(),
        in_generated_NxM.any(0).mean(),
        in_real_NxM.sum(1).mean() / k,
        in_real_NxM.any(0).mean(),
    )


def nearest_squared_distances(x_NxF: Array, y_MxF: Array) -> Array:
    """Return the squared distance of each row of x to the nearest row of y, ``[N]``; memory O(N + M)."""
    batch_size = min(_BATCH_ROWS, x_NxF.shape[0])
    return jax.lax.map(lambda x_F: squared_distances(x_F[None], y_MxF)[0].min(), x_NxF, batch_size=batch_size)


def copied_share(generated_NxF: Array, train_RxF: Array, held_out_MxF: Array, lattice: Lattice | None = None) -> Array:
    """Return how much more often a generated row is nearest to a training row than for a model that copies none.

    Training and held-out rows follow one law, so where a generated row owes nothing to the training rows, the nearest
    of R + M rows is a held-out one with probability M / (R + M). The result, 1 - (share whose nearest row is held out)
    (R + M) / M, is then 0 in expectation. It is 1 where no generated row is nearer to a held-out row, and it may be
    below 0. Where several rows are equally near, each of them counts in part, as pixels of few levels need.

    This follows arXiv 2004.05675, which compares distances to the training rows alone; there, rows that shrink towards
    the middle would look like copies.

    Args:
      generated_NxF: rows to judge.
      train_RxF: rows that were trained on.
      held_out_MxF: other rows of the same law.
      lattice: ``find_lattice(train_RxF, held_out_MxF, finest=True)``, where it was found before.
    """
    real = train_RxF, held_out_MxF
    lattice = find_lattice(*real, finest=True) if lattice is None else lattice
    (to_train_N, num_train_N), (to_held_out_N, num_held_out_N) = find_nearest(lattice, generated_NxF, real, _BATCH_ROWS)
    tied_N = num_held_out_N / (num_train_N + num_held_out_N)
    is_held_out_N = jnp.where(to_train_N == to_held_out_N, tied_N, (to_held_out_N < to_train_N).astype(float))
    return 1 - is_held_out_N.mean() * (train_RxF.shape[0] + held_out_MxF.shape[0]) / held_out_MxF.shape[0]


def differential_entropy(x_NxD: Array, k: int) -> Array:
    """Return the differential entropy of the law that rows come from, in nats (Kozachenko and Leonenko).

    It is psi(N) - psi(k) + log(volume of the unit ball) + D mean log(distance to the k-th nearest other row); see arXiv
    cond-mat/0305641. Its error is of order N^(-1/2) in a few columns, with a bias that grows with D. It is -inf where k
    + 1 rows coincide, or where there is only one row. Distances are computed from differences, so that collapsed rows
    keep theirs. The time is O(N^2 D).
    """
    num, dim = x_NxD.shape
    k = max(min(k, num - 1), 1)

    def to_kth(x_D: Array) -> Array:
        return find_kth_smallest(jnp.sum((x_D[None] - x_NxD) ** 2, axis=1)[None], min(k + 1, num))[0]

    squared_N = jax.lax.map(to_kth, x_NxD, batch_size=min(_BATCH_ROWS, num))
    digamma, log_gamma = jax.scipy.special.digamma, jax.scipy.special.gammaln
    log_ball = 0.5 * dim * jnp.log(jnp.pi) - log_gamma(0.5 * dim + 1)
    return digamma(num * 1.0) - digamma(k * 1.0) + log_ball + 0.5 * dim * jnp.log(squared_N).mean()
