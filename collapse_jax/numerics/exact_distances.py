"""Squared distances by which equal distances compare as equal: exactly where rows are whole numbers of one unit.

Pixels are whole numbers over 255 (or over 16, or 1), and many of their distances tie. In floats, the rounding of a
matrix product would decide which is the nearer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.types import Array

UNITS = (1, 16, 255)  # a unit is one over these; of any two, the greatest common divisor is among them
_CHUNK = 1024  # columns whose products are summed in floats
_EXACT = 2**24  # up to here, float32 counts
_SMALLEST_NORMAL = 1 << 23  # as bits of a float32
_HIGHEST = jax.lax.Precision.HIGHEST


class Lattice(NamedTuple):
    """The whole numbers that rows are.

    Attributes:
      unit: one over the largest unit of which all entries are multiples, one of ``UNITS``; 0 where there is none, or
        where sums of squares would not be exact.
      middle: the number of units halfway between the smallest entry and the largest.
    """

    unit: Any
    middle: Array


def find_lattice(*rows: Array, finest: bool = False) -> Lattice:
    """Return the lattice of the largest unit (or the `finest`) that all entries of some arrays ``[N, F]`` lie on."""
    low = jnp.stack([x.min() for x in rows]).min()
    high = jnp.stack([x.max() for x in rows]).max()
    unit, middle = jnp.int32(0), jnp.zeros_like(low)
    for per_one in UNITS if finest else reversed(UNITS):
        half = jnp.round((low + high) * (per_one / 2))
        fits = jnp.stack([_lies_on(Lattice(per_one, half), x) for x in rows]).all()
        unit, middle = jnp.where(fits, per_one, unit), jnp.where(fits, half, middle)
    return Lattice(unit, middle)


def _lies_on(lattice: Lattice, x_NxF: Array) -> Array:
    """Return whether entries are the nearest floats to whole numbers of units, or the next, and sums are exact."""
    scaled_NxF, dim = x_NxF * jnp.asarray(lattice.unit, x_NxF.dtype), x_NxF.shape[1]
    whole_NxF = jnp.round(scaled_NxF)
    is_whole = (jnp.abs(scaled_NxF - whole_NxF) <= 2 * jnp.finfo(x_NxF.dtype).eps * jnp.abs(scaled_NxF)).all()
    reach = jnp.maximum(whole_NxF.max() - lattice.middle, lattice.middle - whole_NxF.min())
    return is_whole & (reach**2 * min(dim, _CHUNK) <= _EXACT) & (4 * reach**2 * dim <= 2**30)


def find_nearest(lattice: Lattice, x_NxF: Array, parts: Sequence[Array], at_once: int) -> list[tuple[Array, Array]]:
    """Return the rank of each row's distance to the nearest of each part, and how many of it are so near, ``[N]`` each.

    Ranks of different parts compare. `lattice` is that of the parts; where the rows are not on it, distances are floats
    about its middle (or about the mean of the first part, if there is none). So, under ``jax.vmap`` over the rows, the
    parts are prepared once.
    """
    is_lattice = lattice.unit > 0
    is_exact = is_lattice & _lies_on(lattice, x_NxF)
    middle_1xF = parts[0].mean(0, keepdims=True)
    x_NxF = jnp.where(is_lattice, x_NxF * jnp.asarray(lattice.unit, x_NxF.dtype) - lattice.middle, x_NxF - middle_1xF)
    x_NxF = jnp.where(is_exact, jnp.round(x_NxF), x_NxF)
    found = []
    for y_MxF in (_find_offsets(lattice, part, middle_1xF) for part in parts):

        def find(x_F: Array, y_MxF: Array = y_MxF) -> tuple[Array, Array]:
            rank_M = _rank_offsets(is_exact, x_F[None], y_MxF)[0]
            return rank_M.min(), (rank_M == rank_M.min()).sum()

        found.append(jax.lax.map(find, x_NxF, batch_size=min(at_once, x_NxF.shape[0])))
    return found


def rank_distances(lattice: Lattice, x_NxF: Array, y_MxF: Array) -> Array:
    """Return ``[N, M]`` numbers in the order of the distances, equal where distances are equal.

    On a lattice they are ``rank_steps`` of squared distances in its units. Elsewhere they are squared distances, about
    the mean of y, and 0 where they are no larger than their rounding: in float32, where rows are nearer to each other
    than 1e-3 of their distance from that mean.
    """
    middle_1xF = y_MxF.mean(0, keepdims=True)
    x_NxF, y_MxF = (_find_offsets(lattice, z, middle_1xF) for z in (x_NxF, y_MxF))
    return _rank_offsets(lattice.unit > 0, x_NxF, y_MxF)


def _find_offsets(lattice: Lattice, x_NxF: Array, middle_1xF: Array) -> Array:
    """Return the rows in units of the lattice, from its middle; where there is none, from the middle that is given."""
    unit = jnp.asarray(lattice.unit, x_NxF.dtype)  # said, for JAX may be asked to promote nothing by itself
    on_lattice_NxF = jnp.round(x_NxF * unit) - jnp.asarray(lattice.middle, x_NxF.dtype)
    return jnp.where(lattice.unit > 0, on_lattice_NxF, x_NxF - middle_1xF)


def _rank_offsets(is_exact: Array, x_NxF: Array, y_MxF: Array) -> Array:
    """Return what ``rank_distances`` says of offsets, which are whole numbers where the result is to be exact."""
    products, steps, squares = jnp.zeros(()), jnp.int32(0), jnp.zeros(())
    for begin in range(0, x_NxF.shape[1], _CHUNK):
        x_NxC, y_MxC = x_NxF[:, begin : begin + _CHUNK], y_MxF[:, begin : begin + _CHUNK]
        product_NxM = jnp.matmul(x_NxC, y_MxC.T, precision=_HIGHEST)
        square_Nx1, square_1xM = jnp.sum(x_NxC**2, 1)[:, None], jnp.sum(y_MxC**2, 1)[None]
        products, squares = products + product_NxM, squares + (square_Nx1 + square_1xM)
        steps += square_Nx1.astype(jnp.int32) - 2 * product_NxM.astype(jnp.int32) + square_1xM.astype(jnp.int32)
    distance_NxM = squares - 2 * products
    is_rounding = distance_NxM <= 8 * jnp.finfo(x_NxF.dtype).eps * squares  # of NaN, False
    return jnp.where(is_exact, rank_steps(steps, x_NxF.dtype), jnp.where(is_rounding, 0.0, distance_NxM))


def rank_steps(steps: Array, dtype: jnp.dtype) -> Array:
    """Return floats in the order of whole numbers from 0 to 2^30, of which float32 cannot hold all: their bits."""
    if dtype == jnp.float32:
        return jax.lax.bitcast_convert_type(steps + _SMALLEST_NORMAL, jnp.float32)
    return steps.astype(dtype)


def count_steps(rank: Array) -> Array:
    """Return the whole numbers that ``rank_steps`` was given."""
    if rank.dtype == jnp.float32:
        return jax.lax.bitcast_convert_type(rank, jnp.int32) - _SMALLEST_NORMAL
    return rank.astype(jnp.int32)
