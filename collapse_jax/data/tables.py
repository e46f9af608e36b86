"""Tables of real rows: a train split that is the real law itself, and held-out rows."""

import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from collapse_jax.core import random
from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_source
from collapse_jax.core.validation import MAX_SEED, require_flag, require_integer, require_number
from collapse_jax.data import readers
from collapse_jax.data.table_checks import (
    encode_word_columns,
    read_classes,
    warn_of_absent_classes,
    warn_of_degenerate_rows,
)
from collapse_jax.data.table_columns import Table, WordColumns
from collapse_jax.types import Array, Key, Source, Tree

_MAX_DISTANCE = 1e5  # largest distance from 0 over the range of a column


class Split(NamedTuple):
    """Rows in two disjoint parts, ``[rows, columns]`` each."""

    train: np.ndarray
    test: np.ndarray


@register_source
def table(
    path: str,
    standardize: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    columns: int | None = None,
    labels: bool = False,
    header: Literal["auto"] | bool = "auto",
    encode_words: bool = False,
) -> Source:
    """Read rows of your own file: .npy (2-D), .csv (with or without a header) or .parquet.

    The real law is the train split: real rows are drawn from it with replacement. A column of values that lie close
    together far from 0 (years of seconds, say), which float32 cannot tell apart, is refused unless standardised. Rows
    without a density (constant columns, duplicates, more columns than rows) are told in a ``TableWarning``.

    Args:
      path: the path of the file.
      standardize: subtract the train split's mean and divide by its standard deviation, column by column.
      test_fraction: share of the rows that is held out.
      seed: draws the split into training and held-out rows.
      columns: number of columns of the file that you expect; another number is an error.
      labels: the last column holds classes, whole numbers or words, which are not standardised. Each different one is
        a class, in rising order (``Source.class_names``).
      header: whether the first line of a .csv file names its columns. ``auto``: it does where it holds words alone, or
        0, 1, ..., d - 1 above numbers of another kind (what pandas writes); one that may be either is refused.
      encode_words: read columns of words, too: one of K different words becomes K - 1 columns, 1 where a row has the
        word and else 0, without the first word in alphabetical order.

    Raises:
      UsageError: the file cannot be read, a cell is no finite number, there are too few rows, or labels are no classes.

    Example:
      >>> import pathlib, tempfile
      >>> from collapse_jax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "rows.csv"
      ...     _ = path.write_text("x,y"+chr(10)+chr(10).join(f"{i},{i * i}" for i in range(10)))
      ...     source = data.table(path)
      >>> source.dim, source.held_out(2).shape
      (2, (2, 2))
    """
    if header != "auto":
        header = require_flag("table: header", header, "auto, True or False")
    options = _check_options("table", standardize, test_fraction, seed, columns, labels, encode_words)
    rows = readers.read_table(path, header, _word_columns(options))
    return _make_table_source("table", rows, str(path), options)


def array(
    values: Any,
    standardize: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    columns: int | None = None,
    labels: bool = False,
    encode_words: bool = False,
) -> Source:
    """Take rows of an array in memory, ``[rows, columns]``; the real law is the train split, as for a file.

    Args:
      values: a 2-D array of numbers, or what ``numpy.asarray`` converts to one.
      standardize: subtract the train split's mean and divide by its standard deviation, column by column.
      test_fraction: share of the rows that is held out.
      seed: draws the split into training and held-out rows.
      columns: number of columns that you expect; another number is an error.
      labels: the last column holds classes, whole numbers or words, which are not standardised.
      encode_words: take columns of words (of an array of Python objects), too, as ``table`` does.

    Raises:
      UsageError: a cell is no finite number, there are too few rows, or labels are no classes.

    Example:
      >>> import numpy as np
      >>> from collapse_jax import data
      >>> source = data.array(np.arange(20.0).reshape(10, 2), test_fraction=0.5)
      >>> source.arrays.shape
      (5, 2)
    """
    options = _check_options("array", standardize, test_fraction, seed, columns, labels, encode_words)
    rows = readers.table_from_values(values, "array", _word_columns(options))
    return _make_table_source("array", rows, "array", options)


def split_rows(rows: np.ndarray, test_fraction: float, seed: int, where: str) -> Split:
    """Split rows at random: the held-out rows are the first ``test_fraction`` (rounded half up) of a permutation.

    Raises:
      UsageError: fewer than 2 rows are left on a side.
    """
    num_test = math.floor(len(rows) * test_fraction + 0.5)
    num_train = len(rows) - num_test
    if min(num_test, num_train) < 2:
        counts = (
            f"{len(rows)} rows leave {num_train} to train on and {num_test} held out at test_fraction={test_fraction:g}"
        )
        raise UsageError(f"{where}: {counts}; at least 2 of each are needed: give more rows or another test_fraction")
    order = np.random.default_rng(seed).permutation(len(rows))
    return Split(train=rows[order[num_test:]], test=rows[order[:num_test]])


