"""Run the units of a plan one by one, while the next program compiles and worlds are shared."""

import contextlib
import functools
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from collapse_jax.core.random import host_chain_keys
from collapse_jax.core.worlds import Worlds
from collapse_jax.execution.blocks import StateSaver, run_blocks
from collapse_jax.execution.compiled_programs import COMPILED, note_compilation
from collapse_jax.execution.programs import (
    BlockShape,
    CompiledBlock,
    TracedBlock,
    as_inputs,
    compile_block,
    trace_block,
)
from collapse_jax.planning.plan import Plan
from collapse_jax.planning.units import Program, Unit


class Runner:
    """Runs units one by one; the units of a program share its compilation.

    Args:
      plan: the plan of the sweep.
      progress_callback: is called with the number of chain-generations just done.
      devices: default all local ones.
    """

    def __init__(
        self, plan: Plan, progress_callback: Callable[[int], None], devices: Sequence[jax.Device] | None = None
    ):
        self.plan, self.progress_callback = plan, progress_callback
        self.devices = jax.local_devices() if devices is None else list(devices)
        self.keys_of = functools.cache(lambda seed: host_chain_keys(seed, plan.options.num_chains, plan.options.rng))
        self.seconds = {"seconds_trace": 0.0, "seconds_compile": 0.0, "seconds_run": 0.0}
        self._compiler = ThreadPoolExecutor(1)
        self._compiled: dict[int, Future[CompiledBlock]] = {}
        self._worlds = Worlds()
        self._order: list[int] = []
        self._noted: set[str] = set()

    def announce(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Note which units will come, in order, so that their programs compile ahead; return them."""
        self._order = list(dict.fromkeys(unit.program for unit in units))
        return units

    def run_unit(self, unit: Unit, saver: StateSaver | None = None) -> dict[str, np.ndarray]:
        """Return ``{metric: values}`` of a unit, in the shape of its place in the results."""
        results, plan = {}, self.plan
        for name, value in self._run_blocks(unit, self._compiled_program(unit.program), saver).items():
            missing = [(0, n - length) for n, length in zip(plan.metrics[name].shape, value.shape[2:], strict=True)]
            missing = [(0, 0), (0, plan.grid.num_generations - value.shape[1]), *missing]
            if any(map(sum, missing)):  # the arrays of other programs are longer, or their chains
                value = np.pad(value, missing, constant_values=np.nan)
            results[name] = value.reshape(*unit.shape, *value.shape[1:])
        return results

    def _run_blocks(self, unit: Unit, compiled: CompiledBlock, saver: StateSaver | None) -> dict[str, np.ndarray]:
        program, (values, _) = self.plan.programs[unit.program], self.plan.unit_chains(unit)
        upcoming, ready = self._upcoming(unit.program), 0.0
        self._make_worlds(upcoming)  # before the blocks: it may take compute and memory that they need
        if compiled.runs_alone:
            self._compile_ahead(upcoming)
        begin = last_progress = time.perf_counter()

        def count_generations(generations: int) -> None:
            nonlocal last_progress
            self.progress_callback(generations)
            last_progress = time.perf_counter()

        def compile_meanwhile() -> None:
            nonlocal ready
            if not compiled.runs_alone:
                self._compile_ahead(upcoming)
            ready = time.perf_counter()

        results = run_blocks(
            compiled,
            self._worlds.world_of(program.setting, program.world),
            values,
            self.plan.unit_keys(unit, self.keys_of),
            num_generations=program.num_generations,
            progress_callback=count_generations,
            floats=as_inputs(program.floats),
            saver=saver,
            meanwhile=compile_meanwhile,
        )
        end = last_progress if last_progress < ready else time.perf_counter()
        self.seconds["seconds_run"] += end - begin
        return results

    def _compiled_program(self, number: int) -> CompiledBlock:
        needed = (number, *self._upcoming(number))
        self._compiled = {n: compiled for n, compiled in self._compiled.items() if n in needed}
        if number not in self._compiled:
            self._submit(number)
        return self._compiled[number].result()

    def _upcoming(self, number: int) -> list[int]:
        return self._order[self._order.index(number) + 1 :][:1] if number in self._order else []

    def _make_worlds(self, upcoming: Sequence[int]) -> None:
        for program in (self.plan.programs[n] for n in upcoming):
            with contextlib.suppress(Exception):  # it is raised again when the program's turn comes
                self._worlds.world_of(program.setting, program.world)

    def _compile_ahead(self, upcoming: Sequence[int]) -> None:
        """Trace the next program here, and compile it in another thread."""
        for n in upcoming:
            if n not in self._compiled:
                self._submit(n)

    def _submit(self, number: int) -> None:
        # Tracing stays in this thread, for JAX's context managers hold for one thread. (Lowering needs x64 alone.)
        future: Future[CompiledBlock] = Future()
        try:
            known = COMPILED.get(self._key(number))
            if known is not None:
                future.set_result(known)
            else:
                future = self._compiler.submit(self._compile, number, self._trace(number))
        except Exception as error:  # is raised when its turn comes; until then it is not tried again
            future.set_exception(error)
        self._compiled[number] = future

    def _key(self, number: int) -> Hashable | None:
        """Return a key of a compiled program: of the program, of the shape of its calls, and of where it runs."""
        program = self.plan.programs[number]
        if program.key is None:
            return None
        return program.key, self._shape(program), tuple(self.devices)

    def _shape(self, program: Program) -> BlockShape:
        generations = self.plan.generations_per_call(program)
        return BlockShape(program.chains_per_block, generations, program.blocks_per_call)

    def _trace(self, number: int) -> TracedBlock:
        program, plan = self.plan.programs[number], self.plan
        if program.no_key and program.no_key not in self._noted:
            self._noted.add(program.no_key)
            note_compilation(program.no_key)
        unit = next(unit for unit in plan.units if unit.program == number)
        return trace_block(
            lambda values: plan.build_chain(program, values),
            self._worlds.world_of(program.setting, program.world),
            plan.unit_chains(unit)[0],
            plan.options.rng,
            metrics=program.metrics,
            shape=self._shape(program),
            floats=as_inputs(program.floats),
            devices=self.devices,
            mesh=plan.options.mesh,
        )

    def _compile(self, number: int, traced: TracedBlock) -> CompiledBlock:
        compiled = compile_block(traced)
        self.seconds["seconds_trace"] += compiled.trace_seconds
        self.seconds["seconds_compile"] += compiled.compile_seconds
        if (key := self._key(number)) is not None:
            COMPILED.put(key, compiled)
        return compiled
