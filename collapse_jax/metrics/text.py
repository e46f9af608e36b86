"""Metrics of rows of symbols beside others: frequencies, n-grams, copied runs."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.metrics.row_scores import score_mean_symbol
from collapse_jax.types import Array, Batch, Metric, Text, Tree, World

WORD_BITS = 32
BITS_SET = 6  # number of bits that an n-gram sets
BITS_PER_GRAM = 16  # an absent n-gram then seems to be in the set with probability 0.001
MAX_BITS = 2**30
CHANCE_LENGTH = 0.005


class Grams(NamedTuple):
    """N-grams as pairs of independent hashes, ``[N, G]`` uint32; two n-grams agree by chance with probability 2^-64."""

    one: Array
    other: Array


class GramSet(NamedTuple):
    """A set of n-grams as a Bloom filter (doi:10.1145/362686.362692), in words ``[words]`` of 32 bits."""

    words: Array


def first_rows(rows_NxL: Array, num: int) -> Array:
    """Return the first rows as floats, ``[num, L]``; NaN where there are fewer."""
    none_KxL = jnp.full((num, rows_NxL.shape[1]), jnp.nan)
    return none_KxL.at[: rows_NxL.shape[0]].set(rows_NxL[:num].astype(none_KxL.dtype))


def hash_grams(rows_NxL: Array, n: int) -> Grams:
    """Return the n-grams of each row, ``[N, L - n + 1]``."""
    length = rows_NxL.shape[1] - n + 1
    one = other = jnp.zeros((rows_NxL.shape[0], length), jnp.uint32)
    for i in range(n):
        symbol = rows_NxL[:, i : i + length].astype(jnp.uint32) + 1
        one = _mix_bits(one * jnp.uint32(0x9E3779B1) + symbol)
        other = _mix_bits(other * jnp.uint32(0x27D4EB2F) - symbol)
    return Grams(one, other)


def _mix_bits(value: Array) -> Array:
    """Return a hash in which every bit depends on every bit of `value` (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)


def _bit_place(grams: Grams, i: Array, bits: int) -> Array:
    """Return the place of the `i`-th bit that each n-gram sets, of `bits` places (a power of two)."""
    return _mix_bits(grams.one ^ _mix_bits(grams.other + jnp.asarray(i, jnp.uint32))) & jnp.uint32(bits - 1)


def check_gram_room(grams: int, bits: int) -> None:
    """Refuse a set of `bits` bits that so many n-grams would overfill if they were all different.

    Raises:
      UsageError: there are fewer than ``BITS_PER_GRAM`` bits for each n-gram.
    """
    if BITS_PER_GRAM * grams > bits:
        smallest = 1 << (BITS_PER_GRAM * grams - 1).bit_length()
        room = f"at least {smallest} ({BITS_PER_GRAM} for each n-gram of a batch), or 0 for no set"
        raise UsageError(f"gram_bits must be {room}, not {bits}")


def fit_gram_bits(num_rows: int, grams: int, n: int) -> int:
    """Return the bits, a power of two, of a set for `num_rows` rows of so many n-grams each, all of them different.

    In such a set chance makes copied runs longer by at most ``CHANCE_LENGTH`` symbols a row.
    """
    share_set = (CHANCE_LENGTH / (grams * n)) ** (1 / BITS_SET)  # of the bits
    bits = math.ceil(num_rows * grams * BITS_SET / -math.log1p(-share_set))
    return min(1 << max(bits - 1, WORD_BITS - 1).bit_length(), MAX_BITS)


def build_gram_set(rows: Batch, n: int, bits: int) -> Batch:
    """Return the n-grams of all rows of positive weight as one ``GramSet`` of `bits` bits (a power of two).

    Rows that are sets themselves are merged.
    """
    items, weight = batch.weighted_rows(rows)
    present = (weight > 0)[:, None]
    if isinstance(items, GramSet):
        words = jax.lax.reduce(jnp.where(present, items.words, jnp.uint32(0)), jnp.uint32(0), jax.lax.bitwise_or, (0,))
    else:
        grams = hash_grams(items, n)

        def add(i: Array, set_bits: Array) -> Array:
            place = jnp.where(present, _bit_place(grams, i, bits), bits)  # places beyond the end are dropped
            return set_bits.at[place.reshape(-1)].set(1, mode="drop")

        set_bits = jax.lax.fori_loop(0, BITS_SET, add, jnp.zeros(bits, jnp.uint8)).reshape(-1, WORD_BITS)
        words = (set_bits.astype(jnp.uint32) << jnp.arange(WORD_BITS, dtype=jnp.uint32)[None]).sum(1, dtype=jnp.uint32)
    return batch.make_batch(GramSet(words[None]), weight.sum())


