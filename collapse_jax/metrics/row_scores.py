"""Scores of single rows that several settings share: ``(world, params, items) -> [num]``; more is better."""

from types import MappingProxyType

import jax.numpy as jnp

from collapse_jax.numerics import nearest_neighbors
from collapse_jax.types import Array, Tree, World

_MAX_COLUMNS = 16  # up to so many columns, differences are taken column by column


def score_nearest(world: World, params: Tree, rows_nxd: Array) -> Array:
    """Return minus the distance to the nearest held-out real row."""
    if rows_nxd.shape[1] > _MAX_COLUMNS:  # images
        return -jnp.sqrt(nearest_neighbors.nearest_squared_distances(rows_nxd, world.test))
    squares = jnp.zeros((rows_nxd.shape[0], world.test.shape[0]), rows_nxd.dtype)
    for j in range(rows_nxd.shape[1]):  # XLA fuses this, so that nothing of this size is stored
        squares = squares + (rows_nxd[:, None, j] - world.test[None, :, j]) ** 2
    return -jnp.sqrt(squares.min(1))


def score_first_column(world: World, params: Tree, rows_nxd: Array) -> Array:
    """Return the first column, as a reward that does not depend on the real law."""
    return rows_nxd[:, 0]


def score_number(world: World, params: Tree, rows_n: Array) -> Array:
    """Return the row itself, which is a number, as a reward."""
    return rows_n.astype(float)


def score_mean_symbol(world: World, params: Tree, rows_nxl: Array) -> Array:
    """Return the mean number of a row's symbols, as a reward."""
    return rows_nxl.mean(1, dtype=jnp.result_type(float))


# Scores of settings whose world holds test rows in columns.
ROW_SCORES = MappingProxyType({"nearest": score_nearest, "value": score_first_column})
