"""Make the two functions of a block of chains that are compiled: its first state, and its next generations."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.batching import vmap_unless_single
from collapse_jax.types import Array, Chain, Key, Tree, World

MAX_CONCURRENT_BLOCKS = 8


def max_concurrent_blocks(num_devices: int) -> int:
    """Return how many blocks so many local devices can run at a time; one block leaves cores of a CPU idle."""
    if jax.default_backend() != "cpu":
        return num_devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(num_devices, min(cores, MAX_CONCURRENT_BLOCKS))


def make_block_functions(
    make_chain: Callable[..., Chain], metrics: tuple[str, ...], generations_per_call: int
) -> tuple[Callable, Callable]:
    """Return ``start``, which makes a block's first state, and ``advance``, which makes its next generations.

    Args:
      make_chain: makes the chain of one chain's traced values.
      metrics: which observations to keep.
      generations_per_call: how many generations ``advance`` makes.
    """

    def start(world: World, values: dict[str, Array], keys: Key) -> Tree:
        return vmap_unless_single(lambda v, k: make_chain(v).init(k, world), values, keys)

    def advance(
        world: World, values: dict[str, Array], state: Tree, generation: Array
    ) -> tuple[Tree, dict[str, Array]]:
        def advance_chain(v: dict[str, Array], s: Tree, g: Array) -> tuple[Tree, dict[str, Array]]:
            chain = make_chain(v)
            s, new, observations = chain.emit(world, s, g)
            return chain.absorb(world, s, new, g), {name: observations[name] for name in metrics}

        # The generation stays outside the vmap, so that pools are written in place rather than scattered into.
        def step(s: Tree, g: Array) -> tuple[Tree, dict[str, Array]]:
            return vmap_unless_single(lambda v, s: advance_chain(v, s, g), values, s)

        return jax.lax.scan(step, state, generation + jnp.arange(generations_per_call))

    return start, advance


def select_chains(values: dict[str, np.ndarray], keys: Key, index: np.ndarray) -> tuple[dict[str, Array], Key]:
    """Return the traced values and the keys of some chains."""
    return {name: jnp.asarray(value[index]) for name, value in values.items()}, keys[index]
