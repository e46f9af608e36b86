"""Columns of tables: cells as numbers, or as words, and what is said of cells that are neither."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import one_line

WordColumns = Literal["none", "last", "all"]  # which columns of a table may hold words in place of numbers


class Table(NamedTuple):
    """Numbers ``[rows, columns]`` in float64, and the names of the columns where the file has them.

    Attributes:
      values: the numbers; a column of words holds the place of each cell's word among its `words`.
      names: of the columns, or None.
      words: the different words of each column of words, in alphabetical order, by the column's place from 0.
    """

    values: np.ndarray
    names: Sequence[str] | None = None
    words: Mapping[int, tuple[str, ...]] = MappingProxyType({})


def describe_cell(row: int, column: int, names: Sequence[str] | None) -> str:
    """Return a description of a cell; both numbers count from 1, headers not counted."""
    return f"row {row}, {describe_column(column, names)}"


def describe_column(column: int, names: Sequence[str] | None) -> str:
    """Return the number of a column, which counts from 1, with its name where it has one."""
    name = f" ({one_line(repr(names[column - 1]))})" if names is not None and column <= len(names) else ""
    return f"column {column}{name}"


def read_number(cell: Any) -> float | None:
    """Return the number that the text of a cell says, or None; ``1_0`` is none."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def table_of_columns(
    columns: Sequence[Iterable[Any]], names: Sequence[str] | None, where: str, words_in: WordColumns, texts: bool
) -> Table:
    """Return the table of `columns`, each a sequence of cells.

    Args:
      columns: of one length; arrays are numbers already.
      names: of the columns, or None.
      where: names the table in errors.
      words_in: which columns may hold words.
      texts: whether cells are texts that may say a number (of a file), or Python objects, whose texts are words.

    Raises:
      UsageError: a cell is neither a number nor, in a column that may hold them, a word.
    """
    values: list[np.ndarray] = []
    words: dict[int, tuple[str, ...]] = {}
    for at, column in enumerate(columns):
        allowed = words_in == "all" or (words_in == "last" and at == len(columns) - 1)
        if isinstance(column, np.ndarray):
            values.append(column.astype(np.float64))
            continue
        numbers, known = _decode(list(column), at + 1, names, where, allowed, texts)
        values.append(numbers)
        if known:
            words[at] = known
    return Table(np.stack(values, axis=1), names, words)


def _decode(
    cells: list[Any], column: int, names: Sequence[str] | None, where: str, allowed: bool, texts: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a column's numbers; of a column of words their codes, and the words."""
    numbers = [_number(cell, texts) for cell in cells]
    wrong = [at for at, number in enumerate(numbers) if number is None]
    if not wrong:
        return np.array(numbers, dtype=np.float64), ()
    is_words = all(isinstance(cell, str) and cell.strip() for cell in cells) and len(wrong) == len(cells)
    if is_words and allowed:
        stripped = [cell.strip() for cell in cells]
        known = sorted(set(stripped))
        code = {word: float(at) for at, word in enumerate(known)}
        return np.array([code[cell] for cell in stripped]), tuple(known)
    held = cells[wrong[0]]
    is_empty = isinstance(held, str) and not held.strip()
    cure = "every cell must be a number"
    if isinstance(held, str) and (";" in held or "\t" in held):
        cure = "separate cells by commas"
    elif is_empty:
        cure = "every cell must be a number: fill such cells, or drop their rows"
    elif is_words:
        cure += "; columns of words are read with encode_words: true, classes in the last column with labels: true"
    elif allowed:
        cure += ", or every cell of the column a word"
    shown = "nothing" if is_empty else one_line(repr(held))
    raise UsageError(f"{where}: {describe_cell(wrong[0] + 1, column, names)} holds {shown}; {cure}")


def _number(cell: Any, texts: bool) -> float | None:
    """Return a cell's number, NaN where it is missing, or None where it is no number."""
    if texts:
        return read_number(cell)
    if isinstance(cell, str | bytes):
        return None
    try:
        return np.nan if cell is None else float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
