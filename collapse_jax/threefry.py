"""JAX's Threefry with its rounds written out: the same bits, several times faster on a CPU.

There JAX turns the rounds as a loop whose state, with the keys of all lanes side by side, is copied in memory at each
turn. Written out they stay in registers.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.random import define_prng_impl, threefry_prng_impl

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_FEW = 96  # words: for so few (and for keys) JAX's loop is as fast


def _hash(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Threefry-2x32 of 20 rounds (Salmon et al. 2011) of counters."""
    keys = key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY)
    a, b = high + keys[0], low + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = a ^ (b << rotation | b >> 32 - rotation)
        a, b = a + keys[(group + 1) % 3], b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    num = math.prod(shape)
    if bit_width != 32 or not _FEW < num < 2**31:
        return threefry_prng_impl.random_bits(key, bit_width, shape)
    half = -(-num // 2)

    def fill(i: Array, words: Array) -> Array:
        low = (i * half).astype(jnp.uint32) + jnp.arange(half, dtype=jnp.uint32)
        a, b = _hash(key, jnp.zeros_like(low), low)
        return jax.lax.dynamic_update_slice(words, a ^ b, (i * half,))

    # In a loop, or XLA would hash anew in each operation that reads the words.
    return jax.lax.fori_loop(0, 2, fill, jnp.zeros(2 * half, jnp.uint32))[:num].reshape(shape)


_SPEC: Any = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    random_bits=_random_bits,
    fold_in=threefry_prng_impl.fold_in,
    name="threefry2x32_written_out",
    tag="fry",
)


def written_out(key: Array) -> Array:
    """A key that gives the same bits, faster where the rounds are best written out; other keys as they are."""
    is_threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    if not is_threefry or jax.default_backend() != "cpu" or not getattr(jax.config, "jax_threefry_partitionable", True):
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_SPEC)
