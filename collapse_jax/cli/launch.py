"""Where the units of a sweep are run: in this process, in one of n shards, on a Ray cluster or as Slurm jobs."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from collapse_jax import config, results
from collapse_jax.core import registry
from collapse_jax.core.errors import StoreError, UsageError
from collapse_jax.execution import resumable
from collapse_jax.planning.block_functions import MAX_CONCURRENT_BLOCKS
from collapse_jax.planning.plan import Plan, make_plan
from collapse_jax.planning.units import Cut, Unit
from collapse_jax.results import store

ENGINES = ("local", "ray", "slurm")
# (index, count) of a worker, by who starts it; an index without a count does not say enough.
_SHARD_VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    ("TPU_WORKER_ID", "TPU_WORKER_COUNT"),
)


class LaunchError(UsageError):
    """A way of running that cannot be, told in one line."""


def launch(
    experiment: config.Experiment, out: Any, arguments: Any, words: list[str], progress: Callable[[Any], None]
) -> resumable.Outcome:
    """Runs what the store at `out` lacks.

    Args:
      experiment: as configured.
      out: a folder or a bucket's URL.
      arguments: ``plugin``, ``engine``, ``shard``, ``repair``, ``jobs`` and ``slurm`` of the command line.
      words: of the command ``collapse-jax run`` that does the same.
      progress: see ``resumable.fill_store``.

    Raises:
      LaunchError: an engine or a shard that does not exist.
    """
    if arguments.engine not in ENGINES:
        raise LaunchError(f"--engine: {arguments.engine!r} is not one of {', '.join(ENGINES)}")
    shard = shard_of(arguments.shard, os.environ)
    text = config.dumps(experiment)
    is_local = not store.is_bucket(out)
    if not arguments.repair and resumable.is_finished(out, text):
        return resumable.Outcome([], True, [], {})
    if is_local and not store.store_exists(store.join_path(out, store.STORE)):
        _check_free(out)
    grid, options = experiment.grid(), experiment.options()
    if arguments.engine == "slurm":
        resumable.prepare_store(grid, options, out, config=text, attrs=results.provenance())
        _slurm(words, arguments.jobs, arguments.slurm, Path(out))
        shard = (0, 1)  # what is left over, if a job died, is done here
    engine = functools.partial(_ray, text, tuple(arguments.plugin)) if arguments.engine == "ray" else None
    outcome = resumable.fill_store(
        grid, options, out, config=text, shard=shard, repair=arguments.repair, engine=engine,
        attrs=results.provenance(), progress_callback=progress,
    )  # fmt: skip
    if is_local:
        (Path(out) / results.CONFIG).write_text(text, encoding="utf-8")
    return outcome


def _check_free(out: Any) -> None:
    try:
        results.check_free(out)
    except StoreError:
        if not store.store_exists(store.join_path(out, store.STORE)):  # another shard may just have made it
            raise


def shard_of(words: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """``"2/8"`` is (2, 8); ``"auto"`` asks the variables of Slurm, indexed Kubernetes jobs and TPU workers, then JAX.

    Raises:
      LaunchError: no such shard.
    """
    if words is None:
        return 0, 1
    if words == "auto":
        for index, count in _SHARD_VARIABLES:
            if index in environment and count in environment:
                base = int(environment.get("SLURM_ARRAY_TASK_MIN", 0)) if "ARRAY" in index else 0
                shard = int(environment[index]) - base, int(environment[count])
                if not 0 <= shard[0] < shard[1]:
                    raise LaunchError(f"--shard auto: {index}={environment[index]} is not one of {count}={shard[1]}")
                return shard
        import jax

        return jax.process_index(), jax.process_count()
    index, _, count = words.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise LaunchError(f"--shard: {words!r} is not I/N with 0 <= I < N, nor auto")
    return int(index), int(count)


@functools.lru_cache(maxsize=1)
def _worker(text: str, plugins: tuple[str, ...], cuts: tuple[Cut, ...]) -> Any:
    """A runner in a worker's process, kept between its units."""
    import yaml

    from collapse_jax.execution.runner import Runner

    for plugin in plugins:
        registry.load_plugin(plugin)
    experiment = config.from_dict(yaml.safe_load(text))
    plan = make_plan(experiment.grid(), experiment.options(), cuts)
    return Runner(plan, lambda _: None)


def compute_unit(text: str, plugins: tuple[str, ...], cuts: tuple[Cut, ...], number: int) -> Any:
    """One unit of an experiment's plan, or the exception that it raised."""
    import jax
    import yaml

    try:
        with jax.enable_x64(yaml.safe_load(text)["precision"] == "float64"):
            runner = _worker(text, plugins, cuts)
            return runner.run_unit(runner.plan.units[number])
    except Exception as error:
        return error


def _ray(text: str, plugins: tuple[str, ...], plan: Plan, units: list[Unit]) -> Iterator[tuple[Unit, Any]]:
    """Units as tasks; this process alone writes. A task whose worker dies is given to another."""
    try:
        import ray
    except ImportError as error:
        raise LaunchError("--engine ray needs an optional package: pip install 'collapse-jax[ray]'") from error
    if not ray.is_initialized():
        ray.init(address="auto" if "RAY_ADDRESS" in os.environ else None, log_to_driver=False)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    cores = min((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
    cpus = 1 if gpus else max(min(int(cores), MAX_CONCURRENT_BLOCKS), 1)  # what a unit makes use of
    task = ray.remote(max_retries=5, num_gpus=gpus, num_cpus=cpus)(compute_unit)
    numbers = {unit.name: i for i, unit in enumerate(plan.units)}
    waiting = {task.remote(text, plugins, plan.cuts, numbers[unit.name]): unit for unit in units}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        unit = waiting.pop(ready)
        try:
            yield unit, ray.get(ready)
        except ray.exceptions.RayError as error:
            yield unit, RuntimeError(f"worker lost five times: {' '.join(str(error).split())[:200]}")


def _run_command(words: list[str]) -> None:
    """What a job does."""
    subprocess.run(words, check=True)


def _slurm(words: list[str], jobs: int, parameters: list[str], out: Path) -> None:
    """An array of `jobs` shards of the same command, through submitit; waits for them."""
    try:
        import submitit
    except ImportError as error:
        raise LaunchError("--engine slurm needs an optional package: pip install 'collapse-jax[slurm]'") from error
    if jobs < 1:
        raise LaunchError(f"--jobs: must be at least 1, not {jobs}")
    options = dict(word.partition("=")[::2] for word in parameters)
    cluster = options.pop("cluster", None)
    executor = submitit.AutoExecutor(folder=out / "slurm", cluster=cluster)
    executor.update_parameters(name="collapse-jax", **{k: int(v) if v.isdecimal() else v for k, v in options.items()})
    command = [sys.executable, "-m", "collapse_jax.cli", "run"]
    with executor.batch():
        submitted = [executor.submit(_run_command, [*command, *words, "--shard", f"{i}/{jobs}"]) for i in range(jobs)]
    for i, job in enumerate(submitted):
        try:
            job.result()
        except Exception as error:  # reported, and its units are done by whoever runs next
            print(
                f"job {i} ({job.job_id}) failed: {str(error).splitlines()[0] if str(error) else error!r}",
                file=sys.stderr,
            )


__all__ = ["ENGINES", "LaunchError", "StoreError", "compute_unit", "launch", "shard_of"]
