"""Launch the units of a sweep: in this process, as one of n shards, on a Ray cluster or as Slurm jobs."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from collapse_jax import config, results
from collapse_jax.core import registry
from collapse_jax.core.errors import StoreError, UsageError, drop_frames, explain_write_errors
from collapse_jax.core.validation import one_line, require_choice, require_integer
from collapse_jax.execution import resumable
from collapse_jax.planning.block_functions import MAX_CONCURRENT_BLOCKS
from collapse_jax.planning.plan import Plan, make_plan
from collapse_jax.planning.units import Cut, Unit
from collapse_jax.results import store
from collapse_jax.results.provenance import describe_device, missing_plugins

ENGINES = ("local", "ray", "slurm")
# (index, count) of a worker, by who starts it; an index without a count does not say enough.
_SHARD_VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    ("TPU_WORKER_ID", "TPU_WORKER_COUNT"),
)


class LaunchError(UsageError):
    """A run cannot be launched in the way that the command line asks for."""


@dataclasses.dataclass(frozen=True)
class LaunchOptions:
    """Where the units of a run are computed, by the flags of ``collapse-jax run``.

    Attributes:
      engine: ``"local"``, ``"ray"`` or ``"slurm"``.
      shard: ``"I/N"``, the part of the work that this process does; ``"auto"`` reads it from the environment.
      repair: whether damaged results are looked for and computed again.
      mixed_versions: whether a store that other versions, plugins, flags or devices began is gone on with.
      jobs: the number of jobs of the engine slurm.
      slurm: parameters of submitit, each ``"KEY=VALUE"``.
      plugins: modules or files that register parts; workers of a cluster load them too.

    Raises:
      UsageError: an engine that does not exist, fewer than one job, or a parameter without a value.
    """

    engine: str = "local"
    shard: str | None = None
    repair: bool = False
    mixed_versions: bool = False
    jobs: int = 8
    slurm: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()

    def __post_init__(self):
        require_choice("--engine", self.engine, ENGINES)
        require_integer("--jobs", self.jobs, 1, 10**6)
        for parameter in self.slurm:
            if not parameter.partition("=")[0].isidentifier() or "=" not in parameter:
                raise LaunchError(f"--slurm must be KEY=VALUE, not {one_line(repr(parameter))}")


def launch(
    experiment: config.Experiment,
    out: Any,
    options: LaunchOptions,
    command: list[str],
    progress_callback: Callable[[resumable.RunProgress], None],
) -> resumable.Outcome:
    """Run what the store at `out` lacks.

    Args:
      experiment: the parsed config.
      out: a folder or a bucket's URL.
      options: where the units are computed.
      command: the arguments of the command ``collapse-jax run`` that does the same.
      progress_callback: is called as units and calls of their programs are done.

    Raises:
      LaunchError: the shard does not exist, or the engine cannot be started.
    """
    shard = parse_shard(options.shard, os.environ)
    text = config.dumps(experiment)
    is_local = not store.is_bucket(out)
    if not options.repair and resumable.is_finished(out, text):
        return resumable.Outcome([], True, [], {})
    if is_local and not store.store_exists(store.join_path(out, store.STORE)):
        _check_free(out)
    grid, sweep_options = experiment.grid(), experiment.options()
    if options.engine == "slurm":
        resumable.prepare_store(grid, sweep_options, out)
        _run_slurm_jobs(command, options, Path(out))
        shard = (0, 1)  # what a job that died has left over is done here
    engine = functools.partial(_run_on_ray, text, options.plugins) if options.engine == "ray" else None
    outcome = resumable.fill_store(
        grid, sweep_options, out, shard=shard, repair=options.repair, mixed_versions=options.mixed_versions,
        engine=engine, progress_callback=progress_callback,
    )  # fmt: skip
    if is_local:
        path = Path(out) / results.CONFIG
        with explain_write_errors(path):
            path.write_text(text, encoding="utf-8")
    return outcome


def refuse_missing_plugins(out: Any) -> None:
    """Raise ``LaunchError`` where the run at `out` needs plugins that are not loaded."""
    missing = missing_plugins(store.read_identity(store.join_path(out, store.STORE)))
    if missing is not None:
        raise LaunchError(f"{out}: {missing}")


def _check_free(out: Any) -> None:
    try:
        results.check_free(out)
    except StoreError:
        if not store.store_exists(store.join_path(out, store.STORE)):  # another shard may just have made it
            raise


def parse_shard(text: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return (index, count) of a shard: (2, 8) for ``"2/8"``.

    ``"auto"`` asks the variables of Slurm, indexed Kubernetes jobs and TPU workers, then JAX.

    Raises:
      LaunchError: there is no such shard.
    """
    if text is None:
        return 0, 1
    if text == "auto":
        return _find_shard(environment)
    if re.fullmatch(r"\d{1,9}/\d{1,9}", text, re.ASCII) is None:
        raise LaunchError(f"--shard must be I/N with 0 <= I < N < 10**9, or auto, not {one_line(repr(text))}")
    index, _, count = text.partition("/")
    if int(index) >= int(count):
        raise LaunchError(f"--shard must be I/N with 0 <= I < N, or auto, not {text!r}")
    return int(index), int(count)


