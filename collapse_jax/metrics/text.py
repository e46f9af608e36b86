"""What rows of symbols look like beside others: frequencies, n-grams, copied runs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch as B
from collapse_jax.core.errors import UsageError
from collapse_jax.metrics.row_scores import score_mean_symbol
from collapse_jax.types import Array, Batch, Metric, Text, Tree, World

WORD = 32  # bits of a word
PLACES = 6  # bits that an n-gram sets
ROOM = 16  # bits of a set for each n-gram: then one that is not there seems to be with probability 0.001


class Grams(NamedTuple):
    """N-grams by two independent hashes of each, ``[N, G]`` uint32: both alike for different ones by chance, 2^-64."""

    one: Array
    other: Array


class GramSet(NamedTuple):
    """A set of n-grams as a Bloom filter (doi:10.1145/362686.362692): ``[words]`` of 32 bits each, 6 set by a gram."""

    words: Array


def first_rows(rows_NxL: Array, num: int) -> Array:
    """The first rows as floats, ``[num, L]``; NaN where there are fewer."""
    none_KxL = jnp.full((num, rows_NxL.shape[1]), jnp.nan)
    return none_KxL.at[: rows_NxL.shape[0]].set(rows_NxL[:num].astype(none_KxL.dtype))


def hash_grams(rows_NxL: Array, n: int) -> Grams:
    """The n-grams of each row, ``[N, L - n + 1]``."""
    length = rows_NxL.shape[1] - n + 1
    one = other = jnp.zeros((rows_NxL.shape[0], length), jnp.uint32)
    for i in range(n):
        symbol = rows_NxL[:, i : i + length].astype(jnp.uint32) + 1
        one, other = (
            _mix_bits(one * jnp.uint32(0x9E3779B1) + symbol),
            _mix_bits(other * jnp.uint32(0x27D4EB2F) - symbol),
        )
    return Grams(one, other)


def _mix_bits(value: Array) -> Array:
    """Every bit of the result depends on every bit of `value` (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)


def _bit_place(grams: Grams, i: Array, bits: int) -> Array:
    """The `i`-th bit that each n-gram sets, of so many (a power of two)."""
    return _mix_bits(grams.one ^ _mix_bits(grams.other + i.astype(jnp.uint32))) & jnp.uint32(bits - 1)


def check_gram_room(grams: int, bits: int) -> None:
    """Raises ``UsageError`` if so many n-grams, were they all different, would overfill a set of so many bits."""
    if ROOM * grams > bits:
        least = 1 << (ROOM * grams - 1).bit_length()
        raise UsageError(f"gram_bits must be at least {least} ({ROOM} for each n-gram of a batch), or 0 for no set, "
                         f"not {bits}")  # fmt: skip


def build_gram_set(batch: Batch, n: int, bits: int) -> Batch:
    """The n-grams of all rows of positive weight as one ``GramSet`` of `bits` (a power of two); sets merge likewise."""
    items, weight = B.rows(batch)
    here = (weight > 0)[:, None]
    if isinstance(items, GramSet):
        words = jax.lax.reduce(jnp.where(here, items.words, jnp.uint32(0)), jnp.uint32(0), jax.lax.bitwise_or, (0,))
    else:
        grams = hash_grams(items, n)

        def add(i: Array, set_bits: Array) -> Array:
            place = jnp.where(here, _bit_place(grams, i, bits), bits)  # beyond the end: dropped
            return set_bits.at[place.reshape(-1)].set(1, mode="drop")

        set_bits = jax.lax.fori_loop(0, PLACES, add, jnp.zeros(bits, jnp.uint8)).reshape(-1, WORD)
        words = (set_bits.astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)[None]).sum(1, dtype=jnp.uint32)
    return B.unit(GramSet(words[None]), weight.sum())


