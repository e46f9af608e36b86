"""Rows of symbols drawn from a network, one symbol after another, with a cache of keys and values."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core.gradients import refuse_gradient
from collapse_jax.core.random import draw_uniforms
from collapse_jax.core.sharding import shard_rows
from collapse_jax.core.validation import is_traced, require_integer, require_number, require_positive, require_share
from collapse_jax.training.nets.transformer import Cache
from collapse_jax.types import Array, Key, Tree

Apply = Callable[..., tuple[Array, Cache]]  # (params, tokens [B, L], cache, position) -> (logits [B, L, V], cache)


class Decoding(NamedTuple):
    """How a symbol is drawn from logits; floats may be traced.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest symbol.
      top_k: only so many of the likeliest symbols are drawn; 0: all.
      top_p: only the fewest likeliest symbols that have this probability together (arXiv 1904.09751); 1: all.
      min_p: only symbols at least this times as likely as the likeliest (arXiv 2407.01082); 0: all.
    """

    temperature: Array | float = 1.0
    top_k: int = 0
    top_p: Array | float = 1.0
    min_p: Array | float = 0.0

    def check(self) -> None:
        """Refuse numbers that are out of range.

        Raises:
          UsageError: a number is out of range.
        """
        require_number("temperature", self.temperature, 0)
        require_integer("top_k", self.top_k, 0)
        require_share("top_p", self.top_p)
        require_positive("top_p", self.top_p)
        require_share("min_p", self.min_p)


def symbol_weights(logits_BxV: Array, decoding: Decoding) -> Array:
    """Return weights in proportion to each symbol's probability; 0 for those left out. The likeliest always stays.

    Temperature comes first, then the cuts in the order top-k, top-p, min-p: top-p uses the law that top-k left, and
    min-p compares with the likeliest symbol, which no cut removes. Symbols as likely as the last that stays stay, too.
    """
    top_B1 = logits_BxV.max(-1, keepdims=True)
    warm = jnp.where(jnp.asarray(decoding.temperature) > 0, decoding.temperature, 1.0)
    relative_BxV = jnp.exp((logits_BxV - top_B1) / warm)
    kept_BxV = jnp.ones(logits_BxV.shape, bool)
    if decoding.top_k:
        smallest_B1 = jax.lax.top_k(logits_BxV, min(decoding.top_k, logits_BxV.shape[-1]))[0][:, -1:]
        kept_BxV &= logits_BxV >= smallest_B1
    if is_traced(decoding.top_p) or decoding.top_p < 1:
        ordered_BxV = -jnp.sort(-jnp.where(kept_BxV, relative_BxV, 0.0), axis=-1)
        before_BxV = jnp.cumsum(ordered_BxV, -1) - ordered_BxV
        inside_BxV = before_BxV < decoding.top_p * ordered_BxV.sum(-1, keepdims=True)
        kept_BxV &= relative_BxV >= jnp.where(inside_BxV, ordered_BxV, 1.0).min(-1, keepdims=True)
    if is_traced(decoding.min_p) or decoding.min_p > 0:
        kept_BxV &= relative_BxV >= decoding.min_p
    if is_traced(decoding.temperature) or decoding.temperature == 0:
        kept_BxV &= (jnp.asarray(decoding.temperature) > 0) | (logits_BxV == top_B1)
    return jnp.where(kept_BxV, relative_BxV, 0.0)


def pick_symbols(weight_BxV: Array, uniform_B: Array) -> Array:
    """Pick a symbol for each row in proportion to weight, by the inverse CDF of one uniform number."""
    cdf_BxV = jnp.cumsum(weight_BxV, -1)
    total_Bx1 = refuse_gradient(cdf_BxV[:, -1:], "symbols are chosen by their probabilities")
    is_past_BxV = (cdf_BxV > uniform_B[:, None] * total_Bx1) & (weight_BxV > 0)
    return jnp.where(is_past_BxV.any(-1), is_past_BxV.argmax(-1), weight_BxV.argmax(-1))  # sums may round


def decode_rows(
    apply: Apply, params: Tree, key: Key, cache: Cache, start: int, prompt_BxP: Array, length: int, decoding: Decoding
) -> Array:
    """Draw rows ``[B, length]`` of int32 that begin with ``prompt_BxP`` (P may be 0) and continue by the network.

    Args:
      apply: the network.
      params: its parameters.
      key: draws one uniform number a symbol.
      cache: an empty one for `length` positions.
      start: the symbol that starts rows.
      prompt_BxP: symbols that rows begin with.
      length: length of a row, prompt included; P < `length`.
      decoding: how symbols are drawn from logits.
    """
    rows, given = prompt_BxP.shape
    first_Bx1 = jnp.full((rows, 1), start)
    begun_BxL = shard_rows(jnp.concatenate([first_Bx1, prompt_BxP], 1))
    logits_BxLxV, cache = apply(params, begun_BxL, shard_rows(cache), 0)
    uniform_SxB = draw_uniforms(key, ((length - given) * rows,)).reshape(length - given, rows)
    symbol_B = pick_symbols(symbol_weights(logits_BxLxV[:, -1], decoding), uniform_SxB[0])

    def step(carry: tuple[Array, Cache], scanned: tuple[Array, Array]) -> tuple[tuple[Array, Cache], Array]:
        symbol_B, cache = carry
        position, uniform_B = scanned
        logits_Bx1xV, cache = apply(params, symbol_B[:, None], cache, position)
        symbol_B = pick_symbols(symbol_weights(logits_Bx1xV[:, 0], decoding), uniform_B)
        return (symbol_B, cache), symbol_B

    rest = (jnp.arange(given + 1, length), uniform_SxB[1:])
    later_SxB = jax.lax.scan(step, (symbol_B, cache), rest)[1]
    return jnp.concatenate([prompt_BxP, symbol_B[:, None], later_SxB.T], 1)
