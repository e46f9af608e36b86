"""A sweep that outlives its process: units of work, stored as they are done, gone on with after any death."""

import contextlib
import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import yaml

from collapse_jax.core.errors import StoreError
from collapse_jax.core.sharding import places
from collapse_jax.execution import checkpoint
from collapse_jax.execution.runner import Runner
from collapse_jax.planning.grid import Grid
from collapse_jax.planning.memory_estimate import check_fits
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import Plan, make_plan, recut
from collapse_jax.planning.units import Unit
from collapse_jax.results import locks, store
from collapse_jax.results.dataset import coordinate_labels, run_attributes
from collapse_jax.results.store import STORE, Writer, is_bucket, join


class Progress(NamedTuple):
    """How far a sweep is.

    Attributes:
      units: done so far, those of earlier runs too.
      total_units: of the whole sweep (of this shard's part of it).
      resumed: units that were done when this process began.
      done: chain-generations done by this process.
      left: chain-generations still to do when this process began.
      share: of the work that was left then, by the plan's estimate: a chain-generation costs more in some units.
    """

    units: int
    total_units: int
    resumed: int
    done: int
    left: int
    share: float


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
      failures: units that raised, and what.
      complete: whether the whole store (all shards) is done.
      repaired: what was found damaged and done again.
      seconds: spent on tracing, compiling and running.
    """

    failures: list[tuple[str, Exception]]
    complete: bool
    repaired: list[str]
    seconds: dict[str, float]


def run(
    grid: Grid,
    options: Options,
    out: Any,
    *,
    config: str = "",
    shard: tuple[int, int] = (0, 1),
    repair: bool = False,
    engine: Callable[[str], Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Runs what a store still lacks.

    Args:
      grid: policies and axes.
      options: the rest of the sweep.
      out: a folder, a bucket's URL, or an ``obstore`` store.
      config: YAML of the experiment; a store of another one is refused.
      shard: (i, n): this process does the i-th of n parts, which need not know of each other.
      repair: look for damaged results among those done, and do them again.
      engine: computes units elsewhere; default here.
      attrs: further attributes of a new store.
      progress: called as units and stretches of generations are done.

    Raises:
      StoreError: the place holds something else, is being written by another run, or cannot be written.
      UsageError: bad input, in one line, before anything is computed.
    """
    place = join(out, STORE)
    if engine is None:
        places(jax.local_devices(), options.mesh)
    with jax.enable_x64(options.precision == "float64"):
        plan = attach(grid, options, place, config, attrs or {})
    with jax.enable_x64(options.precision == "float64"), _locked(out, shard):
        writer, repaired = Writer(plan, place), []
        if repair:
            mine = share(plan, shard)
            for unit, why in list(writer.damaged(mine)):
                writer.forget(unit)
                repaired.append(f"{unit.name}: {why}")
            for unit in mine if isinstance(out, str | Path) and not is_bucket(out) else ():
                checkpoint.forget(Path(out) / checkpoint.FOLDER / unit.name)
        seconds, failures = _fill(plan, writer, out, shard, engine, progress)
        writer.done[...] = np.asarray(writer.arrays[store.DONE][...])  # other shards may have been at work
        complete = bool(writer.done.all())
        if complete:
            writer.group.attrs.update({k: round(v, 3) for k, v in seconds.items()})
        return Outcome(failures, complete, repaired, seconds)


def finished(out: Any, config: str) -> bool:
    """Whether there is nothing left to do.

    Raises:
      StoreError: the store is another experiment's; the first key that differs is named.
    """
    place = join(out, STORE)
    if not store.exists(place):
        return False
    _refuse_another(place, config)
    return store.is_complete(place)


def prepare(grid: Grid, options: Options, out: Any, *, config: str, attrs: Mapping[str, Any]) -> None:
    """Makes the store, so that many processes may begin at once; arguments as of ``run``."""
    with jax.enable_x64(options.precision == "float64"):
        attach(grid, options, join(out, STORE), config, attrs)


def attach(grid: Grid, options: Options, place: Any, config: str, attrs: Mapping[str, Any]) -> Plan:
    """The plan of a store, which is made where there is none.

    Raises:
      StoreError: the store is another experiment's; the first key that differs is named.
    """
    if store.exists(place):
        _refuse_another(place, config)
        _refuse_other_labels(place, grid, options)
        plan = make_plan(grid, options, store.cuts(place))
        check_fits(plan)
    else:
        plan = make_plan(grid, options)
        check_fits(plan)
        store.create(plan, place, {**attrs, "config": config})
        _refuse_another(place, config)  # another process may have been first
        _refuse_other_labels(place, grid, options)
        plan = recut(plan, store.cuts(place))
    _refuse_other_numbers(place, plan)
    return plan


def _refuse_another(place: Any, config: str) -> None:
    found = store.attributes_of(place)
    if (different := difference(yaml.safe_load(found.get("config", "")), yaml.safe_load(config))) is not None:
        raise StoreError(f"{place}: holds another run, {different}; choose another folder with --out")


def _refuse_other_labels(place: Any, grid: Grid, options: Options) -> None:
    """For callers who give no config: whose results have other axes, or other values along them."""
    found, wanted = ({k: v for k, v in made.items() if k not in ("chain", "generation")}
                     for made in (store.labels_of(place), coordinate_labels(grid, options)))  # fmt: skip
    if (different := difference(found, wanted)) is not None:
        raise StoreError(f"{place}: holds another run, {different}")


