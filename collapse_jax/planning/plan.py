"""The plan of a sweep: programs (a policy at a static point) and units of work (a block of points and chains)."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from collapse_jax.core.chain import make_chain
from collapse_jax.core.data_plan import plan_data as plan_chain
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import chain_keys
from collapse_jax.core.sharding import abstract, mesh_size, spread
from collapse_jax.core.suggestions import describe_choices
from collapse_jax.core.worlds import Outlines, same
from collapse_jax.planning.block_size import block_width, lane_bytes, stretch_of
from collapse_jax.planning.cost import operations, peak
from collapse_jax.planning.grid import Grid, Point
from collapse_jax.planning.options import Options, check_options
from collapse_jax.planning.units import Cut, Program, Unit, block_shape, cut_units, numbers_per_generation
from collapse_jax.types import Chain, JoinCounts, Metric, PartlyReal, Setting


class Plan(NamedTuple):
    """All that a sweep will do.

    Attributes:
      grid: policies and axes.
      options: the rest of the arguments.
      programs: what is compiled.
      units: in the order they are run.
    """

    grid: Grid
    options: Options
    programs: tuple[Program, ...]
    units: tuple[Unit, ...] = ()

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """How its programs are cut."""
        return tuple(Cut(program.width, program.block) for program in self.programs)

    @property
    def chunk(self) -> tuple[int, ...]:
        """Lengths that cut the results (but for the generations) so that a unit is whole pieces."""
        return tuple(map(min, zip(*(program.block for program in self.programs), strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the results' dimensions."""
        lengths = (len(axis.values) for axis in self.grid.axes)
        return (len(self.grid.policies), *lengths, self.options.num_chains, self.options.num_generations)

    @property
    def metrics(self) -> dict[str, Metric]:
        """All that is observed by any program, in order; dimensions of values as long as any program's."""
        found: dict[str, Metric] = {}
        for metric in (m for p in self.programs for m in p.setting.metrics if m.name in p.metrics):
            pairs = zip(metric.dims, found.get(metric.name, metric).dims, strict=True)
            found[metric.name] = metric._replace(dims=tuple(max(a, b) for a, b in pairs))
        return found

    def chain_of(self, program: Program, values: dict[str, Any]) -> Chain:
        """The chain at traced `values` (those of the axes traced there)."""
        static = {k: v for k, v in self.grid.values(program.point).items() if k not in values}
        return _checked_chain(self.grid.make(program.policy, static | values), self.options, program.law)

    def lanes(self, unit: Unit) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The traced values, ``{parameter: [lanes]}``, and the chain numbers of a unit, the chain fastest."""
        program = self.programs[unit.program]
        *where, chains = unit.where[1:]
        axes = [(a, s) for a, s, t in zip(self.grid.axes, where, program.traced, strict=True) if t]
        indices = itertools.product(*(range(s.start, s.stop) for _, s in axes))
        points = [
            {k: v for (a, _), i in zip(axes, index, strict=True) for k, v in a.point(i).items()} for index in indices
        ]
        number = chains.stop - chains.start
        dtypes = {n: np.result_type(float) if isinstance(v, float) else np.int32 for n, v in points[0].items()}
        values = {n: np.repeat(np.asarray([p[n] for p in points], dtype), number) for n, dtype in dtypes.items()}
        return values, np.tile(np.arange(chains.start, chains.stop), len(points))


def make_plan(grid: Grid, options: Options, cuts: Sequence[Cut] | None = None) -> Plan:
    """The programs and units of a sweep; whatever can be wrong with it is found here.

    Args:
      grid: policies and axes.
      options: the rest.
      cuts: one a program, where a store was already cut by them.

    Raises:
      UsageError: bad input, in one line.
    """
    check_options(options)
    programs = _programs(grid, options)
    _check_dims(programs)
    lengths = [len(axis.values) for axis in grid.axes]
    total = len(grid.policies) * math.prod(lengths) * options.num_chains * options.num_generations
    total *= max(map(numbers_per_generation, programs))
    if total > 2**36:
        raise UsageError(f"the results would hold {total:.1e} numbers a metric: lower num_chains or num_generations")
    key = chain_keys(options.seed, 1, options.rng)[0]
    plan = Plan(grid, options, tuple(programs))
    worlds = Outlines()
    sized = [_sized(plan, program, key, worlds) for program in programs]
    return recut(
        plan._replace(programs=tuple(sized)),
        cuts or [Cut(program.width, block_shape(grid, program, options)) for program in sized],
    )


def recut(plan: Plan, cuts: Sequence[Cut]) -> Plan:
    """The plan with its programs' units cut as given, one cut a program."""
    programs = [p._replace(width=cut.width, block=cut.block) for p, cut in zip(plan.programs, cuts, strict=True)]
    plan = plan._replace(programs=tuple(programs))
    return plan._replace(units=tuple(cut_units(plan)))


