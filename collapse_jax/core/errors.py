"""Errors that report a user's mistake in one line; any other exception is a bug and keeps its traceback."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path


class UsageError(ValueError):
    """An argument, a config or a command line that is wrong."""


class StoreError(UsageError):
    """A store of results that cannot be written, read or resumed."""


class MissingExtraError(UsageError, ImportError):
    """An optional package (an extra of this one) that is needed and not installed."""


def drop_frames(error: Exception) -> Exception:
    """Return an error without its frames, which would keep their arrays alive, and with its traceback as a note.

    A ``UsageError`` gets no note: its one line says all.
    """
    if not isinstance(error, UsageError):
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
    return error.with_traceback(None)


@contextlib.contextmanager
def explain_write_errors(path: Path | str) -> Iterator[None]:
    """Turn an ``OSError`` raised inside into a ``StoreError`` of one line: `path` cannot be written.

    Raises:
      StoreError: the folder is missing, the permission is, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from error
