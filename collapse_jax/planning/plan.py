"""Plan a sweep: its programs (one policy at one static point) and its units of work (blocks of points and chains)."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.core.chain import make_chain
from collapse_jax.core.data_plan import plan_data
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import HostKeys, chain_keys
from collapse_jax.core.sharding import abstract_mesh, mesh_size, shard_setting
from collapse_jax.core.suggestions import describe_choices
from collapse_jax.core.worlds import PlannedWorlds
from collapse_jax.planning.block_size import choose_generations_per_call
from collapse_jax.planning.grid import Grid, Point
from collapse_jax.planning.options import Options, check_options
from collapse_jax.planning.paths import ALL_METRICS
from collapse_jax.planning.program_sizes import has_law_of_real, measure_program
from collapse_jax.planning.units import Cut, Program, Unit, choose_unit_shape, cut_units, numbers_per_generation
from collapse_jax.types import Chain, JoinCounts, Metric, PartlyReal, Setting


class Plan(NamedTuple):
    """All that a sweep will do.

    Attributes:
      grid: policies and axes.
      options: the rest of the arguments.
      programs: what is compiled.
      units: the units of work, in the order in which they are run.
    """

    grid: Grid
    options: Options
    programs: tuple[Program, ...]
    units: tuple[Unit, ...] = ()

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Return how the programs are cut into units."""
        return tuple(Cut(program.unit_shape) for program in self.programs)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Return lengths that cut the results (without the generations) so that a unit is whole chunks."""
        return tuple(map(min, zip(*(program.unit_shape for program in self.programs), strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the results' dimensions."""
        lengths = (len(axis.values) for axis in self.grid.axes)
        return (len(self.grid.policies), *lengths, self.options.num_chains, self.grid.num_generations)

    def generations_per_call(self, program: Program) -> int:
        """Return how many generations one call of a program makes before the host sees results."""
        horizon = program.num_generations
        return min(self.options.checkpoint_every or choose_generations_per_call(horizon), horizon)

    def count_generations(self, unit: Unit) -> int:
        """Return how many chain-generations a unit makes."""
        return math.prod(unit.shape) * self.programs[unit.program].num_generations

    @property
    def metrics(self) -> dict[str, Metric]:
        """Return the metrics of all programs, in order; array dimensions are as long as any program's."""
        metrics: dict[str, Metric] = {}
        for metric in (m for p in self.programs for m in p.setting.metrics if m.name in p.metrics):
            pairs = zip(metric.dims, metrics.get(metric.name, metric).dims, strict=True)
            metrics[metric.name] = metric._replace(dims=tuple(max(a, b) for a, b in pairs))
        return metrics

    def build_chain(self, program: Program, values: dict[str, Any]) -> Chain:
        """Return the chain at traced `values`: the program's floats, and those of the axes that are traced in it."""
        own = f"policies.{program.policy}."
        moved = {own + k.removeprefix("policy.") if k.startswith("policy.") else k: v for k, v in values.items()}
        return _build_chain(self.grid.point(program.policy, program.point, moved), self.options, program.law)

    def unit_chains(self, unit: Unit) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the traced values, ``{path: [chains]}``, and the chain numbers of a unit, the chain fastest."""
        program = self.programs[unit.program]
        *where, chains = unit.where[1:]
        axes = [(a, s) for a, s, t in zip(self.grid.axes, where, program.traced, strict=True) if t]
        indices = itertools.product(*(range(s.start, s.stop) for _, s in axes))
        points = [
            {k: v for (a, _), i in zip(axes, index, strict=True) for k, v in a.point(i).items() if k != "seed"}
            for index in indices
        ]
        number = chains.stop - chains.start
        dtypes = {n: np.result_type(float) if isinstance(v, float) else np.int32 for n, v in points[0].items()}
        values = {n: np.repeat(np.asarray([p[n] for p in points], dtype), number) for n, dtype in dtypes.items()}
        return values, np.tile(np.arange(chains.start, chains.stop), len(points))

    def unit_keys(self, unit: Unit, keys_of: Callable[[int], HostKeys]) -> HostKeys:
        """Return the keys of a unit's chains, in the order of ``unit_chains``; `keys_of` returns those of a seed."""
        _, chains = self.unit_chains(unit)
        spans = [range(s.start, s.stop) for s in unit.where[1:-1]]
        seeds = [self.grid.seed(index) for index in itertools.product(*spans)]
        if len(set(seeds)) == 1:
            return keys_of(seeds[0]).at(chains)
        parts = np.split(chains, len(seeds))
        words = [keys_of(seed).at(part).words for seed, part in zip(seeds, parts, strict=True)]
        return HostKeys(np.concatenate(words), self.options.rng)