def _programs(grid: Grid, options: Options) -> list[Program]:
    """Every program, with all values of the grid checked by the factories before anything is compiled."""
    backend = "auto" if options.backend == "each" else options.backend
    laws = [_law(grid, number, backend) for number in range(len(grid.policies))]
    if options.backend == "auto" and not all(laws):
        laws = [False] * len(laws)
    programs = []
    for number, law in enumerate(laws):
        traced = tuple(a.traced and (a.names != ("num_samples",) or _any_n(grid, number, law)) for a in grid.axes)
        lengths = [1 if t else len(a.values) for a, t in zip(grid.axes, traced, strict=True)]
        for point in itertools.product(*map(range, lengths)):
            for full in _full_points(grid, traced, point):
                made = grid.make(number, grid.values(full))
                _checked_chain(made, options, law)
            metrics = _metrics(made.setting, options.metrics, grid.dims)
            programs.append(Program(number, point, traced, made.setting, metrics, law))
    return programs


def _full_points(grid: Grid, traced: Sequence[bool], point: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All points of the grid that one program serves."""
    spans = zip(grid.axes, traced, point, strict=True)
    yield from itertools.product(*(range(len(axis.values)) if t else (i,) for axis, t, i in spans))


def _checked_chain(point: Point, options: Options, law: bool) -> Chain:
    return make_chain(
        spread(point.setting, abstract(options.mesh or {})) if mesh_size(options.mesh) > 1 else point.setting,
        point.policy,
        num_samples=point.num_samples,
        num_generations=options.num_generations,
        curator=point.curator,
        backend="law" if law else "rows",
    )


def _law(grid: Grid, number: int, backend: str) -> bool:
    """Whether a policy's statistics are drawn from their law at every point of the grid."""
    lengths = [len(axis.values) if "curator" in axis.names else 1 for axis in grid.axes]
    points = [grid.make(number, grid.values(index)) for index in itertools.product(*map(range, lengths))]
    return all(plan_chain(p.setting, p.policy, p.curator, backend).law for p in points)


def _any_n(grid: Grid, number: int, law: bool) -> bool:
    """Whether n itself can be traced: shapes must not depend on it."""
    setting, policy, _, _ = grid.make(number, grid.values([0] * len(grid.axes)))
    counted = policy.real == "first" and isinstance(policy.batches, PartlyReal)
    counted = counted or isinstance(policy.batches, JoinCounts) or bool(policy.sizes)
    return law and _has_law_of_real(setting) and not counted


def _has_law_of_real(setting: Setting) -> bool:
    """Return whether statistics of real rows can be drawn from their law."""
    return setting.statistics is not None and setting.statistics.sample_real is not None


def _sized(plan: Plan, program: Program, key: jax.Array, made: Outlines) -> Program:
    """The program with its world, width and work, so that what cannot run is refused before anything has."""
    moving = [a for a, t in zip(plan.grid.axes, program.traced, strict=True) if t]
    worlds: list[Any] = []
    num: Any = 0
    for full in _full_points(plan.grid, program.traced, program.point):
        setting, _, _, num = plan.grid.make(program.policy, plan.grid.values(full))
        worlds.append(made.of(setting))
    world = worlds[0]
    if any(other is not world and not same(world, other) for other in worlds[1:]):
        raise UsageError(
            f"axes: values that change the real law of setting {program.setting.name} need runs of their own"
        )
    values = {k: v for axis in moving for k, v in axis.point(0).items()}
    chain, options = plan.chain_of(program, values), plan.options
    rowless = program.law and _has_law_of_real(program.setting)
    rows = () if rowless else jax.eval_shape(lambda: program.setting.sample_real(key, world, num))
    state = jax.eval_shape(chain.init, key, world)
    new, seen, jaxpr, asked = _step(chain, world, state, program.metrics)
    _check_shapes(program.setting, seen)
    lane, drawn = lane_bytes(state, new, rows, program.law)
    training = 0 if program.setting.init is None else peak(jaxpr)  # activations outweigh what a chain keeps
    metrics = program.setting.metrics  # all: bits may depend on the width, which must not on what is asked for
    held = lane + stretch(plan) * _bytes_of_arrays(metrics)
    width = block_width(held, drawn, program.setting.info.largest_block, options.chains_per_block, training)
    lane += stretch(plan) * _bytes_of_arrays(m for m in metrics if m.name in program.metrics)
    return program._replace(world=world, width=width, work=operations(asked), lane=lane + drawn)


def _bytes_of_arrays(metrics: Iterable[Metric]) -> int:
    """Of one generation's values that are not numbers."""
    return sum(math.prod(m.shape) for m in metrics if m.dims) * jax.numpy.result_type(float).itemsize


def _step(chain: Chain, world: Any, state: Any, metrics: Sequence[str]) -> tuple[Any, dict[str, Any], Any, Any]:
    """The shapes of a generation's batch and of what is seen of it, and one chain's generation as a jaxpr.

    Twice: with all metrics of the setting, as a block's width must not depend on those asked for, and with these only.
    """

    def step(world: Any, state: Any, generation: jax.Array) -> Any:
        state, new, observations = chain.emit(world, state, generation)
        return new, {name: observations[name] for name in metrics}, chain.absorb(world, state, new, generation)

    jaxpr, shapes = jax.make_jaxpr(step, return_shape=True)(world, state, jax.numpy.int32(1))
    return *shapes[:2], jaxpr.jaxpr, dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.out_avals))[0]


