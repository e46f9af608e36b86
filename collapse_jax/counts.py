"""Draws of symbols, and the laws of their counts. Counts are floats: whole numbers, exact below 2^24 in float32."""

import jax
import jax.numpy as jnp

from collapse_jax import keys
from collapse_jax.check import is_traced
from collapse_jax.types import Array, Key

_FEW = 64  # symbols: for so few, comparing with all is faster than a search or a scatter (measured)
_SCALE = 2.0**30


def categorical(key: Key, p_K: Array, num: int) -> Array:
    """`num` independent symbols (int32) in proportion to `p_K`, whose sum is about 1; never one of probability 0.

    Cumulative sums of whole numbers: those of floats would be off by percents where K is 100,000.
    """
    cumulative_K = _cumulative(p_K)
    drawn = keys.below(key, num, cumulative_K[-1])
    method = "compare_all" if p_K.shape[0] <= _FEW else "scan"
    return jnp.searchsorted(cumulative_K, drawn, side="right", method=method).astype(jnp.int32)


def _cumulative(p_K: Array) -> Array:
    """Cumulative sums of the probabilities in units of 2^-30, int32."""
    return jnp.cumsum(jnp.round(p_K * _SCALE).astype(jnp.int32), dtype=jnp.int32)


def count(symbols: Array, weight: Array, num: int) -> Array:
    """Total weight of each of `num` symbols."""
    if num <= _FEW:
        return jnp.where(symbols[:, None] == jnp.arange(num), weight[:, None], 0.0).sum(0)
    return jnp.zeros(num, weight.dtype).at[symbols].add(weight, mode="drop")


def multinomial(key: Key, p_K: Array, num: Array | int, size: Array | int) -> Array:
    """Counts ``[K]`` of `size` (may be traced, at most `num`) independent symbols.

    Draws the symbols where they are few, else splits `size` in two over and over: K - 1 binomials in log K steps.
    """
    length = p_K.shape[0]
    if isinstance(num, int) and num <= max(_ROWS, 4 * length):
        drawn = categorical(key, p_K, num)
        return count(drawn, (jnp.arange(num) < size).astype(p_K.dtype), length)
    depth = (length - 1).bit_length()
    levels = [jnp.pad(p_K, (0, 2**depth - length))]
    for _ in range(depth):
        levels.append(levels[-1].reshape(-1, 2).sum(1))
    counts = jnp.asarray(size, p_K.dtype)[None]
    for level in range(depth - 1, -1, -1):
        left, both = levels[level][::2], levels[level + 1]
        share = jnp.where(both > 0, left / jnp.where(both > 0, both, 1.0), 0.0)
        lefts = binomial(jax.random.fold_in(key, level), counts, share)
        counts = jnp.stack([lefts, counts - lefts], 1).reshape(-1)
    return counts[:length]


_ROWS = 256  # so few draws are faster than any binomials


def of_part(key: Key, whole_K: Array, num: int, size: Array | int) -> Array:
    """Counts of the first `size` (may be traced) of `num` rows in random order, whose counts are `whole_K`."""
    if is_traced(num):
        raise ValueError("num_samples must be a plain number where some of the first real rows are used again")
    rows = jnp.repeat(jnp.arange(whole_K.shape[0]), whole_K.astype(jnp.int32), total_repeat_length=num)
    return count(jax.random.permutation(key, rows), (jnp.arange(num) < size).astype(whole_K.dtype), whole_K.shape[0])


def binomial(key: Key, size: Array, p: Array) -> Array:
    """Successes among `size` trials of probability `p`, elementwise."""
    return jax.random.binomial(key, size, p, dtype=p.dtype)


def poisson(key: Key, mean: Array) -> Array:
    """Poisson counts, elementwise, under any random-number implementation."""
    plain = jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")
    return jax.random.poisson(plain, mean).astype(mean.dtype)


def bernoulli(key: Key, p: Array, num: int) -> Array:
    """`num` independent trials, 1 with probability `p`."""
    return (jax.random.uniform(key, (num,), p.dtype) < p).astype(p.dtype)
