"""The parser of the command line. It imports nothing heavy, so that ``--help`` answers at once."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from collapse_jax import __version__
from collapse_jax.bench.arguments import add_bench_arguments
from collapse_jax.cli.signals import GRACE
from collapse_jax.core.errors import UsageError

_OVERRIDES = """\
Every key of CONFIG can be given as a flag with its dotted path; list items are numbered from 0:

  --num-chains 100 --setting.source.pca 4 --policies.1 '{kind: window, k: 5}'

`collapse-jax run CONFIG --options` prints all flags of a config; `collapse-jax list` prints what a config may name.
"""
_CACHE = """\
Compiled programs are kept in ~/.cache/collapse_jax/xla (or below XDG_CACHE_HOME), at most 256 MiB of them;
JAX_COMPILATION_CACHE_DIR names another folder, and JAX_ENABLE_COMPILATION_CACHE=0 keeps none.
"""


class Parser(argparse.ArgumentParser):
    """A parser that raises a ``UsageError`` of one line where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a ``UsageError``."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the parsed ``command`` is a name, ``takes_overrides`` a flag."""
    parser = Parser("collapse-jax", description="A laboratory for model collapse.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"collapse-jax {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add_command(name: str, line: str, **options: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=line, description=line, allow_abbrev=False, **options)
        command.set_defaults(command=name, takes_overrides=False)
        command.add_argument("--plugin", metavar="PARTS", action="append", default=[],
                             help="a module or a .py file that registers parts (may be given again)")  # fmt: skip
        return command

    def add_config_command(name: str, line: str, usage: str, epilog: str) -> argparse.ArgumentParser:
        formatter = argparse.RawDescriptionHelpFormatter
        command = add_command(name, line, epilog=epilog, formatter_class=formatter, usage=usage)
        command.add_argument("config", metavar="CONFIG", type=Path, help="the YAML file of an experiment")
        command.set_defaults(takes_overrides=True)
        return command

    usage = "collapse-jax run CONFIG [--out DIR] [--plugin PARTS] [--shard I/N] [--engine E] [--KEY VALUE ...]"
    _add_run_arguments(
        add_config_command("run", "run the experiment of a config file", usage, f"{_OVERRIDES}\n{_CACHE}")
    )
    init = add_command("init", "write a commented config of a setting to begin with")
    init.add_argument("setting", metavar="SETTING", nargs="?", default="gaussian",
                      help="the name of the setting (default: gaussian)")  # fmt: skip
    init.add_argument("--out", metavar="FILE", type=Path, help="the file to write (default: SETTING.yaml)")
    line = "print what a run would do: its units, programs, memory and time"
    add_config_command("plan", line, "collapse-jax plan CONFIG [--plugin PARTS] [--KEY VALUE ...]", _OVERRIDES)
    verify = add_command("verify", "compare chains with every prediction of theory about them", epilog=_CACHE)
    verify.add_argument("--setting", metavar="NAME", action="append",
                        help="check this setting only (may be given again)")  # fmt: skip
    add_command("list", "list settings, policies, sources and metrics")
    compare = add_command("compare", "run the strategies of several configs and compare them in one table")
    compare.add_argument("config", metavar="CONFIG", type=Path, nargs="+", help="a YAML file, or a finished folder")
    compare.add_argument("--out", metavar="FILE", type=Path,
                         help="the picture to write (default: compare.png in the results folder)")  # fmt: skip
    _add_reader_arguments(
        show=add_command("show", "print the config, the provenance and the table of a run"),
        plot=add_command("plot", "draw the picture of a run"),
        report=add_command("report", "write a report of a run as one HTML page; the run may still be going on"),
        export=add_command("export", "write the results of a run as one parquet table"),
    )
    completion = add_command("completion", "print a script with which a shell completes this command line")
    completion.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    add_bench_arguments(add_command("bench", "measure how fast chains run here, and how fast this machine could be"))
    return parser


def _add_run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--out",
        metavar="DIR",
        help="a folder or a bucket's URL; an unfinished run there is resumed (default: results/<name of CONFIG>)",
    )
    run.add_argument(
        "--shard",
        metavar="I/N",
        help="do the I-th (from 0) of N parts of the work; auto reads the part from the environment",
    )
    run.add_argument("--engine", metavar="E", default="local",
                     help="where to compute: local, ray (a cluster) or slurm (jobs)")  # fmt: skip
    run.add_argument("--jobs", metavar="N", type=int, default=8, help="the number of jobs of the engine slurm")
    run.add_argument(
        "--slurm",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a parameter of submitit, such as slurm_partition=... (may be given again)",
    )
    run.add_argument("--repair", action="store_true", help="look for damaged results and compute them again")
    run.add_argument(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=GRACE,
        help=f"seconds in which SIGTERM and Ctrl-C end the run, whatever it is at (default {GRACE:g}); twice: at once",
    )
    run.add_argument(
        "--mixed-versions",
        action="store_true",
        help="go on with results that other versions, plugins, flags of JAX or devices began",
    )
    run.add_argument("--options", action="store_true", help="print every flag that changes a value of CONFIG, and stop")


def _add_reader_arguments(
    show: argparse.ArgumentParser,
    plot: argparse.ArgumentParser,
    report: argparse.ArgumentParser,
    export: argparse.ArgumentParser,
) -> None:
    for reader in (show, plot, report, export):
        reader.add_argument("dir", metavar="DIR", help="a results folder, or a bucket's URL")
    plot.add_argument("--out", metavar="FILE", type=Path, help="the picture to write (default: DIR/metrics.png)")
    report.add_argument("--out", metavar="FILE", type=Path, help="the page to write (default: DIR/report.html)")
    report.add_argument(
        "--watch",
        metavar="SECONDS",
        type=float,
        nargs="?",
        const=10.0,
        help="write the page again every so many seconds (default: 10) until the run is finished",
    )
    export.add_argument("--out", metavar="FILE", type=Path, help="the table to write (default: DIR/results.parquet)")
