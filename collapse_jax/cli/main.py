"""The command line. Nothing heavy is imported before a command needs it: `--help` answers at once."""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from collapse_jax import __version__
from collapse_jax.bench import arguments as options
from collapse_jax.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

_OVERRIDES = """\
Every key of CONFIG can be given as a flag with its dotted path; list items are numbered from 0:

  --num-chains 100 --setting.source.pca 4 --policies.1 '{kind: window, k: 5}'

`collapse-jax run CONFIG --options` prints all flags of a config, `collapse-jax list` what it may name.
"""


class UnitsFailed(RuntimeError):
    """Some units of a sweep raised; the others are done."""


class PredictionsFailed(RuntimeError):
    """Chains that differ from what theory says."""


class Slower(RuntimeError):
    """Cases that take longer than they did, by more than noise."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: how schedulers announce that a machine will go."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse prints its usage and leaves, so that every mistake is told in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit status: 0; 1 where units or predictions failed, or a benchmark got slower; 2 after a user's mistake (one
      line on stderr); 130 after Ctrl-C and 143 after SIGTERM.
    """
    try:
        arguments, rest = _parser().parse_known_args(argv)
        if rest and not arguments.takes_overrides:
            raise UsageError(f"unrecognized arguments: {' '.join(rest)}")
        _load_plugins(arguments.plugin)
        arguments.command(arguments, rest)
    except Terminated:
        print("terminated: what was done is kept; the same command goes on", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("interrupted: what was done is kept; the same command goes on", file=sys.stderr)
        return 130
    except (UnitsFailed, PredictionsFailed, Slower) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `collapse-jax list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("collapse-jax", description="A laboratory for model collapse.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"collapse-jax {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Callable[..., None], line: str, **options: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=line, description=line, allow_abbrev=False, **options)
        made.set_defaults(command=function, takes_overrides=False)
        made.add_argument("--plugin", metavar="PARTS", action="append", default=[],
                          help="a module or a .py file that registers parts (may be given again)")  # fmt: skip
        return made

    raw = argparse.RawDescriptionHelpFormatter
    run = command("run", _run, "run the experiment of a config file", epilog=_OVERRIDES, formatter_class=raw)
    run.usage = "collapse-jax run CONFIG [--out DIR] [--plugin PARTS] [--shard I/N] [--engine E] [--KEY VALUE ...]"
    run.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file")
    run.add_argument("--out", metavar="DIR", help="a folder or a bucket's URL; a run begun there is gone on with "
                     "(default: results/<name>)")  # fmt: skip
    run.add_argument("--shard", metavar="I/N", help="do the I-th (from 0) of N parts; auto: read from the environment")
    run.add_argument("--engine", metavar="E", default="local", help="local, ray (a cluster) or slurm (jobs)")
    run.add_argument("--jobs", metavar="N", type=int, default=8, help="jobs of the engine slurm")
    run.add_argument("--slurm", metavar="KEY=VALUE", action="append", default=[],
                     help="a parameter of submitit, such as slurm_partition=...")  # fmt: skip
    run.add_argument("--repair", action="store_true", help="look for damaged results, and do them again")
    run.add_argument("--options", action="store_true", help="print every flag that CONFIG can be changed by, and leave")
    run.set_defaults(takes_overrides=True)
    init = command("init", _init, "write a commented config of a setting, to begin with")
    init.add_argument("setting", metavar="SETTING", nargs="?", default="gaussian", help="its name (default: gaussian)")
    init.add_argument("--out", metavar="FILE", type=Path, help="the config (default: SETTING.yaml)")
    plan = command("plan", _plan, "print what a run would do: units, compiles, bytes and time", epilog=_OVERRIDES,
                   formatter_class=raw)  # fmt: skip
    plan.usage = "collapse-jax plan CONFIG [--plugin PARTS] [--KEY VALUE ...]"
    plan.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file")
    plan.set_defaults(takes_overrides=True)
    verify = command("verify", _verify, "hold chains to every prediction of theory about them")
    verify.add_argument("--setting", metavar="NAME", action="append", help="only this setting (may be given again)")
    command("list", _list, "list settings, policies, sources and metrics")
    compare = command("compare", _compare, "run the strategies of configs, and put them side by side")
    compare.add_argument("config", metavar="CONFIG", type=Path, nargs="+", help="a YAML file, or a finished folder")
    compare.add_argument("--out", metavar="FILE", type=Path, help="the picture (default: compare.png in the results)")
    show = command("show", _show, "print the config, the origin and the table of a run")
    plot = command("plot", _plot, "draw the picture of a run")
    report = command("report", _write_report, "write the report of a run, one HTML page; also while it runs")
    for reader in (show, plot, report):
        reader.add_argument("dir", metavar="DIR", help="a results folder, or a bucket's URL")
    plot.add_argument("--out", metavar="FILE", type=Path, help="the picture (default: DIR/metrics.png)")
    report.add_argument("--out", metavar="FILE", type=Path, help="the page (default: DIR/report.html)")
    report.add_argument("--watch", metavar="SECONDS", type=float, nargs="?", const=10.0,
                        help="look again every so many seconds (default: 10) until the run is finished")  # fmt: skip
    export = command("export", _export, "write the results of a run as one parquet table")
    export.add_argument("dir", metavar="DIR", help="a results folder, or a bucket's URL")
    export.add_argument("--out", metavar="FILE", type=Path, help="the table (default: DIR/results.parquet)")
    completion = command("completion", _completion, "print the script by which a shell completes this command line")
    completion.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    options.add(command("bench", _bench, "measure how fast chains run here, beside what this machine could do"))
    return parser


def _plugin_flags(arguments: argparse.Namespace) -> list[str]:
    """Return the flags by which another process loads the same plugins."""
    return [word for plugin in arguments.plugin for word in ("--plugin", plugin)]


def _load_plugins(plugins: list[str]) -> None:
    if plugins:
        from collapse_jax.core import registry

        for plugin in plugins:
            registry.load_plugin(plugin)


def _run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from collapse_jax import config

    experiment = config.load(arguments.config, overrides)
    if arguments.options:
        from collapse_jax.config import template

        template.print_flags(experiment, arguments.config)
        return
    out = arguments.out or Path("results") / arguments.config.stem
    _cache_compiled_programs()
    from collapse_jax.cli import launch
    from collapse_jax.execution.progress import show_run_progress

    with _as_interrupt(signal.SIGTERM), show_run_progress() as progress:
        words = [str(arguments.config), "--out", str(out), *_plugin_flags(arguments), *overrides]
        outcome = launch.launch(experiment, out, arguments, words, progress)
    _report(out, outcome)


def _compare(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Runs what is not yet there, under results/<name>."""
    from collapse_jax import results
    from collapse_jax.reporting import plot_strategies, tables

    for path in arguments.config:
        if path.suffix in (".yaml", ".yml") and main(["run", str(path), *_plugin_flags(arguments)]) != 0:
            raise UnitsFailed(f"{path}: its run did not finish")
    places = [Path("results") / path.stem if path.suffix in (".yaml", ".yml") else path for path in arguments.config]
    datasets = [results.open(place) for place in places]
    _console().print(tables.render_strategies(datasets))
    picture = arguments.out or (places[0] if len(places) == 1 else places[0].parent) / "compare.png"
    print(f"picture: {_drawn(plot_strategies.plot, datasets, picture)}")


def _report(out: Any, outcome: Any) -> None:
    """The tables, where everything is, and what went wrong."""
    from collapse_jax import results
    from collapse_jax.reporting import run_summary

    console = _console()
    for words in outcome.repaired:
        console.print(f"repaired: unit {words}", soft_wrap=True, markup=False)
    if outcome.complete:
        seen = run_summary.show(out, console, is_new=bool(outcome.seconds))
        console.print(f"results: {results.store_path(out)}", soft_wrap=True)
        for page in seen:
            console.print(f"{'samples' if 'samples' in Path(page).name else 'picture'}: {page}", soft_wrap=True)
        console.print(f"a page to look closer: collapse-jax report {out}", soft_wrap=True)
    else:
        console.print(f"results so far: {results.store_path(out)}", soft_wrap=True)
    for unit, error in outcome.failures:
        print(f"unit {unit} failed: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
    if outcome.failures:
        raise UnitsFailed(f"{len(outcome.failures)} units failed; the others are done: run again to retry")


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from rich.table import Table

    from collapse_jax import config
    from collapse_jax.execution import estimate

    experiment = config.load(arguments.config, overrides)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("program", "units", "lanes", "width", "MB a block", "est. s"):
        table.add_column(name, justify="left" if name == "program" else "right")
    rows, total = estimate.estimate_sweep(experiment.grid(), experiment.options())
    for row in rows:
        table.add_row(
            row.name,
            f"{row.units}",
            f"{row.chains:,}",
            f"{row.chains_per_block:,}",
            f"{row.megabytes:,.1f}",
            f"{row.seconds:,.1f}",
        )
    console = _console()
    console.print(table)
    console.print(total, soft_wrap=True)


def _export(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax import results
    from collapse_jax.results.variables import array_variables

    table, ds = arguments.out or _beside(arguments.dir, "results.parquet"), results.open(arguments.dir)
    print(f"table: {results.to_parquet(ds, table)}")
    if left_out := array_variables(ds):
        print(f"left out, since their values are arrays: {', '.join(left_out)}")


def _beside(place: str, name: str) -> Path:
    """A file in a results folder; in the current one where the results are in a bucket."""
    if "://" in place:
        return Path(name)
    folder = Path(place)
    return (folder.parent if folder.suffix == ".zarr" else folder) / name


@contextlib.contextmanager
def _as_interrupt(number: int) -> Iterator[None]:
    """A signal as Ctrl-C, so that what is being written is finished or left out."""

    def stop(*_: Any) -> NoReturn:
        raise Terminated

    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)


def _list(arguments: argparse.Namespace, rest: list[str]) -> None:
    from rich.text import Text

    from collapse_jax.config import schema

    console = _console()
    headings = {"setting": "settings", "policy": "policies", "curator": "curators", "source": "sources",
                "symbols": "laws of symbols", "text": "texts", "objective": "objectives of encoders"}  # fmt: skip
    for group, heading in headings.items():
        console.print(heading, style="bold")
        for spec in schema.spec_types(group):
            line = (spec.__doc__ or "").partition("\n")[0]
            console.print(Text.assemble("  ", (schema.usage(spec), "cyan"), f"  {line}"), soft_wrap=True)
            for metric in schema.metrics_of(spec) if group == "setting" else ():
                words = f"{metric.name}  {metric.long_name} ({metric.units}; {metric.source})"
                console.print(Text(f"      {words}"), soft_wrap=True)


def _verify(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax.analysis import theory_check
    from collapse_jax.reporting import tables

    _cache_compiled_programs()
    start = time.monotonic()
    rows = theory_check.verify(arguments.setting, lambda name: print(f"simulating {name}", file=sys.stderr, flush=True))
    failed, looks = theory_check.failures(rows), sum(row.looks for row in rows)
    console = _console()
    console.print(tables.render_checks(rows))
    console.print(
        f"{len(rows)} predictions, {looks} looks in {time.monotonic() - start:.0f} s; each row is its worst look. "
        f"|z| may be {theory_check.limit(rows):.2f}: true predictions fail all together with probability "
        f"{theory_check.FALSE_ALARMS:g} (Bonferroni).",
        soft_wrap=True,
        highlight=False,
    )
    if failed:
        raise PredictionsFailed(f"{len(failed)} of {len(rows)} predictions differ from the chains")


def _bench(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax.bench import command

    if slower := command.bench(arguments, _console()):
        raise Slower(f"slower than before, beyond machine and noise: {', '.join(slower)}")


def _show(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax import results
    from collapse_jax.reporting import tables

    ds = results.open(arguments.dir)
    console = _console()
    console.print(str(ds.attrs.pop("config", "")), markup=False, highlight=False, soft_wrap=True)
    width = max(map(len, ds.attrs), default=0)
    for name, value in ds.attrs.items():
        console.print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)
    console.print(tables.render_summary(ds))
    console.print(tables.render_verdicts(ds))


def _plot(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax import results
    from collapse_jax.reporting import plot_curves, plot_images
    from collapse_jax.results.variables import select_scalars

    ds = results.open(arguments.dir)
    has_images = plot_images.has_images(ds) and not arguments.out
    pictures = {}
    if select_scalars(ds) or not has_images:
        pictures[arguments.out or _beside(arguments.dir, results.PICTURE)] = plot_curves.plot
    if has_images:
        pictures[_beside(arguments.dir, plot_images.PICTURE)] = plot_images.plot_samples
    for picture, draw in pictures.items():
        print(f"picture: {_drawn(draw, ds, picture)}")


def _drawn(draw: Callable[[Any, Path], Path], data: Any, picture: Path) -> Path:
    """Where a picture now is."""
    try:
        return draw(data, picture)
    except OSError as error:
        raise UsageError(f"{picture}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def _write_report(arguments: argparse.Namespace, rest: list[str]) -> None:
    seconds = arguments.watch
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UsageError(f"--watch: must be seconds above 0, not {seconds:g}")
    from collapse_jax import results
    from collapse_jax.reporting import html

    page = arguments.out or _beside(arguments.dir, html.PAGE)
    if seconds is None:
        print(f"report: {html.write(results.open(arguments.dir), page)}")
        return
    for share in html.watch(arguments.dir, page, seconds):
        print(f"report: {page}, {share} done", flush=True)


def _init(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax.config import template

    print(f"config: {template.write(arguments.setting, arguments.out)}")


def _completion(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax.cli import completion

    print(completion.script(_parser(), arguments.shell))


def _console() -> "Console":
    """Standard output; as wide as its lines where no terminal limits it."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def _cache_compiled_programs() -> None:
    """Keeps XLA's programs between runs in the user's cache folder, unless the user chose a place for them."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collapse_jax" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
