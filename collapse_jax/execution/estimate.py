"""What a sweep will take, before any of it is run."""

import math
from typing import NamedTuple

import jax

from collapse_jax.execution.resumable import work
from collapse_jax.planning.grid import Grid
from collapse_jax.planning.memory_estimate import block_bytes
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import Plan, make_plan

# Operations a second of one device, all told: measured on two CPU cores, a guess elsewhere.
_RATE = {"cpu": 4e9, "gpu": 1e12, "tpu": 1e12}
_COMPILE_SECONDS = 2.5


class Row(NamedTuple):
    """One program of a plan."""

    name: str
    units: int
    lanes: int  # chains times traced points
    width: int
    megabytes: float  # of device memory, while a block of it runs
    seconds: float


def forecast(grid: Grid, options: Options) -> tuple[list[Row], str]:
    """A row a program, and the whole in one line. Times are good to a factor of three: the machine is not asked."""
    with jax.enable_x64(options.precision == "float64"):
        plan = make_plan(grid, options)
        rows = [_row(plan, number) for number in range(len(plan.programs))]
    numbers = math.prod(plan.shape) * sum(math.prod(metric.shape) for metric in plan.metrics.values())
    result = numbers * (8 if options.precision == "float64" else 4) / 2**20
    seconds = sum(row.seconds for row in rows) + _COMPILE_SECONDS * len(rows)
    total = (
        f"{len(plan.units):,} units, {len(rows)} compiles, {math.prod(plan.shape):,} chain-generations, "
        f"{result:,.1f} MB of results, about {seconds:,.0f} s on {len(jax.devices())} {jax.default_backend()} device(s)"
    )
    return rows, total


def _row(plan: Plan, number: int) -> Row:
    program = plan.programs[number]
    units = [unit for unit in plan.units if unit.program == number]
    static = [
        f"{name}={axis.values[i][j]}"
        for axis, i, traced in zip(plan.grid.axes, program.point, program.traced, strict=True)
        if not traced
        for j, name in enumerate(axis.names)
    ]
    rate = _RATE.get(jax.default_backend(), 1e12) * len(jax.devices())
    return Row(
        " ".join([plan.grid.policies[program.policy], *static]),
        len(units),
        sum(math.prod(unit.shape) for unit in units),
        program.width,
        block_bytes(plan, program) / 2**20,
        sum(work(plan, unit) for unit in units) / rate,
    )
