"""Errors that report a user's mistake in one line; any other exception is a bug and keeps its traceback."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

MAX_MESSAGE = 1000  # characters of the line that a user's mistake is told in


class UsageError(ValueError):
    """An argument, a config or a command line that is wrong, told in one line.

    Args:
      message: what is wrong and what would be right. What a user wrote and no line can show is escaped; of a message
        that is too long the middle is left out.
    """

    def __init__(self, message: object = ""):
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(message))
        if len(line) > MAX_MESSAGE:
            line = f"{line[: MAX_MESSAGE - 405]} ... {line[-400:]}"
        super().__init__(line)


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
