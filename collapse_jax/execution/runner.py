"""The runner of units of work: programs compile ahead, worlds are shared."""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from collapse_jax.core.random import chain_keys
from collapse_jax.core.worlds import Worlds
from collapse_jax.execution.blocks import Saver, run_blocks
from collapse_jax.execution.programs import Programs, Traced, compile_blocks, trace_blocks
from collapse_jax.planning.plan import Plan, stretch
from collapse_jax.planning.units import Unit


class Runner:
    """Runs units one by one. Units of a program share its compilation, and the next program compiles meanwhile."""

    def __init__(self, plan: Plan, tick: Callable[[int], None], devices: Sequence[jax.Device] | None = None):
        self.plan, self.tick, self.devices = plan, tick, devices
        self.keys = chain_keys(plan.options.seed, plan.options.num_chains, plan.options.rng)
        self.seconds = {"seconds_trace": 0.0, "seconds_compile": 0.0, "seconds_run": 0.0}
        self._ahead = ThreadPoolExecutor(1)
        self._compiled: dict[int, Future[Programs]] = {}
        self._worlds = Worlds()
        self._order: list[int] = []

    def expect(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Says which units will come, in order."""
        self._order = list(dict.fromkeys(unit.program for unit in units))
        return units

    def run(self, unit: Unit, saver: Saver | None = None) -> dict[str, np.ndarray]:
        """``{metric: values}`` of a unit, shaped as its place in the results."""
        made, plan = {}, self.plan
        out = self._run(unit, self._programs(unit.program), saver)
        for name, value in out.items():  # arrays of other programs may be larger
            short = [(0, n - here) for n, here in zip(plan.metrics[name].shape, value.shape[2:], strict=True)]
            whole = np.pad(value, [(0, 0), (0, 0), *short], constant_values=np.nan) if any(map(sum, short)) else value
            made[name] = whole.reshape(*unit.shape, *whole.shape[1:])
        return made

    def _run(self, unit: Unit, compiled: Programs, saver: Saver | None) -> dict[str, np.ndarray]:
        program, (points, chains) = self.plan.programs[unit.program], self.plan.lanes(unit)
        upcoming, ready = self._upcoming(unit.program), 0.0
        self._make_worlds(upcoming)  # which may take compute and memory that blocks need
        if compiled.alone:
            self._get_ready(upcoming)
        clock = ticked = time.perf_counter()

        def tick(generations: int) -> None:
            nonlocal ticked
            self.tick(generations)
            ticked = time.perf_counter()

        def meanwhile() -> None:
            nonlocal ready
            if not compiled.alone:
                self._get_ready(upcoming)
            ready = time.perf_counter()

        out = run_blocks(
            compiled,
            self._worlds.of(program.setting, program.world),
            points,
            self.keys[chains],
            num_generations=self.plan.options.num_generations,
            progress=tick,
            saver=saver,
            meanwhile=meanwhile,
        )
        self.seconds["seconds_run"] += (ticked if ticked < ready else time.perf_counter()) - clock
        return out

    def _programs(self, number: int) -> Programs:
        wanted = (number, *self._upcoming(number))
        self._compiled = {n: compiled for n, compiled in self._compiled.items() if n in wanted}
        if number not in self._compiled:
            self._submit(number)
        return self._compiled[number].result()

    def _upcoming(self, number: int) -> list[int]:
        return self._order[self._order.index(number) + 1 :][:1] if number in self._order else []

    def _make_worlds(self, upcoming: Sequence[int]) -> None:
        for program in (self.plan.programs[n] for n in upcoming):
            with contextlib.suppress(Exception):  # it will be raised again when its turn comes
                self._worlds.of(program.setting, program.world)

    def _get_ready(self, upcoming: Sequence[int]) -> None:
        """Traces the next program, and has it compiled."""
        for n in upcoming:
            if n not in self._compiled:
                self._submit(n)

    def _submit(self, number: int) -> None:
        # Traced here: what JAX is told by context managers is told to one thread. (Lowering needs x64 of it.)
        try:
            self._compiled[number] = self._ahead.submit(self._compile, self._trace(number))
        except Exception as error:  # raised when its turn comes; until then it is not tried again
            self._compiled[number] = Future()
            self._compiled[number].set_exception(error)

    def _trace(self, number: int) -> Traced:
        program, plan = self.plan.programs[number], self.plan
        unit = next(unit for unit in plan.units if unit.program == number)
        return trace_blocks(
            lambda values: plan.chain_of(program, values),
            self._worlds.of(program.setting, program.world),
            plan.lanes(unit)[0],
            self.keys,
            metrics=program.metrics,
            width=program.width,
            stretch=stretch(plan),
            devices=self.devices,
            mesh=plan.options.mesh,
        )

    def _compile(self, traced: Traced) -> Programs:
        compiled = compile_blocks(traced)
        self.seconds["seconds_trace"] += compiled.trace_seconds
        self.seconds["seconds_compile"] += compiled.compile_seconds
        return compiled
