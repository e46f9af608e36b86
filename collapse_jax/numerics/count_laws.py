"""Draws of symbols, and the laws of their counts. Counts are floats: whole numbers, exact below 2^24 in float32."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax.core import random
from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import is_traced
from collapse_jax.types import Array, Key

# Symbols: for so few, a pass over all draws for each of them is faster than a search, or than a scatter (measured).
_FEW, _FEWEST = 64, 16
_ROWS = 128  # so few draws are faster than any binomials
_SCALE = 2.0**30


def draw_categorical(key: Key, p_K: Array, num: int) -> Array:
    """`num` independent symbols (int32) in proportion to `p_K`, whose sum is about 1; never one of probability 0.

    Cumulative sums of whole numbers: those of floats would be off by percents where K is 100,000.
    """
    cumulative_K = _cumulate(p_K)
    drawn = random.draw_integers(key, num, cumulative_K[-1])
    if p_K.shape[0] > _FEW:
        return jnp.searchsorted(cumulative_K, drawn, side="right").astype(jnp.int32)
    passed = lambda k, symbol: symbol + (cumulative_K[k] <= drawn)  # noqa: E731
    return jax.lax.fori_loop(0, p_K.shape[0], passed, jnp.zeros(num, jnp.int32), unroll=8)


def _cumulate(p_K: Array) -> Array:
    """Cumulative sums of the probabilities in units of 2^-30, int32."""
    return jnp.cumsum(jnp.round(p_K * _SCALE).astype(jnp.int32), dtype=jnp.int32)


def count_symbols(symbols: Array, weight: Array, num: int) -> Array:
    """Total weight of each of `num` symbols."""
    if num <= _FEWEST:
        return jax.lax.map(lambda k: jnp.where(symbols == k, weight, 0.0).sum(), jnp.arange(num))
    return jnp.zeros(num, weight.dtype).at[symbols].add(weight, mode="drop")


def draw_counts(key: Key, p_K: Array, num: int, size: Array | int) -> Array:
    """Return the counts ``[K]`` of the first `size` symbols that ``draw_categorical`` draws with this key."""
    there, length = jnp.arange(num) < size, p_K.shape[0]
    if length > _FEW:
        return count_symbols(draw_categorical(key, p_K, num), there.astype(p_K.dtype), length)
    cumulative_K = _cumulate(p_K)
    # Draws are compared with each symbol's edge, never turned into symbols.
    drawn = random.draw_integers(key, num, cumulative_K[-1])
    below_K = jax.lax.map(lambda edge: (there & (drawn < edge)).sum(), cumulative_K)
    return jnp.diff(below_K, prepend=0).astype(p_K.dtype)


def draw_multinomial(key: Key, p_K: Array, num: Array | int, size: Array | int) -> Array:
    """Counts ``[K]`` of `size` (may be traced, at most `num`) independent symbols.

    Draws the symbols where they are few, else a binomial of those left for one symbol after another; where symbols are
    many, first for groups of them.
    """
    length = p_K.shape[0]
    if isinstance(num, int) and num <= max(_ROWS, 16 * length):
        return draw_counts(key, p_K, num, size)
    size = jnp.asarray(size, p_K.dtype)
    if length <= _FEW:
        return _draw_symbol_by_symbol(key, p_K, size)
    group = math.isqrt(length - 1) + 1
    p_GxS = jnp.pad(p_K, (0, -length % group)).reshape(-1, group)
    sizes_G = _draw_symbol_by_symbol(random.stream(key, "groups"), p_GxS.sum(1), size)
    return _draw_symbol_by_symbol(key, p_GxS, sizes_G).reshape(-1)[:length]


def _draw_symbol_by_symbol(key: Key, p_K: Array, size: Array) -> Array:
    """Counts ``[..., K]`` of `size` (``[...]``) symbols: one loop, which compiles in an eighth of a tree's time."""
    tail_K = jnp.cumsum(p_K[..., ::-1], -1)[..., ::-1]
    share_K = jnp.where(tail_K > 0, p_K / jnp.where(tail_K > 0, tail_K, 1.0), 0.0)

    def draw(left: Array, symbol: tuple[Array, Array]) -> tuple[Array, Array]:
        drawn = draw_binomial(jax.random.fold_in(key, symbol[0]), left, symbol[1])
        return left - drawn, drawn

    symbols = jnp.arange(p_K.shape[-1]), jnp.moveaxis(share_K, -1, 0)
    return jnp.moveaxis(jax.lax.scan(draw, size, symbols)[1], 0, -1)


def draw_part_counts(key: Key, whole_K: Array, num: Array | int, size: Array | int) -> Array:
    """Counts of the first `size` (may be traced) of `num` rows in random order, whose counts are `whole_K`."""
    if is_traced(num):
        raise UsageError("num_samples must be a plain number where some of the first real rows are used again")
    rows = jnp.repeat(jnp.arange(whole_K.shape[0]), whole_K.astype(jnp.int32), total_repeat_length=int(num))
    return count_symbols(
        jax.random.permutation(key, rows), (jnp.arange(num) < size).astype(whole_K.dtype), whole_K.shape[0]
    )