def standardize_split(split: Split, labels: bool = False) -> Split:
    """Return `split` in units of the train split's standard deviations; columns that are constant there become 0.

    With `labels` the last column stays as it is.
    """
    train = split.train
    constant = train.min(0) == train.max(0)  # rounding gives their standard deviation a value above 0
    shift = np.where(constant, train[0], train.mean(0))
    scale = np.where(constant, 1.0, train.std(0))
    scale = np.where(scale > 0, scale, 1.0)  # a deviation whose square underflows in float64
    if labels:
        shift[-1], scale[-1] = 0.0, 1.0
    return Split(*((part - shift) / scale for part in split))


def make_empirical_source(
    name: str,
    split: Split,
    classes: int | None = None,
    shape: tuple[int, int, int] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Source:
    """Return the source that draws rows of ``split.train``; the other arguments are fields of ``Source``."""
    train, test = split

    def draw(key: Key, arrays: Tree, num: int) -> Array:
        rows = jnp.asarray(arrays, dtype=float)
        return rows[random.draw_integers(key, num, rows.shape[0])]

    def held_out(num: int) -> np.ndarray:
        num = require_integer(f"{name}.held_out: num", num, 0)
        if num > len(test):
            raise UsageError(f"{name}: {num} held-out rows asked for, {len(test)} exist; ask for at most {len(test)}")
        return test[:num].copy()

    mean = train.mean(0, dtype=np.float64)
    centred = train - mean.astype(train.dtype)  # many images stay float32 and are not copied to float64
    covariance = (centred.T @ centred / len(train)).astype(np.float64)
    return Source(
        name,
        train.shape[1],
        train,
        draw,
        held_out,
        mean,
        covariance,
        classes=classes,
        shape=shape,
        class_names=class_names,
        num_held_out=len(test),
    )


class _Options(NamedTuple):
    """The checked arguments of a table."""

    standardize: bool
    test_fraction: float
    seed: int
    columns: int | None
    labels: bool
    encode_words: bool


def _check_options(
    where: str,
    standardize: bool,
    test_fraction: float,
    seed: int,
    columns: int | None,
    labels: bool,
    encode_words: bool,
) -> _Options:
    """Return the checked arguments, before a large file is read for nothing."""
    return _Options(
        require_flag(f"{where}: standardize", standardize),
        require_number(f"{where}: test_fraction", test_fraction, above=0, below=1),
        require_integer(f"{where}: seed", seed, 0, MAX_SEED),
        None if columns is None else require_integer(f"{where}: columns", columns, 1),
        require_flag(f"{where}: labels", labels),
        require_flag(f"{where}: encode_words", encode_words),
    )


def _word_columns(options: _Options) -> WordColumns:
    return "all" if options.encode_words else "last" if options.labels else "none"


def _make_table_source(name: str, table: Table, where: str, options: _Options) -> Source:
    num_columns = table.values.shape[1]
    if options.columns not in (None, num_columns):
        raise UsageError(
            f"{where}: {num_columns} columns where columns={options.columns}; "
            f"give a table of {options.columns}, or columns={num_columns}"
        )
    label, class_names = read_classes(table, where) if options.labels else (None, None)
    table = encode_word_columns(table._replace(values=table.values[:, :-1]) if options.labels else table, where)
    features = table.values.shape[1]
    rows = table.values if label is None else np.column_stack([table.values, label])
    split = split_rows(rows, options.test_fraction, options.seed, where)
    warn_of_degenerate_rows(split.train[:, :features], table.names, where)
    if class_names is not None:
        warn_of_absent_classes(split.train[:, -1], class_names, where)
    if options.standardize:
        split = standardize_split(split, options.labels)
    else:
        _refuse_lost_digits(split.train, where)
    classes = None if class_names is None else len(class_names)
    return make_empirical_source(name, split, classes, class_names=class_names)


def _refuse_lost_digits(train: np.ndarray, where: str) -> None:
    """Refuse columns so narrow and far from 0 that float32, which has seven digits, would keep rounding alone."""
    extent = np.ptp(train, axis=0)
    far = (extent > 0) & (np.abs(train).max(0) > _MAX_DISTANCE * extent)
    if far.any():
        column = int(far.argmax())
        low, high = train[:, column].min(), train[:, column].max()
        extent_text = f"column {column + 1} runs from {low:.9g} to {high:.9g}, too narrow for its distance from 0"
        raise UsageError(f"{where}: {extent_text} in float32; give standardize: true, or subtract its mean")
