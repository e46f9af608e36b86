"""Run a sweep whose results outlive the process: units are stored as they are done, and any later run continues."""

import contextlib
import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import yaml

from collapse_jax.core.errors import StoreError, drop_frames
from collapse_jax.core.sharding import chain_placements
from collapse_jax.execution import checkpoint
from collapse_jax.execution.runner import Runner
from collapse_jax.planning.grid import Grid
from collapse_jax.planning.memory_estimate import check_memory
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import Plan, cut_plan, make_plan
from collapse_jax.planning.units import Unit
from collapse_jax.results import locks, store
from collapse_jax.results.config_text import config_attributes
from collapse_jax.results.dataset import coordinate_labels, run_attributes
from collapse_jax.results.provenance import describe_device
from collapse_jax.results.sessions import Session
from collapse_jax.results.store import STORE, is_bucket, join_path
from collapse_jax.results.writer import Writer, repair_static


class RunProgress(NamedTuple):
    """How far a sweep is.

    Attributes:
      units: units done so far, by this run and earlier ones.
      total_units: units of the whole sweep (of this shard's part of it).
      resumed: units that were done when this process began.
      done: chain-generations done by this process.
      left: chain-generations that were left when this process began.
      share: share done of the work that was left then, by the plan's estimate: a chain-generation costs more in some
        units than in others.
    """

    units: int
    total_units: int
    resumed: int
    done: int
    left: int
    share: float


class Outcome(NamedTuple):
    """What a run did.

    Attributes:
      failures: the names of units that raised, each with its exception.
      complete: whether the whole store (all shards) is done.
      repaired: the units that were damaged and done again, each with the damage.
      seconds: time spent on tracing, compiling and running.
    """

    failures: list[tuple[str, Exception]]
    complete: bool
    repaired: list[str]
    seconds: dict[str, float]


def ignore_progress(progress: RunProgress) -> None:
    """Take a progress report and do nothing."""


def fill_store(
    grid: Grid,
    options: Options,
    out: Any,
    *,
    shard: tuple[int, int] = (0, 1),
    repair: bool = False,
    mixed_versions: bool = False,
    engine: Callable[[Plan, list[Unit]], Iterable] | None = None,
    progress_callback: Callable[[RunProgress], None] = ignore_progress,
) -> Outcome:
    """Run the units that a store still lacks, and store their results.

    Args:
      grid: policies and axes.
      options: the rest of the sweep.
      out: a folder, a bucket's URL, or an ``obstore`` store; a store of another experiment is refused.
      shard: (i, n): this process does the i-th of n parts, which need not know of each other.
      repair: look for damaged results among those done, and do them again.
      mixed_versions: go on with a store that other versions, plugins, flags or devices began.
      engine: computes units elsewhere, ``(plan, units) -> (unit, (values, device) or exception), ...``; default in this
        process.
      progress_callback: is called as units and calls of their programs are done.

    Raises:
      StoreError: the place holds something else, is being written by another run, or cannot be written.
      UsageError: bad input, in one line, before anything is computed.
    """
    place = join_path(out, STORE)
    if engine is None:
        chain_placements(jax.local_devices(), options.mesh)
    with jax.enable_x64(options.precision == "float64"):
        plan, repaired = plan_for_store(grid, options, place, repair)
    with jax.enable_x64(options.precision == "float64"), _hold_shard_lock(out, shard):
        session = Session(plan)
        writer = Writer(plan, place, session.name)
        if repair:
            shard_units = units_of_shard(plan, shard)
            for unit, damage in list(writer.find_damaged(shard_units)):
                writer.mark_undone(unit)
                repaired.append(f"unit {unit.name}: {damage}")
            for unit in shard_units if _is_local(out) else ():
                checkpoint.remove_checkpoints(_checkpoint_folder(out, unit))
        if not all(map(writer.is_done, units_of_shard(plan, shard))):
            session.begin(place, mixed_versions)
        seconds, failures = _run_missing_units(plan, writer, out, shard, engine, progress_callback)
        writer.read_done()  # other shards may have been at work
        session.end(place, seconds)
        return Outcome(failures, bool(writer.done.all()), repaired, seconds)