def draw_binomial(key: Key, size: Array | float, p: Array | float) -> Array:
    """Successes among `size` trials of probability `p`, elementwise.

    Below 10 expected ones by inversion, above by rejection (Hormann 1993, BTRS). ``jax.random.binomial`` takes longer,
    and rounds where `size` is large.
    """
    size, p = jnp.broadcast_arrays(jnp.asarray(size, float), jnp.asarray(p, float))
    rare = jnp.minimum(p, 1 - p)
    few = size * rare < 10
    n, q = jnp.where(few, 100.0, size), jnp.where(few, 0.5, rare)  # any that rejection can do with
    spread = jnp.sqrt(n * q * (1 - q))
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * q

    def log_pmf(k: Array) -> Array:
        log_root = _stirling_term(k) + _stirling_term(n - k)
        return log_root - _deviance(k + 1, (n + 2) * q) - _deviance(n - k + 1, (n + 2) * (1 - q))

    log_mode, log_scale = log_pmf(jnp.floor((n + 1) * q)), jnp.log((2.83 + 5.1 / b) * spread)
    many = _draw_by_rejection(key, a, b, n * q + 0.5, log_scale, lambda k: log_pmf(k) - log_mode, n, ~few)
    none = jnp.exp(size * jnp.log1p(-rare))
    odds = rare / (1 - rare)
    little = _draw_by_inversion(key, none, lambda k: (size - k + 1) / k * odds, few)
    rares = jnp.where(few, little, many)
    return jnp.where(p > 0.5, size - rares, rares)


def draw_poisson(key: Key, mean: Array) -> Array:
    """Poisson counts, elementwise: below a mean of 10 by inversion, above by rejection (Hormann 1993, PTRS).

    ``jax.random.poisson`` knows one random-number implementation only, and rounds where means are large.
    """
    few = mean < 10
    many = _draw_large_poisson(key, jnp.where(few, 10.0, mean), ~few)
    return jnp.where(few, _draw_by_inversion(key, jnp.exp(-mean), lambda k: mean / k, few), many)


def draw_poisson_rows(key: Key, mean: Array, num: int) -> Array:
    """`num` Poisson counts of one mean: below 16 by a table of 64 values, to 2^-30 as in ``draw_categorical``."""
    few = mean < 16  # of which one in 10^17 reaches the table's end
    ratio_K = jnp.where(few, mean, 0.0) / jnp.arange(1, 64)
    p_K = jnp.exp(-mean) * jnp.concatenate([jnp.ones(1, mean.dtype), jnp.cumprod(ratio_K)])
    tabled = draw_categorical(key, p_K, num).astype(mean.dtype)
    many = _draw_large_poisson(key, jnp.where(few, 16.0, mean), jnp.broadcast_to(~few, (num,)))
    return jnp.where(few, tabled, many)


def _draw_large_poisson(key: Key, rate: Array, wanted: Array) -> Array:
    """Hormann's PTRS where `wanted`, for rates of at least 10."""
    b = 0.931 + 2.53 * jnp.sqrt(rate)
    log_norm = jnp.log(rate) + 0.5 * jnp.log(2 * jnp.pi)
    return _draw_by_rejection(
        key, -0.059 + 0.02483 * b, b, rate + 0.43, jnp.log(1.1239 + 1.1328 / (b - 3.4)),
        lambda k: _stirling_term(k) - _deviance(k + 1, rate) - log_norm, jnp.inf, wanted,
    )  # fmt: skip


def _draw_by_rejection(
    key: Key, a: Array, b: Array, centre: Array, log_scale: Array, log_pmf: Callable, most: Array | float, wanted: Array
) -> Array:
    """Hormann's transformed rejection of whole numbers 0 .. `most` where `wanted`; the others are 0."""
    key = random.key_per_chain(key)

    def trial(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, k, open_ = state
        u, v = random.draw_uniforms(jax.random.fold_in(key, i), (2, *wanted.shape), a.dtype)
        u = u - 0.5
        edge = jnp.maximum(0.5 - jnp.abs(u), 1e-7)
        new = jnp.floor((2 * a / edge + b) * u + centre)
        inside = (new >= 0) & (new <= most)
        log_hat = jnp.log(v / (a / edge**2 + b)) + log_scale
        accepted = open_ & inside & (log_hat <= log_pmf(jnp.where(inside, new, jnp.floor(centre))))
        return i + 1, jnp.where(accepted, new, k), open_ & ~accepted

    start = jnp.int32(0), jnp.zeros(wanted.shape, a.dtype), wanted
    return jax.lax.while_loop(lambda state: state[2].any(), trial, start)[1]


def _draw_by_inversion(key: Key, none: Array, ratio: Callable[[Array], Array], wanted: Array) -> Array:
    """The number k whose cumulative probability passes a uniform; P(0) is `none` and P(k) = ``ratio(k)`` P(k - 1)."""
    left = random.draw_uniforms(key, none.shape, none.dtype) - none

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        k, here, left, count = state
        here = here * ratio(k + 1)
        return k + 1, here, left - here, jnp.where(left > 0, k + 1, count)

    # What rounding left of the uniform after the last value that has any probability is not walked for.
    go_on = lambda state: (wanted & (state[2] > 0) & (state[1] > 1e-9)).any()  # noqa: E731
    return jax.lax.while_loop(go_on, step, (jnp.zeros((), none.dtype), none, left, jnp.zeros_like(none)))[3]


def _deviance(x: Array, mean: Array) -> Array:
    """``x log(x / mean) - (x - mean)``, whose terms nearly cancel."""
    off = (x - mean) / mean
    return mean * ((1 + off) * jnp.log1p(off) - off)


def _stirling_term(k: Array) -> Array:
    """``(k + 1) log(k + 1) - (k + 1) - log k!`` but for a constant, by Stirling: 3e-4 off at 0, 4e-6 at 1."""
    x = k + 1
    return 0.5 * jnp.log(x) - (1 / 12 - (1 / 360 - 1 / 1260 / x**2) / x**2) / x


def draw_bernoulli(key: Key, p: Array, num: int) -> Array:
    """`num` independent trials, 1 with probability `p`."""
    return (random.draw_uniforms(key, (num,), p.dtype) < p).astype(p.dtype)
