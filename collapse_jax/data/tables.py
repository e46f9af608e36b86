"""Tables of real rows: a train split that is the real law itself, and held-out rows."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from collapse_jax.core import random
from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_source
from collapse_jax.core.validation import MAX_SEED, require_flag, require_integer, require_number
from collapse_jax.data import readers
from collapse_jax.types import Array, Key, Source, Tree

_MAX_DISTANCE = 1e5  # largest distance from 0 over the range of a column
_MAX_CLASSES = 10_000


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
) -> Source:
    """Read rows of your own file: .npy (2-D), .csv (with or without a header) or .parquet.

    The real law is the train split: real rows are drawn from it with replacement. A column of values that lie close
    together far from 0 (years of seconds, say), which float32 cannot tell apart, is refused unless standardised.

    Args:
      path: the path of the file.
      standardize: subtract the train split's mean and divide by its standard deviation, column by column.
      test_fraction: share of the rows that is held out.
      seed: draws the split into training and held-out rows.
      columns: number of columns that you expect; another number is an error.
      labels: the last column holds classes, whole numbers from 0, which are not standardised.

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
    options = _check_options("table", standardize, test_fraction, seed, columns, labels)
    return _make_table_source("table", readers.read_table(path), str(path), *options)


def array(
    values: Any,
    standardize: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    columns: int | None = None,
    labels: bool = False,
) -> Source:
    """Take rows of an array in memory, ``[rows, columns]``; the real law is the train split, as for a file.

    Args:
      values: a 2-D array of numbers, or what ``numpy.asarray`` converts to one.
      standardize: subtract the train split's mean and divide by its standard deviation, column by column.
      test_fraction: share of the rows that is held out.
      seed: draws the split into training and held-out rows.
      columns: number of columns that you expect; another number is an error.
      labels: the last column holds classes, whole numbers from 0, which are not standardised.

    Raises:
      UsageError: a cell is no finite number, there are too few rows, or labels are no classes.

    Example:
      >>> import numpy as np
      >>> from collapse_jax import data
      >>> source = data.array(np.arange(20.0).reshape(10, 2), test_fraction=0.5)
      >>> source.arrays.shape
      (5, 2)
    """
    options = _check_options("array", standardize, test_fraction, seed, columns, labels)
    return _make_table_source("array", readers.table_from_values(values, "array"), "array", *options)


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
    name: str, split: Split, classes: int | None = None, shape: tuple[int, int, int] | None = None
) -> Source:
    """Return the source that draws rows of ``split.train``; `classes` and `shape` are fields of ``Source``."""
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
    return Source(name, train.shape[1], train, draw, held_out, mean, covariance, classes=classes, shape=shape)


def _check_options(where: str, standardize: bool, test_fraction: float, seed: int, columns: int | None, labels: bool):
    """Return the checked arguments, before a large file is read for nothing."""
    return (
        require_flag(f"{where}: standardize", standardize),
        require_number(f"{where}: test_fraction", test_fraction, above=0, below=1),
        require_integer(f"{where}: seed", seed, 0, MAX_SEED),
        None if columns is None else require_integer(f"{where}: columns", columns, 1),
        require_flag(f"{where}: labels", labels),
    )


def _make_table_source(
    name: str,
    rows: readers.Table,
    where: str,
    standardize: bool,
    test_fraction: float,
    seed: int,
    columns: int | None,
    labels: bool,
) -> Source:
    num_columns = rows.values.shape[1]
    if columns is not None and num_columns != columns:
        raise UsageError(
            f"{where}: {num_columns} columns where columns={columns}; "
            f"give a table of {columns}, or columns={num_columns}"
        )
    classes = _count_classes(rows.values, where) if labels else None
    split = split_rows(rows.values, test_fraction, seed, where)
    if standardize:
        return make_empirical_source(name, standardize_split(split, labels), classes)
    _refuse_lost_digits(split.train, where)
    return make_empirical_source(name, split, classes)


def _count_classes(rows: np.ndarray, where: str) -> int:
    """Return the number of classes that the last column holds."""
    if rows.shape[1] < 2:
        raise UsageError(f"{where}: one column where labels are asked for; a table of labels has features before them")
    label = rows[:, -1]
    wrong = (label != np.floor(label)) | (label < 0) | (label >= _MAX_CLASSES)
    if wrong.any():
        row = int(wrong.argmax())
        cell = f"row {row + 1} has {label[row]:g} in the last column"
        raise UsageError(f"{where}: {cell}; labels are whole numbers from 0, below {_MAX_CLASSES}")
    if label.max() < 1:
        raise UsageError(f"{where}: all labels are 0; two classes or more are needed")
    return int(label.max()) + 1


def _refuse_lost_digits(train: np.ndarray, where: str) -> None:
    """Refuse columns so narrow and far from 0 that float32, which has seven digits, would keep rounding alone."""
    extent = np.ptp(train, axis=0)
    far = (extent > 0) & (np.abs(train).max(0) > _MAX_DISTANCE * extent)
    if far.any():
        column = int(far.argmax())
        low, high = train[:, column].min(), train[:, column].max()
        extent_text = f"column {column + 1} runs from {low:.9g} to {high:.9g}, too narrow for its distance from 0"
        raise UsageError(f"{where}: {extent_text} in float32; give standardize: true, or subtract its mean")
