"""Means and covariances that outlast float32: a covariance is kept as M diag(exp(2 s)) M^T.

M is unit lower triangular, and s holds the logarithms of the Cholesky factor's diagonal. A product of factors (one
generation after another) then only adds to s, and the ratio of variances may pass exp(-1000) without underflow. Sums of
covariances are formed at a common scale: there the smallest direction is resolved down to float precision of the
largest, and means down to float precision of the mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import draw_normals, stream
from collapse_jax.numerics.ldl import factorise_covariance, ldl_on_host, solve_unit_lower
from collapse_jax.numerics.log_gamma import draw_log_gamma_ratio, log_gamma_ratio_at_normal
from collapse_jax.types import Array, Batch, Key

_HIGHEST = jax.lax.Precision.HIGHEST


class Moments(NamedTuple):
    """The mean ``[..., d]`` and the covariance of rows: its unit lower-triangular factor and its log scales.

    The factor is ``[..., d, d]``, the log scales are ``[..., d]``. A log scale of -inf marks a direction without
    variance, whose column of the factor is a unit vector.
    """

    mean: Array
    factor: Array
    log_scale: Array


def moments_from_covariance(mean: ArrayLike, covariance: ArrayLike, max_rank: int | None = None) -> Moments:
    """Return the moments of a mean ``[d]`` and a covariance ``[d, d]``, by NumPy in float64 where both are known.

    ``factorise_covariance``, which takes seconds to compile at d = 100, is used for traced values only. Which
    directions have variance is judged by the precision of runs in both cases, because covariances may come from rows of
    that precision.

    Raises:
      UsageError: the numbers are not finite.
    """
    if isinstance(mean, jax.core.Tracer) or isinstance(covariance, jax.core.Tracer):
        return Moments(jnp.asarray(mean), *factorise_covariance(jnp.asarray(covariance), max_rank))
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UsageError("mean and covariance must be finite")
    a, eps = np.array(covariance, np.float64), 8 * float(jnp.finfo(jnp.result_type(float)).eps)
    deviation = np.sqrt(np.where(np.diagonal(a) > 0, np.diagonal(a), 1.0))
    unit, pivot = ldl_on_host(a / deviation / deviation[:, None], eps, len(a) if max_rank is None else max_rank)
    log_scale = np.where(pivot > 0, 0.5 * np.log(np.where(pivot > 0, pivot, 1.0)) + np.log(deviation), -np.inf)
    return Moments(*(jnp.asarray(x, float) for x in (mean, unit * deviation[:, None] / deviation, log_scale)))


def moments_from_rows(rows: ArrayLike) -> Moments:
    """Return the moments of rows ``[n, d]`` (maximum likelihood: divided by n), as ``moments_from_covariance`` does."""
    xp, x_nxd = (jnp, rows) if isinstance(rows, jax.core.Tracer) else (np, np.asarray(rows, np.float64))
    mean = xp.where(x_nxd.min(0) == x_nxd.max(0), x_nxd[0], x_nxd.mean(0))  # constant columns keep variance 0
    return moments_from_covariance(mean, (x_nxd - mean).T @ (x_nxd - mean) / len(x_nxd), len(x_nxd) - 1)


def cholesky_factor(moments: Moments, log_unit: Array | float = 0.0) -> Array:
    """Return the lower-triangular L / exp(log_unit) with L L^T = covariance."""
    return moments.factor * jnp.exp(moments.log_scale - log_unit)[..., None, :]


def log_trace(moments: Moments) -> Array:
    """Return the logarithm of the covariance's trace; -inf where the variance is 0."""
    unit = log_unit(moments)
    return 2 * unit + jnp.log((cholesky_factor(moments, unit[..., None]) ** 2).sum((-2, -1)))


def log_det(moments: Moments) -> Array:
    """Return the logarithm of the covariance's determinant; -inf where it is singular."""
    return 2 * moments.log_scale.sum(-1)


def log_unit(moments: Moments) -> Array:
    """Return a log scale by which the covariance may be divided: its largest, or 0 where the variance is 0."""
    largest = moments.log_scale.max(-1)
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


