"""Trace, compile and time cases in turn, so that whatever else the machine does disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from collapse_jax.bench.machine import Machine, Rates, floor_seconds, lowest_seconds
from collapse_jax.bench.suites import BenchCase
from collapse_jax.core.random import HostKeys, host_chain_keys
from collapse_jax.core.worlds import Worlds
from collapse_jax.execution.blocks import run_blocks
from collapse_jax.execution.programs import BlockShape, CompiledBlock, as_inputs, compile_block, trace_block
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.planning.roofline import Work, count_work
from collapse_jax.types import Array, World

_MAX_BLOCKS = 64


class CaseTiming(NamedTuple):
    """The measurements of one case.

    Attributes:
      name: the name of the case.
      backend: ``"law"`` or ``"rows"``: how batches are drawn.
      num_generations: the horizon T.
      num_chains: chains that were run.
      chains_per_block: chains that run side by side in one block.
      trace_seconds: time of tracing its two programs.
      compile_seconds: time of compiling its two programs.
      seconds: time of one chain-generation, one number a round.
      work: the work of one chain-generation.
      peak_bytes: memory of a block by XLA's own account: arguments, results and temporaries.
      floor: seconds of one chain-generation that each part of the work takes at least (``machine.floor_seconds``).
    """

    name: str
    backend: str
    num_generations: int
    num_chains: int
    chains_per_block: int
    trace_seconds: float
    compile_seconds: float
    seconds: tuple[float, ...]
    work: Work
    peak_bytes: int
    floor: dict[str, float]

    @property
    def median(self) -> float:
        """Return the median seconds of one chain-generation."""
        return statistics.median(self.seconds)

    @property
    def relative_deviation(self) -> float:
        """Return the standard deviation of a round over the median, estimated from the quartiles of the rounds."""
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return float((high - low) / 1.349 / self.median)

    @property
    def floor_share(self) -> float:
        """Return the share of the time that the floor is."""
        return lowest_seconds(self.floor) / self.median


class PreparedCase(NamedTuple):
    """A case that is compiled and ready to run."""

    case: BenchCase
    backend: str
    compiled: CompiledBlock
    world: World
    floats: dict[str, Array]
    keys: HostKeys
    work: Work
    peak_bytes: int

    def time_run(self, generations: int | None = None, blocks: int | None = None) -> float:
        """Return the seconds that its chains take, or some generations or blocks of them."""
        keys = self.keys if blocks is None else self.keys.at(slice(blocks * self.compiled.shape.chains_per_block))
        horizon = generations or self.case.num_generations
        begin = time.perf_counter()
        run_blocks(
            self.compiled, self.world, {}, keys, num_generations=horizon, progress_callback=_ignore_progress,
            floats=self.floats,
        )  # fmt: skip
        return time.perf_counter() - begin


def _ignore_progress(generations: int) -> None:
    """Take a progress report and do nothing."""


def prepare_case(case: BenchCase, seconds: float) -> PreparedCase:
    """Trace and compile a case, and find how many chains take about `seconds`."""
    options = Options(1, metrics=case.metrics or None, backend=case.backend)
    sizes = {"num_samples": case.num_samples, "num_generations": case.num_generations}
    plan = make_plan(make_grid(case.make(case.size), case.policy, **sizes), options)
    (program,) = plan.programs
    world = Worlds().world_of(program.setting, program.world)
    floats = as_inputs(program.floats)
    shape = BlockShape(program.chains_per_block, plan.generations_per_call(program), program.blocks_per_call)
    traced = trace_block(
        lambda values: plan.build_chain(program, values), world, {}, metrics=program.metrics, shape=shape, floats=floats
    )
    compiled = compile_block(traced)
    num_generations = program.chains_per_block * plan.generations_per_call(program)
    work = count_work(traced.traced[1].jaxpr.jaxpr).times(1 / num_generations)
    backend = "law" if program.law else "rows"
    keys = host_chain_keys(0, _MAX_BLOCKS * program.chains_per_block)
    prepared = PreparedCase(case, backend, compiled, world, floats, keys, work, _peak_bytes(compiled))
    concurrent = max(compiled.max_concurrent, 1) * len(compiled.placements)
    prepared.time_run(blocks=concurrent)  # compiles what is small and eager
    blocks = concurrent * max(round(seconds / prepared.time_run(blocks=concurrent)), 1)
    return prepared._replace(keys=keys.at(slice(min(blocks, _MAX_BLOCKS) * program.chains_per_block)))


def _peak_bytes(compiled: CompiledBlock) -> int:
    analysis = compiled.advance[0].memory_analysis()
    if analysis is None:
        return 0
    sizes = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return int(sizes - analysis.alias_size_in_bytes)


def measure_cases(
    cases: Sequence[BenchCase], rounds: int, seconds: float, report_progress: Callable[[str], None]
) -> tuple[list[CaseTiming], Rates, list[PreparedCase]]:
    """Time the cases in turn, `rounds` times, and measure the machine's rates (medians) in between.

    Args:
      cases: the cases of a suite.
      rounds: how often each case is run.
      seconds: the time that one run should take.
      report_progress: is called with a text that says what is being done.
    """
    prepared_cases = []
    for case in cases:
        report_progress(f"compiling {case.name}")
        prepared_cases.append(prepare_case(case, seconds))
    machine = Machine([prepared.peak_bytes for prepared in prepared_cases])
    times: list[list[float]] = [[] for _ in prepared_cases]
    rates = []
    for number in range(rounds):
        report_progress(f"round {number + 1} of {rounds}")
        rates.append(machine.measure())
        for prepared, case_times in zip(prepared_cases, times, strict=True):
            case_times.append(prepared.time_run())
    typical = _median_rates(rates)
    timings = [_make_timing(p, case_times, typical) for p, case_times in zip(prepared_cases, times, strict=True)]
    return timings, typical, prepared_cases


def _median_rates(rates: Sequence[Rates]) -> Rates:
    sizes = rates[0].copies
    copies = {size: statistics.median(r.copies[size] for r in rates) for size in sizes}
    numbers = {name: statistics.median(getattr(r, name) for r in rates) for name in Rates._fields if name != "copies"}
    return Rates(**numbers, copies=copies)


def _make_timing(prepared: PreparedCase, seconds: Sequence[float], rates: Rates) -> CaseTiming:
    case, compiled, chains = prepared.case, prepared.compiled, len(prepared.keys)
    return CaseTiming(
        case.name,
        prepared.backend,
        case.num_generations,
        chains,
        compiled.shape.chains_per_block,
        compiled.trace_seconds,
        compiled.compile_seconds,
        tuple(s / chains / case.num_generations for s in seconds),
        prepared.work,
        prepared.peak_bytes,
        floor_seconds(prepared.work, rates, prepared.peak_bytes),
    )


class Scaling(NamedTuple):
    """How the seconds of a case grow with one of its sizes.

    Attributes:
      name: the name of the case.
      axis: chains, generations, n, or the letter of the setting's size.
      values: the values of that size.
      seconds: the time of the whole run at each value.
      exponent: the slope of log seconds over log value.
      error: the standard error of the slope, from the scatter about the line.
    """

    name: str
    axis: str
    values: tuple[int, ...]
    seconds: tuple[float, ...]
    exponent: float
    error: float


def measure_scaling(prepared: PreparedCase, rounds: int, report_progress: Callable[[str], None]) -> list[Scaling]:
    """Time one case at three sizes an axis, a factor of two (sizes that are shapes) or four apart."""
    case, axes = prepared.case, []
    report_progress(f"scaling of {case.name}")
    concurrent = max(prepared.compiled.max_concurrent, 1) * len(prepared.compiled.placements)
    blocks = [k * concurrent for k in (1, 4, 16) if k * concurrent <= _MAX_BLOCKS]
    full = prepared._replace(keys=host_chain_keys(0, blocks[-1] * prepared.compiled.shape.chains_per_block))
    chains = [b * full.compiled.shape.chains_per_block for b in blocks]
    axes.append(("chains", chains, [lambda b=b: full.time_run(blocks=b) for b in blocks]))
    horizons = [case.num_generations * k for k in (1, 2, 4)] if _runs_at_any_horizon(prepared) else []
    axes.append(("generations", horizons, [lambda t=t: prepared.time_run(generations=t) for t in horizons]))
    for axis, field in (("n", "num_samples"), (case.letter, "size")):
        if axis:
            values = [getattr(case, field) * k for k in (1, 2, 4)]
            others = [prepare_case(case._replace(**{field: value}), 0.1) for value in values]
            runs = [lambda p=p: p.time_run() / p.keys.shape[0] * case.num_generations for p in others]
            axes.append((axis, values, runs))
    return [_fit_scaling(case.name, axis, values, runs, rounds) for axis, values, runs in axes if values]


def _runs_at_any_horizon(prepared: PreparedCase) -> bool:
    """Return whether the pool has one size at any horizon, so that the compiled program can run longer."""
    return prepared.case.policy.keep is not None or prepared.backend == "law"


def _fit_scaling(
    name: str, axis: str, values: Sequence[int], runs: Sequence[Callable[[], float]], rounds: int
) -> Scaling:
    seconds = np.median([[run() for run in runs] for _ in range(rounds)], axis=0)
    x, y = np.log(values), np.log(seconds)
    slope = float(((x - x.mean()) * y).sum() / ((x - x.mean()) ** 2).sum())
    residual = y - y.mean() - slope * (x - x.mean())
    error = float(np.sqrt((residual**2).sum() / max(len(x) - 2, 1) / ((x - x.mean()) ** 2).sum()))
    return Scaling(name, axis, tuple(values), tuple(map(float, seconds)), slope, error)
