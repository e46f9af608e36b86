"""Draws of symbols, and draws from the laws of their counts.

Counts are floats that hold whole numbers; they are exact below 2^24 in float32.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax.core import random
from collapse_jax.core.errors import UsageError
from collapse_jax.core.gradients import refuse_gradient
from collapse_jax.core.validation import is_traced
from collapse_jax.types import Array, Key

# Up to so many symbols, a pass over all draws for each symbol is faster than a search, or than a scatter (measured).
_MAX_SEARCHED, _MAX_SCATTERED = 64, 16
_FEW_DRAWS = 128  # up to so many draws, drawing symbols is faster than drawing binomial counts
_SCALE = 2.0**30
_CHOSEN = "symbols are chosen by their probabilities"


def draw_categorical(key: Key, p_K: Array, num: int) -> Array:
    """Draw `num` independent symbols (int32) in proportion to `p_K`, whose sum is about 1.

    A symbol of probability 0 is never drawn. The cumulative sums are whole numbers: sums of floats would be off by
    percents where K is 100,000.
    """
    cumulative_K = _cumulate_probabilities(p_K)
    drawn = random.draw_integers(key, num, cumulative_K[-1])
    if p_K.shape[0] > _MAX_SEARCHED:
        return jnp.searchsorted(cumulative_K, drawn, side="right").astype(jnp.int32)

    def count_edges_passed(k: Array, symbol: Array) -> Array:
        return symbol + (cumulative_K[k] <= drawn).astype(jnp.int32)

    return jax.lax.fori_loop(0, p_K.shape[0], count_edges_passed, jnp.zeros(num, jnp.int32), unroll=8)


def _cumulate_probabilities(p_K: Array) -> Array:
    """Return the cumulative sums of the probabilities in units of 2^-30, int32."""
    p_K = refuse_gradient(p_K, _CHOSEN)
    return jnp.cumsum(jnp.round(p_K * _SCALE).astype(jnp.int32), dtype=jnp.int32)


def count_symbols(symbols: Array, weight: Array, num: int) -> Array:
    """Return the total weight of each of `num` symbols."""
    if num <= _MAX_SCATTERED:
        return jax.lax.map(lambda k: jnp.where(symbols == k, weight, 0.0).sum(), jnp.arange(num))
    return jnp.zeros(num, weight.dtype).at[symbols].add(weight, mode="drop")


def draw_counts(key: Key, p_K: Array, num: int, size: Array | int) -> Array:
    """Return the counts ``[K]`` of the first `size` symbols that ``draw_categorical`` draws with this key.

    `size` may be traced.
    """
    is_counted, length = jnp.arange(num) < size, p_K.shape[0]
    if length > _MAX_SEARCHED:
        return count_symbols(draw_categorical(key, p_K, num), is_counted.astype(p_K.dtype), length)
    cumulative_K = _cumulate_probabilities(p_K)
    # Draws are compared with each symbol's edge, never turned into symbols.
    drawn = random.draw_integers(key, num, cumulative_K[-1])
    below_K = jax.lax.map(lambda edge: (is_counted & (drawn < edge)).sum(), cumulative_K)
    return jnp.diff(below_K, prepend=0).astype(p_K.dtype)


def draw_multinomial(key: Key, p_K: Array, num: Array | int, size: Array | int) -> Array:
    """Draw the counts ``[K]`` of `size` independent symbols; `size` may be traced and is at most `num`.

    It draws the symbols themselves where they are few. Otherwise it draws one binomial count after another from the
    symbols that are left, and where K is large, it does so first for groups of symbols.
    """
    length = p_K.shape[0]
    if isinstance(num, int) and num <= max(_FEW_DRAWS, 16 * length):
        return draw_counts(key, p_K, num, size)
    size = jnp.asarray(size, p_K.dtype)
    if length <= _MAX_SEARCHED:
        return _draw_symbol_by_symbol(key, p_K, size)
    group = math.isqrt(length - 1) + 1
    p_GxS = jnp.pad(p_K, (0, -length % group)).reshape(-1, group)
    sizes_G = _draw_symbol_by_symbol(random.stream(key, "groups"), p_GxS.sum(1), size)
    return _draw_symbol_by_symbol(key, p_GxS, sizes_G).reshape(-1)[:length]


def _draw_symbol_by_symbol(key: Key, p_K: Array, size: Array) -> Array:
    """Draw the counts ``[..., K]`` of `size` (``[...]``) symbols in one loop, which compiles faster than a tree."""
    tail_K = jnp.cumsum(p_K[..., ::-1], -1)[..., ::-1]
    share_K = jnp.where(tail_K > 0, p_K / jnp.where(tail_K > 0, tail_K, 1.0), 0.0)

    def draw(left: Array, symbol: tuple[Array, Array]) -> tuple[Array, Array]:
        drawn = draw_binomial(jax.random.fold_in(key, symbol[0]), left, symbol[1])
        return left - drawn, drawn

    symbols = jnp.arange(p_K.shape[-1]), jnp.moveaxis(share_K, -1, 0)
    return jnp.moveaxis(jax.lax.scan(draw, size, symbols)[1], 0, -1)


def draw_part_counts(key: Key, whole_K: Array, num: Array | int, size: Array | int) -> Array:
    """Draw the counts of the first `size` of `num` rows in random order, given the counts `whole_K` of all.

    `size` may be traced.
    """
    if is_traced(num):
        raise UsageError("num_samples must be a plain number where some of the first real rows are used again")
    rows = jnp.repeat(jnp.arange(whole_K.shape[0]), whole_K.astype(jnp.int32), total_repeat_length=int(num))
    is_counted = jnp.arange(num) < size
    return count_symbols(jax.random.permutation(key, rows), is_counted.astype(whole_K.dtype), whole_K.shape[0])


def draw_binomial(key: Key, size: Array | float, p: Array | float) -> Array:
    """Draw the number of successes among `size` trials of probability `p`, elementwise.

    Draws are by inversion below an expected count of 10, and by rejection above it (Hormann 1993, BTRS).
    ``jax.random.binomial`` takes longer, and rounds where `size` is large.
    """
    size, p = jnp.broadcast_arrays(jnp.asarray(size, float), jnp.asarray(p, float))
    p = refuse_gradient(p, _CHOSEN)
    rare = jnp.minimum(p, 1 - p)
    few = size * rare < 10
    n, q = jnp.where(few, 100.0, size), jnp.where(few, 0.5, rare)  # any numbers for which rejection ends soon
    standard_deviation = jnp.sqrt(n * q * (1 - q))
    b = 1.15 + 2.53 * standard_deviation
    a = -0.0873 + 0.0248 * b + 0.01 * q

    def log_pmf(k: Array) -> Array:
        log_root = _stirling_term(k) + _stirling_term(n - k)
        return log_root - _poisson_deviance(k + 1, (n + 2) * q) - _poisson_deviance(n - k + 1, (n + 2) * (1 - q))

    log_mode, log_scale = log_pmf(jnp.floor((n + 1) * q)), jnp.log((2.83 + 5.1 / b) * standard_deviation)
    many = _draw_by_rejection(key, a, b, n * q + 0.5, log_scale, lambda k: log_pmf(k) - log_mode, n, ~few)
    none = jnp.exp(size * jnp.log1p(-rare))
    odds = rare / (1 - rare)
    small = _draw_by_inversion(key, none, lambda k: (size - k + 1) / k * odds, few)
    rare_count = jnp.where(few, small, many)
    return jnp.where(p > 0.5, size - rare_count, rare_count)


def draw_poisson(key: Key, mean: Array) -> Array:
    """Draw Poisson counts elementwise: by inversion below a mean of 10, by rejection above it (Hormann 1993, PTRS).

    ``jax.random.poisson`` works with one random-number implementation only, and rounds where means are large.
    """
    mean = refuse_gradient(mean, "counts are whole numbers")
    few = mean < 10
    many = _draw_large_poisson(key, jnp.where(few, 10.0, mean), ~few)
    return jnp.where(few, _draw_by_inversion(key, jnp.exp(-mean), lambda k: mean / k, few), many)


def draw_poisson_rows(key: Key, mean: Array, num: int) -> Array:
    """Draw `num` Poisson counts of one mean; below 16 by a table of 64 values, to 2^-30 as in ``draw_categorical``."""
    mean = refuse_gradient(mean, "counts are whole numbers")
    few = mean < 16  # one count in 10^17 reaches the end of the table
    ratio_K = jnp.where(few, mean, 0.0) / jnp.arange(1, 64, dtype=mean.dtype)
    p_K = jnp.exp(-mean) * jnp.concatenate([jnp.ones(1, mean.dtype), jnp.cumprod(ratio_K)])
    tabled = draw_categorical(key, p_K, num).astype(mean.dtype)
    many = _draw_large_poisson(key, jnp.where(few, 16.0, mean), jnp.broadcast_to(~few, (num,)))
    return jnp.where(few, tabled, many)


def _draw_large_poisson(key: Key, rate: Array, needed: Array) -> Array:
    """Draw Poisson counts by Hormann's PTRS where `needed`, for rates of at least 10."""
    b = 0.931 + 2.53 * jnp.sqrt(rate)
    log_norm = jnp.log(rate) + 0.5 * jnp.log(2 * jnp.pi)
    return _draw_by_rejection(
        key, -0.059 + 0.02483 * b, b, rate + 0.43, jnp.log(1.1239 + 1.1328 / (b - 3.4)),
        lambda k: _stirling_term(k) - _poisson_deviance(k + 1, rate) - log_norm, jnp.inf, needed,
    )  # fmt: skip


