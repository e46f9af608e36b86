"""Keep XLA's programs on disk, so that a later process compiles none of them again."""

import contextlib
import os
import warnings
from pathlib import Path

MOST_BYTES = 256 << 20  # of the folder, when a command starts


def keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache folder, unless the environment names another place, or none.

    JAX's variables come first: ``JAX_COMPILATION_CACHE_DIR`` names the folder (empty: none), and
    ``JAX_ENABLE_COMPILATION_CACHE=0`` turns the cache off. JAX's keys of programs hold its version and the features of
    the processor. Where the folder cannot be written or read, programs are compiled as if there were none.
    """
    # The command goes on without what cannot be read or written (a full disk, or half a file of another process).
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collapse_jax" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        drop_old_programs(folder, MOST_BYTES)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return
    if not os.access(folder, os.W_OK):
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A run has dozens of programs that compile in 0.01 to 0.1 s each, which is several times what reading takes.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def drop_old_programs(folder: Path, most_bytes: int) -> None:
    """Remove the files of `folder` that were used longest ago, until the others take at most `most_bytes`.

    JAX's own bound (``jax_compilation_cache_max_size``) looks at every file for each program that it adds: 40 ms of it
    where there are a thousand.
    """
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process removes old programs, too
                if entry.is_file():
                    about = entry.stat()
                    files.append((max(about.st_atime, about.st_mtime), about.st_size, entry.path))
    excess = sum(size for _, size, _ in files) - most_bytes
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        Path(path).unlink(missing_ok=True)
        excess -= size