def _find_shard(environment: Mapping[str, str]) -> tuple[int, int]:
    for index_name, count_name in _SHARD_VARIABLES:
        if index_name in environment and count_name in environment:
            first_name = "SLURM_ARRAY_TASK_MIN" if "ARRAY" in index_name else ""
            texts = environment[index_name], environment[count_name], environment.get(first_name, "0")
            if not all(re.fullmatch(r"\d{1,9}", text, re.ASCII) for text in texts):
                raise LaunchError(f"--shard auto: {index_name} and {count_name} must be whole numbers, not {texts[:2]}")
            index, count, first = map(int, texts)
            if not 0 <= index - first < count:
                raise LaunchError(f"--shard auto: {index_name}={index} is not one of {count_name}={count}")
            return index - first, count
    import jax

    return jax.process_index(), jax.process_count()


@functools.lru_cache(maxsize=1)
def _worker_runner(text: str, plugins: tuple[str, ...], cuts: tuple[Cut, ...]) -> Any:
    """Return the runner of a worker's process, which is kept between its units."""
    import yaml

    from collapse_jax.execution.runner import Runner

    for plugin in plugins:
        registry.load_plugin(plugin)
    experiment = config.from_dict(yaml.safe_load(text))
    plan = make_plan(experiment.grid(), experiment.options(), cuts)
    return Runner(plan, _ignore_progress)


def _ignore_progress(chain_generations: int) -> None:
    """Take a worker's progress and do nothing: the process that writes counts whole units."""


def compute_unit(text: str, plugins: tuple[str, ...], cuts: tuple[Cut, ...], number: int) -> Any:
    """Return the values of one unit of an experiment's plan and their device, or the exception that it raised."""
    import jax
    import yaml

    try:
        with jax.enable_x64(yaml.safe_load(text)["precision"] == "float64"):
            runner = _worker_runner(text, plugins, cuts)
            return runner.run_unit(runner.plan.units[number]), describe_device()
    except Exception as error:
        return drop_frames(error)


def _run_on_ray(text: str, plugins: tuple[str, ...], plan: Plan, units: list[Unit]) -> Iterator[tuple[Unit, Any]]:
    """Yield units as Ray tasks return them; this process alone writes. Ray repeats a task whose worker died."""
    try:
        import ray
    except ImportError as error:
        raise LaunchError("--engine ray needs an optional package: pip install 'collapse-jax[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address="auto" if "RAY_ADDRESS" in os.environ else None, log_to_driver=False)
        except ConnectionError as error:
            raise LaunchError(f"--engine ray: no cluster answers at RAY_ADDRESS ({one_line(error, 100)})") from error
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    cores = min((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
    cpus = 1 if gpus else max(min(int(cores), MAX_CONCURRENT_BLOCKS), 1)  # as many as a unit makes use of
    task = ray.remote(max_retries=5, num_gpus=gpus, num_cpus=cpus)(compute_unit)
    numbers = {unit.name: i for i, unit in enumerate(plan.units)}
    waiting = {task.remote(text, plugins, plan.cuts, numbers[unit.name]): unit for unit in units}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        unit = waiting.pop(ready)
        try:
            yield unit, ray.get(ready)
        except ray.exceptions.RayError as error:
            yield unit, RuntimeError(f"the worker died five times: {one_line(error, 200)}")


def _run_command(command: list[str]) -> None:
    """Run a command; this is what a Slurm job does."""
    subprocess.run(command, check=True)


def _run_slurm_jobs(command: list[str], options: LaunchOptions, out: Path) -> None:
    """Run an array of jobs, each a shard of the same command, through submitit, and wait for them."""
    try:
        import submitit
    except ImportError as error:
        raise LaunchError("--engine slurm needs an optional package: pip install 'collapse-jax[slurm]'") from error
    parameters = dict(parameter.partition("=")[::2] for parameter in options.slurm)
    cluster = parameters.pop("cluster", None)
    numbers = {key: int(value) if value.isdecimal() else value for key, value in parameters.items()}
    try:
        executor = submitit.AutoExecutor(folder=out / "slurm", cluster=cluster)
        executor.update_parameters(name="collapse-jax", **numbers)
    except Exception as error:  # submitit refuses clusters and parameters by errors of several kinds
        raise LaunchError(f"--slurm: submitit refuses this ({one_line(error, 200)})") from error
    base = [sys.executable, "-m", "collapse_jax.cli", "run", *command]
    with executor.batch():
        jobs = [executor.submit(_run_command, [*base, "--shard", f"{i}/{options.jobs}"]) for i in range(options.jobs)]
    for i, job in enumerate(jobs):
        try:
            job.result()
        except Exception as error:  # is reported, and the next run does the job's units
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            print(f"job {i} ({job.job_id}) failed: {reason}", file=sys.stderr)
