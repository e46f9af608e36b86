"""Random streams by name: a key never depends on how many were used before it."""

import zlib

import jax
import jax.numpy as jnp

from collapse_jax.types import Key


def stream(key: Key, name: str) -> Key:
    """The sub-stream of `key` called `name`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def chain_keys(seed: int, num_chains: int, rng: str = "threefry2x32") -> Key:
    """Keys of chains 0 .. num_chains - 1, shape ``[num_chains]``: chain c's depends on (`seed`, c) alone.

    `rng` is a JAX random-number implementation: ``"threefry2x32"``, ``"rbg"`` or ``"unsafe_rbg"``.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed, impl=rng), jnp.arange(num_chains))