def is_in_set(grams: Grams, known: GramSet) -> Array:
    """Return whether each n-gram is in the set; ``chance_hit_probability`` says how often an absent one seems to be."""

    def look(i: Array, found: Array) -> Array:
        place = _bit_place(grams, i, known.words.size * WORD)
        return found & ((known.words[place // WORD] >> (place % WORD)) & 1 == 1)

    return jax.lax.fori_loop(0, PLACES, look, jnp.ones(grams.one.shape, bool))


def chance_hit_probability(known: GramSet) -> Array:
    """Probability that all bits of an n-gram that is not in the set are set: exact, for their places are random."""
    share = jax.lax.population_count(known.words).sum() / (known.words.size * WORD)
    return jnp.exp(PLACES * jnp.log(share))  # of share ** 6 XLA makes count ** 6 * size ** -6, which are inf and 0


def order_grams(rows_NxL: np.ndarray, n: int, at_once: int = 2**22) -> Grams:
    """All different n-grams of rows in order, ``[grams]``, made on the host a stretch of columns at a time."""
    found = np.zeros(0, np.uint64)
    for begin in range(0, rows_NxL.shape[1] - n + 1, at_once):
        part = hash_grams(jnp.asarray(rows_NxL[:, begin : begin + at_once + n - 1]), n)
        whole = np.asarray(part.one).astype(np.uint64) << np.uint64(32) | np.asarray(part.other)
        found = np.union1d(found, whole)
    return Grams(jnp.asarray(found >> np.uint64(32), jnp.uint32), jnp.asarray(found & np.uint64(2**32 - 1), jnp.uint32))


def is_among(grams: Grams, known: Grams) -> Array:
    """Whether n-grams are among those that ``order_grams`` gave: a binary search by both hashes."""
    size = known.one.shape[0]

    def before(place: Array) -> Array:
        one = known.one[place]
        return (one < grams.one) | ((one == grams.one) & (known.other[place] < grams.other))

    def halve(i: Array, place: Array) -> Array:  # so many of the known ones come before
        further = place + (1 << (size.bit_length() - 1 - i)).astype(jnp.int32)
        return jnp.where((further <= size) & before(jnp.minimum(further, size) - 1), further, place)

    place = jax.lax.fori_loop(0, size.bit_length(), halve, jnp.zeros(grams.one.shape, jnp.int32))
    place = jnp.minimum(place, size - 1)
    return (known.one[place] == grams.one) & (known.other[place] == grams.other)


def sample_text_metric(text: Text, num_shown: int, length: int) -> Metric:
    """A metric of whole rows, with what ``variables.texts_of`` reads them by."""
    symbols = [piece.decode("latin-1") for piece in text.pieces]
    dims = (("sample", num_shown), ("symbol", length))
    return Metric("sample_text", "the first generated rows", "symbols", "definition", dims=dims,
                  attrs={"symbols": symbols})  # fmt: skip


def novel_share(known_NxG: Array, chance: Array | float = 0.0) -> Array:
    """Share of n-grams that are not known, without bias where one that is not seems to be with probability `chance`.

    So it may come out a little above 1.
    """
    return (~known_NxG).sum() / known_NxG.size / (1 - chance)


def copied_run_length(known_NxG: Array, n: int) -> Array:
    """Symbols of the longest run of each row all of whose n-grams are known, averaged over rows; 0 where none is.

    Its n-grams may come from different places, so it is an upper bound on the longest verbatim copy of n or more.
    """

    def step(run_N: Array, known_N: Array) -> tuple[Array, Array]:
        run_N = jnp.where(known_N, run_N + 1, 0)
        return run_N, run_N

    longest_N = jax.lax.scan(step, jnp.zeros(known_NxG.shape[0], int), known_NxG.T)[1].max(0)
    return jnp.where(longest_N > 0, longest_N + n - 1, 0).mean()


def distinct_share(grams: Grams) -> Array:
    """Different n-grams over all of them (distinct-n, arXiv 1510.03055)."""
    flat = jax.tree.map(lambda x: x.reshape(1, -1), grams)
    return 1 - _count_repeated(flat) / flat.one.size


def repeated_share(grams: Grams) -> Array:
    """Share of n-grams that came earlier in their own row (seq-rep-n, arXiv 1908.04319)."""
    return _count_repeated(grams) / grams.one.size


def _count_repeated(grams: Grams) -> Array:
    """How many came earlier in their row."""
    one, other = jax.lax.sort(tuple(grams), dimension=1, num_keys=2)
    return ((one[:, 1:] == one[:, :-1]) & (other[:, 1:] == other[:, :-1])).sum()


def encode_grams(rows: Array | np.ndarray, order: int, num_symbols: int) -> Any:
    """The numbers that each `order` + 1 symbols in a row (last axis; int32 or wider) spell in base `num_symbols`."""
    length = rows.shape[-1] - order
    return sum(rows[..., i : i + length] * num_symbols ** (order - i) for i in range(order + 1))


def count_symbols(rows_NxL: Array, num_symbols: int, order: int = 0) -> Array:
    """How often each symbol (order 0) or each pair (order 1) occurs in rows, ``[V^(order + 1)]`` of whole numbers."""
    code = encode_grams(rows_NxL.astype(jnp.int32), order, num_symbols)
    return jnp.zeros(num_symbols ** (order + 1), jnp.int32).at[code.reshape(-1)].add(1)


def kl_divergence(count: Array, log_real: Array) -> Array:
    """``KL(generated || real)`` in nats, of counts and of the real law's log probabilities."""
    share = count / count.sum()
    return jnp.where(count > 0, share * (jnp.log(jnp.where(count > 0, share, 1.0)) - log_real), 0.0).sum()


def score_likelihood(world: World, params: Tree, rows_NxL: Array) -> Array:
    """Mean log probability of a row's symbols ``[N]``, by the real text's pairs of symbols, or its symbols alone.

    `world` has them as ``truth.log_symbols`` ``[V]`` and ``truth.log_pairs`` ``[V^2]``, which may be None.
    """
    log_symbols, log_pairs, code = world.truth.log_symbols, world.truth.log_pairs, rows_NxL.astype(jnp.int32)
    if log_pairs is None:
        return log_symbols[code].mean(1)
    log_next = jax.nn.log_softmax(log_pairs.reshape(log_symbols.size, -1), axis=1)
    return (log_symbols[code[:, 0]] + log_next[code[:, :-1], code[:, 1:]].sum(1)) / code.shape[1]


SCORES = {"likelihood": score_likelihood, "value": score_mean_symbol}


def zipf_exponent(count: Array) -> Array:
    """Minus the least-squares slope of log frequency on log rank over symbols that occur; 0 where fewer than 2 do."""
    ordered = -jnp.sort(-count)
    alive = ordered > 0

    def mean(x: Array) -> Array:
        return jnp.where(alive, x, 0.0).sum() / alive.sum(dtype=x.dtype)

    rank, size = jnp.log(jnp.arange(1, count.size + 1)), jnp.log(jnp.where(alive, ordered, 1).astype(float))
    spread = mean((rank - mean(rank)) ** 2)
    slope = mean((rank - mean(rank)) * (size - mean(size)))
    return jnp.where(spread > 0, -slope / jnp.where(spread > 0, spread, 1.0), 0.0)


def calibration_error(confidence: Array, is_right: Array, bins: int = 10) -> Array:
    """Expected calibration error of the likeliest symbol, in equal bins of its probability (arXiv 1706.04599)."""
    bin_of = jnp.minimum((confidence * bins).astype(int), bins - 1).reshape(-1)
    gap = jnp.zeros(bins, confidence.dtype).at[bin_of].add((confidence - is_right.astype(confidence.dtype)).reshape(-1))
    return jnp.abs(gap).sum() / confidence.size
