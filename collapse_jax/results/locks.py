"""Locks of a results folder, so that no two processes write the same units."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from collapse_jax.core.errors import StoreError


@contextlib.contextmanager
def lock(folder: Path, name: str) -> Iterator[None]:
    """Holds a folder's lock `name` for as long as the process lives; the system lets go of it at any death.

    Raises:
      StoreError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    path = Path(folder) / f".{name}.lock"
    with open(path, "ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            who = file.read().decode().strip() or "unknown"
            raise StoreError(f"{folder}: another run (process {who}) is writing here; wait, or end it") from error
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: nobody needs the number to hold the lock
            file.write(str(os.getpid()).encode())
        yield


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says that a writer is at work; the one that comes first removes what killed writers left."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(Path(folder) / ".writers.lock", "ab") as file:
        with contextlib.suppress(OSError):  # another writer is at work: a temporary file may be its own
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in (*folder.rglob("*.partial"), *folder.glob(".*.partial")):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