def compose_moments(outer: Moments, inner: Moments) -> Moments:
    """Return the moments of mean + L x, where L is the Cholesky factor of `outer` and x has the moments `inner`.

    x must be exchangeable (moments of standard normal rows): where directions of `outer` have no variance, the first
    coordinates of x serve the directions that have some, so that the factor stays triangular.
    """
    d = outer.mean.shape[-1]
    alive = jnp.isfinite(outer.log_scale)
    place = jnp.maximum(jnp.cumsum(alive) - 1, 0)
    inner_factor = jax.lax.map(lambda row: inner.factor[row][place], place)  # half the time of one gather at d = 100
    inner_scale = inner.log_scale[place]
    # exp(s_i) M_ij exp(-s_j): only i > j matters, and there s_i falls faster than s_j as generations pass.
    s = jnp.where(alive, outer.log_scale, 0.0)
    graded = jnp.where(alive[:, None] & alive[None], inner_factor * jnp.exp(jnp.tril(s[:, None] - s[None])), 0.0)
    graded = jnp.where(jnp.eye(d, dtype=bool), 1.0, graded)
    shift = jnp.where(alive, inner.mean[place], 0.0)
    mean = outer.mean + jnp.matmul(cholesky_factor(outer), shift, precision=_HIGHEST)
    factor = outer.factor if d == 1 else jnp.matmul(outer.factor, graded, precision=_HIGHEST)
    return Moments(mean, factor, outer.log_scale + inner_scale)


def compress_rows(rows: Batch) -> Batch:
    """Return one row of moments for rows ``[..., d]``, for rows of moments, or for both merged.

    The moments are of maximum likelihood: they are divided by the total weight.
    """
    items, weight = batch.weighted_rows(rows)
    if isinstance(items, Moments) and weight.shape[0] == 1:
        return Batch(jax.tree.map(lambda x: x[:, None], items), rows.weight)
    mass = weight.sum()
    share = weight / jnp.where(mass > 0, mass, 1.0)
    is_rows = not isinstance(items, Moments)
    mean, covariance, unit = _row_moments(items, share) if is_rows else _pool_moments(items, share)
    factor, log_scale = factorise_covariance(covariance, (weight > 0).sum() - 1 if is_rows else None)
    return batch.make_batch(jax.tree.map(lambda x: x[None], Moments(mean, factor, log_scale + unit)), mass)


def _row_moments(x_mxd: Array, share: Array) -> tuple[Array, Array, Array]:
    """Return the mean, covariance / exp(2 unit), and unit of weighted rows."""
    column = share[:, None]
    present = column > 0
    x_mxd = jnp.where(present, x_mxd, 0.0)  # a row of weight 0 may hold anything, NaN too
    mean = (column * x_mxd).sum(0)  # a sum: thousands of small matrix-vector products are slow on a CPU
    near = jnp.where(present, x_mxd - mean[None], 0.0)
    correction = (column * near).sum(0)  # the rounding error of the mean, which may lie far from 0
    # Only reductions over rows are fast. Where a column is constant, all that is left is rounding.
    high = jnp.where(present, near, -jnp.inf).max(0)
    low = jnp.where(present, near, jnp.inf).min(0)
    largest = jax.lax.stop_gradient(jnp.maximum((high - correction).max(), (correction - low).max()))
    is_unit = jnp.isfinite(largest) & (largest > 0)  # the result does not depend on the unit
    scale = jnp.where(high == low, 0.0, 1.0 / jnp.where(is_unit, largest, 1.0))
    scaled = jnp.where(present, near - correction[None], 0.0) * scale[None] * _safe_sqrt(column)
    covariance = jnp.matmul(scaled.T, scaled, precision=_HIGHEST)
    return mean + correction, covariance, jnp.where(is_unit, jnp.log(jnp.where(is_unit, largest, 1.0)), 0.0)


def _pool_moments(moments: Moments, share: Array) -> tuple[Array, Array, Array]:
    """Return the mean, covariance / exp(2 unit), and unit of weighted moments, by the law of total covariance."""
    present = share > 0
    means = jnp.where(present[:, None], moments.mean, 0.0)
    mean = jnp.matmul(share, means, precision=_HIGHEST)
    between = jnp.where(present[:, None], means - mean[None], 0.0)
    log_scale = jnp.where(present[:, None], moments.log_scale, -jnp.inf)
    largest = jnp.maximum(
        jnp.log(jnp.abs(jax.lax.stop_gradient(between))).max(), jax.lax.stop_gradient(log_scale).max()
    )
    unit = jnp.where(jnp.isfinite(largest), largest, 0.0)  # the result does not depend on the unit
    scaled = between * jnp.exp(-unit)
    lower = jnp.where(present[:, None, None], cholesky_factor(moments._replace(log_scale=log_scale), unit), 0.0)
    rows = jnp.concatenate([lower.mT, scaled[:, None]], axis=1) * _safe_sqrt(share)[:, None, None]
    rows = rows.reshape(-1, rows.shape[-1])
    return mean, jnp.matmul(rows.T, rows, precision=_HIGHEST), unit


