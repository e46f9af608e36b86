"""Measure the programs of a plan: their worlds, their keys, and how many chains they can run side by side."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from collapse_jax.core.bounded_cache import BoundedCache
from collapse_jax.core.errors import UsageError
from collapse_jax.core.sharding import mesh_size
from collapse_jax.core.worlds import PlannedWorlds, same_world
from collapse_jax.planning.block_size import choose_blocks_per_call, choose_chains_per_block, count_chain_bytes
from collapse_jax.planning.cost import count_live_operations, count_peak_bytes
from collapse_jax.planning.paths import targets
from collapse_jax.planning.program_key import NoKeyError, flags_key, list_floats, recipe_key, tree_key
from collapse_jax.planning.units import Program
from collapse_jax.types import Metric, Setting

if TYPE_CHECKING:
    from collapse_jax.planning.plan import Plan


def measure_program(plan: "Plan", program: Program, key: jax.Array, worlds: PlannedWorlds) -> Program:
    """Return the program with its world, sizes and operations, so that a bad sweep is refused before anything runs."""
    traced_axes = [a for a, t in zip(plan.grid.axes, program.traced, strict=True) if t]
    shapes: list[Any] = []
    for full_point in plan.grid.full_points(program.traced, program.point):
        point = plan.grid.point(program.policy, full_point)
        shapes.append(worlds.shapes_of(point.setting))
    world = shapes[0]
    if any(other is not world and not same_world(world, other) for other in shapes[1:]):
        raise UsageError(
            f"axes: values that change the real law of setting {program.setting.name} need runs of their own"
        )
    values = {k: v for axis in traced_axes for k, v in axis.point(0).items() if k != "seed"}
    program = program._replace(world=world, floats=_list_floats(plan, program, [*values]))
    sized = _try_inputs(plan, program, values, point.num_samples, key) if program.floats else None
    if sized is not None:
        return sized
    program = _with_key(plan, program._replace(floats={}), values)
    return _with_measured_sizes(plan, program, values, point.num_samples, key)


def _try_inputs(
    plan: "Plan", program: Program, values: Mapping[str, Any], num_samples: Any, key: jax.Array
) -> Program | None:
    """Return the program with its floats as inputs; None where a factory does with them what no traced number can."""
    program = _with_key(plan, program, values)
    if program.key is not None and _NEEDS_CONSTANTS.get(program.key):
        return None
    try:
        return _with_measured_sizes(plan, program, values, num_samples, key)
    except UsageError:
        raise
    except Exception:  # of any kind: a factory may format a number, or look it up; with constants errors are its own
        if program.key is not None:
            _NEEDS_CONSTANTS.put(program.key, True)
        return None


def _with_key(plan: "Plan", program: Program, values: Mapping[str, Any]) -> Program:
    program_key, reason = _make_key(plan, program, values)
    return program._replace(key=program_key, no_key=reason)


def _with_measured_sizes(
    plan: "Plan", program: Program, values: Mapping[str, Any], num_samples: Any, key: jax.Array
) -> Program:
    """Return the program with its sizes, which were measured before where its key is known."""
    sizes = None if program.key is None else _SIZES.get(program.key)
    if sizes is None:
        sizes = _measure_sizes(plan, program, values, num_samples, key)
        if program.key is not None:
            _SIZES.put(program.key, sizes)
    return _with_sizes(plan, program, sizes)


class _Sizes(NamedTuple):
    """The sizes of one chain of a program.

    Attributes:
      state_bytes: bytes that it keeps.
      drawn_bytes: bytes that it draws in a generation.
      training_bytes: bytes that it takes while it is fitted.
      operations: those of one generation that the asked metrics and the next state need.
    """

    state_bytes: int
    drawn_bytes: int
    training_bytes: int
    operations: float


_SIZES: BoundedCache[_Sizes] = BoundedCache(1024)  # of programs by their keys
_NEEDS_CONSTANTS: BoundedCache[bool] = BoundedCache(1024)  # keys of programs whose floats cannot be inputs


def forget_sizes() -> None:
    """Forget the sizes of programs that were planned before."""
    _SIZES.clear()
    _NEEDS_CONSTANTS.clear()


def _list_floats(plan: "Plan", program: Program, traced: Sequence[str]) -> dict[str, float]:
    """Return the numbers of the program's parts that are its inputs, apart from those that are traced along axes."""
    recipes, moved = plan.grid.recipes(program.policy, program.point), _traced_paths(plan, program, traced)
    found = {
        f"{head}.{path}": value
        for head, recipe in zip(_HEADS, recipes, strict=True)
        if recipe is not None
        for path, value in list_floats(recipe).items()
    }
    return {path: value for path, value in found.items() if path not in moved}


_HEADS = ("setting", "policy", "curator")


def _traced_paths(plan: "Plan", program: Program, paths: Iterable[str]) -> set[str]:
    """Return the paths of axes that move the program's own policy, as those of ``Program.floats`` name it."""
    own = f"policies.{program.policy}."
    every = {target for path in paths for target in targets(path, len(plan.grid.policies))}
    return {f"policy.{path.removeprefix(own)}" if path.startswith(own) else path for path in every}


