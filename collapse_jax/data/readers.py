"""Readers of tables of numbers, and of prepared datasets.

Every fault is a ``UsageError`` of one line that says what is wrong, where, and what would be right.
"""

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.core.errors import MissingExtraError, UsageError
from collapse_jax.core.validation import one_line, reject

LARGEST = 1e18  # its square still fits in float32, the default precision of chains


class Table(NamedTuple):
    """Numbers ``[rows, columns]`` in float64, and the names of the columns where the file has them."""

    values: np.ndarray
    names: Sequence[str] | None = None


def read_table(path: str) -> Table:
    """Return the checked numbers of a ``.npy``, ``.csv`` or ``.parquet`` file."""
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str) or not name:
        reject("table: path", path, "the path of a .npy, .csv or .parquet file")
    file = Path(os.path.expanduser(name))  # Path.expanduser raises where there is no such user
    readers = {".npy": _read_npy, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        known = ", ".join(readers)
        raise UsageError(f"{file}: unknown extension {file.suffix!r}; a table is a file that ends in one of {known}")
    try:
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such file; give the path of a .npy, .csv or .parquet file")
        if not file.is_file():
            raise UsageError(f"{file}: not a file; give the path of one table")
        if file.stat().st_size == 0:
            raise UsageError(f"{file}: the file is empty; a table needs at least 4 rows of numbers")
        table = reader(file)
    except (FileNotFoundError, ValueError):
        raise
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be read ({one_line(error.strerror or error)}); check it and its rights"
        ) from None
    return check_table(table, str(file))


def table_from_values(values: Any, where: str) -> Table:
    """Return the checked numbers of an array in memory."""
    try:
        rows = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where}: not an array ({one_line(error)}); give rows of equal length") from None
    return check_table(_numeric_table(rows, where), where)


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
        raise UsageError(f"{where}: {_describe_cell(row + 1, column + 1, table.names)} holds {value:g}; {cure}")
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


def _describe_cell(row: int, column: int, names: Sequence[str] | None) -> str:
    """Return a description of a cell; both numbers count from 1, headers not counted."""
    name = f" ({one_line(repr(names[column - 1]))})" if names is not None and column <= len(names) else ""
    return f"row {row}, column {column}{name}"


def _corrupt_file_error(file: Path, kind: str, error: Exception) -> UsageError:
    reason = one_line(error, 120) or type(error).__name__
    return UsageError(f"{file}: not a readable {kind} file ({reason}); write it again with {_WRITERS[kind]}")


_WRITERS = {
    ".npy": "numpy.save",
    ".csv": "numbers separated by commas, in UTF-8",
    ".parquet": "pandas.DataFrame.to_parquet",
}


def _numeric_table(values: np.ndarray, where: str) -> Table:
    if values.ndim == 1 and values.dtype.names is None:
        raise UsageError(f"{where}: shape {values.shape} is 1-D; a table is 2-D, for one column say reshape(-1, 1)")
    if values.dtype.kind == "O" and values.ndim == 2:
        return Table(np.stack([_column_floats(column, i, None, where) for i, column in enumerate(values.T, 1)], axis=1))
    if values.dtype.kind not in "biuf":
        raise UsageError(f"{where}: dtype {one_line(values.dtype)} is not numeric; integers or floats are needed")
    if values.ndim != 2:
        raise UsageError(f"{where}: shape {values.shape} is {values.ndim}-D; a table is 2-D, [rows, columns]")
    return Table(values.astype(np.float64))


def _column_floats(column: Iterable[Any], number: int, names: Sequence[str] | None, where: str) -> np.ndarray:
    """Return a column of Python objects as floats; text is refused even where it looks like a number."""
    result = []
    for row, value in enumerate(column, 1):
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError
            result.append(np.nan if value is None else float(value))
        except (TypeError, ValueError, OverflowError):
            held = one_line(repr(value))
            message = f"{where}: {_describe_cell(row, number, names)} holds {held}; every cell must be a number"
            raise UsageError(message) from None
    return np.array(result, dtype=np.float64)


def _read_npy(file: Path) -> Table:
    try:
        values = np.load(file, allow_pickle=False)
        if not isinstance(values, np.ndarray):
            values.close()
            raise UsageError("it is an .npz archive")
    except Exception as error:  # a damaged header raises many kinds of errors
        raise _corrupt_file_error(file, ".npy", error) from None
    return _numeric_table(values, str(file))