def is_finished(out: Any, config: str) -> bool:
    """Return whether the store at `out` exists and nothing of it is left to do.

    Raises:
      StoreError: the store is another experiment's (the first key that differs is named), or damaged.
    """
    place = join_path(out, STORE)
    if not store.store_exists(place):
        return False
    _refuse_other_config(place, config)
    return store.check_store(place)


def prepare_store(grid: Grid, options: Options, out: Any) -> None:
    """Create the store, so that many processes may begin at once; the arguments are those of ``fill_store``."""
    with jax.enable_x64(options.precision == "float64"):
        plan_for_store(grid, options, join_path(out, STORE))


def plan_for_store(grid: Grid, options: Options, place: Any, repair: bool = False) -> tuple[Plan, list[str]]:
    """Return the plan of a store, and what of the store was repaired; the store is created where there is none.

    Raises:
      StoreError: the store is another experiment's (the first key that differs is named), or damaged.
    """
    config, repaired = config_attributes(grid.design, options).get("config", ""), []
    if store.store_exists(place):
        _refuse_other_config(place, config)
        plan = make_plan(grid, options, store.read_cuts(place))
        check_memory(plan)
        if repair:
            repaired = repair_static(plan, place)
        else:
            store.check_store(place)
        _refuse_other_labels(place, grid, options)
    else:
        plan = make_plan(grid, options)
        check_memory(plan)
        store.create_store(plan, place)
        _refuse_other_config(place, config)  # another process may have been first
        _refuse_other_labels(place, grid, options)
        plan = cut_plan(plan, store.read_cuts(place))
    _refuse_other_attributes(place, plan)
    return plan, repaired


def _refuse_other_config(place: Any, config: str) -> None:
    """Refuse a store whose recorded config differs."""
    stored = yaml.safe_load(store.read_identity(place).get("config", ""))
    if (difference := describe_difference(stored, yaml.safe_load(config))) is not None:
        raise StoreError(f"{place}: holds another run, {difference}; choose another folder with --out")


def _refuse_other_labels(place: Any, grid: Grid, options: Options) -> None:
    """Refuse a store with other axes or other values along them, where no config can say what is run."""

    def grid_labels(labels: Mapping[str, Any]) -> dict[str, Any]:
        return {dim: values for dim, values in labels.items() if dim not in ("chain", "generation")}

    stored, planned = grid_labels(store.read_labels(place)), grid_labels(coordinate_labels(grid, options))
    if (difference := describe_difference(stored, planned)) is not None:
        raise StoreError(f"{place}: holds another run, {difference}")


def _refuse_other_attributes(place: Any, plan: Plan) -> None:
    """Refuse a store whose recorded options differ from the plan's."""
    stored = store.read_attributes(place)
    for name, value in {**run_attributes(plan), "variables": list(plan.metrics)}.items():
        if stored.get(name, value) != value:
            raise StoreError(f"{place}: holds another run, of {name} {stored[name]!r}, not {value!r}")


def describe_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Return the first value by which two configs differ, in words; None where they agree."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{path}.{key}" if path else str(key), old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{path}.{i}", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else f"of {path or 'another config'} {old!r}, not {new!r}"
    differences = (describe_difference(a, b, inner) for inner, a, b in pairs)
    return next((difference for difference in differences if difference is not None), None)


def units_of_shard(plan: Plan, shard: tuple[int, int]) -> list[Unit]:
    """Return the units of one of n shards: neighbours, so that few programs are compiled twice, of about equal work."""
    index, count = shard
    if count == 1:
        return list(plan.units)
    ends = np.cumsum([count_unit_operations(plan, unit) for unit in plan.units])
    owner = np.minimum(((ends - 0.5 * np.diff(ends, prepend=0.0)) / ends[-1] * count).astype(int), count - 1)
    return [unit for unit, i in zip(plan.units, owner, strict=True) if i == index]


