"""Random streams by name, and faster draws of common numbers: no key depends on how many were used before it."""

import math
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import threefry
from collapse_jax.core.threefry import unroll_rounds
from collapse_jax.types import Array, Key


def stream(key: Key, name: str) -> Key:
    """Return the sub-stream of `key` called `name`, which depends on these two alone."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


class HostKeys(NamedTuple):
    """Keys as numbers on the host, where slices of any length cost no compilation.

    Attributes:
      words: ``[keys, words]``, the numbers that each key is made of.
      rng: the name of the random-number implementation.
    """

    words: np.ndarray
    rng: str

    def __len__(self) -> int:
        return len(self.words)

    def at(self, index: np.ndarray | slice) -> "HostKeys":
        """Return the keys at an index."""
        return HostKeys(self.words[index], self.rng)


def chain_keys(seed: int, num_chains: int, rng: str = "threefry2x32") -> Key:
    """Return the keys of chains 0 .. num_chains - 1, shape ``[num_chains]``.

    The key of chain c depends on (`seed`, c) alone, so 100 chains are the first of 1,000.

    Args:
      seed: a whole number from 0.
      num_chains: the number of chains.
      rng: a JAX random-number implementation: ``"threefry2x32"``, ``"rbg"`` or ``"unsafe_rbg"``.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed, impl=rng), jnp.arange(num_chains))


def host_chain_keys(seed: int, num_chains: int, rng: str = "threefry2x32") -> HostKeys:
    """Return ``chain_keys`` on the host; one small program serves any number of chains."""
    key, parts = jax.random.key(seed, impl=rng), range(0, num_chains, _KEYS_PER_CALL)
    words = [np.asarray(_chain_key_words(key, np.int32(first))) for first in parts]
    return HostKeys(np.concatenate(words)[:num_chains], rng)


_KEYS_PER_CALL = 1024


@jax.jit
def _chain_key_words(key: Key, first: Array) -> Array:
    numbers = first + jnp.arange(_KEYS_PER_CALL)
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))


def key_per_chain(key: Key) -> Key:
    """Draw a Threefry key from `key`, for loops in which the chains of a vmap take different numbers of turns.

    Under a vmap, an rbg key draws for all chains by the first chain's key, which stands still once that chain is done.
    """
    return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")


def draw_normals(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw standard normals of this `shape`.

    They are drawn flat, because JAX's counters for a shape like ``[n, 3]`` cost several times those for ``[3 n]``.
    """
    return threefry.draw_normals(key, math.prod(shape)).reshape(shape)


def draw_uniforms(key: Key, shape: tuple[int, ...] = (), dtype: Any = float) -> Array:
    """Draw uniform numbers of [0, 1): the same numbers as ``jax.random.uniform``."""
    return jax.random.uniform(unroll_rounds(key), (math.prod(shape),), dtype).reshape(shape)


def draw_integers(key: Key, num: int, count: Array | int) -> Array:
    """Draw `num` whole numbers from 0 to `count` - 1 as int32; all are 0 where `count` is 0.

    Each is the high word of 32 random bits times `count`, so no value's probability is off by more than 2^-32. This
    costs a quarter of ``jax.random.randint``, which takes remainders.

    Args:
      key: a key of any implementation.
      num: the number of draws.
      count: below 2^31; it may be traced.
    """
    bits, count = jax.random.bits(unroll_rounds(key), (num,), jnp.uint32), jnp.asarray(count, jnp.uint32)
    (high, low), (count_high, count_low) = ((x >> 16, x & 0xFFFF) for x in (bits, count))
    middle = high * count_low + (low * count_low >> 16)
    return (high * count_high + (middle >> 16) + (low * count_high + (middle & 0xFFFF) >> 16)).astype(jnp.int32)