class _CsvHeader(NamedTuple):
    names: list[str] | None
    skip: int  # physical lines before the first row of numbers


def _read_csv(file: Path) -> Table:
    try:
        head = _read_head(file)
        try:
            values = np.loadtxt(
                file, delimiter=",", comments=None, quotechar='"', ndmin=2, encoding="utf-8-sig", skiprows=head.skip
            )
            table = Table(values, head.names)
        except ValueError:  # loadtxt is fast; the slow reader knows where the fault is
            table = _read_csv_slowly(file, head)
    except (UnicodeError, csv.Error) as error:
        raise _corrupt_file_error(file, ".csv", error) from None
    if head.names is not None and len(head.names) != table.values.shape[1]:
        counts = f"the header has {len(head.names)} names, the rows have {table.values.shape[1]} cells"
        raise UsageError(f"{file}: {counts}; give every column one name")
    return table


@contextlib.contextmanager
def _csv_rows(file: Path) -> Iterator[Any]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        yield csv.reader(lines, skipinitialspace=True)


def _is_blank(row: list[str]) -> bool:
    return not any(cell.strip() for cell in row) and len(row) < 2


def _number_or_none(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _read_head(file: Path) -> _CsvHeader:
    """Return where the numbers start: after blank lines, comments (#) and a header, a first line without numbers."""
    names = None
    with _csv_rows(file) as rows:
        skip = 0
        for row in rows:
            if not _is_blank(row) and not row[0].lstrip().startswith("#"):
                numeric = [_number_or_none(cell) is not None for cell in row]
                if any(numeric) or names is not None:
                    break
                names = [cell.strip() for cell in row]
            skip = rows.line_num
        else:
            raise UsageError(f"{file}: no rows of numbers; a table needs at least 4, separated by commas")
    if names is None and not all(numeric):
        at = numeric.index(False)
        raise UsageError(
            f"{file}: the first line mixes numbers and text: column {at + 1} holds {one_line(repr(row[at]))}; "
            "a header has names only, a row has numbers only"
        )
    if names is not None and "" in names:
        at = names.index("") + 1
        raise UsageError(
            f"{file}: column {at} has no name in the header, as an index that pandas wrote; "
            "name it, or write the file with index=False"
        )
    return _CsvHeader(names, skip)


def _read_csv_slowly(file: Path, head: _CsvHeader) -> Table:
    """Read what ``numpy.loadtxt`` refused, to find the place of the fault."""
    values: list[list[float]] = []
    with _csv_rows(file) as rows:
        for row in rows:
            if rows.line_num <= head.skip or _is_blank(row):
                continue
            number = len(values) + 1
            if values and len(row) != len(values[0]):
                counts = f"row {number} has {len(row)} cells, the rows above have {len(values[0])}"
                raise UsageError(f"{file}: {counts}; every row needs as many")
            values.append([_csv_cell(cell, number, at, head.names, file) for at, cell in enumerate(row, 1)])
    return Table(np.array(values, dtype=np.float64), head.names)


def _csv_cell(cell: str, row: int, column: int, names: list[str] | None, file: Path) -> float:
    result = _number_or_none(cell)
    if result is None:
        held = one_line(repr(cell)) if cell.strip() else "nothing"
        cure = "separate cells by commas" if ";" in cell or "\t" in cell else "every cell must be a number"
        raise UsageError(f"{file}: {_describe_cell(row, column, names)} holds {held}; {cure}")
    return result


def _read_parquet(file: Path) -> Table:
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
        if pandas.api.types.is_numeric_dtype(series.dtype) and series.dtype.kind in "biuf":
            columns.append(series.to_numpy(dtype=np.float64, na_value=np.nan))
        elif series.dtype == object or pandas.api.types.is_string_dtype(series.dtype):
            columns.append(_column_floats(series, at, names, str(file)))
        else:
            held = f"column {at} ({one_line(repr(name))}) holds {one_line(series.dtype)}"
            raise UsageError(f"{file}: {held}, not numbers; write it as integers or floats")
    return Table(np.stack(columns, axis=1), names)