def count_unit_operations(plan: Plan, unit: Unit) -> float:
    """Return the estimated operations of a unit, with those of padding."""
    program = plan.programs[unit.program]
    blocks = -(-int(np.prod(unit.shape)) // program.chains_per_block)
    return program.operations * blocks * program.chains_per_block * program.num_generations


class _ProgressTally:
    """Counts what is done of some units, and reports it to a callback."""

    def __init__(
        self, plan: Plan, shard_units: list[Unit], todo: list[Unit], progress_callback: Callable[[RunProgress], None]
    ):
        self.plan, self.progress_callback, self.operations = plan, progress_callback, 0.0
        self.total_operations = float(sum(self._chain_generations(unit) * self._operations(unit) for unit in todo))
        resumed, left = len(shard_units) - len(todo), sum(map(self._chain_generations, todo))
        self.progress = RunProgress(resumed, len(shard_units), resumed, 0, left, 0.0 if todo else 1.0)
        progress_callback(self.progress)

    def start_unit(self, unit: Unit) -> None:
        """Count the next chain-generations as those of `unit`."""
        self.operations = self._operations(unit)

    def add(self, chain_generations: int) -> None:
        """Count chain-generations that are done."""
        share = self.progress.share + chain_generations * self.operations / self.total_operations
        done = self.progress.done + chain_generations
        self.progress = self.progress._replace(done=done, share=min(share, 1.0))
        self.progress_callback(self.progress)

    def finish_unit(self, unit: Unit, is_counted: bool) -> None:
        """Count a stored unit; `is_counted` where its chain-generations were added one by one."""
        self.progress = self.progress._replace(units=self.progress.units + 1)
        self.start_unit(unit)
        self.add(0 if is_counted else self._chain_generations(unit))

    def _chain_generations(self, unit: Unit) -> int:
        return self.plan.count_generations(unit)

    def _operations(self, unit: Unit) -> float:
        return max(self.plan.programs[unit.program].operations, 1.0)


def _run_missing_units(
    plan: Plan,
    writer: Writer,
    out: Any,
    shard: tuple[int, int],
    engine: Callable[[Plan, list[Unit]], Iterable] | None,
    progress_callback: Callable[[RunProgress], None],
) -> tuple[dict[str, float], list[tuple[str, Exception]]]:
    shard_units = units_of_shard(plan, shard)
    todo = [unit for unit in shard_units if not writer.is_done(unit)]
    tally = _ProgressTally(plan, shard_units, todo, progress_callback)
    runner, failures, begin = Runner(plan, tally.add), [], time.perf_counter()
    results = engine(plan, todo) if engine is not None else _run_locally(runner, todo, _choose_savers(plan, out), tally)
    for unit, values in results:
        if isinstance(values, Exception):
            failures.append((unit.name, values))
            continue
        writer.write(unit, *values)
        tally.finish_unit(unit, is_counted=engine is None)
        if plan.options.checkpoint_every is not None and _is_local(out):
            checkpoint.remove_checkpoints(_checkpoint_folder(out, unit))
    return {**runner.seconds, "seconds_total": time.perf_counter() - begin}, failures


def _run_locally(
    runner: Runner, units: list[Unit], saver_of: Callable[[Unit], Any], tally: _ProgressTally
) -> Iterator[tuple[Unit, Any]]:
    """Yield units with their values and device; a unit that raises is reported and stops no other, a full disk does."""
    for unit in runner.announce(units):
        tally.start_unit(unit)
        try:
            values: Any = runner.run_unit(unit, saver_of(unit)), describe_device()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(
                    f"the disk is full ({error}); the finished units are kept: make room and run again"
                ) from error
            values = drop_frames(error)
        except Exception as error:
            values = drop_frames(error)
        yield unit, values


def _choose_savers(plan: Plan, out: Any) -> Callable[[Unit], Any]:
    if plan.options.checkpoint_every is None:
        return lambda unit: None
    if not _is_local(out):
        raise StoreError("checkpoint_every needs a local folder: mount the bucket, or let units be short")
    return lambda unit: checkpoint.make_saver(_checkpoint_folder(out, unit))


def _checkpoint_folder(out: Path | str, unit: Unit) -> Path:
    return Path(out) / checkpoint.CHECKPOINTS / unit.name


def _is_local(out: Any) -> bool:
    return isinstance(out, str | Path) and not is_bucket(out)


@contextlib.contextmanager
def _hold_shard_lock(out: Any, shard: tuple[int, int]) -> Iterator[None]:
    if not _is_local(out):
        yield  # buckets have no locks: two runs do the same units to the same end
        return
    folder = Path(out)
    with locks.hold_lock(folder, f"shard-{shard[0]}-of-{shard[1]}"), locks.register_writer(folder):
        yield