def moments_of_normal_rows(key: Key, dim: int, num: int, count: Array | int) -> Moments:
    """Draw `num` standard normal rows and return the moments (maximum likelihood) of the first `count`."""
    z = draw_normals(key, (num, dim))
    weight = (jnp.arange(num) < count).astype(z.dtype)
    return jax.tree.map(lambda x: x[0, 0], compress_rows(batch.make_batch(z, weight)).items)


def draw_normal_moments(key: Key, dim: int, count: Array | int) -> Moments:
    """Draw the moments of `count` standard normal rows from their law, without the rows.

    The mean is N(0, I / count) and, independent of it, the scatter follows Bartlett's theorem: its factor is lower
    triangular with independent entries, which are standard normal below the diagonal and, at place j of the diagonal,
    chi with count - 1 - j degrees of freedom. Places at or beyond count - 1 are empty (a singular scatter).
    """
    static = isinstance(count, int)
    xp = np if static else jnp  # the chi draws are faster where the count is known
    count = xp.asarray(xp.maximum(count, 1), float)
    freedom = count - 1.0 - xp.arange(dim, dtype=float)
    alive = freedom > 0.7  # degrees of freedom are whole numbers; gamma variates of shapes below 1/3 are not drawn
    shape = 0.5 * xp.where(alive, freedom, 2.0)  # chi^2_k / 2 is gamma with shape k / 2
    half = 0 if dim == 1 else (dim + 1) // 2
    z = draw_normals(key, (dim * (2 + half),))  # one draw, because keys cost time too
    z_mean, z_scale, z_below = jnp.split(z, [dim, 2 * dim])
    log_unit_chi = 0.5 * (
        log_gamma_ratio_at_normal(z_scale, shape)
        if static
        else draw_log_gamma_ratio(stream(key, "chi"), z_scale, shape)
    )
    log_scale = jnp.where(alive, log_unit_chi + 0.5 * jnp.asarray(xp.log(2 * shape / count), z_mean.dtype), -jnp.inf)
    mean = z_mean / jnp.sqrt(jnp.asarray(count, z_mean.dtype))
    if dim == 1:
        return Moments(mean, jnp.eye(1), log_scale)
    log_chi = log_unit_chi + 0.5 * jnp.log(jnp.asarray(2 * shape, z_mean.dtype))
    # A triangle fills half a square: the places that the lower rows leave free hold the upper rows, turned round.
    lower = z_below.reshape(half, dim)
    square = jnp.concatenate([lower[::-1, ::-1], lower])[-dim:] * jnp.where(alive, jnp.exp(-log_chi), 0.0)[None]
    row, column = np.indices((dim, dim))
    return Moments(mean, jnp.where(row > column, square, np.eye(dim, dtype=square.dtype)), log_scale)


def draw_part_moments(key: Key, dim: int, num: Array | int, count: Array | int) -> Moments:
    """Draw the moments of the first `count` of `num` > dim normal rows, where the moments of all rows are 0 and I.

    They are independent of the moments of all rows (Basu's theorem), so ``compose_moments(whole, part)`` follows the
    law of the part given the whole.
    """
    head = draw_normal_moments(stream(key, "head"), dim, count)
    tail = draw_normal_moments(stream(key, "tail"), dim, num - count)
    weight = jnp.stack([jnp.asarray(w, head.mean.dtype) for w in (count, num - count)])[None]
    both = Batch(jax.tree.map(lambda a, b: jnp.stack([a, b])[None], head, tail), weight)
    whole = jax.tree.map(lambda x: x[0, 0], compress_rows(both).items)
    columns = jnp.concatenate([head.factor, (head.mean - whole.mean)[:, None]], axis=1)
    solved = solve_unit_lower(whole.factor, columns)
    s = whole.log_scale
    return Moments(jnp.exp(-s) * solved[:, -1], jnp.exp(s[None] - s[:, None]) * solved[:, :-1], head.log_scale - s)


def _safe_sqrt(x: Array) -> Array:
    """Return the square root, with derivative 0 at 0: absent rows have no influence."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)
