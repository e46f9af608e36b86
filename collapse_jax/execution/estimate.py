"""Estimate the time and memory of a sweep before any of it runs."""

import math
from typing import NamedTuple

import jax

from collapse_jax.execution.resumable import count_unit_operations
from collapse_jax.planning.grid import Grid
from collapse_jax.planning.memory_estimate import estimate_block_bytes
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import Plan, make_plan
from collapse_jax.planning.recipes import label_value

# Operations a second of one device with all its cores: measured on two CPU cores, a guess elsewhere.
_OPERATIONS_PER_SECOND = {"cpu": 4e9, "gpu": 1e12, "tpu": 1e12}
_COMPILE_SECONDS = 2.5


class ProgramEstimate(NamedTuple):
    """The estimated cost of one program of a plan.

    Attributes:
      name: the policy and the static values of the program.
      units: number of its units of work.
      chains: chains times traced points.
      chains_per_block: chains that run side by side.
      megabytes: device memory while a block of it runs.
      seconds: time without compilation.
    """

    name: str
    units: int
    chains: int
    chains_per_block: int
    megabytes: float
    seconds: float


def estimate_sweep(grid: Grid, options: Options) -> tuple[list[ProgramEstimate], str]:
    """Return an estimate for each program, and the whole in one line.

    Times are good to a factor of three, since the speed of this machine is not measured.
    """
    with jax.enable_x64(options.precision == "float64"):
        plan = make_plan(grid, options)
        rows = [_estimate_program(plan, number) for number in range(len(plan.programs))]
    generations = sum(map(plan.count_generations, plan.units))
    numbers = math.prod(plan.shape) * sum(math.prod(metric.shape) for metric in plan.metrics.values())
    megabytes = numbers * (8 if options.precision == "float64" else 4) / 2**20
    seconds = sum(row.seconds for row in rows) + _COMPILE_SECONDS * len(rows)
    total = (
        f"{len(plan.units):,} units, {len(rows)} compiles, {generations:,} chain-generations, "
        f"{megabytes:,.1f} MB of results, about {seconds:,.0f} s on {len(jax.devices())} "
        f"{jax.default_backend()} device(s)"
    )
    return rows, total


def _estimate_program(plan: Plan, number: int) -> ProgramEstimate:
    program = plan.programs[number]
    units = [unit for unit in plan.units if unit.program == number]
    static = [
        f"{name}={label_value(axis.values[i][j])}"
        for axis, i, traced in zip(plan.grid.axes, program.point, program.traced, strict=True)
        if not traced
        for j, name in enumerate(axis.names)
    ]
    operations_per_second = _OPERATIONS_PER_SECOND.get(jax.default_backend(), 1e12) * len(jax.devices())
    return ProgramEstimate(
        " ".join([plan.grid.policies[program.policy], *static]),
        len(units),
        sum(math.prod(unit.shape) for unit in units),
        program.chains_per_block,
        estimate_block_bytes(plan, program) / 2**20,
        sum(count_unit_operations(plan, unit) for unit in units) / operations_per_second,
    )
