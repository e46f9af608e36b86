"""The reader of a user's files of text."""

import os
from pathlib import Path

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import one_line, reject


def read_text(where: str, path: str, expected: str) -> tuple[Path, str]:
    """Return the path, and what the file says, without a byte order mark.

    Args:
      where: names the caller in errors.
      path: the path of the file.
      expected: what it should be, in words.

    Raises:
      UsageError: the file cannot be read, or is no text in UTF-8. A file with a byte 0 is none: UTF-16 without a mark
        decodes as UTF-8, with such a character beside each letter.
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or not name:
        reject(f"{where}: path", path, f"the path of {expected}")
    file = Path(os.path.expanduser(name))
    try:
        raw = file.read_bytes()
        text = raw.decode().removeprefix("\ufeff")
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file; give the path of {expected}") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UsageError(f"{file}: byte {error.start + 1} ({byte:#04x}) is not UTF-8; convert the file") from None
    except OSError as error:
        message = f"{file}: cannot be read ({one_line(error.strerror or error)}); check it and its rights"
        raise UsageError(message) from None
    if b"\0" in raw:
        message = f"byte {raw.index(0) + 1} is 0, as in UTF-16, and no text in UTF-8 has one; convert the file"
        raise UsageError(f"{file}: {message}")
    return file, text