def make_plan(grid: Grid, options: Options, cuts: Sequence[Cut] | None = None) -> Plan:
    """Return the programs and units of a sweep; whatever can be wrong with it is found here.

    Args:
      grid: policies and axes.
      options: the rest of the arguments.
      cuts: one for each program, where a store was already cut by them.

    Raises:
      UsageError: bad input, in one line.
    """
    options = check_options(options)
    programs = _list_programs(grid, options)
    _check_metric_dims(programs)
    lengths = [len(axis.values) for axis in grid.axes]
    total = len(grid.policies) * math.prod(lengths) * options.num_chains * grid.num_generations
    total *= max(map(numbers_per_generation, programs))
    if total > 2**36:
        raise UsageError(f"the results would hold {total:.1e} numbers a metric: lower num_chains or num_generations")
    key = chain_keys(0, 1, options.rng)[0]
    plan = Plan(grid, options, tuple(programs))
    worlds = PlannedWorlds()
    sized = [measure_program(plan, program, key, worlds) for program in programs]
    return cut_plan(
        plan._replace(programs=tuple(sized)),
        cuts or [Cut(choose_unit_shape(grid, program, options)) for program in sized],
    )


def cut_plan(plan: Plan, cuts: Sequence[Cut]) -> Plan:
    """Return the plan with its programs cut into units as given, one cut for each program."""
    programs = [p._replace(**cut._asdict()) for p, cut in zip(plan.programs, cuts, strict=True)]
    plan = plan._replace(programs=tuple(programs))
    return plan._replace(units=tuple(cut_units(plan)))


def _list_programs(grid: Grid, options: Options) -> list[Program]:
    """Return every program; the factories check all values of the grid before anything is compiled."""
    backend = "auto" if options.backend == "each" else options.backend
    laws = [_uses_law(grid, number, backend) for number in range(len(grid.policies))]
    if options.backend == "auto" and not all(laws):
        laws = [False] * len(laws)
    programs = []
    for number, law in enumerate(laws):
        traced = tuple(
            a.traced and (a.paths != ("num_samples",) or _can_trace_num_samples(grid, number, law)) for a in grid.axes
        )
        lengths = [1 if t else len(a.values) for a, t in zip(grid.axes, traced, strict=True)]
        for point in itertools.product(*map(range, lengths)):
            for full_point in grid.full_points(traced, point):
                parts = grid.point(number, full_point)
                _build_chain(parts, options, law)
            metrics = _choose_metrics(parts.setting, options.metrics, grid.dims)
            programs.append(Program(number, point, traced, parts.setting, metrics, law, parts.num_generations))
    return programs


def _build_chain(point: Point, options: Options, law: bool) -> Chain:
    setting = point.setting
    if mesh_size(options.mesh) > 1:
        setting = shard_setting(setting, abstract_mesh(options.mesh or {}))
    return make_chain(
        setting,
        point.policy,
        num_samples=point.num_samples,
        num_generations=point.num_generations,
        curator=point.curator,
        backend="law" if law else "rows",
    )


def _uses_law(grid: Grid, number: int, backend: str) -> bool:
    """Return whether a policy's statistics are drawn from their law at every point of the grid."""
    lengths = [len(axis.values) if "curator" in axis.paths else 1 for axis in grid.axes]
    points = [grid.point(number, index) for index in itertools.product(*map(range, lengths))]
    return all(plan_data(p.setting, p.policy, p.curator, backend).law for p in points)


def _can_trace_num_samples(grid: Grid, number: int, law: bool) -> bool:
    """Return whether n itself can be traced, which needs shapes that do not depend on it."""
    setting, policy, *_ = grid.point(number, [0] * len(grid.axes))
    counted = policy.real == "first" and isinstance(policy.batches, PartlyReal)
    counted = counted or isinstance(policy.batches, JoinCounts) or bool(policy.sizes)
    return law and has_law_of_real(setting) and not counted


def _check_metric_dims(programs: Sequence[Program]) -> None:
    """Refuse a metric with other dimensions in other programs, since one variable holds it; lengths may differ."""
    dims_of: dict[str, list[str]] = {}
    for metric in (m for p in programs for m in p.setting.metrics if m.name in p.metrics):
        dims = [name for name, _ in metric.dims]
        if dims_of.setdefault(metric.name, dims) != dims:
            raise UsageError(
                f"metric {metric.name!r} has the dimensions {dims_of[metric.name]} at one point of the sweep and "
                f"{dims} at another: give each its own run, or name other metrics"
            )


def _choose_metrics(setting: Setting, names: Sequence[str] | None, axis_names: Sequence[str]) -> tuple[str, ...]:
    known = [m.name for m in setting.metrics]
    lengths = {dim for m in setting.metrics for dim in m.dims}
    metric_dims = [dim for dim, _ in lengths]
    if len(metric_dims) > len(set(metric_dims)):
        raise UsageError(f"setting {setting.name}: its metrics give one dimension two lengths: {sorted(lengths)}")
    for name in axis_names:
        if name in known or name in metric_dims:
            raise UsageError(
                f"axis {name!r} has the name of a metric or of its dimension; call it 'setting.{name}' or "
                f"'policies.{name}'"
            )
    if not names:
        return tuple(m.name for m in setting.metrics if m.default)
    if tuple(names) == ALL_METRICS:
        return tuple(known)
    for name in names:
        if name not in known:
            raise UsageError(f"metrics: setting {setting.name} has no {name!r}; {describe_choices(name, known)}")
    return tuple(names)
