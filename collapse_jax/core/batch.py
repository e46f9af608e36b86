"""Weighted rows in blocks: the functions that pools are built from.

Each serves rows and rows of statistics alike.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax.core.gradients import refuse_gradient
from collapse_jax.core.random import draw_integers, draw_uniforms
from collapse_jax.types import Array, Batch, Key, Tree


def make_batch(items: Tree, weight: Array | float = 1.0) -> Batch:
    """Return one block of rows, ``[rows, ...] -> [1, rows, ...]``, each there `weight` times (a scalar or ``[rows]``).

    Example:
      >>> make_batch(jnp.arange(3.0), 2.0).weight
      Array([[2.]], dtype=float32)
    """
    weight = jnp.asarray(weight, jnp.result_type(float)).reshape(1, -1)
    return Batch(jax.tree.map(lambda x: x[None], items), weight)


def scale_weights(batch: Batch, factor: Array | float) -> Batch:
    """Return the batch with every weight times `factor`."""
    factor = jnp.asarray(factor, batch.weight.dtype)
    return batch._replace(weight=batch.weight * jnp.atleast_2d(factor))


def stack_blocks(*batches: Batch) -> Batch:
    """Return the batches as further blocks of one; they must have as many rows a block."""
    rows = num_rows(batches[0])
    width = max(b.weight.shape[1] for b in batches)
    weights = [jnp.broadcast_to(b.weight, (b.weight.shape[0], rows if width > 1 else 1)) for b in batches]
    items = jax.tree.map(lambda *x: jnp.concatenate(x), *(b.items for b in batches))
    return Batch(items, jnp.concatenate(weights))


def join_rows(*batches: Batch) -> Batch:
    """Return the rows of the batches side by side, each in its block; they must have as many blocks."""
    items = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *(b.items for b in batches))
    return Batch(items, jnp.concatenate([full_weight(b) for b in batches], axis=1))


def pad_rows(batch: Batch, num: int) -> Batch:
    """Return the batch with at least `num` rows a block: absent ones are added."""

    def grow(x: Array) -> Array:
        return jnp.pad(x, [(0, 0), (0, max(num - x.shape[1], 0))] + [(0, 0)] * (x.ndim - 2))

    return Batch(jax.tree.map(grow, batch.items), grow(full_weight(batch)))


def num_rows(batch: Batch) -> int:
    """Return the number of rows of a block."""
    return jax.tree.leaves(batch.items)[0].shape[1]


def full_weight(batch: Batch) -> Array:
    """Return the weights as ``[blocks, rows]``."""
    return jnp.broadcast_to(batch.weight, (batch.weight.shape[0], num_rows(batch)))


def weighted_rows(batch: Batch) -> tuple[Tree, Array]:
    """Return items as leaves ``[m, ...]`` and weights ``[m]``, m = blocks * rows.

    Example:
      >>> weighted_rows(make_batch(jnp.arange(3.0)))[1]
      Array([1., 1., 1.], dtype=float32)
    """
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch.items), full_weight(batch).reshape(-1)


def total_weight(batch: Batch) -> Array:
    """Return the sum of all weights: how many rows there are, by multiplicity."""
    per_row = 1 if batch.weight.shape[1] > 1 else num_rows(batch)
    return batch.weight.sum() * per_row


def take_rows(items: Tree, index: Array) -> Tree:
    """Return rows `index` of leaves ``[m, ...]``."""
    return jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), items)


def draw_rows(key: Key, batch: Batch, num: int) -> Tree:
    """Draw `num` independent rows in proportion to weight, leaves ``[num, ...]``.

    Where all rows of a block weigh the same, the cost is O(num log blocks + blocks), whatever the pool's size;
    otherwise O(blocks * rows).
    """
    return take_rows(weighted_rows(batch)[0], row_sampler(batch)(key, num))


def row_sampler(batch: Batch) -> Callable[[Key, int], Array]:
    """Return ``(key, num) -> [num]``: numbers of independent rows in proportion to weight, by the inverse CDF.

    The weights are summed here, once for all draws. The block is drawn first.
    """
    if batch.weight.shape[1] > 1:
        row_at = _inverse_cdf(batch.weight.reshape(-1))
        return lambda key, num: row_at(draw_uniforms(key, (num,)))
    block_rows = num_rows(batch)
    block_at = None if batch.weight.shape[0] == 1 else _inverse_cdf(batch.weight[:, 0])

    def draw(key: Key, num: int) -> Array:
        # Split first, so that one block and the first of several give the same rows.
        key_block, key_row = jax.random.split(key)
        row = draw_integers(key_row, num, block_rows)
        return row if block_at is None else block_at(draw_uniforms(key_block, (num,))) * block_rows + row

    return draw


def _inverse_cdf(weight_m: Array) -> Callable[[Array], Array]:
    """Return a function of uniform numbers: index i with probability ``weight_m[i] / sum``; never one of weight 0."""
    cdf = jnp.cumsum(weight_m)
    # Sums round, so a row of weight 0 may seem to have some: its draws go to the last row before it that has.
    present = jax.lax.cummax(jnp.where(weight_m > 0, jnp.arange(weight_m.shape[0]), -1))
    first = jnp.argmax(weight_m > 0)
    total = refuse_gradient(cdf[-1], "rows are chosen by their weights")

    def at(u: Array) -> Array:
        index = jnp.searchsorted(cdf, u * total, side="right")
        return jnp.maximum(present[jnp.minimum(index, weight_m.shape[0] - 1)], first)

    return at
