"""Laws of sequences of symbols, from an embedded text or from a table of transitions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import draw_integers, draw_uniforms
from collapse_jax.core.validation import MAX_SEED, require_integer
from collapse_jax.data import bundled
from collapse_jax.metrics.text import encode_grams
from collapse_jax.types import Array, Batch, Key, Tree

LETTERS = " abcdefghijklmnopqrstuvwxyz"
HELD_OUT = 10  # the last of so many parts of a text is held out


class Language(NamedTuple):
    """A law of sequences.

    Attributes:
      name: as it is called in a config.
      num_symbols: V; symbols are 0 .. V - 1, at most 256.
      arrays: pytree of arrays that ``draw`` reads.
      draw: ``(key, arrays, num, length) -> [num, length]``, uint8: independent sequences, each from a random place.
      grams: ``(order) -> [V^order, V]``: how often a symbol (column) follows a context, as a share of all places. It is
        exact for a table, and counted in the held-out part of a text. A context is the number that its symbols spell in
        base V.
      table: ``[V, V]``, the probability of the next symbol (column) after the last (row), or None where it is not
        known.
      text: all symbols that ``draw`` chooses from, one after another, or None where they never end.
    """

    name: str
    num_symbols: int
    arrays: Tree
    draw: Callable[[Key, Tree, int, int], Array]
    grams: Callable[[int], np.ndarray]
    table: np.ndarray | None
    text: np.ndarray | None = None


def shakespeare_language() -> Language:
    """Return plays in 27 symbols: a space (for all other characters, once in a row), and a to z.

    The law is a window of the first nine tenths, uniform over places; the last tenth is held out.
    """
    words = "".join(c if c in LETTERS else " " for c in bundled.read_shakespeare().lower()).split()
    text = np.frombuffer(" ".join(words).encode(), np.uint8)
    symbols = np.where(text == ord(" "), 0, text - (ord("a") - 1)).astype(np.uint8)
    train, test = np.split(symbols, [held_out_start(len(symbols))])

    def grams(order: int) -> np.ndarray:
        code = encode_grams(test.astype(np.int64), order, len(LETTERS))
        return np.bincount(code, minlength=len(LETTERS) ** (order + 1)).reshape(-1, len(LETTERS)) / code.size

    return Language("shakespeare", len(LETTERS), train, draw_windows, grams, None, train)


def held_out_start(length: int) -> int:
    """Return the place at which the held-out part of a text begins."""
    return length - length // HELD_OUT


def draw_windows(key: Key, arrays: Array, num: int, length: int) -> Array:
    """Draw windows of a text, uniform over places: ``[num, length]``."""
    begin = draw_integers(key, num, arrays.shape[0] - length + 1)
    return arrays[begin[:, None] + jnp.arange(length)[None]]


def sparse_language(num_symbols: int = 8, branching: int = 3, seed: int = 0) -> Language:
    """Return a random table in which each symbol has `branching` successors, uniform on the simplex.

    The next symbol in order is always among them, so that every symbol is reached from every other.

    Raises:
      UsageError: a number is out of range.
    """
    num_symbols = require_integer("sparse: num_symbols", num_symbols, 2, 256)
    branching = require_integer("sparse: branching", branching, 1, num_symbols)
    rng = np.random.default_rng(require_integer("sparse: seed", seed, 0, MAX_SEED))
    table = np.zeros((num_symbols, num_symbols))
    for row in range(num_symbols):
        others = np.delete(np.arange(num_symbols), (row + 1) % num_symbols)
        chosen = [(row + 1) % num_symbols, *rng.choice(others, branching - 1, replace=False)]
        table[row, chosen] = rng.dirichlet(np.ones(branching))
    return language_from_table(table)._replace(name="sparse")


def language_from_table(table: Any) -> Language:
    """Return the stationary Markov chain of a table ``[V, V]`` of transition probabilities (columns: next symbols).

    Raises:
      UsageError: this is no table of probabilities, or some symbol is not reached from some other.

    Example:
      >>> from collapse_jax.data.markov_texts import language_from_table
      >>> language_from_table([[0.5, 0.5], [1.0, 0.0]]).grams(0).round(3).tolist()
      [[0.667, 0.333]]
    """
    table = np.asarray(table, np.float64)
    size = len(table) if table.ndim else 0
    if table.shape != (size, size) or not 2 <= size <= 256:
        raise UsageError(f"table must be square, of 2 to 256 symbols, not of shape {table.shape}")
    if not (table >= 0).all() or not np.allclose(table.sum(1), 1.0, atol=1e-6):
        raise UsageError("table: every row must be numbers >= 0 that sum to 1")
    table = table / table.sum(1, keepdims=True)
    reached = np.linalg.matrix_power(np.eye(size) + (table > 0), size) > 0
    if not reached.all():
        a, b = np.argwhere(~reached)[0]
        raise UsageError(f"table: symbol {b} is not reached from symbol {a}; leave one of them out")
    balance = np.vstack([table.T - np.eye(size), np.ones(size)])
    stationary = np.linalg.lstsq(balance, np.append(np.zeros(size), 1.0), rcond=None)[0].clip(0)

    def draw(key: Key, arrays: Tree, num: int, length: int) -> Array:
        key_first, key_rest = jax.random.split(key)
        first = draw_weighted(key_first, jnp.asarray(arrays[0], float), num)
        rest = walk_chain(key_rest, cumulate_rows(jnp.asarray(arrays[1], float)), first, length - 1)
        return jnp.concatenate([first.astype(jnp.uint8)[:, None], rest], 1)

    def grams(order: int) -> np.ndarray:
        joint = stationary[None]
        for _ in range(order):
            joint = (joint.reshape(-1, size)[:, :, None] * table).reshape(-1, size)
        return joint

    return Language("chain", size, (stationary, table), draw, grams, table)


def encode_contexts(rows_mxl: Array, order: int, num_symbols: int) -> Array:
    """Return the numbers of the contexts of all symbols but the first `order`, ``[m, length - order]``."""
    return encode_grams(rows_mxl.astype(jnp.int32), order, num_symbols) // num_symbols


def count_grams(rows_mxl: Array, weight: Array, order: int, num_symbols: int) -> Array:
    """Return how often each symbol follows each context in weighted rows, ``[V^order, V]``."""
    code_mxl = encode_grams(rows_mxl.astype(jnp.int32), order, num_symbols)
    weights = jnp.broadcast_to(weight[:, None], code_mxl.shape)
    counts = jnp.zeros(num_symbols ** (order + 1), weight.dtype).at[code_mxl.reshape(-1)].add(weights.reshape(-1))
    return counts.reshape(-1, num_symbols)


def draw_weighted(key: Key, weight: Array, num: int) -> Array:
    """Draw `num` numbers of ``0 .. len(weight) - 1`` in proportion to weight."""
    return batch.draw_rows(key, Batch(jnp.arange(weight.size)[None], weight[None]), num)


def cumulate_rows(weight_cxv: Array) -> Array:
    """Return running sums of each row over its total, added in order, so that a weight of 0 never changes a sum."""

    def add(total: Array, column: Array) -> tuple[Array, Array]:
        return total + column, total + column

    total, sums = jax.lax.scan(add, jnp.zeros_like(weight_cxv[:, 0]), weight_cxv.T, unroll=True)
    return sums.T / total[:, None]


def walk_chain(key: Key, cumulative_cxv: Array, context: Array, num_steps: int) -> Array:
    """Draw `num_steps` symbols after each context ``[n]``, by the sums of ``cumulate_rows``: ``[n, num_steps]``, uint8.

    Each number is compared with all sums of its context, which lie side by side in memory: a binary search, whose
    look-ups wait for each other, takes 2.5 times as long for 27 symbols (measured). A symbol of weight 0 is never
    drawn.
    """
    contexts, num_symbols = cumulative_cxv.shape
    sums = _pad_to_registers(cumulative_cxv)
    u = draw_uniforms(key, (num_steps * context.size,)).reshape(num_steps, -1)

    def step(context: Array, u: Array) -> tuple[Array, Array]:
        symbol = (sums[context] <= u[:, None]).sum(1, dtype=jnp.int32)
        return (context * num_symbols + symbol) % contexts, symbol.astype(jnp.uint8)

    return jax.lax.scan(step, context, u)[1].T


def rewalk_chain(key: Key, cumulative_cxv: Array, context: Array, rows_nxl: Array, fraction: Array | float) -> Array:
    """Draw each symbol of the rows after the contexts ``[n]`` anew with probability `fraction`, as in ``walk_chain``.

    Each symbol is drawn given the earlier symbols of the row itself, not those that were drawn. One uniform number
    decides whether it changes and to which.
    """
    contexts, num_symbols = cumulative_cxv.shape
    sums = _pad_to_registers(fraction * cumulative_cxv)  # the last sum is `fraction`, exactly
    u = draw_uniforms(key, (rows_nxl.size,)).reshape(rows_nxl.shape[::-1])

    def step(context: Array, scanned: tuple[Array, Array]) -> tuple[Array, Array]:
        symbol, u = scanned[0].astype(jnp.int32), scanned[1]
        drawn = (sums[context] <= u[:, None]).sum(1, dtype=jnp.int32)
        next_context = (context.astype(jnp.int32) * num_symbols + symbol) % contexts
        return next_context.astype(context.dtype), jnp.where(u < fraction, drawn, symbol).astype(jnp.uint8)

    return jax.lax.scan(step, context, (rows_nxl.T, u))[1].T


def _pad_to_registers(cumulative_cxv: Array) -> Array:
    """Return the sums of each context in whole vector registers, padded with infinity."""
    return jnp.pad(cumulative_cxv, ((0, 0), (0, -cumulative_cxv.shape[1] % 8)), constant_values=jnp.inf)
