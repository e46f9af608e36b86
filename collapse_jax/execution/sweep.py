"""Many chains over a grid, in memory; see ``stream`` for grids that outlive a process."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import xarray as xr

from collapse_jax.core.random import chain_keys
from collapse_jax.core.sharding import places
from collapse_jax.core.worlds import Worlds
from collapse_jax.execution.blocks import Programs, Saver, Traced, compile_blocks, run_blocks, trace_blocks
from collapse_jax.execution.progress import told
from collapse_jax.planning.grid import Axis, Grid, coordinates, describe, grid_of
from collapse_jax.planning.memory_estimate import check_fits
from collapse_jax.planning.plan import Options, Plan, Unit, make_plan, stretch
from collapse_jax.types import Curator, Policy, Setting


def run(setting: Setting, policy: Policy, **options: Any) -> xr.Dataset:
    """Many chains of one setting under one policy.

    Args:
      setting: what is fitted.
      policy: which data are kept.
      **options: as for ``sweep``: `num_samples`, `num_generations` and `num_chains` are needed.

    Returns:
      Dims ``("chain", "generation")``, generation from 1 (the fit to real data), one variable a metric with its units
      and source as attributes.

    Raises:
      ValueError: bad input, in one line, before anything is computed.
    """
    return sweep(setting, policy, **options).isel(policy=0)


def sweep(
    setting: Setting | Callable[..., Setting],
    policy: Policy | Sequence[Policy] | Callable[..., Policy],
    *,
    num_samples: int | None = None,
    num_generations: int,
    num_chains: int,
    seed: int = 0,
    axes: Mapping[str | tuple[str, ...], Sequence] | None = None,
    curator: Curator | Sequence[Curator | None] | Callable[..., Curator] | None = None,
    metrics: Sequence[str] | None = None,
    precision: str = "float32",
    rng: str = "threefry2x32",
    backend: str = "auto",
    chains_per_block: int | None = None,
    mesh: Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int, int], None] | bool | None = None,
) -> xr.Dataset:
    """Many chains over a product of policies and axes, on common random numbers.

    Chain c's key depends on (`seed`, c) alone: policies and grid points see the same random numbers, and a run of 100
    chains is the first tenth of a run of 1,000.

    Args:
      setting: a setting, or a factory whose parameters may be axes.
      policy: a policy, several of them, or a factory whose parameters may be axes.
      num_samples: n, rows of the first real batch and of every synthetic one (unless it is an axis).
      num_generations: fits a chain.
      num_chains: independent chains a point.
      seed: of the whole run.
      axes: ``{name: values}``; a name is ``num_samples`` or a parameter of a factory (``setting.x``, ``policy.x`` or
        ``curator.x`` where several have it), and a tuple of names moves them together. Whole numbers and strings are
        static, floats are traced: a grid of them is one program.
      curator: what is done to each batch at its birth: a curator, several (None among them: nothing), which are then an
        axis, or a factory whose parameters may be axes.
      metrics: which of the setting's metrics to compute; default all. What is not asked for costs nothing.
      precision: ``"float32"`` or ``"float64"``.
      rng: JAX's random-number implementation; ``"threefry2x32"`` gives the same bits on all platforms.
      backend: ``"law"``, ``"rows"`` or ``"auto"`` (see ``make_chain``). One sweep uses one backend: with ``"auto"``
        the law, if every policy of the sweep allows it. ``"each"`` takes what is cheapest for each policy, which then
        see different random numbers.
      chains_per_block: lanes side by side on a device. Bits may depend on it, so its default depends on sizes alone;
        they do not depend on the number of devices.
      mesh: devices a chain, for models too large or too slow for one: ``{"data": 2, "model": 2}`` shares the rows of
        its minibatches (and new rows) out over two and cuts its parameters in two (see ``sharding.spread``). Other
        devices take other blocks. Results agree with those of one device to rounding, not bit for bit; sampled
        symbols may differ from the first that rounding decides.
      devices: default all local ones; blocks of chains are dealt out to them.
      progress: True draws a bar, in a terminal or a notebook; a function is called as ``progress(done, total)``, in
        chain-generations, from other threads, one call at a time.

    Returns:
      Dims ``("policy", *axes, "chain", "generation")``, one variable a metric; those of metrics whose values are arrays
      (sample texts, pictures) follow, and are named in the variable's attribute ``value_dims`` too. The attribute
      ``calls`` says how registered factories were called, by which pictures find what theory says.

    Raises:
      ValueError: bad input, in one line, before anything is computed.
    """
    options = Options(num_generations, num_chains, seed, metrics, precision, rng, backend, chains_per_block, mesh=mesh)
    places(jax.local_devices() if devices is None else devices, mesh)
    with jax.enable_x64(precision == "float64"), told(progress) as tell:
        plan = make_plan(grid_of(setting, policy, num_samples, axes or {}, curator), options)
        check_fits(plan)
        total, done = len(plan.grid.policies) * int(np.prod(plan.shape[1:])), [0]

        def tick(step: int) -> None:
            done[0] += step
            tell(done[0], total)

        runner = Runner(plan, tick, devices)
        out = {name: np.full((*plan.shape, *m.shape), np.nan, precision) for name, m in plan.metrics.items()}
        for unit in runner.expect(plan.units):
            for name, value in runner.run(unit).items():
                out[name][unit.where] = value
    given = {"num_samples": num_samples, "calls": describe(plan.grid)}
    return dataset(plan, out, runner.seconds | {name: value for name, value in given.items() if value is not None})


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


def attributes(plan: Plan) -> dict[str, Any]:
    """What a dataset says of its run."""
    options, device = plan.options, jax.devices()[0]
    return {
        "setting": plan.programs[0].setting.name,
        "num_generations": options.num_generations,
        "num_chains": options.num_chains,
        "seed": options.seed,
        "precision": options.precision,
        "rng": options.rng,
        "backend": " and ".join(sorted({"law" if p.law else "rows" for p in plan.programs})),
        "device": f"{device.platform}: {device.device_kind}",
        **({"mesh": dict(options.mesh)} if options.mesh else {}),
    }


def labels(grid: Grid, options: Options) -> dict[str, list[Any]]:
    """The coordinates of the results."""
    return {
        "policy": list(grid.policies),
        **{axis.dim: coordinates(axis) for axis in grid.axes},
        "chain": list(range(options.num_chains)),
        "generation": list(range(1, options.num_generations + 1)),
    }


def about(plan: Plan) -> dict[str, dict[str, Any]]:
    """The attributes of each metric.

    What points of the grid may differ by, a baseline say, is one value, or (nested) lists along the axes it varies
    with, which ``baseline_dims`` then names, and ``baseline_labels`` tells apart, a list of labels each.
    """
    axes = plan.grid.axes
    known = any(metric.baseline is not None or metric.attrs for metric in plan.metrics.values())
    points = list(np.ndindex(*(len(axis.values) for axis in axes))) if known else []
    made = [plan.grid.make(0, plan.grid.values(point)).setting for point in points]
    described: dict[str, dict[str, Any]] = {}
    for name, metric in plan.metrics.items():
        attrs = {key: getattr(metric, key) for key in ("long_name", "units", "source", "scale")}
        attrs |= {"role": metric.role} if metric.role else {}
        attrs |= {"value_dims": [dim for dim, _ in metric.dims]} if metric.dims else {}
        given = [{"baseline": m.baseline, **m.attrs} for setting in made for m in setting.metrics if m.name == name]
        for key in given[0] if len(given) == len(made) > 0 else ():
            values = [here[key] for here in given]
            attrs |= {} if None in values else _along(axes, key, values)
        described[name] = attrs
    return described


def _along(axes: Sequence[Axis], name: str, values: Sequence[Any]) -> dict[str, Any]:
    """An attribute of which there is a value at each point of the grid."""
    table = np.empty(len(values), object)
    for i, value in enumerate(values):  # at once, lists would be taken apart
        table[i] = value
    table = table.reshape([len(axis.values) for axis in axes])
    moves = [bool((table != table.take([0], i)).any()) for i in range(len(axes))]
    part = table[tuple(slice(None) if m else 0 for m in moves)]
    along = [axis for axis, m in zip(axes, moves, strict=True) if m]
    if not along:
        return {name: part}
    dims, known = [axis.dim for axis in along], [coordinates(axis) for axis in along]
    return {name: part.tolist(), f"{name}_dims": dims, f"{name}_labels": known}


def dataset(plan: Plan, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> xr.Dataset:
    """The results with their labels, units and origin."""
    described = about(plan)
    dims = {name: (*plan.grid.dims, *described[name].get("value_dims", ())) for name in arrays}
    variables = {name: (dims[name], value, described[name]) for name, value in arrays.items()}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in attrs.items()}
    return xr.Dataset(variables, labels(plan.grid, plan.options), attributes(plan) | rounded)
