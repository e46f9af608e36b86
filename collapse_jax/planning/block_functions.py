"""The two functions of a block of chains that are compiled: its first state, and its next generations."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.batching import vmap_unless_single
from collapse_jax.types import Array, Chain, Key, Tree, World

MOST_AT_ONCE = 8


def blocks_at_once(devices: int) -> int:
    """Blocks that so many local devices can have under way; those of a CPU leave cores idle one at a time."""
    if jax.default_backend() != "cpu":
        return devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(devices, min(cores, MOST_AT_ONCE))


def functions(chain_of: Callable[..., Chain], metrics: tuple[str, ...], stretch: int) -> tuple[Callable, Callable]:
    """What is compiled: a block's first state, and its next `stretch` generations."""

    def start(world: World, values: dict[str, Array], keys: Key) -> Tree:
        return vmap_unless_single(lambda v, k: chain_of(v).init(k, world), values, keys)

    def advance(
        world: World, values: dict[str, Array], state: Tree, generation: Array
    ) -> tuple[Tree, dict[str, Array]]:
        def lane(v: dict[str, Array], s: Tree, g: Array) -> tuple[Tree, dict[str, Array]]:
            chain = chain_of(v)
            s, new, observations = chain.emit(world, s, g)
            return chain.absorb(world, s, new, g), {name: observations[name] for name in metrics}

        # The generation stays outside the vmap, so that pools are written in place rather than scattered into.
        step = lambda s, g: vmap_unless_single(lambda v, s: lane(v, s, g), values, s)  # noqa: E731
        return jax.lax.scan(step, state, generation + jnp.arange(stretch))

    return start, advance


def lanes(points: dict[str, np.ndarray], keys: Key, index: np.ndarray) -> tuple[dict[str, Array], Key]:
    """The values and keys of some lanes."""
    return {name: jnp.asarray(value[index]) for name, value in points.items()}, keys[index]
