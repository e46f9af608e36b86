"""A model of rows of symbols: it judges each symbol of given rows, rewrites rows, and draws new ones."""

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
    """A network and the size of its rows.

    Attributes:
      apply: apply function of a ``Transformer``, by ``make_functional``.
      num_symbols: V; symbol V starts every row.
      size: sizes of the network.
      dtype: dtype of its cache.
      length: length of a row.
      at_once: number of rows that are judged or drawn together.
    """

    apply: Callable[..., Tree]
    num_symbols: int
    size: TransformerSize
    dtype: jnp.dtype
    length: int
    at_once: int


def sequence_loss(network: SequenceModel, params: Tree, key: Key, rows_NxL: Array) -> Array:
    """Return the mean cross-entropy of the rows' symbols in nats; a loss for ``fit_sgd`` that does not use `key`."""
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return _judge_rows(network, params, rows_NxL, rows_NxL.astype(int), cross_entropy).mean()


def judge_symbols(network: SequenceModel, params: Tree, rows_NxL: Array) -> tuple[Array, Array, Array]:
    """Return each symbol's loss, the likeliest symbol's probability, and whether that was right: ``[N, L]`` each."""

    def judge(logits_SxV: Array, label_S: Array) -> tuple[Array, Array, Array]:
        log_SxV = jax.nn.log_softmax(logits_SxV)
        loss_S = -jnp.take_along_axis(log_SxV, label_S[:, None], -1)[:, 0]
        return loss_S, jnp.exp(log_SxV.max(-1)), log_SxV.argmax(-1) == label_S

    return _judge_in_batches(network, params, rows_NxL, rows_NxL.astype(int), judge)


def rewrite_rows(
    network: SequenceModel,
    params: Tree,
    key: Key,
    rows_NxL: Array,
    fraction: Array | float,
    decoding: Decoding,
    prompt: int = 0,
) -> Array:
    """Draw a `fraction` of the symbols of each row after its `prompt` anew, given the symbols before them.

    One uniform number a symbol decides: below `fraction` the symbol changes and, over `fraction`, it says to which.
    """
    uniform_NxL = jax.random.uniform(key, (rows_NxL.size,)).reshape(rows_NxL.shape)

    def draw(logits_SxV: Array, uniform_S: Array) -> Array:
        return pick_symbols(symbol_weights(logits_SxV, decoding), uniform_S)

    within_NxL = uniform_NxL / jnp.where(fraction > 0, fraction, 1.0)
    drawn_NxL = _judge_in_batches(network, params, rows_NxL, within_NxL, draw).astype(rows_NxL.dtype)
    changed_NxL = (uniform_NxL < fraction) & (jnp.arange(rows_NxL.shape[1]) >= prompt)
    return jnp.where(changed_NxL, drawn_NxL, rows_NxL)


def _judge_in_batches(
    network: SequenceModel, params: Tree, rows_NxL: Array, beside_NxL: Array, function: Callable[[Array, Array], Tree]
) -> Tree:
    """Return ``_judge_rows`` computed for as many rows at a time as memory allows."""
    most_rows = max(MOST_LOGITS // (network.length * network.num_symbols), 1)

    def judge_batch(rows: Array, beside: Array) -> Tree:
        return _judge_rows(network, params, rows, beside, function)

    return batching.map_in_batches(judge_batch, min(network.at_once, most_rows), rows_NxL, beside_NxL)


def _judge_rows(
    network: SequenceModel, params: Tree, rows_NxL: Array, beside_NxL: Array, function: Callable[[Array, Array], Tree]
) -> Tree:
    """Return ``function(logits [S, V], beside [S])`` of each symbol, given those before it: leaves ``[N, L]``."""
    start_Nx1 = jnp.full((rows_NxL.shape[0], 1), network.num_symbols)
    before_NxL = jnp.concatenate([start_Nx1, rows_NxL[:, :-1].astype(int)], 1)
    return network.apply(params, before_NxL, beside_NxL, function, method="judge")


def draw_rows(
    network: SequenceModel, params: Tree, key: Key, num: int, decoding: Decoding, prompts: Array | None = None
) -> Array:
    """Draw `num` rows ``[num, L]``, int32; each begins with one of ``prompts [K, P]``, if there are some."""
    decode = partial(
        decode_rows, network.apply, params, start=network.num_symbols, length=network.length, decoding=decoding
    )

    def draw_batch(key: Key, rows: int) -> Array:
        cache = empty_cache(network.size, rows, network.length, network.dtype)
        prompt = jnp.zeros((rows, 0), jnp.int32)
        if prompts is not None:
            prompt = prompts[jax.random.randint(stream(key, "prompt"), (rows,), 0, len(prompts))].astype(jnp.int32)
        return decode(key=stream(key, "symbols"), prompt_BxP=prompt, cache=cache)

    return batching.draw_in_batches(draw_batch, key, num, network.at_once)
