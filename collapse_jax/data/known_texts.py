"""Laws of text in which every sequence has a known probability, so that a model's excess loss is exact."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_text
from collapse_jax.core.validation import MAX_SEED, require_integer, require_number
from collapse_jax.data import markov_texts
from collapse_jax.data.tokens import smallest_unsigned_type
from collapse_jax.types import Array, Key, Text, Tree

_REAL_ROWS = 4096  # number of rows whose n-grams count as real
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
OPEN, CLOSE = "([{<abcdefghij", ")]}>ABCDEFGHIJ"


@register_text
def markov_chain(num_symbols: int = 8, branching: int = 3, seed: int = 0) -> Text:
    """Draw text from a stationary Markov chain: each symbol has a few successors, with random probabilities.

    Args:
      num_symbols: number of symbols.
      branching: number of successors of each symbol.
      seed: draws the table of probabilities.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.data import texts
      >>> text = texts.markov_chain(num_symbols=4, branching=2)
      >>> text.pieces, text.held_out(3, 5).shape
      ((b'a', b'b', b'c', b'd'), (3, 5))
    """
    language = markov_texts.sparse_language(num_symbols, branching, seed)
    stationary, table = language.arrays

    def log_prob(rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, int)
        with np.errstate(divide="ignore"):
            return np.log(stationary[rows[:, 0]]) + np.log(table[rows[:, :-1], rows[:, 1:]]).sum(1)

    return _make_text("markov_chain", num_symbols, language.arrays, language.draw, log_prob, LETTERS)


@register_text
def hidden_markov(num_states: int = 6, num_symbols: int = 12, seed: int = 0) -> Text:
    """Draw text from a stationary hidden Markov model, whose states persist with probability 0.8 or so.

    Symbols long ago still say something about the state, so the entropy rate has no closed form (see ``entropy_rate``).

    Args:
      num_states: number of hidden states, at least 2.
      num_symbols: number of symbols.
      seed: draws the two tables of probabilities.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.data import texts
      >>> text = texts.hidden_markov(num_states=3, num_symbols=5)
      >>> text.log_prob([[0, 1, 2]]).shape
      (1,)
    """
    num_states = require_integer("hidden_markov: num_states", num_states, 2, 256)
    num_symbols = require_integer("hidden_markov: num_symbols", num_symbols, 2, 256)
    rng = np.random.default_rng(require_integer("hidden_markov: seed", seed, 0, MAX_SEED))
    table = 0.8 * np.eye(num_states) + 0.2 * rng.dirichlet(np.ones(num_states), num_states)
    emit = rng.dirichlet(np.full(num_symbols, 0.3), num_states)
    hidden = markov_texts.language_from_table(table)
    stationary = hidden.arrays[0]

    def draw(key: Key, arrays: Tree, num: int, length: int) -> Array:
        key_hidden, key_emit = jax.random.split(key)
        state_NxL = hidden.draw(key_hidden, arrays[0], num, length).astype(int)
        cumulative = markov_texts.cumulate_rows(jnp.asarray(arrays[1], float))[:, :-1]
        uniform_NxL = jax.random.uniform(key_emit, (num * length,)).reshape(num, length)
        return (uniform_NxL[..., None] >= cumulative[state_NxL]).sum(-1).astype(jnp.uint8)

    def log_prob(rows: np.ndarray) -> np.ndarray:
        """Compute log probabilities by the forward algorithm."""
        state, total = stationary[None], 0.0
        for symbol in np.asarray(rows, int).T:
            joint = state * emit.T[symbol]
            chance = joint.sum(1, keepdims=True)
            total, state = total + np.log(chance[:, 0]), joint / chance @ table
        return np.asarray(total)

    return _make_text("hidden_markov", num_symbols, (hidden.arrays, emit), draw, log_prob, LETTERS)


@register_text
def brackets(kinds: int = 3, depth: int = 6, close: float = 0.5) -> Text:
    """Draw text from a probabilistic grammar: nested brackets of several kinds (a Dyck language).

    A row begins outside all brackets. Inside, the innermost one closes with probability `close`; otherwise one of the
    kinds opens, all equally likely. Outside one must open, at the greatest depth one must close.

    Args:
      kinds: number of kinds of brackets; there are twice as many symbols.
      depth: the largest number of open brackets.
      close: probability that the innermost bracket closes, strictly between 0 and 1.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> import math
      >>> from collapse_jax.data import texts
      >>> text = texts.brackets(kinds=1, close=0.25)
      >>> round(math.exp(text.log_prob([[0, 0, 1, 1]])[0]), 4)
      0.0469
    """
    kinds = require_integer("brackets: kinds", kinds, 1, len(OPEN))
    depth = require_integer("brackets: depth", depth, 1)
    close = require_number("brackets: close", close, above=0, below=1)

    def draw(key: Key, arrays: Tree, num: int, length: int) -> Array:
        key_close, key_kind = jax.random.split(key)
        uniform = jax.random.uniform(key_close, (length * num,)).reshape(length, num)
        kind = jax.random.randint(key_kind, (length, num), 0, kinds)

        def step(carry: tuple[Array, Array], scanned: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            (stack, height), (u, new) = carry, scanned
            row = jnp.arange(num)
            closes = (height > 0) & ((height == depth) | (u < arrays))
            symbol = jnp.where(closes, kinds + stack[row, height - 1], new)
            stack = stack.at[row, jnp.where(closes, depth, height)].set(new)  # if it closes, the place is never read
            return (stack, height + jnp.where(closes, -1, 1)), symbol.astype(jnp.uint8)

        start = jnp.zeros((num, depth + 1), int), jnp.zeros(num, int)
        return jax.lax.scan(step, start, (uniform, kind))[1].T

    def log_prob(rows: np.ndarray) -> np.ndarray:
        return np.array([_log_prob_of_brackets(row, kinds, depth, close) for row in np.asarray(rows).tolist()])

    return _make_text("brackets", 2 * kinds, np.float32(close), draw, log_prob, OPEN[:kinds] + CLOSE[:kinds])


def _log_prob_of_brackets(row: list[int], kinds: int, depth: int, close: float) -> float:
    """Return the log probability of a row; -inf where a bracket closes that was not the last to open."""
    stack: list[int] = []
    total = 0.0
    for symbol in row:
        if symbol < kinds:
            if len(stack) == depth:
                return -np.inf
            total += (np.log1p(-close) if stack else 0.0) - np.log(kinds)
            stack.append(symbol)
        elif not stack or stack.pop() != symbol - kinds:
            return -np.inf
        elif len(stack) + 1 < depth:
            total += np.log(close)
    return float(total)


def entropy_rate(text: Text, num: int = 64, length: int = 4096, burn: int = 256, seed: int = 0) -> tuple[float, float]:
    """Return the entropy in nats a symbol of a law of known probabilities, and its standard error.

    It is the mean over `num` sequences of ``-log p(x_burn .. x_length | what came before) / (length - burn)``: every
    symbol is predicted from at least `burn` earlier ones, so the effect of the start vanishes as the law forgets it.

    Raises:
      UsageError: the text's probabilities are unknown, there are fewer than two sequences, or none is left after
        `burn`.

    Example:
      >>> from collapse_jax.data import known_texts
      >>> text = known_texts.brackets(kinds=1, depth=1)  # "()()()..." is certain
      >>> known_texts.entropy_rate(text, num=4, length=64, burn=8)
      (0.0, 0.0)
    """
    require_integer("num", num, 2)
    require_integer("length", length, 2)
    require_integer("burn", burn, 1, length - 1)
    if text.log_prob is None:
        raise UsageError(f"{text.name}: its probabilities are not known; give markov_chain, hidden_markov or brackets")
    rows = np.asarray(jax.jit(text.draw, static_argnums=(2, 3))(jax.random.key(seed), text.arrays, num, length))
    rates = (text.log_prob(rows[:, :burn]) - text.log_prob(rows)) / (length - burn)
    return float(rates.mean()), float(rates.std(ddof=1) / np.sqrt(num))


def _make_text(
    name: str, num_symbols: int, arrays: Tree, draw: Callable[..., Array], log_prob: Any, letters: str
) -> Text:
    draw_compiled = jax.jit(draw, static_argnums=(2, 3))

    def rows(seed: int, num: int, length: int) -> np.ndarray:
        key = jax.random.key(seed, impl="threefry2x32")
        return np.asarray(draw_compiled(key, arrays, num, length)).astype(smallest_unsigned_type(num_symbols))

    names = letters if num_symbols <= len(letters) else [f"{i} " for i in range(num_symbols)]
    return Text(
        name,
        tuple(name.encode() for name in names[:num_symbols]),
        arrays,
        draw,
        lambda num, length: rows(2**31, num, length),
        lambda length: rows(2**31 + 1, _REAL_ROWS, length),
        log_prob=log_prob,
    )
