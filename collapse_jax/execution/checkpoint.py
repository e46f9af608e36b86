"""Checkpoints of a unit, so that a killed process loses little: one tree a call of its program, written by orbax."""

import shutil
from pathlib import Path
from typing import Any

import jax

from collapse_jax.core.errors import UsageError
from collapse_jax.execution.blocks import StateSaver

CHECKPOINTS = "checkpoints"


class CheckpointError(UsageError):
    """A checkpoint cannot be read."""


def make_saver(folder: Path | str) -> StateSaver:
    """Return a saver that keeps the latest states of a unit's chains under `folder`.

    A process that is killed while it writes leaves the checkpoint before, and a partial folder that nobody reads.
    """
    folder = Path(folder).resolve()  # orbax wants absolute paths

    def load(name: str, template: Any) -> tuple[int, Any] | None:
        checkpoints = _list_checkpoints(folder / name)
        if not checkpoints:
            return None
        done, path = checkpoints[-1]
        try:
            return done, _import_orbax().load(path, template)
        except Exception as error:  # orbax, its storage and its codecs raise errors of many kinds
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{path}: the checkpoint is damaged ({type(error).__name__}: {reason}); run again with --repair"
            ) from error

    def save(name: str, done: int, state: Any) -> None:
        block_folder = folder / name
        _import_orbax().save(block_folder / str(done), jax.block_until_ready(state), overwrite=True)
        for generation, path in _list_checkpoints(block_folder):
            if generation < done:
                shutil.rmtree(path, ignore_errors=True)

    return StateSaver(load, save)


def remove_checkpoints(folder: Path | str) -> None:
    """Remove the checkpoints of a unit."""
    shutil.rmtree(folder, ignore_errors=True)


def _list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return the finished checkpoints by generation; those that orbax was still writing have other names."""
    if not folder.is_dir():
        return []
    return sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdecimal())


def _import_orbax() -> Any:
    from orbax.checkpoint import v1

    return v1
