"""The orthogonal polar factor and the distance of covariances (Bures), by matrix products alone."""

from functools import partial

import jax
import jax.numpy as jnp

from collapse_jax.core.gradients import refuse_gradient
from collapse_jax.types import Array

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_THIN = 16  # columns up to which XLA's batched products are slower on a CPU than sums of outer products
_MAX_STEPS = 100
_LONGEST = 1.5  # the longest singular value that a step takes: it becomes 0.56, and small ones grow by 2.25


def polar_factor(a_DxN: Array) -> Array:
    """Return the Q with Q Q^T = I nearest to A ``[D, N >= D]``, which has the largest tr Q^T A; of NaN, NaN.

    Newton and Schulz's iteration X -> (3 I - X X^T) X / 2, with each X scaled first (Higham, Functions of Matrices,
    section 8.6): by the scale that brings X X^T nearest to I, or, every third step while directions are missing, by the
    largest that converges. Well-conditioned matrices take five to ten steps of two products, others at most thirty in
    float32. A direction smaller than the rounding of A's largest entry may get any Q that is orthogonal.
    """
    (d, width), eps = a_DxN.shape, jnp.finfo(a_DxN.dtype).eps
    is_wide = width > d
    if d == 1:
        return _normalise(a_DxN) if is_wide else jnp.where(a_DxN < 0, -1.0, 1.0).astype(a_DxN.dtype)
    if d == 2 and not is_wide:
        return _polar_factor_of_two(a_DxN)
    size = d if d <= _THIN or is_wide else -(-d // 4) * 4  # products of 31 columns take 1.6 times as long as of 32
    eye_DxD = jnp.eye(size, dtype=a_DxN.dtype)
    start_DxN = _scaled(a_DxN) + eps * jnp.eye(d, width, dtype=a_DxN.dtype)  # so that empty directions converge, too
    if size > d:
        start_DxN = jax.lax.dynamic_update_slice(eye_DxD, start_DxN, (0, 0))

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x_DxN, _, number = carry
        gram_DxD = _wide_gram(x_DxN) if is_wide else either_gram(x_DxN)
        trace, squares = (x_DxN**2).sum(), (gram_DxD**2).sum()
        longest = _LONGEST * jnp.where(number == 0, squares**-0.25, 1.0)  # a step leaves no singular value above 1
        is_full = size - trace**2 / squares < 0.9  # an empty direction alone makes 1
        nearest = jnp.minimum(jnp.sqrt(trace / squares), longest)
        scale = jnp.where(is_full | (number % 3 != 1), nearest, longest)
        if d <= _THIN:
            cubic_DxN = _multiply_thin(gram_DxD, x_DxN) if is_wide else _multiply_thin(x_DxN, gram_DxD)
        else:
            cubic_DxN = _product(gram_DxD, x_DxN)
        x_DxN = scale * (1.5 * x_DxN - 0.5 * scale**2 * cubic_DxN)
        return x_DxN, ((eye_DxD - gram_DxD) ** 2).sum(), number + 1

    def has_far_to_go(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[1] > eps) & (carry[2] < _MAX_STEPS)  # errors are squared by the last step

    q_DxN, _, _ = jax.lax.while_loop(has_far_to_go, step, (start_DxN, jnp.asarray(jnp.inf, a_DxN.dtype), jnp.int32(0)))
    return q_DxN[:d, :width]


def _normalise(a_1xN: Array) -> Array:
    """Return a row of length 1, in the direction of A; where that is 0, the first axis."""
    scaled_1xN = _scaled(a_1xN)
    square = (scaled_1xN**2).sum()
    first_1xN = jnp.eye(1, a_1xN.shape[1], dtype=a_1xN.dtype)
    return jnp.where(square == 0, first_1xN, scaled_1xN * jax.lax.rsqrt(jnp.where(square == 0, 1.0, square)))


def _wide_gram(x_DxN: Array) -> Array:
    """Return X X^T of a wide matrix: of few rows, by sums that XLA fuses."""
    return (x_DxN[:, None] * x_DxN[None]).sum(2) if len(x_DxN) <= _THIN else _product(x_DxN, x_DxN.T)


def _polar_factor_of_two(a_2x2: Array) -> Array:
    """Return the polar factor of a 2 x 2 matrix: in proportion to A plus (where A reflects: minus) its cofactors.

    The iteration can start at a singular matrix where A is singular; this form needs none.
    """
    (p, q), (r, s) = _scaled(a_2x2)
    sign = jnp.where(p * s < q * r, -1.0, 1.0)
    first, second = p + sign * s, q - sign * r
    length = jnp.sqrt(first**2 + second**2)
    is_zero = length == 0
    cosine = jnp.where(is_zero, 1.0, first / jnp.where(is_zero, 1.0, length))
    sine = second / jnp.where(is_zero, 1.0, length)
    return jnp.stack([jnp.stack([cosine, sine]), jnp.stack([-sign * sine, sign * cosine])])


def either_gram(x_DxD: Array) -> Array:
    """Return X^T X or X X^T, which have the same eigenvalues: the one that is computed faster."""
    return _multiply_thin(x_DxD.T, x_DxD) if len(x_DxD) <= _THIN else _product(x_DxD, x_DxD.T)


def _multiply_thin(a: Array, b: Array) -> Array:
    first, *others = (a[:, k, None] * b[None, k] for k in range(a.shape[1]))
    return sum(others, first)


@jax.custom_jvp
def covariance_distance(a_DxN: Array, b_DxD: Array) -> Array:
    """Return tr (A A^T + B B^T - 2 (B^T A A^T B)^1/2) of two factors A and B, by which covariances differ in transport.

    It is |A - B Q|^2 with Q the polar factor of B^T A (Dowson and Landau 1982). Near 0 this keeps the digits that a
    difference of traces loses, and errors of Q enter squared. It has first derivatives, also where the two are equal.
    A may have more columns than rows, such as centred data; B is square.
    """
    return (_difference(a_DxN, b_DxD, _alignment(a_DxN, b_DxD)) ** 2).sum()


@covariance_distance.defjvp
def _differentiate(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the distance and its tangent: Q minimises it, so that a change of Q counts for nothing."""
    q_DxN = refuse_gradient(_alignment(*primals), "distances of covariances have first derivatives only")
    difference_DxN = _difference(*primals, q_DxN)
    return (difference_DxN**2).sum(), 2 * (difference_DxN * _difference(*tangents, q_DxN)).sum()


def _difference(a_DxN: Array, b_DxD: Array, q_DxN: Array) -> Array:
    return a_DxN - _product(b_DxD, q_DxN)


def _alignment(a_DxN: Array, b_DxD: Array) -> Array:
    """Return the Q that minimises |A - B Q|."""
    return polar_factor(_product(_scaled(b_DxD).T, _scaled(a_DxN)))


def _scaled(x: Array) -> Array:
    """Return an array over its largest entry, so that products neither overflow nor vanish."""
    largest = jnp.abs(x).max()
    return x / jnp.where(largest > 0, largest, 1.0)
