"""The reader of tables in .csv files: what is a header, what is a row, and where a cell is wrong."""

import contextlib
import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import one_line
from collapse_jax.data.table_columns import Table, WordColumns, read_number, table_of_columns

Header = Literal["auto"] | bool  # whether a file's first line names the columns
_SAY = "give header: true or header: false"


class _Head(NamedTuple):
    """What comes before the rows.

    Attributes:
      names: of the columns, or None.
      skip: number of physical lines before the first row.
      first: cells of a first line of whole numbers that may be a header, or None.
      columns: number of cells of the first line.
    """

    names: list[str] | None
    skip: int
    first: list[str] | None
    columns: int


def read_csv(file: Path, header: Header, words_in: WordColumns) -> Table:
    """Return the table of a file of cells separated by commas.

    Args:
      file: an existing file, in UTF-8.
      header: whether the first line names the columns; ``"auto"`` tells by what it and the rows hold.
      words_in: which columns may hold words.

    Raises:
      UsageError: a cell is wrong, rows differ in length, or nobody can tell whether the first line is a header.
      UnicodeError: it is no text in UTF-8.
      csv.Error: its quotes are wrong.
    """
    head = _read_head(file, header, words_in)
    try:
        values = np.loadtxt(
            file, delimiter=",", comments=None, quotechar='"', ndmin=2, encoding="utf-8-sig", skiprows=head.skip
        )
        if values.shape[1] == 1 and len(values) != _count_lines(file) - head.skip:
            raise ValueError("loadtxt drops empty lines, which are missing values in a table of one column")
        table = Table(values, head.names)
        if head.first is not None and _is_header(head.first, values[1:], file):
            table = Table(values[1:], [cell.strip() for cell in head.first])
    except ValueError as error:  # loadtxt is fast; the slow reader knows where the fault is, and reads words
        if isinstance(error, UsageError):
            raise
        table = _read_cells(file, head, words_in)
    if table.names is not None and len(table.names) != table.values.shape[1]:
        counts = f"the header has {len(table.names)} names, the rows have {table.values.shape[1]} cells"
        raise UsageError(f"{file}: {counts}; give every column one name")
    return table


@contextlib.contextmanager
def _csv_rows(file: Path) -> Iterator[Any]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        yield csv.reader(lines, skipinitialspace=True)


def _count_lines(file: Path) -> int:
    with file.open(encoding="utf-8-sig") as lines:
        return sum(1 for _ in lines)


def _is_blank(row: list[str]) -> bool:
    return not any(cell.strip() for cell in row) and len(row) < 2


def _is_comment(row: list[str]) -> bool:
    return bool(row) and row[0].lstrip().startswith("#")


def _read_head(file: Path, header: Header, words_in: WordColumns) -> _Head:
    """Return where the rows start: after blank lines, comments (#) and a header."""
    with _csv_rows(file) as rows:
        skip, first, comments = _next_content(rows, 0)
        if first is None:
            raise UsageError(f"{file}: no rows of numbers; a table needs at least 4, separated by commas")
        skip_names, second, _ = _next_content(rows, rows.line_num, blanks_too=len(first) == 1)
    numeric = [read_number(cell) is not None for cell in first]
    is_names = _is_line_of_names(file, first, numeric, second, words_in) if header == "auto" else header
    if not is_names:
        whole = header == "auto" and all(re.fullmatch(r"[+-]?\d+", cell.strip()) for cell in first)
        return _Head(None, comments if len(first) == 1 else skip, first if whole else None, len(first))
    if second is None:
        raise UsageError(f"{file}: no rows of numbers below the header; a table needs at least 4, separated by commas")
    names = [cell.strip() for cell in first]
    if "" in names:
        raise UsageError(f"{file}: {_index_of_pandas(names)}; name it, or write the file with index=False")
    return _Head(names, skip_names, None, len(first))