def _refuse_other_numbers(place: Any, plan: Plan) -> None:
    """Likewise, of what a plan says of itself."""
    found = store.attributes_of(place)
    for name, value in {**run_attributes(plan), "variables": list(plan.metrics)}.items():
        if name != "device" and found.get(name, value) != value:
            raise StoreError(f"{place}: holds another run, of {name} {found[name]!r}, not {value!r}")


def difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first value by which two configs differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{path}.{key}" if path else str(key), old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{path}.{i}", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else f"of {path or 'another config'} {old!r}, not {new!r}"
    return next((found for p, a, b in pairs if (found := difference(a, b, p)) is not None), None)


def share(plan: Plan, shard: tuple[int, int]) -> list[Unit]:
    """The units of one of n shards: neighbours, so that few programs are compiled twice, of about equal work."""
    index, count = shard
    if count == 1:
        return list(plan.units)
    ends = np.cumsum([work(plan, unit) for unit in plan.units])
    owner = np.minimum(((ends - 0.5 * np.diff(ends, prepend=0.0)) / ends[-1] * count).astype(int), count - 1)
    return [unit for unit, i in zip(plan.units, owner, strict=True) if i == index]


def work(plan: Plan, unit: Unit) -> float:
    """Operations of a unit, padding included."""
    program = plan.programs[unit.program]
    blocks = -(-int(np.prod(unit.shape)) // program.width)
    return program.work * blocks * program.width * plan.options.num_generations


class _Tally:
    """Counts what is done of some units, and tells."""

    def __init__(self, plan: Plan, mine: list[Unit], todo: list[Unit], tell: Callable[[Progress], None]):
        self.plan, self.tell, self.cost = plan, tell, 0.0
        self.work = float(sum(self._size(unit) * self._cost(unit) for unit in todo))
        resumed = len(mine) - len(todo)
        self.now = Progress(resumed, len(mine), resumed, 0, sum(map(self._size, todo)), 0.0 if todo else 1.0)
        tell(self.now)

    def starts(self, unit: Unit) -> None:
        """What is ticked from now on is of this unit."""
        self.cost = self._cost(unit)

    def tick(self, step: int) -> None:
        """So many chain-generations are done."""
        share = self.now.share + step * self.cost / self.work
        self.now = self.now._replace(done=self.now.done + step, share=min(share, 1.0))
        self.tell(self.now)

    def stored(self, unit: Unit, ticked: bool) -> None:
        """A unit's results are in the store; `ticked` where it was run in this process."""
        self.now = self.now._replace(units=self.now.units + 1)
        self.starts(unit)
        self.tick(0 if ticked else self._size(unit))

    def _size(self, unit: Unit) -> int:
        return int(np.prod(unit.shape)) * self.plan.options.num_generations

    def _cost(self, unit: Unit) -> float:
        return max(self.plan.programs[unit.program].work, 1.0)


def _fill(
    plan: Plan,
    writer: Writer,
    out: Any,
    shard: tuple[int, int],
    engine: Any,
    progress: Callable[[Progress], None],
) -> tuple[dict[str, float], list[tuple[str, Exception]]]:
    mine = share(plan, shard)
    todo = [unit for unit in mine if not writer.is_done(unit)]
    tally = _Tally(plan, mine, todo, progress)
    runner, failures, begin = Runner(plan, tally.tick), [], time.perf_counter()
    results: Iterable = engine(plan, todo) if engine is not None else _here(runner, todo, _savers(plan, out), tally)
    for unit, values in results:
        if isinstance(values, Exception):
            failures.append((unit.name, values))
            continue
        writer.write(unit, values)
        tally.stored(unit, engine is None)
        if plan.options.checkpoint_every is not None and isinstance(out, str | Path):
            checkpoint.forget(Path(out) / checkpoint.FOLDER / unit.name)
    return {**runner.seconds, "seconds_total": time.perf_counter() - begin}, failures


def _here(
    runner: Runner, units: list[Unit], saver_of: Callable[[Unit], Any], tally: _Tally
) -> Iterator[tuple[Unit, Any]]:
    """A unit that raises is reported and does not stop the others; a full disk stops all."""
    for unit in runner.expect(units):
        tally.starts(unit)
        try:
            values: Any = runner.run(unit, saver_of(unit))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(
                    f"the disk is full ({error}); what was done is kept: make room and run again"
                ) from error
            values = error.with_traceback(None)  # whose frames would keep the unit's arrays
        except Exception as error:
            values = error.with_traceback(None)
        yield unit, values


def _savers(plan: Plan, out: Any) -> Callable[[Unit], Any]:
    if plan.options.checkpoint_every is None:
        return lambda unit: None
    if not isinstance(out, str | Path) or is_bucket(out):
        raise StoreError("checkpoint_every needs a local folder: mount the bucket, or let units be short")
    return lambda unit: checkpoint.saver(Path(out) / checkpoint.FOLDER / unit.name)


@contextlib.contextmanager
def _locked(out: Any, shard: tuple[int, int]) -> Iterator[None]:
    if not isinstance(out, str | Path) or is_bucket(out):
        yield  # no locks there: two runs do the same units to the same end
        return
    folder = Path(out)
    with locks.lock(folder, f"shard-{shard[0]}-of-{shard[1]}"), locks.writing(folder):
        yield
