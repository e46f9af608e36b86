"""Blocks of chains that outlive their process in the middle of a unit: one stacked tree a block, through orbax."""

import shutil
from pathlib import Path
from typing import Any

import jax

from collapse_jax.core.errors import UsageError
from collapse_jax.execution.blocks import Saver

FOLDER = "checkpoints"


class CheckpointError(UsageError):
    """A checkpoint that cannot be read, told in one line."""


def saver(folder: Path | str) -> Saver:
    """Keeps the latest state of each block of a unit under `folder`.

    A process killed while it writes leaves the checkpoint before, and a folder that is not looked at again.
    """
    folder = Path(folder).resolve()  # orbax wants absolute paths

    def load(block: int, template: Any) -> tuple[int, Any] | None:
        found = _steps(folder / str(block))
        if not found:
            return None
        done, path = found[-1]
        try:
            return done, _orbax().load(path, template)
        except Exception as error:  # orbax, its storage and its codecs raise errors of many kinds
            words = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{path}: damaged checkpoint ({type(error).__name__}: {words}); run again with --repair"
            ) from error

    def save(block: int, done: int, state: Any) -> None:
        home = folder / str(block)
        _orbax().save(home / str(done), jax.block_until_ready(state), overwrite=True)
        for step, path in _steps(home):
            if step < done:
                shutil.rmtree(path, ignore_errors=True)

    return Saver(load, save)


def forget(folder: Path | str) -> None:
    """Removes the checkpoints of a unit."""
    shutil.rmtree(folder, ignore_errors=True)


def _steps(home: Path) -> list[tuple[int, Path]]:
    """Finished checkpoints by generation; what orbax was still writing has another name."""
    if not home.is_dir():
        return []
    return sorted((int(path.name), path) for path in home.iterdir() if path.name.isdecimal())


def _orbax() -> Any:
    from orbax.checkpoint import v1

    return v1
