"""The command line. A command imports what it needs when it runs, so that ``--help`` answers at once."""

import argparse
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_jax.cli.arguments import make_parser
from collapse_jax.cli.failures import explain_failure
from collapse_jax.cli.signals import Terminated, announce_end, end_in_time
from collapse_jax.core.errors import UsageError, explain_write_errors

if TYPE_CHECKING:
    from rich.console import Console

    from collapse_jax.cli.launch import LaunchOptions

_CONFIG_SUFFIXES = (".yaml", ".yml")


class UnitsFailed(RuntimeError):
    """Some units of a sweep raised an error; the others are done."""


class PredictionsFailed(RuntimeError):
    """Some chains differ from what theory predicts."""


class Slower(RuntimeError):
    """Some cases take longer than before, by more than noise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
      The exit status: 0; 1 where units or predictions failed, or a benchmark got slower; 2 after a user's mistake (one
      line on stderr); 130 after Ctrl-C and 143 after SIGTERM. Any other error is a bug and keeps its traceback.
    """
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # without the line of ours that warns
    try:
        arguments, rest = make_parser().parse_known_args(argv)
        if rest and not arguments.takes_overrides:
            raise UsageError(f"unrecognized arguments: {' '.join(rest)}")
        _load_plugins(arguments.plugin)
        COMMANDS[arguments.command](arguments, rest)
    except Terminated:
        announce_end(signal.SIGTERM)
        return 143
    except KeyboardInterrupt:
        announce_end(signal.SIGINT)
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
    except Exception as error:
        if (line := explain_failure(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    return 0


def _load_plugins(plugins: Sequence[str]) -> None:
    if plugins:
        from collapse_jax.core import registry

        for plugin in plugins:
            registry.load_plugin(plugin)


def _run_config(arguments: argparse.Namespace, overrides: list[str]) -> None:
    with end_in_time(arguments.grace):  # imports take seconds, too
        _run_in_time(arguments, overrides)


def _run_in_time(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from collapse_jax import config

    out = arguments.out or _default_folder(arguments.config)
    if os.path.isdir(Path(str(out)) / "results.zarr"):  # False where that can be no path
        from collapse_jax.cli.launch import refuse_missing_plugins

        refuse_missing_plugins(out)  # before its config is found to name unknown parts
    experiment = config.load(arguments.config, overrides)
    if arguments.options:
        return _print_flags(experiment, arguments.config)
    from collapse_jax import results
    from collapse_jax.cli.launch import LaunchOptions

    results.require_place(out)

    plugins = tuple(arguments.plugin)
    options = LaunchOptions(
        arguments.engine, arguments.shard, arguments.repair, arguments.mixed_versions, arguments.jobs,
        tuple(arguments.slurm), plugins,
    )  # fmt: skip
    _run_experiment(experiment, arguments.config, arguments.out, options, overrides)


def _run_experiment(
    experiment: Any, config_path: Path, out: Any, options: "LaunchOptions", overrides: Sequence[str] = ()
) -> None:
    """Run an experiment and show its results; `out` is by default a folder named after the config."""
    from collapse_jax.cli.launch import launch
    from collapse_jax.cli.program_cache import keep_compiled_programs
    from collapse_jax.execution.progress import show_run_progress

    out = out or _default_folder(config_path)
    keep_compiled_programs()
    with show_run_progress() as progress_callback:
        plugins = [word for plugin in options.plugins for word in ("--plugin", plugin)]
        mixed = ["--mixed-versions"] * options.mixed_versions
        command = [str(config_path), "--out", str(out), *mixed, *plugins, *overrides]
        outcome = launch(experiment, out, options, command, progress_callback)
    _show_outcome(out, outcome)


def _default_folder(config_path: Path) -> Path:
    return Path("results") / config_path.stem


def _show_outcome(out: Any, outcome: Any) -> None:
    """Print the tables of a run, where its files are, and what failed.

    Raises:
      UnitsFailed: some units raised an error.
    """
    from collapse_jax import results
    from collapse_jax.reporting import run_summary

    console = _make_console()
    for unit in outcome.repaired:
        console.print(f"repaired: {unit}", soft_wrap=True, markup=False)
    if outcome.complete:
        pages = run_summary.show_run(out, console, is_new=bool(outcome.seconds))
        console.print(f"results: {results.store_path(out)}", soft_wrap=True)
        for page in pages:
            console.print(f"{'samples' if 'samples' in Path(page).name else 'picture'}: {page}", soft_wrap=True)
        console.print(f"for an HTML page with more detail: collapse-jax report {out}", soft_wrap=True)
    else:
        console.print(f"results so far: {results.store_path(out)}", soft_wrap=True)
    for note in dict.fromkeys(note for _, error in outcome.failures for note in getattr(error, "__notes__", ())):
        print(f"Traceback of a failed unit (most recent call last):\n{note}", file=sys.stderr, end="")
    for unit, error in outcome.failures:
        print(f"unit {unit} failed: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
    if outcome.failures:
        raise UnitsFailed(
            f"{len(outcome.failures)} units failed and the others are done; run the same command again to retry"
        )


def _print_flags(experiment: Any, config_path: Path) -> None:
    from rich.text import Text

    from collapse_jax.config.flags import list_flags

    console = _make_console()
    console.print(f"flags of collapse-jax run {config_path}", soft_wrap=True, markup=False, highlight=False)
    for flag in list_flags(experiment):
        console.print(Text.assemble("  ", (flag.name, "cyan"), f" {flag.value}"), soft_wrap=True)
        console.print(Text(f"      {flag.description}"), soft_wrap=True)


def _compare_runs(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Run the configs that have no results yet, under results/<name>, and compare all strategies."""
    from collapse_jax import config, results
    from collapse_jax.cli.launch import LaunchOptions
    from collapse_jax.reporting import plot_strategies, tables

    configs = {path: config.load(path) for path in arguments.config if path.suffix in _CONFIG_SUFFIXES}
    with end_in_time():
        for path, experiment in configs.items():
            _run_experiment(experiment, path, None, LaunchOptions(plugins=tuple(arguments.plugin)))
    folders = [_default_folder(path) if path in configs else path for path in arguments.config]
    datasets = [results.open(folder) for folder in folders]
    console = _make_console()
    console.print(tables.render_strategies(datasets))
    differences = tables.render_run_differences(datasets, [Path(str(folder)).name for folder in folders])
    if differences is not None:
        console.print(differences)
    picture = arguments.out or (folders[0] if len(folders) == 1 else folders[0].parent) / "compare.png"
    with explain_write_errors(picture):
        print(f"picture: {plot_strategies.plot_strategies(datasets, picture)}")


def _plan_run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from rich.table import Table

    from collapse_jax import config
    from collapse_jax.execution.estimate import estimate_sweep

    experiment = config.load(arguments.config, overrides)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("program", "units", "chains", "chains a block", "MB a block", "estimated s"):
        table.add_column(name, justify="left" if name == "program" else "right")
    estimates, total = estimate_sweep(experiment.grid(), experiment.options())
    for row in estimates:
        table.add_row(
            row.name,
            f"{row.units}",
            f"{row.chains:,}",
            f"{row.chains_per_block:,}",
            f"{row.megabytes:,.1f}",
            f"{row.seconds:,.1f}",
        )
    console = _make_console()
    console.print(table)
    console.print(total, soft_wrap=True)


def _export_table(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax import results
    from collapse_jax.results.variables import array_variables

    table, ds = arguments.out or _path_in_results(arguments.dir, "results.parquet"), results.open(arguments.dir)
    with explain_write_errors(table):
        print(f"table: {results.to_parquet(ds, table)}")
    if left_out := array_variables(ds):
        print(f"these metrics are left out, since their values are arrays: {', '.join(left_out)}")


def _path_in_results(place: str, name: str) -> Path:
    """Return the path of a file in a results folder, or in the current one where the results are in a bucket."""
    if "://" in place:
        return Path(name)
    folder = Path(place)
    return (folder.parent if folder.suffix == ".zarr" else folder) / name


def _list_parts(arguments: argparse.Namespace, rest: list[str]) -> None:
    from rich.text import Text

    from collapse_jax.config import schema

    console = _make_console()
    headings = {
        "setting": "settings",
        "policy": "policies",
        "curator": "curators",
        "source": "sources",
        "symbols": "laws of symbols",
        "text": "texts",
        "objective": "objectives of encoders",
    }
    for group, heading in headings.items():
        console.print(heading, style="bold")
        for spec in schema.spec_types(group):
            line = (spec.__doc__ or "").partition("\n")[0]
            console.print(Text.assemble("  ", (schema.usage(spec), "cyan"), f"  {line}"), soft_wrap=True)
            if group != "setting":
                continue
            for preset, sizes in _describe_presets(spec.kind).items():
                console.print(Text(f"      {preset}  {sizes}"), soft_wrap=True)
            for metric in schema.metrics_of(spec):
                about = f"({metric.units}; {metric.source}{'' if metric.default else '; not by default'})"
                console.print(Text(f"      {metric.name}  {metric.long_name} {about}"), soft_wrap=True)


def _describe_presets(kind: str) -> dict[str, str]:
    """Return the presets of a setting with their sizes in words."""
    if kind != "language_model":
        return {}
    from collapse_jax.training.nets.transformer import PRESETS, describe_size

    return {f"model={name!r}": describe_size(size) for name, size in PRESETS.items()}


def _verify_theory(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax.analysis import theory_check
    from collapse_jax.cli.program_cache import keep_compiled_programs
    from collapse_jax.reporting import tables

    def announce(name: str) -> None:
        print(f"simulating {name}", file=sys.stderr, flush=True)

    keep_compiled_programs()
    start = time.monotonic()
    checks = theory_check.check_theory(arguments.setting, announce)
    failed, num_tests = theory_check.find_failures(checks), sum(check.num_tests for check in checks)
    console = _make_console()
    console.print(tables.render_checks(checks))
    console.print(
        f"{len(checks)} predictions, {num_tests} tests in {time.monotonic() - start:.0f} s; each row is the worst test "
        f"of one prediction. A prediction fails where |z| is above {theory_check.z_limit(checks):.2f}: if all are "
        f"true, the probability that any of them fails is {theory_check.FALSE_ALARMS:g} (Bonferroni).",
        soft_wrap=True,
        highlight=False,
    )
    if failed:
        raise PredictionsFailed(f"{len(failed)} of {len(checks)} predictions differ from the chains")


def _run_benchmark(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax.bench.command import run_bench_command

    if slower := run_bench_command(arguments, _make_console()):
        raise Slower(f"these cases are slower than before, beyond machine and noise: {', '.join(slower)}")


def _show_run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax import results
    from collapse_jax.reporting import tables

    ds = results.open(arguments.dir)
    console = _make_console()
    console.print(str(ds.attrs.pop("config", "")), markup=False, highlight=False, soft_wrap=True)
    width = max(map(len, ds.attrs), default=0)
    for name, value in ds.attrs.items():
        console.print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)
    console.print(tables.render_summary(ds))
    console.print(tables.render_verdicts(ds))


def _plot_run(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax import results
    from collapse_jax.reporting import plot_curves, plot_images
    from collapse_jax.results.variables import select_scalars

    ds = results.open(arguments.dir)
    has_images = plot_images.has_images(ds) and not arguments.out
    pictures = {}
    if select_scalars(ds) or not has_images:
        pictures[arguments.out or _path_in_results(arguments.dir, results.PICTURE)] = plot_curves.plot_curves
    if has_images:
        pictures[_path_in_results(arguments.dir, plot_images.PICTURE)] = plot_images.plot_samples
    for picture, plot in pictures.items():
        with explain_write_errors(picture):
            print(f"picture: {plot(ds, picture)}")


def _write_report(arguments: argparse.Namespace, rest: list[str]) -> None:
    seconds = arguments.watch
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UsageError(f"--watch must be a number of seconds above 0, not {seconds:g}")
    from collapse_jax import results
    from collapse_jax.reporting import html

    page = arguments.out or _path_in_results(arguments.dir, html.PAGE)
    if seconds is None:
        print(f"report: {html.write_report(results.open(arguments.dir), page)}")
        return
    for share in html.watch_run(arguments.dir, page, seconds):
        print(f"report: {page}, {share} done", flush=True)


def _write_template(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax.config import template

    print(f"config: {template.write(arguments.setting, arguments.out)}")


def _print_completion(arguments: argparse.Namespace, rest: list[str]) -> None:
    from collapse_jax.cli.completion import make_completion_script

    print(make_completion_script(make_parser(), arguments.shell))


COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], None]] = {
    "run": _run_config,
    "init": _write_template,
    "plan": _plan_run,
    "verify": _verify_theory,
    "list": _list_parts,
    "compare": _compare_runs,
    "show": _show_run,
    "plot": _plot_run,
    "report": _write_report,
    "export": _export_table,
    "completion": _print_completion,
    "bench": _run_benchmark,
}


def _make_console() -> "Console":
    """Return standard output as a console, as wide as its lines where no terminal limits it."""
    from rich.console import Console

    # names and paths of users are shown as they are, whatever they hold: no markup, no emoji
    return Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 200)
