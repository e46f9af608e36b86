"""Cases traced, compiled and run, in turn, so that what else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from collapse_jax.bench.machine import Machine, Rates, floor, lowest
from collapse_jax.bench.suites import Case
from collapse_jax.core.random import chain_keys
from collapse_jax.core.worlds import Worlds
from collapse_jax.execution.blocks import run_blocks
from collapse_jax.execution.programs import CompiledBlock, compile_block, trace_block
from collapse_jax.planning.grid import grid_of
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.planning.roofline import Work, count_work
from collapse_jax.types import Key, World

_MOST_BLOCKS = 64


class Row(NamedTuple):
    """What was measured of a case.

    Attributes:
      name: of the case.
      backend: law or rows: how batches are drawn.
      num_generations: T.
      num_chains: that ran at once.
      width: of them, side by side in one block.
      trace_seconds: of its two programs.
      compile_seconds: of its two programs.
      seconds: of a chain-generation, one a round.
      work: of a chain-generation.
      peak_bytes: of a block, by XLA's own account: arguments, results and temporaries.
      floor: seconds of a chain-generation that the parts of the work take, by ``machine.floor``.
    """

    name: str
    backend: str
    num_generations: int
    num_chains: int
    width: int
    trace_seconds: float
    compile_seconds: float
    seconds: tuple[float, ...]
    work: Work
    peak_bytes: int
    floor: dict[str, float]

    @property
    def median(self) -> float:
        """Seconds of a chain-generation."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Standard deviation of a round, over the median: from the middle half of the rounds."""
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return float((high - low) / 1.349 / self.median)

    @property
    def fraction(self) -> float:
        """Of the time, what the floor is."""
        return lowest(self.floor) / self.median


class Prepared(NamedTuple):
    """A case ready to run."""

    case: Case
    backend: str
    programs: CompiledBlock
    world: World
    keys: Key
    work: Work
    peak_bytes: int

    def run(self, generations: int | None = None, blocks: int | None = None) -> float:
        """Seconds of its chains, or of so many generations or blocks of them."""
        keys = self.keys if blocks is None else self.keys[: blocks * self.programs.chains_per_block]
        clock = time.perf_counter()
        run_blocks(self.programs, self.world, {}, keys, num_generations=generations or self.case.num_generations,
                   progress_callback=lambda _: None)  # fmt: skip
        return time.perf_counter() - clock


def prepare(case: Case, seconds: float) -> Prepared:
    """Traces and compiles a case, and finds how many chains take about so many seconds."""
    options = Options(case.num_generations, 1, metrics=case.metrics or None, backend=case.backend)
    plan = make_plan(grid_of(case.make(case.size), case.policy, case.num_samples, {}), options)
    (program,) = plan.programs
    world, keys = Worlds().of(program.setting, program.world), chain_keys(0, _MOST_BLOCKS * program.chains_per_block)
    traced = trace_block(
        lambda values: plan.build_chain(program, values),
        world,
        {},
        keys,
        metrics=program.metrics,
        chains_per_block=program.chains_per_block,
        generations_per_call=plan.generations_per_call,
    )
    programs = compile_block(traced)
    work = count_work(traced.traced[1].jaxpr.jaxpr).times(1 / program.chains_per_block / plan.generations_per_call)
    backend = "law" if program.law else "rows"
    made = Prepared(case, backend, programs, world, keys, work, _peak(programs))
    least = max(programs.max_concurrent, 1) * len(programs.placements)
    made.run(blocks=least)  # compiles what is small and eager
    blocks = least * max(round(seconds / made.run(blocks=least)), 1)
    return made._replace(keys=keys[: min(blocks, _MOST_BLOCKS) * program.chains_per_block])


def _peak(programs: CompiledBlock) -> int:
    about = programs.advance[0].memory_analysis()
    if about is None:
        return 0
    sizes = about.argument_size_in_bytes + about.output_size_in_bytes + about.temp_size_in_bytes
    return int(sizes - about.alias_size_in_bytes)