def _draw_by_rejection(
    key: Key,
    a: Array,
    b: Array,
    centre: Array,
    log_scale: Array,
    log_pmf: Callable,
    largest: Array | float,
    needed: Array,
) -> Array:
    """Draw whole numbers 0 .. `largest` by Hormann's transformed rejection where `needed`; the others are 0."""
    key = random.key_per_chain(key)

    def trial(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, k, is_open = state
        u, v = random.draw_uniforms(jax.random.fold_in(key, i), (2, *needed.shape), a.dtype)
        u = u - 0.5
        edge = jnp.maximum(0.5 - jnp.abs(u), 1e-7)
        new = jnp.floor((2 * a / edge + b) * u + centre)
        inside = (new >= 0) & (new <= largest)
        log_hat = jnp.log(v / (a / edge**2 + b)) + log_scale
        accepted = is_open & inside & (log_hat <= log_pmf(jnp.where(inside, new, jnp.floor(centre))))
        return i + 1, jnp.where(accepted, new, k), is_open & ~accepted

    start = jnp.int32(0), jnp.zeros(needed.shape, a.dtype), needed
    return jax.lax.while_loop(lambda state: state[2].any(), trial, start)[1]


def _draw_by_inversion(key: Key, none: Array, ratio: Callable[[Array], Array], needed: Array) -> Array:
    """Return the number k at which the cumulative probability passes a uniform number.

    P(0) is `none`, and P(k) = ``ratio(k)`` P(k - 1).
    """
    left = random.draw_uniforms(key, none.shape, none.dtype) - none

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        k, probability, left, count = state
        probability = probability * ratio(k + 1)
        return k + 1, probability, left - probability, jnp.where(left > 0, k + 1, count)

    def is_unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        _, probability, left, _ = state
        # Beyond the last value of any probability, what is left of the uniform number is rounding.
        return (needed & (left > 0) & (probability > 1e-9)).any()

    return jax.lax.while_loop(is_unfinished, step, (jnp.zeros((), none.dtype), none, left, jnp.zeros_like(none)))[3]


def _poisson_deviance(x: Array, mean: Array) -> Array:
    """Return ``x log(x / mean) - (x - mean)``, whose terms nearly cancel."""
    off = (x - mean) / mean
    return mean * ((1 + off) * jnp.log1p(off) - off)


def _stirling_term(k: Array) -> Array:
    """Return ``(k + 1) log(k + 1) - (k + 1) - log k!`` up to a constant.

    Stirling's series is off by 3e-4 at 0 and by 4e-6 at 1.
    """
    x = k + 1
    return 0.5 * jnp.log(x) - (1 / 12 - (1 / 360 - 1 / 1260 / x**2) / x**2) / x


def draw_bernoulli(key: Key, p: Array, num: int) -> Array:
    """Draw `num` independent trials that are 1 with probability `p` and 0 otherwise."""
    p = refuse_gradient(p, _CHOSEN)
    return (random.draw_uniforms(key, (num,), p.dtype) < p).astype(p.dtype)