def _check_shapes(setting: Setting, seen: dict[str, Any]) -> None:
    for metric in setting.metrics:
        if metric.name in seen and seen[metric.name].shape != metric.shape:
            raise UsageError(
                f"setting {setting.name}: metric {metric.name!r} has the shape {seen[metric.name].shape}, and its dims "
                f"say {metric.shape}"
            )


def _check_dims(programs: Sequence[Program]) -> None:
    """One variable holds a metric of all programs: values may differ by their lengths, not by their dimensions."""
    found: dict[str, list[str]] = {}
    for metric in (m for p in programs for m in p.setting.metrics if m.name in p.metrics):
        dims = [name for name, _ in metric.dims]
        if found.setdefault(metric.name, dims) != dims:
            raise UsageError(
                f"metric {metric.name!r} has the dimensions {found[metric.name]} at one point of the sweep and {dims} "
                "at another: give each its own run, or name other metrics"
            )


def _metrics(setting: Setting, wanted: Sequence[str] | None, dims: Sequence[str]) -> tuple[str, ...]:
    known = [m.name for m in setting.metrics]
    lengths = {dim for m in setting.metrics for dim in m.dims}
    own = [dim for dim, _ in lengths]
    if len(own) > len(set(own)):
        raise UsageError(f"setting {setting.name}: its metrics give one dimension two lengths: {sorted(lengths)}")
    for name in dims:
        if name in known or name in own:
            raise UsageError(
                f"axis {name!r} has the name of a metric or of its dimension; call it 'setting.{name}' or "
                f"'policy.{name}'"
            )
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"metrics: setting {setting.name} has no {name!r}; {describe_choices(name, known)}")
    return tuple(wanted or known)


def stretch(plan: Plan) -> int:
    """Generations between two looks at the host."""
    horizon = plan.options.num_generations
    return min(plan.options.checkpoint_every or stretch_of(horizon), horizon)
