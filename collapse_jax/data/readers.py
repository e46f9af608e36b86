"""Readers of tables of numbers, and of prepared datasets.

Every fault is a ``UsageError`` of one line that says what is wrong, where, and what would be right.
"""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.core.errors import MissingExtraError, UsageError
from collapse_jax.core.validation import one_line, reject
from collapse_jax.data import csv_tables
from collapse_jax.data.csv_tables import Header
from collapse_jax.data.table_columns import Table, WordColumns, describe_cell, table_of_columns

LARGEST = 1e18  # its square still fits in float32, the default precision of chains


def read_table(path: str, header: Header = "auto", words_in: WordColumns = "none") -> Table:
    """Return the checked numbers of a ``.npy``, ``.csv`` or ``.parquet`` file.

    Args:
      path: the path of the file.
      header: whether the first line of a ``.csv`` file names its columns (``csv_tables.read_csv``).
      words_in: which columns may hold words in place of numbers.

    Raises:
      UsageError: the file cannot be read, a cell is wrong, or `header` is for another kind of file.
    """
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str) or not name:
        reject("table: path", path, "the path of a .npy, .csv or .parquet file")
    file = Path(os.path.expanduser(name))  # Path.expanduser raises where there is no such user
    readers = {".npy": _read_npy, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        known = ", ".join(readers)
        raise UsageError(f"{file}: unknown extension {file.suffix!r}; a table is a file that ends in one of {known}")
    if header != "auto" and file.suffix.lower() != ".csv":
        raise UsageError(f"{file}: header is for .csv files, whose first line may be a row; leave it out")
    try:
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such file; give the path of a .npy, .csv or .parquet file")
        if not file.is_file():
            raise UsageError(f"{file}: not a file; give the path of one table")
        if file.stat().st_size == 0:
            raise UsageError(f"{file}: the file is empty; a table needs at least 4 rows of numbers")
        table = reader(file, header, words_in)
    except (FileNotFoundError, ValueError):
        raise
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be read ({one_line(error.strerror or error)}); check it and its rights"
        ) from None
    return check_table(table, str(file))


def table_from_values(values: Any, where: str, words_in: WordColumns = "none") -> Table:
    """Return the checked numbers of an array in memory; one of Python objects may have columns of words."""
    try:
        rows = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where}: not an array ({one_line(error)}); give rows of equal length") from None
    return check_table(_numeric_table(rows, where, words_in), where)


def check_table(table: Table, where: str) -> Table:
    """Return `table` if all its numbers are finite and small enough to be squared in float32."""
    values = table.values
    if values.shape[1] == 0:
        raise UsageError(f"{where}: no columns; a table needs at least one column of numbers")
    if values.size and not (values.min() >= -LARGEST and values.max() <= LARGEST):  # it is false for NaN, too
        row, column = np.argwhere(~(np.abs(values) <= LARGEST))[0]
        value = values[row, column]
        cure = (
            "drop or fill such cells" if not np.isfinite(value) else f"rescale it below {LARGEST:g} in absolute value"
        )
        raise UsageError(f"{where}: {describe_cell(row + 1, column + 1, table.names)} holds {value:g}; {cure}")
    return table


def open_prepared_dataset(where: str, name: str) -> Any:
    """Return the builder of a dataset that tfds has prepared; the error for others says how to prepare them."""
    root = Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    is_name = isinstance(name, str) and bool(name)
    versions = sorted((root / name).glob("*/dataset_info.json"), key=_dataset_version) if is_name else []
    if not versions:
        raise UsageError(
            f'{where}: {name!r} is not prepared under {root}; run once: python -c "import tensorflow_datasets as t; '
            f"t.load({name!r}, builder_kwargs={{'file_format': 'array_record'}})\" (it needs tensorflow-cpu)"
        )
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(versions[-1].parent))


def _dataset_version(info: Path) -> list[int]:
    """Return the version of a prepared dataset, by its folder, as numbers: 1.10.0 comes after 1.9.0."""
    return [int(part) if part.isdecimal() else -1 for part in info.parent.name.split(".")]


def _corrupt_file_error(file: Path, kind: str, error: Exception) -> UsageError:
    reason = one_line(error, 120) or type(error).__name__
    return UsageError(f"{file}: not a readable {kind} file ({reason}); write it again with {_WRITERS[kind]}")


_WRITERS = {
    ".npy": "numpy.save",
    ".csv": "numbers separated by commas, in UTF-8",
    ".parquet": "pandas.DataFrame.to_parquet",
}


def _numeric_table(values: np.ndarray, where: str, words_in: WordColumns) -> Table:
    if values.ndim == 1 and values.dtype.names is None:
        raise UsageError(f"{where}: shape {values.shape} is 1-D; a table is 2-D, for one column say reshape(-1, 1)")
    if values.dtype.kind == "O" and values.ndim == 2 and values.shape[1]:
        return table_of_columns(values.T.tolist(), None, where, words_in, texts=False)
    if values.dtype.kind not in "biuf":
        raise UsageError(f"{where}: dtype {one_line(values.dtype)} is not numeric; integers or floats are needed")
    if values.ndim != 2:
        raise UsageError(f"{where}: shape {values.shape} is {values.ndim}-D; a table is 2-D, [rows, columns]")
    return Table(values.astype(np.float64))


def _read_npy(file: Path, header: Header, words_in: WordColumns) -> Table:
    try:
        values = np.load(file, allow_pickle=False)
        if not isinstance(values, np.ndarray):
            values.close()
            raise UsageError("it is an .npz archive")
    except Exception as error:  # a damaged header raises many kinds of errors
        raise _corrupt_file_error(file, ".npy", error) from None
    return _numeric_table(values, str(file), words_in)


def _read_csv(file: Path, header: Header, words_in: WordColumns) -> Table:
    try:
        return csv_tables.read_csv(file, header, words_in)
    except (UnicodeError, csv.Error) as error:
        raise _corrupt_file_error(file, ".csv", error) from None


def _read_parquet(file: Path, header: Header, words_in: WordColumns) -> Table:
    try:
        import pandas
        import pyarrow.parquet  # noqa: F401  # pandas names no extra of ours when it is missing
    except ImportError:
        message = f"{file}: reading .parquet needs pandas and pyarrow; pip install 'collapse-jax[parquet]'"
        raise MissingExtraError(message) from None
    try:
        frame = pandas.read_parquet(file, engine="pyarrow")
    except Exception as error:  # damaged files raise many kinds of errors
        raise _corrupt_file_error(file, ".parquet", error) from None
    names = [str(name) for name in frame.columns]
    if not names:
        return Table(np.empty((len(frame), 0)))
    columns = []
    for at, name in enumerate(names, 1):
        series = frame.iloc[:, at - 1]
        if isinstance(series.dtype, pandas.CategoricalDtype):
            series = series.astype(series.cat.categories.dtype)
        if pandas.api.types.is_numeric_dtype(series.dtype) and series.dtype.kind in "biuf":
            columns.append(series.to_numpy(dtype=np.float64, na_value=np.nan))
        elif series.dtype == object or pandas.api.types.is_string_dtype(series.dtype):
            columns.append(series.where(series.notna(), None).astype(object))
        else:
            held = f"column {at} ({one_line(repr(name))}) holds {one_line(series.dtype)}"
            raise UsageError(f"{file}: {held}, not numbers; write it as integers or floats")
    return table_of_columns(columns, names, str(file), words_in, texts=False)
