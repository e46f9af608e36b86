"""Lock a results folder, so that no two processes write the same units."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from collapse_jax.core.errors import StoreError, explain_write_errors


@contextlib.contextmanager
def hold_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock `name` of a folder; the system releases it however the process ends.

    Raises:
      StoreError: another process holds it, or the folder cannot be written to.
    """
    try:
        import fcntl
    except ImportError:  # this system has no such locks
        yield
        return
    path = Path(folder) / f".{name}.lock"
    with explain_write_errors(folder):
        opened = open(path, "ab+", buffering=0)  # noqa: SIM115  # is closed below
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().decode().strip() or "unknown"
            raise StoreError(f"{folder}: another run (process {holder}) is writing here; wait, or end it") from error
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: nobody needs the number to hold the lock
            file.write(str(os.getpid()).encode())
        yield


@contextlib.contextmanager
def register_writer(folder: Path) -> Iterator[None]:
    """Register this process as a writer of a folder; the first writer removes the partial files of killed ones."""
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