def measure(
    cases: Sequence[Case], rounds: int, seconds: float, tell: Callable[[str], None]
) -> tuple[list[Row], Rates, list[Prepared]]:
    """The cases in turn, `rounds` times, and the machine's rates (medians) beside them.

    Args:
      cases: of a suite.
      rounds: how often each is run.
      seconds: that a run should take.
      tell: is told what is being done.
    """
    made = []
    for case in cases:
        tell(f"compiling {case.name}")
        made.append(prepare(case, seconds))
    machine = Machine([p.peak_bytes for p in made])
    times: list[list[float]] = [[] for _ in made]
    rates = []
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        rates.append(machine.measure())
        for prepared, seen in zip(made, times, strict=True):
            seen.append(prepared.run())
    typical = _median(rates)
    return [_row(p, seen, typical) for p, seen in zip(made, times, strict=True)], typical, made


def _median(rates: Sequence[Rates]) -> Rates:
    sizes = rates[0].copies
    copies = {size: statistics.median(r.copies[size] for r in rates) for size in sizes}
    numbers = {name: statistics.median(getattr(r, name) for r in rates) for name in Rates._fields if name != "copies"}
    return Rates(**numbers, copies=copies)


def _row(prepared: Prepared, seconds: Sequence[float], rates: Rates) -> Row:
    case, programs, chains = prepared.case, prepared.programs, prepared.keys.shape[0]
    return Row(
        case.name,
        prepared.backend,
        case.num_generations,
        chains,
        programs.chains_per_block,
        programs.trace_seconds,
        programs.compile_seconds,
        tuple(s / chains / case.num_generations for s in seconds),
        prepared.work,
        prepared.peak_bytes,
        floor(prepared.work, rates, prepared.peak_bytes),
    )


class Scaling(NamedTuple):
    """How a case's seconds grow with one of its sizes.

    Attributes:
      name: of the case.
      axis: chains, generations, n, or the letter of the setting's size.
      values: of the size.
      seconds: of the whole run at each.
      exponent: the slope of log seconds over log value.
      error: its standard error, of the scatter about the line.
    """

    name: str
    axis: str
    values: tuple[int, ...]
    seconds: tuple[float, ...]
    exponent: float
    error: float


def scalings(prepared: Prepared, rounds: int, tell: Callable[[str], None]) -> list[Scaling]:
    """Of one case: three sizes an axis, a factor of two (sizes that are shapes) or four apart."""
    case, found = prepared.case, []
    tell(f"scaling of {case.name}")
    least = max(prepared.programs.max_concurrent, 1) * len(prepared.programs.placements)
    blocks = [k * least for k in (1, 4, 16) if k * least <= _MOST_BLOCKS]
    full = prepared._replace(keys=chain_keys(0, blocks[-1] * prepared.programs.chains_per_block))
    chains = [b * full.programs.chains_per_block for b in blocks]
    found.append(("chains", chains, [lambda b=b: full.run(blocks=b) for b in blocks]))
    horizons = [case.num_generations * k for k in (1, 2, 4)] if _any_horizon(prepared) else []
    found.append(("generations", horizons, [lambda t=t: prepared.run(generations=t) for t in horizons]))
    for axis, field in (("n", "num_samples"), (case.letter, "size")):
        if axis:
            values = [getattr(case, field) * k for k in (1, 2, 4)]
            others = [prepare(case._replace(**{field: value}), 0.1) for value in values]
            each = [lambda p=p: p.run() / p.keys.shape[0] * case.num_generations for p in others]
            found.append((axis, values, each))
    return [_fitted(case.name, axis, values, runs, rounds) for axis, values, runs in found if values]


def _any_horizon(prepared: Prepared) -> bool:
    """Whether the pool is as large at any horizon, so that the compiled program goes on for longer."""
    return prepared.case.policy.keep is not None or prepared.backend == "law"


def _fitted(name: str, axis: str, values: Sequence[int], runs: Sequence[Callable[[], float]], rounds: int) -> Scaling:
    seconds = np.median([[run() for run in runs] for _ in range(rounds)], axis=0)
    x, y = np.log(values), np.log(seconds)
    slope = float(((x - x.mean()) * y).sum() / ((x - x.mean()) ** 2).sum())
    left = y - y.mean() - slope * (x - x.mean())
    error = float(np.sqrt((left**2).sum() / max(len(x) - 2, 1) / ((x - x.mean()) ** 2).sum()))
    return Scaling(name, axis, tuple(values), tuple(map(float, seconds)), slope, error)
