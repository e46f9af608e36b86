"""Random streams by name: a key never depends on how many were used before it."""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from collapse_jax.core import threefry
from collapse_jax.core.threefry import unroll_rounds
from collapse_jax.types import Array, Key


def stream(key: Key, name: str) -> Key:
    """The sub-stream of `key` called `name`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def chain_keys(seed: int, num_chains: int, rng: str = "threefry2x32") -> Key:
    """Keys of chains 0 .. num_chains - 1, shape ``[num_chains]``: chain c's depends on (`seed`, c) alone.

    `rng` is a JAX random-number implementation: ``"threefry2x32"``, ``"rbg"`` or ``"unsafe_rbg"``.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed, impl=rng), jnp.arange(num_chains))


def key_per_chain(key: Key) -> Key:
    """A Threefry key drawn by `key`, for loops that lanes leave one after another.

    Under a vmap, rbg draws for all lanes by the first one's key, which stands still once that lane is done.
    """
    return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")


def draw_normals(key: Key, shape: tuple[int, ...]) -> Array:
    """Standard normals. Drawn flat: JAX's counters of a shape like ``[n, 3]`` cost several times those of ``[3 n]``."""
    return threefry.draw_normals(key, math.prod(shape)).reshape(shape)


def draw_uniforms(key: Key, shape: tuple[int, ...] = (), dtype: Any = float) -> Array:
    """Uniform numbers of [0, 1), those of ``jax.random.uniform``."""
    return jax.random.uniform(unroll_rounds(key), (math.prod(shape),), dtype).reshape(shape)


def draw_integers(key: Key, num: int, count: Array | int) -> Array:
    """`num` whole numbers from 0 to `count` - 1 (may be traced, below 2^31), int32; 0 where `count` is 0.

    The high word of a product of 32 random bits with `count`: no value's probability is off by more than 2^-32. A
    quarter of the cost of ``jax.random.randint``, which takes remainders.
    """
    bits, count = jax.random.bits(unroll_rounds(key), (num,), jnp.uint32), jnp.asarray(count, jnp.uint32)
    (high, low), (count_high, count_low) = ((x >> 16, x & 0xFFFF) for x in (bits, count))
    middle = high * count_low + (low * count_low >> 16)
    return (high * count_high + (middle >> 16) + (low * count_high + (middle & 0xFFFF) >> 16)).astype(jnp.int32)
