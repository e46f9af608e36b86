"""Run the command ``collapse-jax bench``."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from collapse_jax.bench import plots, report
from collapse_jax.bench.run import measure_suite
from collapse_jax.bench.suites import select_cases
from collapse_jax.core.errors import UsageError, explain_write_errors
from collapse_jax.core.validation import one_line

if TYPE_CHECKING:
    from rich.console import Console


def run_bench_command(arguments: argparse.Namespace, console: "Console") -> list[str]:
    """Measure a suite, print the tables, and write the files that were asked for.

    Returns:
      The names of cases that are slower than in the file of ``--compare``, beyond machine and noise.

    Raises:
      UsageError: an unknown suite or case, a device that is not there, a file that cannot be read or written; before
        anything is measured.
    """
    if arguments.device is not None:
        _choose_device(arguments.device)
    before = None if arguments.compare is None else report.read_json(arguments.compare)
    _check_arguments(arguments, before)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are times of compiling
    measured = measure_suite(
        arguments.suite, arguments.only, arguments.quick, arguments.scaling, arguments.trace, _print_progress
    )
    for renderable in report.render_report(measured):
        console.print(renderable, highlight=False, soft_wrap=isinstance(renderable, str))
    if arguments.json is not None:
        report.write_json(measured, arguments.json)
    if arguments.plot is not None:
        print(f"picture: {plots.plot_report(measured, arguments.plot)}")
    if before is not None:
        changes = report.compare_reports(measured, before)
        console.print(report.render_changes(changes), highlight=False)
        return [change.name for change in changes if change.verdict == "slower"]
    return []


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _choose_device(device: str) -> None:
    """Choose the platform on which JAX computes from now on."""
    try:
        jax.config.update("jax_platforms", device)
        platform = jax.default_backend()
    except RuntimeError as error:
        raise UsageError(f"--device: JAX finds no {device!r} on this machine ({one_line(error, 100)})") from error
    if platform != {"cuda": "gpu", "rocm": "gpu"}.get(device, device):
        raise UsageError(f"--device: JAX has already begun on {platform}; start again with JAX_PLATFORMS={device}")


def _check_arguments(arguments: argparse.Namespace, before: report.BenchReport | None) -> None:
    """Refuse what would otherwise fail after minutes of measuring."""
    names = {case.name for case in select_cases(arguments.suite, arguments.quick, arguments.only)}
    if before is not None and names.isdisjoint(timing.name for timing in before.timings):
        raise UsageError(f"{arguments.compare}: holds none of the {len(names)} cases asked for")
    for path in (arguments.json, arguments.plot):
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise UsageError(f"{path}: its folder does not exist or cannot be written to")
    if arguments.plot is not None:
        plots.check_suffix(arguments.plot)
    if arguments.trace is not None:
        _make_folder(arguments.trace)


def _make_folder(folder: Path) -> None:
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
