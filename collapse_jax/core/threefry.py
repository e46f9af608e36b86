"""JAX's Threefry with its rounds written out: the same bits, several times faster on a CPU.

There JAX turns the rounds as a loop whose state, with the keys of all lanes side by side, is copied in memory at each
turn. Written out they stay in registers. Normals are worked out in the same place: elsewhere each operation that reads
them evaluates the quantile's polynomial again.
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


def _bits_of_a_part(part: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    """Words of a key ``part[:2]`` from counter ``part[2]`` on."""
    if bit_width != 32:
        raise UsageError(f"parts draw words of 32 bits, not {bit_width}")
    low = part[2] + jnp.arange(math.prod(shape), dtype=jnp.uint32)
    a, b = _hash(part, jnp.zeros_like(low), low)
    return (a ^ b).reshape(shape)


_like_threefry: Any = partial(
    define_prng_impl,
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    fold_in=threefry_prng_impl.fold_in,
)
_PART = _like_threefry(key_shape=(3,), random_bits=_bits_of_a_part, name="threefry2x32_part", tag="fryp")


@partial(jax.jit, static_argnums=(0, 2, 3))
def _in_halves(draw: Callable[[Array, tuple[int]], Array], key: Array, num: int, dtype: Any) -> Array:
    """``draw(key, (num,))`` of the raw `key`, in a loop of two turns."""
    half = -(-num // 2)

    def fill(i: Array, values: Array) -> Array:
        start = jnp.asarray(i * half)
        part = jax.random.wrap_key_data(jnp.append(key, start.astype(jnp.uint32)), impl=_PART)
        return jax.lax.dynamic_update_slice(values, draw(part, (half,)), (start,))

    # In a loop, or XLA would hash, and work out most of `draw`, anew in each operation that reads the values. It starts
    # from what differs where keys differ: shard_map asks for that.
    return jax.lax.fori_loop(0, 2, fill, jnp.full(2 * half, key[0] * 0, dtype))[:num]


def _words(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.bits(key, shape, jnp.uint32)


def _is_long(num: int) -> bool:
    return _FEW < num < 2**31


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    num = math.prod(shape)
    if bit_width != 32 or not _is_long(num):
        return threefry_prng_impl.random_bits(key, bit_width, shape)
    return _in_halves(_words, key, num, jnp.uint32).reshape(shape)


_SPEC = _like_threefry(
    key_shape=threefry_prng_impl.key_shape, random_bits=_random_bits, name="threefry2x32_written_out", tag="fry"
)


def _can_be(key: Array) -> bool:
    is_threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    return is_threefry and jax.default_backend() == "cpu" and getattr(jax.config, "jax_threefry_partitionable", True)


def unroll_rounds(key: Array) -> Array:
    """A key that gives the same bits, faster where the rounds are best written out; other keys as they are."""
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_SPEC) if _can_be(key) else key


def draw_normals(key: Array, num: int) -> Array:
    """``jax.random.normal(key, (num,))``, its bits too; no normal is worked out twice where rounds are written out."""
    if _can_be(key) and _is_long(num) and jnp.result_type(float) == jnp.float32:
        return _in_halves(jax.random.normal, jax.random.key_data(key), num, jnp.float32)
    return jax.random.normal(unroll_rounds(key), (num,))
