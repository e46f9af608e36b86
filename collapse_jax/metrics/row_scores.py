"""What rows of several settings can be judged by: ``(world, params, items) -> [num]``, more being better."""

from types import MappingProxyType

import jax.numpy as jnp

from collapse_jax.numerics import nearest_neighbors
from collapse_jax.types import Array, Tree, World

_COLUMNS = 16  # up to which differences are taken one by one


def score_nearest(world: World, params: Tree, rows_nxd: Array) -> Array:
    """Minus the distance to the nearest held-out real row."""
    if rows_nxd.shape[1] > _COLUMNS:  # images
        return -jnp.sqrt(nearest_neighbors.nearest_squared_distances(rows_nxd, world.test))
    squares = jnp.zeros((rows_nxd.shape[0], world.test.shape[0]), rows_nxd.dtype)
    for j in range(rows_nxd.shape[1]):  # column by column: XLA fuses this, and nothing of this size is stored
        squares = squares + (rows_nxd[:, None, j] - world.test[None, :, j]) ** 2
    return -jnp.sqrt(squares.min(1))


def score_first_column(world: World, params: Tree, rows_nxd: Array) -> Array:
    """A reward that grows along the first column, whatever is real."""
    return rows_nxd[:, 0]


def score_number(world: World, params: Tree, rows_n: Array) -> Array:
    """A reward that grows with the row, which is a number."""
    return rows_n * 1.0


def score_mean_symbol(world: World, params: Tree, rows_nxl: Array) -> Array:
    """A reward that grows with the numbers of a row's symbols."""
    return rows_nxl.mean(1, dtype=jnp.result_type(float))


ROW_SCORES = MappingProxyType(
    {"nearest": score_nearest, "value": score_first_column}
)  # where the world holds test rows in columns
