"""Make the two functions of blocks of chains that are compiled: their first states, and their next generations."""

import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core.batching import vmap_unless_single
from collapse_jax.types import Array, Chain, Key, Tree, World

MAX_CONCURRENT_BLOCKS = 8


class BlockFunctions(NamedTuple):
    """The functions of up to M blocks of K chains, which one call advances one block after the other.

    The blocks of a call are a loop, and not one wide array: the bits of a chain depend on K, never on how many blocks
    there are, and few chains cost what few blocks cost.

    Attributes:
      start: ``(world, floats, values [M, K], keys [M, K], blocks) -> state [M, K, ...]``.
      advance: ``(world, floats, values [M, K], state [M, K, ...], generation, blocks) -> (state, {metric: [M,
        generations_per_call, K, ...]})``. Blocks beyond the number `blocks` stay as they are; their metrics are 0.
    """

    start: Callable[..., Tree]
    advance: Callable[..., tuple[Tree, dict[str, Array]]]


def max_concurrent_blocks(num_devices: int) -> int:
    """Return how many blocks so many local devices can run at a time; one block leaves cores of a CPU idle."""
    if jax.default_backend() != "cpu":
        return num_devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(num_devices, min(cores, MAX_CONCURRENT_BLOCKS))


def make_block_functions(
    make_chain: Callable[[dict[str, Array]], Chain], metrics: tuple[str, ...], generations_per_call: int
) -> BlockFunctions:
    """Return the functions of blocks of chains.

    Args:
      make_chain: makes the chain of one chain's traced values: `floats`, which all chains share, and its own `values`.
      metrics: which observations to keep.
      generations_per_call: how many generations ``advance`` makes.
    """

    @jax.jit  # it is traced once, though its shapes are asked for too
    def start_block(world: World, floats: dict[str, Array], values: dict[str, Array], keys: Key) -> Tree:
        return vmap_unless_single(lambda v, k: make_chain({**floats, **v}).init(k, world), values, keys)

    @jax.jit
    def advance_block(
        world: World, floats: dict[str, Array], values: dict[str, Array], state: Tree, generation: Array
    ) -> tuple[Tree, dict[str, Array]]:
        def advance_chain(v: dict[str, Array], s: Tree, g: Array) -> tuple[Tree, dict[str, Array]]:
            chain = make_chain({**floats, **v})
            s, new, observations = chain.emit(world, s, g)
            return chain.absorb(world, s, new, g), {name: observations[name] for name in metrics}

        # The generation stays outside the vmap, so that pools are written in place rather than scattered into.
        def step(s: Tree, g: Array) -> tuple[Tree, dict[str, Array]]:
            return vmap_unless_single(lambda v, s: advance_chain(v, s, g), values, s)

        return jax.lax.scan(step, state, generation + jnp.arange(generations_per_call))

    def start(world: World, floats: dict[str, Array], values: dict[str, Array], keys: Key, blocks: Array) -> Tree:
        if keys.shape[0] == 1:
            return _add_axis(start_block(world, floats, *_drop_axis((values, keys))))
        shapes = jax.eval_shape(start_block, world, floats, *_take((values, keys), 0))
        empty = jax.tree.map(lambda x: jnp.zeros_like(x, shape=(keys.shape[0], *x.shape)), shapes)

        def add_block(i: Array, state: Tree) -> Tree:
            return _put(state, start_block(world, floats, *_take((values, keys), i)), i)

        return jax.lax.fori_loop(0, blocks, add_block, empty)

    def advance(
        world: World, floats: dict[str, Array], values: dict[str, Array], state: Tree, generation: Array, blocks: Array
    ) -> tuple[Tree, dict[str, Array]]:
        capacity = jax.tree.leaves(state)[0].shape[0]
        if capacity == 1:
            return _add_axis(advance_block(world, floats, *_drop_axis((values, state)), generation))
        _, shapes = jax.eval_shape(advance_block, world, floats, *_take((values, state), 0), generation)
        empty = jax.tree.map(lambda x: jnp.zeros_like(x, shape=(capacity, *x.shape)), shapes)

        def advance_one(i: Array, carry: tuple[Tree, dict[str, Array]]) -> tuple[Tree, dict[str, Array]]:
            state = carry[0]
            return _put(carry, advance_block(world, floats, *_take((values, state), i), generation), i)

        return jax.lax.fori_loop(0, blocks, advance_one, (state, empty))

    return BlockFunctions(start, advance)


def _take(tree: Tree, i: Array | int) -> Tree:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _put(tree: Tree, block: Tree, i: Array) -> Tree:
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, i, 0), tree, block)


def _drop_axis(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x.reshape(x.shape[1:]), tree)


def _add_axis(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x.reshape(1, *x.shape), tree)
