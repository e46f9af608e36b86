"""Rows of symbols under a network: what it thinks of each symbol of given rows, others for them, and new rows."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from collapse_jax.core import batching
from collapse_jax.core.random import stream
from collapse_jax.training.nets.sampling import Decoding, decode_rows, pick_symbols, symbol_weights
from collapse_jax.training.nets.transformer import MOST_LOGITS, TransformerSize, empty_cache
from collapse_jax.types import Array, Key, Tree


class SequenceModel(NamedTuple):
    """A network and the rows that it is for.

    Attributes:
      apply: of a ``Transformer``, by ``functional``.
      num_symbols: V; symbol V starts every row.
      size: of the network.
      dtype: of its cache.
      length: of a row.
      at_once: rows that are judged or drawn together.
    """

    apply: Callable[..., Tree]
    num_symbols: int
    size: TransformerSize
    dtype: jnp.dtype
    length: int
    at_once: int


def sequence_loss(network: SequenceModel, params: Tree, key: Key, rows_NxL: Array) -> Array:
    """Mean cross-entropy of the rows' symbols, nats; a loss of ``fit_sgd``, which draws nothing from `key`."""
    labels_NxL, of = rows_NxL.astype(int), optax.softmax_cross_entropy_with_integer_labels
    return _judge_rows(network, params, rows_NxL, labels_NxL, of).mean()


def judge_symbols(network: SequenceModel, params: Tree, rows_NxL: Array) -> tuple[Array, Array, Array]:
    """Loss of each symbol, probability of the one thought likeliest, and whether it was right: ``[N, L]`` each."""

    def of(logits_SxV: Array, label_S: Array) -> tuple[Array, Array, Array]:
        log_SxV = jax.nn.log_softmax(logits_SxV)
        loss_S = -jnp.take_along_axis(log_SxV, label_S[:, None], -1)[:, 0]
        return loss_S, jnp.exp(log_SxV.max(-1)), log_SxV.argmax(-1) == label_S

    return _judge_in_batches(network, params, rows_NxL, rows_NxL.astype(int), of)


def rewrite_rows(
    network: SequenceModel,
    params: Tree,
    key: Key,
    rows_NxL: Array,
    fraction: Array | float,
    how: Decoding,
    prompt: int = 0,
) -> Array:
    """A `fraction` of the symbols of each row after its `prompt` drawn anew, given those before as they are.

    One uniform number a symbol: below `fraction` it says that the symbol changes and, over `fraction`, to which.
    """
    uniform_NxL = jax.random.uniform(key, (rows_NxL.size,)).reshape(rows_NxL.shape)
    of = lambda logits_SxV, uniform_S: pick_symbols(symbol_weights(logits_SxV, how), uniform_S)  # noqa: E731
    within_NxL = uniform_NxL / jnp.where(fraction > 0, fraction, 1.0)
    drawn_NxL = _judge_in_batches(network, params, rows_NxL, within_NxL, of).astype(rows_NxL.dtype)
    changed_NxL = (uniform_NxL < fraction) & (jnp.arange(rows_NxL.shape[1]) >= prompt)
    return jnp.where(changed_NxL, drawn_NxL, rows_NxL)


def _judge_in_batches(
    network: SequenceModel, params: Tree, rows_NxL: Array, beside_NxL: Array, of: Callable[[Array, Array], Tree]
) -> Tree:
    """``_judge_rows``, of as many rows at a time as memory has room for."""
    most = max(MOST_LOGITS // (network.length * network.num_symbols), 1)
    some = lambda rows, beside: _judge_rows(network, params, rows, beside, of)  # noqa: E731
    return batching.map_in_batches(some, min(network.at_once, most), rows_NxL, beside_NxL)


def _judge_rows(
    network: SequenceModel, params: Tree, rows_NxL: Array, beside_NxL: Array, of: Callable[[Array, Array], Tree]
) -> Tree:
    """``of(logits [S, V], beside [S])`` of each symbol of each row, judged from those before it: leaves ``[N, L]``."""
    start_Nx1 = jnp.full((rows_NxL.shape[0], 1), network.num_symbols)
    before_NxL = jnp.concatenate([start_Nx1, rows_NxL[:, :-1].astype(int)], 1)
    return network.apply(params, before_NxL, beside_NxL, of, method="judge")


def draw_rows(
    network: SequenceModel, params: Tree, key: Key, num: int, how: Decoding, prompts: Array | None = None
) -> Array:
    """`num` rows ``[num, L]``, int32; each begins with one of ``prompts [K, P]``, where there are some."""
    go_on = partial(decode_rows, network.apply, params, start=network.num_symbols, length=network.length, how=how)

    def some(key: Key, rows: int) -> Array:
        cache = empty_cache(network.size, rows, network.length, network.dtype)
        prompt = jnp.zeros((rows, 0), jnp.int32)
        if prompts is not None:
            prompt = prompts[jax.random.randint(stream(key, "prompt"), (rows,), 0, len(prompts))].astype(jnp.int32)
        return go_on(key=stream(key, "symbols"), prompt_BxP=prompt, cache=cache)

    return batching.draw_in_batches(some, key, num, network.at_once)
