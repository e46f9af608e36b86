"""Laws over K symbols: one factory for each, which returns a ``Symbols``."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_symbols
from collapse_jax.core.validation import reject, require_integer, require_number
from collapse_jax.data import bundled, text_files
from collapse_jax.types import Symbols

MAX_SYMBOLS = 2**24  # float32, which counts them, cannot tell more symbols apart


@register_symbols
def uniform(num: int = 10) -> Symbols:
    """Give all symbols equal probabilities.

    Args:
      num: number of symbols, K.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.data import symbols
      >>> symbols.uniform(4).probabilities.tolist()
      [0.25, 0.25, 0.25, 0.25]
    """
    num = require_integer("uniform: num", num, 1, MAX_SYMBOLS)
    return Symbols("uniform", np.full(num, 1 / num))


@register_symbols
def zipf(num: int = 1000, exponent: float = 1.0, shift: float = 0.0) -> Symbols:
    """Give the k-th symbol a probability in proportion to (k + shift)^-exponent, k = 1 .. num (Zipf-Mandelbrot).

    Args:
      num: number of symbols, K.
      exponent: 1 is Zipf's law, 0 the uniform one.
      shift: flattens the head (Mandelbrot's).

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.data import symbols
      >>> symbols.zipf(3).probabilities.round(3).tolist()
      [0.545, 0.273, 0.182]
    """
    num = require_integer("zipf: num", num, 1, MAX_SYMBOLS)
    exponent = require_number("zipf: exponent", exponent)
    shift = require_number("zipf: shift", shift, above=-1)
    log_weight = -exponent * np.log(np.arange(1, num + 1) + shift)
    weight = np.exp(log_weight - log_weight.max())
    return Symbols("zipf", weight / weight.sum())


@register_symbols
def symbol_file(path: str) -> Symbols:
    """Take the frequencies of the lines of your own text file (UTF-8), one symbol a line, without blank lines.

    Lines end at newlines alone; spaces and tabs around a symbol are dropped.

    Args:
      path: the path of the file.

    Raises:
      UsageError: the file cannot be read as text, or has no symbols.

    Example:
      >>> import pathlib, tempfile
      >>> from collapse_jax.data import symbols
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "symbols.txt"
      ...     _ = path.write_text(chr(10).join("aab"))
      ...     law = symbols.symbol_file(path)
      >>> law.probabilities.round(3).tolist()
      [0.667, 0.333]
    """
    file, text = text_files.read_text("symbol_file", path, "a text file, one symbol a line")
    lines = (line.strip(" \t") for line in re.split("\r\n|\n|\r", text))  # other separators may be in a symbol
    symbols = [line for line in lines if line]
    if not symbols:
        raise UsageError(f"{file}: no symbols; write at least one, one a line")
    return Symbols("symbol_file", _count_frequencies(symbols))


@register_symbols
def words(num: int | None = None) -> Symbols:
    """Take the frequencies of words in the embedded plays of Shakespeare: 203,578 words, 12,533 different ones.

    Args:
      num: only the most frequent `num` words; default: all.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.data import symbols
      >>> symbols.words(100).probabilities.shape
      (100,)
    """
    share = _count_frequencies(re.findall(r"[a-z]+(?:'[a-z]+)*", bundled.read_shakespeare().lower()))
    if num is not None:
        share = share[: require_integer("words: num", num, 1, len(share))]
    return Symbols("words", share / share.sum())


def symbols_from_probabilities(where: str, probabilities: Any) -> Symbols:
    """Return the law of probabilities that a user wrote down.

    Raises:
      UsageError: they are not numbers >= 0 whose sum is 1 (up to 1e-4; the rest is divided out).
    """
    try:
        values = np.asarray(probabilities, np.float64)
    except (TypeError, ValueError):
        reject(f"{where}: probabilities", probabilities, "a list of numbers")
    if values.ndim != 1 or not values.size:
        reject(f"{where}: probabilities", probabilities, "a list of one or more numbers")
    if not (values >= 0).all() or not np.isfinite(values).all():
        at = int(np.argmin((values >= 0) & np.isfinite(values)))
        raise UsageError(f"{where}: probabilities[{at}] is {values[at]:g}; each must be a number from 0 to 1")
    if abs(values.sum() - 1) > 1e-4:
        raise UsageError(f"{where}: probabilities sum to {values.sum():.6g}, not to 1; divide counts by their sum")
    return Symbols("given", values / values.sum())


def _count_frequencies(symbols: Sequence[str]) -> np.ndarray:
    """Return the frequency of each different symbol, the most frequent first; ties in alphabetical order."""
    counts = sorted(Counter(symbols).items(), key=lambda item: (-item[1], item[0]))
    return np.array([count for _, count in counts], np.float64) / len(symbols)
