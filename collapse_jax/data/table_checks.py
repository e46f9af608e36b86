"""Columns of tables as classes and as numbers, and warnings of rows whose metrics are not what one may think."""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import one_line
from collapse_jax.data.table_columns import Table, describe_column

_MAX_CLASSES = 10_000
_MAX_WORDS = 1000  # different words of an encoded column
_MAX_RANK = 512  # columns up to which linear dependence is looked for
_SHOWN = 3  # columns that a warning names
_said: set[str] = set()


class TableWarning(UserWarning):
    """A table can be read, and some metrics of it are not what one may think."""


def read_classes(table: Table, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the class of each row, a whole number from 0, and the names of the classes.

    The last column holds them: each different number or word is a class, in rising order.

    Raises:
      UsageError: there is no other column, or the last one holds no classes.
    """
    if table.values.shape[1] < 2:
        raise UsageError(f"{where}: one column where labels are asked for; a table of labels has features before them")
    label = table.values[:, -1]
    words = table.words.get(table.values.shape[1] - 1)
    if (label != np.floor(label)).any():
        row = int((label != np.floor(label)).argmax())
        cell = f"row {row + 1} has {label[row]:g} in the last column"
        raise UsageError(f"{where}: {cell}; labels are whole numbers or words")
    known, place = np.unique(label, return_inverse=True)
    if len(known) == 1:
        held = words[0] if words else f"{known[0]:.0f}"
        raise UsageError(f"{where}: all labels are {one_line(held)}; two classes or more are needed")
    if len(known) > _MAX_CLASSES or len(known) == len(label) > 2:
        each = "each row has a label of its own" if len(known) == len(label) else f"{len(known)} different labels"
        raise UsageError(f"{where}: {each}; labels are classes, at most {_MAX_CLASSES}, that rows share")
    return place.reshape(-1).astype(np.float64), words or tuple(f"{number:.0f}" for number in known)


def encode_word_columns(table: Table, where: str) -> Table:
    """Return the table with numbers in place of words: of K words K - 1 columns, each 1 where a row has the word.

    The first word, in alphabetical order, has none: its column would be what the others leave.
    """
    columns: list[np.ndarray] = []
    names: list[str] = []
    given = table.names or [f"column {at + 1}" for at in range(table.values.shape[1])]
    for at, column in enumerate(table.values.T):
        words = table.words.get(at)
        if words is None:
            columns.append(column[:, None])
            names.append(given[at])
            continue
        if len(words) > _MAX_WORDS:
            told = f"{describe_column(at + 1, table.names)} has {len(words)} different words"
            raise UsageError(f"{where}: {told}; at most {_MAX_WORDS} can be encoded: drop it, or group them")
        columns.append((column[:, None] == np.arange(1, len(words))).astype(np.float64))
        names.extend(f"{given[at]}={word}" for word in words[1:])
    if all(words is None for words in map(table.words.get, range(table.values.shape[1]))):
        return table
    return Table(np.hstack(columns), names)


def warn_of_degenerate_rows(train: np.ndarray, names: Sequence[str] | None, where: str) -> None:
    """Warn, in a line, of rows that span fewer dimensions than they have columns, and what that does to metrics."""
    reasons = list(_find_degenerate(train, names))
    if reasons:
        _warn_once(
            f"{where}: {'; '.join(reasons)}. So the real rows have no density: of gaussian the log_det_ratio is not "
            "finite and the test_nll infinite, and elsewhere a test_nll measures a floor or a bandwidth. Drop such "
            "columns, or give more rows"
        )


def warn_of_absent_classes(label: np.ndarray, class_names: Sequence[str], where: str) -> None:
    """Warn, in a line, of classes that only held-out rows have."""
    absent = [name for at, name in enumerate(class_names) if not (label == at).any()]
    if absent:
        _warn_once(
            f"{where}: no row to train on has the label {_list(absent)}, so that no fit can learn it: give more rows, "
            "or another seed or test_fraction"
        )


def _warn_once(line: str) -> None:
    """Warn of a table when it is first read: a run makes its parts more than once."""
    if line not in _said:
        _said.add(line)
        warnings.warn(line, TableWarning, stacklevel=6)


def _find_degenerate(train: np.ndarray, names: Sequence[str] | None) -> Iterator[str]:
    """Find why rows ``[rows, columns]`` span fewer dimensions than they have columns."""
    rows, columns = train.shape
    train = train + 0.0  # -0 is 0
    constant = np.flatnonzero(train.min(0) == train.max(0))
    if len(constant):
        yield f"{_name_columns(constant, names)} {'is' if len(constant) == 1 else 'are'} constant"
    first: dict[bytes, int] = {}
    twins = [(at, first.setdefault(np.ascontiguousarray(train[:, at]).tobytes(), at))
             for at in range(columns) if at not in set(constant.tolist())]  # fmt: skip
    twins = [(at, of) for at, of in twins if at != of]
    for at, of in twins[:_SHOWN]:
        yield f"{describe_column(at + 1, names)} repeats {describe_column(of + 1, names)}"
    distinct = len({row.tobytes() for row in np.ascontiguousarray(train)})
    if rows <= columns:
        yield f"{rows} rows to train on have {columns} columns"
    elif distinct <= columns:
        yield f"{distinct} different rows to train on have {columns} columns"
    elif not len(constant) and not twins and columns <= _MAX_RANK:
        scaled = (train - train.mean(0)) / train.std(0)
        smallest = np.linalg.eigvalsh(scaled.T @ scaled / rows)[0]
        if smallest < columns * np.finfo(np.float32).eps:
            yield "a column is a linear combination of others, up to float32's rounding"


def _name_columns(places: np.ndarray, names: Sequence[str] | None) -> str:
    return _list([describe_column(int(at) + 1, names) for at in places])


def _list(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(map(one_line, words[:_SHOWN])) + more