def _make_key(plan: "Plan", program: Program, values: Mapping[str, Any]) -> tuple[Hashable | None, str]:
    """Return a key of all that a program depends on, or None and the reason why there is none."""
    options, recipes = plan.options, plan.grid.recipes(program.policy, program.point)
    traced = _traced_paths(plan, program, values) | {*program.floats}
    num_samples = None if "num_samples" in values else plan.grid.point(program.policy, program.point).num_samples
    try:
        parts = tuple(
            recipe_key(recipe, [path.removeprefix(f"{head}.") for path in traced if path.startswith(f"{head}.")])
            for head, recipe in zip(_HEADS, recipes, strict=True)
        )
    except NoKeyError as error:
        return None, str(error)
    except RecursionError:
        return None, "a part reads itself"
    sizes = (num_samples, program.num_generations, plan.generations_per_call(program), options.chains_per_block)
    mesh = None if options.mesh is None else tuple(options.mesh.items())
    kinds = tuple((name, isinstance(value, float)) for name, value in values.items())
    floats = tuple(program.floats)
    chosen = (program.metrics, program.law, options.precision, options.rng, mesh)
    return (parts, kinds, floats, sizes, chosen, tree_key(program.world), flags_key()), ""


def has_law_of_real(setting: Setting) -> bool:
    """Return whether statistics of real rows can be drawn from their law."""
    return setting.statistics is not None and setting.statistics.sample_real is not None


def _measure_sizes(
    plan: "Plan", program: Program, values: Mapping[str, Any], num_samples: Any, key: jax.Array
) -> _Sizes:
    """Return the sizes of a program by tracing one generation of one chain."""
    world, setting = program.world, program.setting
    draws_no_rows = program.law and has_law_of_real(setting)
    rows = () if draws_no_rows else jax.eval_shape(lambda: setting.sample_real(key, world, num_samples))
    step = _trace_step(plan, program, {**values, **program.floats}, key)
    _check_metric_shapes(setting, step.observations)
    # Activations outweigh what a chain keeps.
    training_bytes = 0 if setting.init is None else count_peak_bytes(step.jaxpr)
    return _Sizes(*count_chain_bytes(step.state, step.new_rows, rows, program.law), training_bytes, step.operations)


def _with_sizes(plan: "Plan", program: Program, sizes: _Sizes) -> Program:
    """Return the program with the shape of its calls."""
    options, setting, generations = plan.options, program.setting, plan.generations_per_call(program)
    # All metrics count here: bits may depend on chains_per_block, which must not depend on what is asked for.
    kept_bytes = sizes.state_bytes + generations * _count_array_metric_bytes(setting.metrics)
    chains_per_block = choose_chains_per_block(
        kept_bytes, sizes.drawn_bytes, setting.info.largest_block, options.chains_per_block, sizes.training_bytes
    )
    blocks_per_call = 1
    if not options.chains_per_block and mesh_size(options.mesh) == 1:
        operations = chains_per_block * generations * sizes.operations
        blocks_per_call = choose_blocks_per_call(chains_per_block * kept_bytes, operations)
    chosen_bytes = generations * _count_array_metric_bytes(m for m in setting.metrics if m.name in program.metrics)
    return program._replace(
        chains_per_block=chains_per_block,
        blocks_per_call=blocks_per_call,
        operations=sizes.operations,
        bytes_per_chain=sizes.state_bytes + chosen_bytes + sizes.drawn_bytes,
    )


def _count_array_metric_bytes(metrics: Iterable[Metric]) -> int:
    """Return the bytes of one generation's values of the metrics that are arrays."""
    return sum(math.prod(m.shape) for m in metrics if m.dims) * jax.numpy.result_type(float).itemsize


class _TracedStep(NamedTuple):
    """One generation of one chain.

    Attributes:
      state: the shapes of the chain's state.
      new_rows: the shapes of the generation's batch.
      observations: the shapes of the metrics that were asked for.
      jaxpr: of the whole step, with all metrics of the setting, so that sizes do not depend on those asked for.
      operations: those that the asked metrics and the next state need.
    """

    state: Any
    new_rows: Any
    observations: dict[str, Any]
    jaxpr: Any
    operations: float


def _trace_step(plan: "Plan", program: Program, values: Mapping[str, Any], key: Any) -> _TracedStep:
    def init(values: dict[str, Any], world: Any) -> Any:
        return plan.build_chain(program, values).init(key, world)

    def step(values: dict[str, Any], world: Any, state: Any, generation: jax.Array) -> Any:
        chain = plan.build_chain(program, values)
        state, new, observations = chain.emit(world, state, generation)
        observed = {name: observations[name] for name in program.metrics}
        return new, observed, chain.absorb(world, state, new, generation)

    values, world = dict(values), program.world
    state = jax.eval_shape(init, values, world)
    jaxpr, (new_rows, observed, _) = jax.make_jaxpr(step, return_shape=True)(values, world, state, jax.numpy.int32(1))
    operations = count_live_operations(jaxpr.jaxpr, [True] * len(jaxpr.out_avals))
    return _TracedStep(state, new_rows, observed, jaxpr.jaxpr, operations)


def _check_metric_shapes(setting: Setting, observations: dict[str, Any]) -> None:
    for metric in setting.metrics:
        if metric.name in observations and observations[metric.name].shape != metric.shape:
            raise UsageError(
                f"setting {setting.name}: metric {metric.name!r} has the shape {observations[metric.name].shape}, and "
                f"its dims say {metric.shape}"
            )