def _next_content(rows: Any, skip: int, blanks_too: bool = False) -> tuple[int, list[str] | None, int]:
    """Return the next row that is no comment, and the numbers of physical lines before it and up to the last comment.

    Blank rows are passed over, too, unless `blanks_too`: in a table of one column they are missing values.
    """
    comments = skip
    for row in rows:
        if _is_comment(row):
            comments = rows.line_num
        elif blanks_too or not _is_blank(row):
            return skip, row, comments
        skip = rows.line_num
    return skip, None, comments


def _is_line_of_names(
    file: Path, first: list[str], numeric: list[bool], second: list[str] | None, words_in: WordColumns
) -> bool:
    """Return whether a first line that is not all numbers is a header; errors say where nobody can tell."""
    if all(numeric):
        return False
    below = None if second is None else [read_number(cell) is not None for cell in second]
    if not any(numeric):
        if words_in == "all" and below is not None and not any(below):
            raise UsageError(f"{file}: nobody can tell whether the first line of words is a header or a row; {_SAY}")
        return True
    words_allowed = {"none": 0, "last": 1, "all": len(first)}[words_in]
    if below == numeric and all(numeric[: len(first) - words_allowed]) and all(cell.strip() for cell in first):
        return False
    if not first[0].strip() and all(numeric[1:]):
        raise UsageError(f"{file}: {_index_of_pandas(first)}, or its value is missing; fill it, or write the file "
                         "with index=False")  # fmt: skip
    at = numeric.index(False)
    raise UsageError(
        f"{file}: the first line mixes numbers and text: column {at + 1} holds {one_line(repr(first[at]))}; "
        "a header has names only, a row has numbers only (header: true takes it for a header)"
    )


def _index_of_pandas(names: Sequence[str]) -> str:
    at = [name.strip() for name in names].index("") + 1
    return f"column {at} has no name in the header, as an index that pandas wrote"


def _is_header(first: list[str], rest: np.ndarray, file: Path) -> bool:
    """Return whether a first line of whole numbers is a header; it is refused where nobody can tell.

    0, 1, ..., d - 1 is what pandas writes where columns have no names. It is one where a column below holds no whole
    number. Other numbers that rise by a constant step, such as years, may be names, too: where a column below holds no
    whole number, or where all lie outside of what their columns hold.
    """
    number = [int(cell) for cell in first]
    steps = set(np.diff(number).tolist())
    if len(rest) == 0 or len(steps) > 1 or min(steps, default=1) <= 0:
        return False
    is_default = number == list(range(len(first)))
    unlike = bool((~(rest == np.floor(rest)).any(0)).any())
    if is_default and unlike:
        return True
    outside = (number < np.fmin.reduce(rest, 0)) | (number > np.fmax.reduce(rest, 0))
    if not (is_default or unlike or (len(first) > 2 and len(rest) > 8 and outside.all())):
        return False
    shown = ", ".join(cell.strip() for cell in first[:4]) + (", ..." if len(first) > 4 else "")
    raise UsageError(f"{file}: nobody can tell whether the first line, {shown}, is a header or a row; {_SAY}")


def _read_cells(file: Path, head: _Head, words_in: WordColumns) -> Table:
    """Read what ``numpy.loadtxt`` cannot: words, or what is wrong, to find its place."""
    cells: list[list[str]] = []
    with _csv_rows(file) as rows:
        for row in rows:
            if rows.line_num <= head.skip or (head.columns > 1 and _is_blank(row)):
                continue
            number = len(cells) + 1
            if cells and len(row or [""]) != len(cells[0]):
                counts = f"row {number} has {len(row)} cells, the rows above have {len(cells[0])}"
                raise UsageError(f"{file}: {counts}; every row needs as many")
            cells.append(row or [""])
    names = head.names
    if head.first is not None:
        below = np.array([[read_number(cell) for cell in row] for row in cells[1:]], dtype=np.float64)
        if _is_header(head.first, below, file):
            names, cells = [cell.strip() for cell in head.first], cells[1:]
    return table_of_columns(list(zip(*cells, strict=True)), names, str(file), words_in, texts=True)
