"""`collapse-jax bench`."""

import argparse
import sys
from typing import TYPE_CHECKING

import jax

from collapse_jax.bench import pictures, report, run

if TYPE_CHECKING:
    from rich.console import Console


def bench(arguments: argparse.Namespace, console: "Console") -> list[str]:
    """Measures, prints, writes what was asked for.

    Returns:
      The names of cases that are slower than in the file of ``--compare``, beyond machine and noise.
    """
    before = None if arguments.compare is None else report.read(arguments.compare)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are of compiling
    tell = lambda words: print(words, file=sys.stderr, flush=True)  # noqa: E731
    made = run.bench(arguments.suite, arguments.only, arguments.quick, arguments.scaling, arguments.trace, tell)
    for part in report.pages(made):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    if arguments.json is not None:
        report.write(made, arguments.json)
    if arguments.plot is not None:
        print(f"picture: {pictures.draw(made, arguments.plot)}")
    if before is not None:
        changes = report.compare(made, before)
        console.print(report.change_table(changes), highlight=False)
        return [change.name for change in changes if change.verdict == "slower"]
    return []
