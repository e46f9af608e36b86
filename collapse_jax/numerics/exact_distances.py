"""Squared distances by which equal distances compare as equal: exactly where rows are whole numbers of one unit.

Pixels are whole numbers over 255 (or over 16, or 1), and many of their distances tie. In floats, the rounding of a
matrix product would decide which is the nearer.
"""

from typing import NamedTuple

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

    unit: Array
    middle: Array


def find_lattice(*rows: Array) -> Lattice:
    """Return the lattice that all entries of some arrays ``[N, F]`` of rows lie on."""
    dim = rows[0].shape[1]
    low = jnp.stack([x.min() for x in rows]).min()
    high = jnp.stack([x.max() for x in rows]).max()
    unit, middle = jnp.int32(0), jnp.zeros_like(low)
    for per_one in reversed(UNITS):
        half = jnp.round((low + high) * (per_one / 2))
        reach = jnp.maximum(jnp.round(high * per_one) - half, half - jnp.round(low * per_one))
        fits = (reach**2 * min(dim, _CHUNK) <= _EXACT) & (4 * reach**2 * dim <= 2**30)
        for x in rows:
            fits &= _is_multiple(x, per_one).all()
        unit, middle = jnp.where(fits, per_one, unit), jnp.where(fits, half, middle)
    return Lattice(unit, middle)


def _is_multiple(x: Array, per_one: int) -> Array:
    """Return whether each entry is the nearest float to a whole number over `per_one`, give or take one."""
    scaled = x * per_one
    return jnp.abs(scaled - jnp.round(scaled)) <= 2 * jnp.finfo(x.dtype).eps * jnp.abs(scaled)


def rank_distances(lattice: Lattice, x_NxF: Array, y_MxF: Array) -> Array:
    """Return ``[N, M]`` numbers in the order of the distances, equal where distances are equal.

    On a lattice they are ``rank_steps`` of squared distances in its units. Elsewhere they are squared distances, about
    the mean of y, and 0 where they are no larger than their rounding: in float32, where rows are nearer to each other
    than 1e-3 of their distance from that mean.
    """
    middle_1xF = y_MxF.mean(0, keepdims=True)
    return rank_offsets(lattice, find_offsets(lattice, x_NxF, middle_1xF), find_offsets(lattice, y_MxF, middle_1xF))


def find_offsets(lattice: Lattice, x_NxF: Array, middle_1xF: Array) -> Array:
    """Return the rows in units of the lattice, from its middle; where there is none, from the middle that is given."""
    on_lattice_NxF = jnp.round(x_NxF * lattice.unit) - lattice.middle
    return jnp.where(lattice.unit > 0, on_lattice_NxF, x_NxF - middle_1xF)


def rank_offsets(lattice: Lattice, x_NxF: Array, y_MxF: Array) -> Array:
    """Return what ``rank_distances`` says of offsets."""
    products, steps, squares = jnp.zeros(()), jnp.int32(0), jnp.zeros(())
    for begin in range(0, x_NxF.shape[1], _CHUNK):
        x_NxC, y_MxC = x_NxF[:, begin : begin + _CHUNK], y_MxF[:, begin : begin + _CHUNK]
        product_NxM = jnp.matmul(x_NxC, y_MxC.T, precision=_HIGHEST)
        square_Nx1, square_1xM = jnp.sum(x_NxC**2, 1)[:, None], jnp.sum(y_MxC**2, 1)[None]
        products, squares = products + product_NxM, squares + (square_Nx1 + square_1xM)
        steps += square_Nx1.astype(jnp.int32) - 2 * product_NxM.astype(jnp.int32) + square_1xM.astype(jnp.int32)
    distance_NxM = squares - 2 * products
    is_rounding = distance_NxM <= 8 * jnp.finfo(x_NxF.dtype).eps * squares  # of NaN, False
    return jnp.where(lattice.unit > 0, rank_steps(steps, x_NxF.dtype), jnp.where(is_rounding, 0.0, distance_NxM))


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
