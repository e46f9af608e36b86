"""What rows of symbols look like beside others: frequencies, n-grams, copied runs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax import batch as B
from collapse_jax.types import Array, Batch

WORD = 32  # bits of a word


class GramSet(NamedTuple):
    """A set of n-grams by their hash values: ``[words]`` of 32 bits each, a bit for each value modulo their number."""

    words: Array


def first(rows_NxL: Array, num: int) -> Array:
    """The first rows as floats, ``[num, L]``; NaN where there are fewer."""
    none_KxL = jnp.full((num, rows_NxL.shape[1]), jnp.nan)
    return none_KxL.at[: rows_NxL.shape[0]].set(rows_NxL[:num].astype(none_KxL.dtype))


def hashes(rows_NxL: Array, n: int) -> Array:
    """A hash of each n-gram of each row, ``[N, L - n + 1]``, uint32: alike for different ones by chance, 2^-32."""
    length = rows_NxL.shape[1] - n + 1
    value = jnp.zeros((rows_NxL.shape[0], length), jnp.uint32)
    for i in range(n):
        value = _mix(value * jnp.uint32(0x9E3779B1) + rows_NxL[:, i : i + length].astype(jnp.uint32) + 1)
    return value


def _mix(value: Array) -> Array:
    """Every bit of the result depends on every bit of `value` (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)


def gram_set(batch: Batch, n: int, bits: int) -> Batch:
    """The n-grams of all rows of positive weight as one ``GramSet`` of `bits` (a power of two); sets merge likewise."""
    items, weight = B.rows(batch)
    if isinstance(items, GramSet):
        here = jnp.where((weight > 0)[:, None], items.words, jnp.uint32(0))
        words = jax.lax.reduce(here, jnp.uint32(0), jax.lax.bitwise_or, (0,))
    else:
        value = hashes(items, n)
        place = jnp.where((weight > 0)[:, None], value % bits, bits)  # beyond the end: dropped
        set_bits = jnp.zeros(bits, jnp.uint8).at[place.reshape(-1)].set(1, mode="drop").reshape(-1, WORD)
        words = (set_bits.astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)).sum(1, dtype=jnp.uint32)
    return B.unit(GramSet(words[None]), weight.sum())


def is_in_set(value: Array, grams: GramSet) -> Array:
    """Whether hashes are in the set; others seem to be with probability ``filled(grams)``."""
    place = value % (grams.words.size * WORD)
    return (grams.words[place // WORD] >> (place % WORD)) & 1 == 1


def filled(grams: GramSet) -> Array:
    """The share of bits that are set."""
    return jax.lax.population_count(grams.words).sum() / (grams.words.size * WORD)


def is_among(value: Array, ordered: Array) -> Array:
    """Whether hashes are among those of an ordered array."""
    place = jnp.searchsorted(ordered, value.reshape(-1)).reshape(value.shape)
    return ordered[jnp.minimum(place, ordered.size - 1)] == value


def novelty(known_NxG: Array, chance: Array | float = 0.0) -> Array:
    """Share of n-grams that are not known, where one that is not seems to be with probability `chance`."""
    return jnp.minimum((1 - known_NxG.mean()) / jnp.maximum(1 - chance, 1e-6), 1.0)


def copied_run(known_NxG: Array, n: int) -> Array:
    """Symbols of the longest run of each row all of whose n-grams are known, averaged over rows; 0 where none is.

    Its n-grams may come from different places, so it is an upper bound on the longest verbatim copy of n or more.
    """

    def step(run_N: Array, known_N: Array) -> tuple[Array, Array]:
        run_N = jnp.where(known_N, run_N + 1, 0)
        return run_N, run_N

    longest_N = jax.lax.scan(step, jnp.zeros(known_NxG.shape[0], int), known_NxG.T)[1].max(0)
    return jnp.where(longest_N > 0, longest_N + n - 1, 0).mean()


def distinct(value_NxG: Array) -> Array:
    """Different n-grams over all of them (distinct-n, arXiv 1510.03055)."""
    ordered = jnp.sort(value_NxG.reshape(-1))
    return (1 + (ordered[1:] != ordered[:-1]).sum()) / ordered.size


def repetition(value_NxG: Array) -> Array:
    """Share of n-grams that came earlier in their own row (seq-rep-n, arXiv 1908.04319)."""
    ordered = jnp.sort(value_NxG, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).sum() / value_NxG.size


def frequencies(rows_NxL: Array, num_symbols: int, order: int = 0) -> Array:
    """How often each symbol (order 0) or each pair (order 1) occurs in rows, ``[V^(order + 1)]``."""
    code = rows_NxL.astype(jnp.int32)
    if order:
        code = code[:, :-1] * num_symbols + code[:, 1:]
    return jnp.zeros(num_symbols ** (order + 1)).at[code.reshape(-1)].add(1.0)


def divergence(count: Array, log_real: Array) -> Array:
    """``KL(generated || real)`` in nats, of counts and of the real law's log probabilities."""
    share = count / count.sum()
    return jnp.where(count > 0, share * (jnp.log(jnp.where(count > 0, share, 1.0)) - log_real), 0.0).sum()


def zipf_exponent(count: Array) -> Array:
    """Minus the least-squares slope of log frequency on log rank over symbols that occur; 0 where fewer than 2 do."""
    ordered = -jnp.sort(-count)
    alive = ordered > 0
    mean = lambda x: jnp.where(alive, x, 0.0).sum() / alive.sum()  # noqa: E731
    rank, size = jnp.log(jnp.arange(1, count.size + 1)), jnp.log(jnp.where(alive, ordered, 1.0))
    spread = mean((rank - mean(rank)) ** 2)
    slope = mean((rank - mean(rank)) * (size - mean(size)))
    return jnp.where(spread > 0, -slope / jnp.where(spread > 0, spread, 1.0), 0.0)


def calibration_error(confidence: Array, is_right: Array, bins: int = 10) -> Array:
    """Expected calibration error of the likeliest symbol, in equal bins of its probability (arXiv 1706.04599)."""
    bin_of = jnp.minimum((confidence * bins).astype(int), bins - 1).reshape(-1)
    gap = jnp.zeros(bins, confidence.dtype).at[bin_of].add((confidence - is_right).reshape(-1))
    return jnp.abs(gap).sum() / confidence.size
