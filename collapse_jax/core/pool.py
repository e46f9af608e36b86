"""Growing data under fixed shapes: a ring of generations, or one row of statistics that everything is merged into."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core import batch
from collapse_jax.types import Array, Batch, Policy


class Memory(NamedTuple):
    """How a pool is kept.

    Attributes:
      start: ``(first, template) -> pool``: a pool of the first batch alone; `template` has the shape of what will join.
      add: ``(pool, joined, fade, generation) -> pool``: the pool after one more generation.
    """

    start: Callable[[Batch, Batch], Batch]
    add: Callable[[Batch, Batch, Array | float, Array], Batch]


def choose_memory(policy: Policy, compress: Callable[[Batch], Batch] | None, num_generations: int) -> Memory:
    """Return how the pool of a policy is kept.

    Statistics are folded where everything is kept and they merge: O(1) in the horizon. Elsewhere it is a ring of
    generations.
    """
    if policy.keep is None and compress is not None:
        return fold_memory(compress)
    keep = num_generations if policy.keep is None else min(policy.keep, num_generations)
    return block_memory(keep)


def fold_memory(compress: Callable[[Batch], Batch]) -> Memory:
    """Return a memory of one row of statistics."""
    return Memory(
        start=lambda first, template: compress(first),
        add=lambda pool, joined, fade, generation: compress(
            batch.join_rows(batch.scale_weights(pool, fade), compress(joined))
        ),
    )


def block_memory(keep: int) -> Memory:
    """Return a memory that is a ring of `keep` generations, empty slots at weight 0.

    Batch g lies in slot g mod `keep`, written in place.
    """

    def start(first: Batch, template: Batch) -> Batch:
        first = _pad(first, template)
        blocks = first.weight.shape[0]

        def add_empty(x: Array) -> Array:
            return jnp.concatenate([x, jnp.zeros(((keep - 1) * blocks, *x.shape[1:]), x.dtype)])

        return jax.tree.map(add_empty, first)

    def add(pool: Batch, joined: Batch, fade: Array | float, generation: Array) -> Batch:
        if keep == 1:
            return joined
        slot = (generation % keep) * joined.weight.shape[0]

        def write(old: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, slot, 0)

        return jax.tree.map(write, batch.scale_weights(pool, fade), joined)

    return Memory(start, add)


def _pad(first: Batch, template: Batch) -> Batch:
    """Return `first` with rows of weight 0 added until it has the template's blocks, rows and weights."""

    def pad(x: Array, like: Array) -> Array:
        grow = [(0, like.shape[axis] - x.shape[axis]) for axis in (0, 1)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, grow).astype(like.dtype)

    items = jax.tree.map(pad, first.items, template.items)
    rows_alike = batch.num_rows(first) == batch.num_rows(template)
    weight = first.weight if rows_alike and template.weight.shape[1] == 1 else batch.full_weight(first)
    return Batch(items, pad(weight, template.weight))
