"""`collapse-jax bench`."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from collapse_jax.bench import plots, report, run
from collapse_jax.bench.suites import suite
from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import one_line

if TYPE_CHECKING:
    from rich.console import Console


def bench(arguments: argparse.Namespace, console: "Console") -> list[str]:
    """Measures, prints, writes what was asked for.

    Returns:
      The names of cases that are slower than in the file of ``--compare``, beyond machine and noise.

    Raises:
      UsageError: an unknown suite or case, a device that is not there, a file that cannot be read or written; before
        anything is measured.
    """
    if arguments.device is not None:
        _choose(arguments.device)
    before = None if arguments.compare is None else report.read(arguments.compare)
    _check(arguments, before)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are of compiling
    tell = lambda words: print(words, file=sys.stderr, flush=True)  # noqa: E731
    made = run.bench(arguments.suite, arguments.only, arguments.quick, arguments.scaling, arguments.trace, tell)
    for part in report.pages(made):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    if arguments.json is not None:
        report.write(made, arguments.json)
    if arguments.plot is not None:
        print(f"picture: {plots.draw(made, arguments.plot)}")
    if before is not None:
        changes = report.compare(made, before)
        console.print(report.change_table(changes), highlight=False)
        return [change.name for change in changes if change.verdict == "slower"]
    return []


def _choose(device: str) -> None:
    """What JAX computes on from now on."""
    try:
        jax.config.update("jax_platforms", device)
        found = jax.default_backend()
    except RuntimeError as error:
        raise UsageError(f"device: JAX finds no {device!r} here ({one_line(error, 100)})") from error
    if found != {"cuda": "gpu", "rocm": "gpu"}.get(device, device):
        raise UsageError(f"device: JAX has already begun on {found}; start anew with JAX_PLATFORMS={device}")


def _check(arguments: argparse.Namespace, before: report.Report | None) -> None:
    """What would else be found after minutes of measuring."""
    names = {case.name for case in suite(arguments.suite, arguments.quick, arguments.only)}
    if before is not None and names.isdisjoint(row.name for row in before.rows):
        raise UsageError(f"{arguments.compare}: holds none of the {len(names)} cases asked for")
    for path in (arguments.json, arguments.plot):
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise UsageError(f"{path}: its folder does not exist or cannot be written to")
    if arguments.plot is not None:
        plots.check_suffix(arguments.plot)
    if arguments.trace is not None:
        _make(arguments.trace)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {(error.strerror or str(error)).lower()}") from error