def is_in_set(grams: Grams, known: GramSet) -> Array:
    """Return whether each n-gram is in the set; ``chance_hit_probability`` says how often an absent one seems to be."""

    def check_bit(i: Array, is_known: Array) -> Array:
        place = _bit_place(grams, i, known.words.size * WORD_BITS)
        return is_known & ((known.words[place // WORD_BITS] >> (place % WORD_BITS)) & 1 == 1)

    return jax.lax.fori_loop(0, BITS_SET, check_bit, jnp.ones(grams.one.shape, bool))


def chance_hit_probability(known: GramSet) -> Array:
    """Return the probability that all bits of an n-gram that is not in the set are set; exact, as places are random."""
    share = jax.lax.population_count(known.words).sum() / (known.words.size * WORD_BITS)
    return jnp.exp(BITS_SET * jnp.log(share))  # XLA turns share ** 6 into count ** 6 * size ** -6: inf times 0


def order_grams(rows_NxL: np.ndarray, n: int, columns: int = 2**22) -> Grams:
    """Return all different n-grams of rows in order, ``[grams]``, computed on the host `columns` columns at a time."""
    known = np.zeros(0, np.uint64)
    for begin in range(0, rows_NxL.shape[1] - n + 1, columns):
        grams = hash_grams(jnp.asarray(rows_NxL[:, begin : begin + columns + n - 1]), n)
        both = np.asarray(grams.one).astype(np.uint64) << np.uint64(32) | np.asarray(grams.other)
        known = np.union1d(known, both)
    return Grams(jnp.asarray(known >> np.uint64(32), jnp.uint32), jnp.asarray(known & np.uint64(2**32 - 1), jnp.uint32))


def is_among(grams: Grams, known: Grams) -> Array:
    """Return whether each n-gram is among those that ``order_grams`` gave, by a binary search on both hashes."""
    size = known.one.shape[0]

    def before(place: Array) -> Array:
        one = known.one[place]
        return (one < grams.one) | ((one == grams.one) & (known.other[place] < grams.other))

    def halve(i: Array, place: Array) -> Array:  # `place` counts the known ones that come before
        further = place + (1 << jnp.asarray(size.bit_length() - 1 - i, jnp.int32))
        return jnp.where((further <= size) & before(jnp.minimum(further, size) - 1), further, place)

    place = jax.lax.fori_loop(0, size.bit_length(), halve, jnp.zeros(grams.one.shape, jnp.int32))
    place = jnp.minimum(place, size - 1)
    return (known.one[place] == grams.one) & (known.other[place] == grams.other)


def sample_text_metric(text: Text, num_shown: int, length: int) -> Metric:
    """Return the metric that holds whole rows, with the symbols by which ``variables.texts_of`` reads them."""
    symbols = [piece.decode("latin-1") for piece in text.pieces]
    dims = (("sample", num_shown), ("symbol", length))
    return Metric("sample_text", "the first generated rows", "symbols", "definition", dims=dims,
                  attrs={"symbols": symbols})  # fmt: skip


def novel_share(known_NxG: Array, chance: Array | float = 0.0) -> Array:
    """Return the share of n-grams that are not known, without bias.

    A novel one seems to be known with probability `chance`, which is corrected for; so the result may be a little above
    1.
    """
    return (~known_NxG).sum() / known_NxG.size / (1 - chance)


def copied_run_length(known_NxG: Array, n: int) -> Array:
    """Return the length, in symbols, of the longest run of each row whose n-grams are all known, averaged over rows.

    It is 0 for a row without such a run. The run's n-grams may come from different places, so this is an upper bound on
    the longest verbatim copy of n symbols or more.
    """

    def step(run_N: Array, known_N: Array) -> tuple[Array, Array]:
        run_N = jnp.where(known_N, run_N + 1, 0)
        return run_N, run_N

    longest_N = jax.lax.scan(step, jnp.zeros(known_NxG.shape[0], int), known_NxG.T)[1].max(0)
    return jnp.where(longest_N > 0, longest_N + n - 1, 0).mean()


def chance_run_length(known_NxG: Array, n: int, chance: Array) -> Array:
    """Return how much longer ``copied_run_length`` is, in expectation, by n-grams that seem to be known by chance.

    To first order in `chance`: an n-gram that is not known joins the runs beside it, and the longest run of the row
    grows by what this run is longer. What seems to be absent is the share 1 - `chance` of what is.
    """

    def step(run_N: Array, known_N: Array) -> tuple[Array, Array]:
        return jnp.where(known_N, run_N + 1, 0), run_N

    none_N = jnp.zeros(known_NxG.shape[0], int)
    before_GxN = jax.lax.scan(step, none_N, known_NxG.T)[1]
    after_GxN = jax.lax.scan(step, none_N, known_NxG.T, reverse=True)[1]
    joined_GxN = before_GxN + 1 + after_GxN
    longest_1xN = jnp.where(known_NxG.T, before_GxN + 1, 0).max(0, keepdims=True)
    growth_GxN = joined_GxN + n - 1 - jnp.where(longest_1xN > 0, longest_1xN + n - 1, 0)
    gained_GxN = jnp.where(known_NxG.T, 0, jnp.maximum(growth_GxN, 0))
    return gained_GxN.sum(0).mean() * chance / (1 - chance)


def distinct_share(grams: Grams) -> Array:
    """Return the number of different n-grams over the number of all (distinct-n, arXiv 1510.03055)."""
    flat = jax.tree.map(lambda x: x.reshape(1, -1), grams)
    return 1 - _count_repeated(flat) / flat.one.size


def repeated_share(grams: Grams) -> Array:
    """Return the share of n-grams that came earlier in their own row (seq-rep-n, arXiv 1908.04319)."""
    return _count_repeated(grams) / grams.one.size


def _count_repeated(grams: Grams) -> Array:
    """Return how many n-grams came earlier in their row."""
    one, other = jax.lax.sort(tuple(grams), dimension=1, num_keys=2)
    return ((one[:, 1:] == one[:, :-1]) & (other[:, 1:] == other[:, :-1])).sum()


def encode_grams(rows: Array | np.ndarray, order: int, num_symbols: int) -> Any:
    """Return the numbers that `order` + 1 successive symbols (last axis; int32 or wider) spell in base V."""
    length = rows.shape[-1] - order
    return sum(rows[..., i : i + length] * num_symbols ** (order - i) for i in range(order + 1))


def count_symbols(rows_NxL: Array, num_symbols: int, order: int = 0) -> Array:
    """Return how often each symbol (order 0) or each pair (order 1) occurs, ``[V^(order + 1)]`` of whole numbers."""
    code = encode_grams(rows_NxL.astype(jnp.int32), order, num_symbols)
    return jnp.zeros(num_symbols ** (order + 1), jnp.int32).at[code.reshape(-1)].add(1)


def kl_divergence(count: Array, log_real: Array) -> Array:
    """Return ``KL(generated || real)`` in nats, from counts and the real law's log probabilities."""
    share = count / count.sum()
    return jnp.where(count > 0, share * (jnp.log(jnp.where(count > 0, share, 1.0)) - log_real), 0.0).sum()


def score_likelihood(world: World, params: Tree, rows_NxL: Array) -> Array:
    """Return the mean log probability of a row's symbols ``[N]``, by the real text's pairs, or by its symbols alone.

    `world` has them as ``truth.log_symbols`` ``[V]`` and ``truth.log_pairs`` ``[V^2]``, which may be None.
    """
    log_symbols, log_pairs, code = world.truth.log_symbols, world.truth.log_pairs, rows_NxL.astype(jnp.int32)
    if log_pairs is None:
        return log_symbols[code].mean(1)
    log_next = jax.nn.log_softmax(log_pairs.reshape(log_symbols.size, -1), axis=1)
    return (log_symbols[code[:, 0]] + log_next[code[:, :-1], code[:, 1:]].sum(1)) / code.shape[1]


SCORES = {"likelihood": score_likelihood, "value": score_mean_symbol}


def zipf_exponent(count: Array) -> Array:
    """Return minus the least-squares slope of log frequency on log rank over symbols that occur; 0 for fewer than 2."""
    ordered = -jnp.sort(-count)
    alive = ordered > 0

    def mean(x: Array) -> Array:
        return jnp.where(alive, x, 0.0).sum() / alive.sum(dtype=x.dtype)

    rank, size = jnp.log(jnp.arange(1, count.size + 1)), jnp.log(jnp.where(alive, ordered, 1).astype(float))
    variance = mean((rank - mean(rank)) ** 2)
    slope = mean((rank - mean(rank)) * (size - mean(size)))
    return jnp.where(variance > 0, -slope / jnp.where(variance > 0, variance, 1.0), 0.0)


def calibration_error(confidence: Array, is_right: Array, bins: int = 10) -> Array:
    """Return the expected calibration error of the likeliest symbol, in equal bins (arXiv 1706.04599)."""
    bin_of = jnp.minimum((confidence * bins).astype(int), bins - 1).reshape(-1)
    gap = jnp.zeros(bins, confidence.dtype).at[bin_of].add((confidence - is_right.astype(confidence.dtype)).reshape(-1))
    return jnp.abs(gap).sum() / confidence.size
