"""JAX's Threefry generator with its rounds written out: it draws the same bits several times faster on a CPU.

On a CPU, JAX runs the rounds as a loop, and each turn copies the loop's state (the keys of all chains) in memory.
Written out, the rounds stay in registers. Normals are computed in the same loop; otherwise every operation that reads
them would evaluate the quantile's polynomial again.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.random import define_prng_impl, threefry_prng_impl

from collapse_jax.core.errors import UsageError

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_FEW_WORDS = 96  # for so few 32-bit words (and for splitting keys) JAX's loop is as fast


def _hash_counters(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Hash counters by Threefry-2x32 of 20 rounds (Salmon et al. 2011)."""
    keys = key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY)
    a, b = high + keys[0], low + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = a ^ (b << rotation | b >> 32 - rotation)
        a, b = a + keys[(group + 1) % 3], b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b


def _draw_bits_from_counter(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    """Draw the bits of the key ``key[:2]``, starting at counter ``key[2]``."""
    if bit_width != 32:
        raise UsageError(f"a key that starts at a counter draws 32 bits at a time, not {bit_width}")
    low = key[2] + jnp.arange(math.prod(shape), dtype=jnp.uint32)
    a, b = _hash_counters(key, jnp.zeros_like(low), low)
    return (a ^ b).reshape(shape)


_define_threefry: Any = partial(
    define_prng_impl,
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    fold_in=threefry_prng_impl.fold_in,
)
_FROM_COUNTER = _define_threefry(
    key_shape=(3,), random_bits=_draw_bits_from_counter, name="threefry2x32_part", tag="fryp"
)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _draw_in_halves(draw: Callable[[Array, tuple[int]], Array], key: Array, num: int, dtype: Any) -> Array:
    """Return ``draw(key, (num,))`` of the raw `key`, computed in a loop of two turns."""
    half = -(-num // 2)

    def fill(i: Array, values: Array) -> Array:
        start = jnp.asarray(i * half)
        half_key = jax.random.wrap_key_data(jnp.append(key, start.astype(jnp.uint32)), impl=_FROM_COUNTER)
        return jax.lax.dynamic_update_slice(values, draw(half_key, (half,)), (start,))

    # Outside a loop, XLA would repeat the hash and most of `draw` in each operation that reads the values. The loop
    # starts from values that depend on the key, as shard_map demands.
    return jax.lax.fori_loop(0, 2, fill, jnp.full(2 * half, key[0] * 0, dtype))[:num]


def _draw_words(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.bits(key, shape, jnp.uint32)


def _is_long(num: int) -> bool:
    return _FEW_WORDS < num < 2**31


def _draw_random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    num = math.prod(shape)
    if bit_width != 32 or not _is_long(num):
        return threefry_prng_impl.random_bits(key, bit_width, shape)
    return _draw_in_halves(_draw_words, key, num, jnp.uint32).reshape(shape)


_UNROLLED = _define_threefry(
    key_shape=threefry_prng_impl.key_shape, random_bits=_draw_random_bits, name="threefry2x32_written_out", tag="fry"
)


def _can_unroll(key: Array) -> bool:
    is_threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    return is_threefry and jax.default_backend() == "cpu" and getattr(jax.config, "jax_threefry_partitionable", True)


def unroll_rounds(key: Array) -> Array:
    """Return a key that draws the same bits as `key`, by unrolled rounds where these are faster; else `key` itself."""
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_UNROLLED) if _can_unroll(key) else key


def draw_normals(key: Array, num: int) -> Array:
    """Draw the same numbers as ``jax.random.normal(key, (num,))``, but compute each normal only once."""
    if _can_unroll(key) and _is_long(num) and jnp.result_type(float) == jnp.float32:
        return _draw_in_halves(jax.random.normal, jax.random.key_data(key), num, jnp.float32)
    return jax.random.normal(unroll_rounds(key), (num,))
