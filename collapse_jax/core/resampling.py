"""Rows drawn anew from a batch, with and without replacement."""

import jax.numpy as jnp

from collapse_jax.core.batch import make_batch, num_rows, take_rows, weighted_rows
from collapse_jax.core.random import draw_integers
from collapse_jax.types import Array, Batch, Key


def redraw_rows(key: Key, batch: Batch, num: int, replacement: bool) -> Batch:
    """Draw `num` rows uniformly from those of positive weight, which keep their weights.

    Without replacement, a pool of no more than `num` rows is taken whole.
    """
    alive = batch.weight > 0
    blocks, width = batch.weight.shape
    block_rows = num_rows(batch)
    per_block = alive.sum(1) if width > 1 else alive[:, 0].astype(int) * block_rows
    count = per_block.sum()
    if replacement:
        number, present = draw_integers(key, num, count), jnp.ones(num, bool)
    else:
        # Whole blocks come in multiples of their rows: then counts between num and 2 num may be ruled out.
        counts = range(block_rows, (blocks + 1) * block_rows, block_rows) if width == 1 else range(2 * num)
        number, present = draw_distinct(key, num, count, blocks * block_rows, any(num < c < 2 * num for c in counts))
    if width > 1:
        index = jnp.searchsorted(jnp.cumsum(alive.reshape(-1)), number, side="right")
        weight = batch.weight.reshape(-1)[index]
    else:  # blocks are all there or not at all: a division finds the block where a search takes log(blocks) look-ups
        block = jnp.flatnonzero(alive[:, 0], size=blocks)[number // block_rows]
        index = block * block_rows + number % block_rows
        weight = batch.weight[block, 0]
    return make_batch(take_rows(weighted_rows(batch)[0], index), weight * present.astype(weight.dtype))


def draw_distinct(key: Key, num: int, count: Array, capacity: int, crowded: bool = True) -> tuple[Array, Array]:
    """Draw `num` distinct numbers below `count` (traced, <= `capacity`), uniform over all such sets.

    The first distinct values of a sequence of independent draws are a uniform set. Where fewer than half of the
    numbers stay out, those that stay out are drawn instead. The sequence has ``1.6 num + 64`` draws, which fall short
    of `num` distinct values with probability below 1e-12; numbers then repeat.

    Args:
      key: randomness of the draw.
      num: how many numbers.
      count: what they are below; may be traced.
      capacity: static bound of `count`.
      crowded: False promises that `count` never lies between `num` and ``2 num``, so that what is for that case is
        left out.

    Returns:
      The numbers ``[num]`` and which of them are real: where `count` < `num`, only the first `count` are.
    """
    order = jnp.arange(num)
    if capacity <= num:
        return order, order < count
    few = count < 2 * num
    wanted = jnp.clip(jnp.where(few, count - num, num), 0, num)
    length = (8 * num) // 5 + 64
    drawn = draw_integers(key, length, count)
    sequence = jnp.arange(length)
    is_first = jnp.full(capacity, length).at[drawn].min(sequence)[drawn] == sequence
    rank = jnp.cumsum(is_first) - 1
    slot = jnp.where(is_first & (rank < wanted), rank, num)
    chosen = jnp.zeros(num, drawn.dtype).at[slot].set(drawn, mode="drop")
    if not crowded:
        return jnp.where(few, order, chosen), order < count
    bound = min(2 * num, capacity)
    left_out = jnp.zeros(bound, bool).at[jnp.where(order < wanted, chosen, bound)].set(True, mode="drop")
    stays = ~left_out & (jnp.arange(bound) < count)
    position = jnp.where(stays, jnp.cumsum(stays) - 1, num)
    complement = jnp.zeros(num, drawn.dtype).at[position].set(jnp.arange(bound, dtype=drawn.dtype), mode="drop")
    return jnp.where(few, complement, chosen), order < count
