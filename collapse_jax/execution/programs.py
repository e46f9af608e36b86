"""Programs of a block: traced at each placement, compiled in another thread."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from collapse_jax.core.sharding import cut_lanes, places
from collapse_jax.planning import cost
from collapse_jax.planning.block_functions import blocks_at_once, functions, lanes
from collapse_jax.planning.block_size import device_memory
from collapse_jax.types import Array, Chain, Key, Tree, World


class Place(NamedTuple):
    """A device, or a mesh of them: how inputs and observations (`whole`), and parts of a state, lie there."""

    whole: Sharding
    state: Tree

    @property
    def platform(self) -> str:
        """Of its devices."""
        return str(next(iter(self.whole.device_set)).platform)  # type: ignore[attr-defined]

    @property
    def is_mesh(self) -> bool:
        """Whether a chain spans devices, which must meet in one order."""
        return len(self.whole.device_set) > 1


class Traced(NamedTuple):
    """The two functions of a block, traced for each place; see ``Programs``."""

    traced: tuple[jax.stages.Traced, ...]
    places: tuple[Place, ...]
    width: int
    stretch: int
    x64: bool
    seconds: float


class Programs(NamedTuple):
    """The two compiled functions of a block, at each place, and the seconds it took to trace and compile them.

    Attributes:
      start: one a place, ``(world, values, keys) -> state``.
      advance: one a place, ``(world, values, state, generation) -> (state, {metric: [stretch, width, ...]})``.
      places: where they run.
      width: lanes of a block.
      stretch: generations of one call.
      at_once: blocks under way at the same time at each place; 0: one, whatever the number of places.
    """

    start: tuple[jax.stages.Compiled, ...]
    advance: tuple[jax.stages.Compiled, ...]
    places: tuple[Place, ...]
    width: int
    stretch: int
    at_once: int
    trace_seconds: float
    compile_seconds: float

    @property
    def alone(self) -> bool:
        """Whether nothing may run beside its blocks: some call LAPACK on a CPU, some devices meet in one order."""
        return not self.at_once or self.places[0].is_mesh


def trace_blocks(
    chain_of: Callable[[dict[str, Array]], Chain],
    world: World,
    points: dict[str, np.ndarray],
    keys: Key,
    *,
    metrics: tuple[str, ...],
    width: int,
    stretch: int,
    devices: Sequence[jax.Device] | None = None,
    mesh: Mapping[str, int] | None = None,
) -> Traced:
    """Traces a chain for `width` lanes at each of the places.

    Every place runs the very program that one alone would, so results do not depend on their number, bit for bit.

    Args:
      chain_of: the chain of one lane's values (tracers).
      world: shared by all lanes.
      points: ``{name: [lanes]}``, any values of the right types.
      keys: ``[lanes]``, any.
      metrics: which observations to keep.
      width: lanes side by side on a device.
      stretch: generations of one call.
      devices: default all local ones; blocks are dealt out to them.
      mesh: devices a chain (see ``sweep.sweep``); the chain must be of a setting that is spread likewise.

    Raises:
      UsageError: devices that are not whole meshes.
    """
    clock = time.perf_counter()
    start, advance = functions(chain_of, metrics, stretch)
    first = (world, *lanes(points, keys, np.zeros(width, int)))
    shapes = jax.eval_shape(start, *first)
    traced, found = [], []
    for whole in places(jax.local_devices() if devices is None else devices, mesh):
        *here, generation = jax.device_put((*first, jnp.int32(1)), whole)
        lies = jax.tree.map(lambda _, s=whole: s, shapes)
        if mesh:
            lies = lies._replace(params=cut_lanes(whole, shapes.params))
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, lies)
        traced.append(jax.jit(start, out_shardings=lies).trace(*here))
        advanced = jax.jit(advance, donate_argnums=2, out_shardings=(lies, whole))
        traced.append(advanced.trace(*here[:2], state, generation))
        found.append(Place(whole, lies))
    return Traced(tuple(traced), tuple(found), width, stretch, is_x64(), time.perf_counter() - clock)


def compile_blocks(traced: Traced) -> Programs:
    """Lowers and compiles what was traced; it may be called in another thread."""
    clock, platform = time.perf_counter(), traced.places[0].platform
    with jax.enable_x64(traced.x64):  # a setting of each thread
        lowered = [program.lower() for program in traced.traced]
        with ThreadPoolExecutor() as pool:
            compiled = list(pool.map(_compile, lowered, _levels(traced, platform) * len(traced.places)))
    # Two batched LAPACK calls at once can lock a CPU's thread pool up (seen with jaxlib 0.10.2).
    locks = platform == "cpu" and any("@lapack_" in program.as_text() for program in lowered)
    return Programs(
        tuple(compiled[::2]),
        tuple(compiled[1::2]),
        traced.places,
        traced.width,
        traced.stretch,
        0 if locks else 1 if traced.places[0].is_mesh else blocks_that_fit(compiled[1], blocks_at_once(1)),
        traced.seconds,
        time.perf_counter() - clock,
    )


def _levels(traced: Traced, platform: str) -> tuple[int | None, int | None]:
    """Of XLA's optimisation, of a first state and of a stretch. On a CPU level 1 gives loops as fast as higher ones."""
    # Level 0 compiles faster and gives slower ones, which shows where a first state is worth several generations.
    start, stretch = (cost.operations(program.jaxpr.jaxpr) for program in traced.traced[:2])
    return (int(start * traced.stretch > 3 * stretch), 1) if platform == "cpu" else (None, None)


def _compile(lowered: jax.stages.Lowered, level: int | None) -> jax.stages.Compiled:
    if level is None or jax.config.read("jax_disable_most_optimizations"):  # that switch of JAX's says more
        return lowered.compile()
    return lowered.compile(compiler_options={"xla_backend_optimization_level": str(level)})


def blocks_that_fit(program: jax.stages.Compiled, wanted: int) -> int:
    """How many of the `wanted` blocks have room on a device together; at least one."""
    about, memory = program.memory_analysis(), device_memory()
    if wanted == 1 or about is None or memory is None:
        return wanted
    needs = about.argument_size_in_bytes + about.output_size_in_bytes + about.temp_size_in_bytes
    return max(min(wanted, int(0.5 * memory // max(needs, 1))), 1)


def is_x64() -> bool:
    """Return whether JAX computes in 64 bits here."""
    return jnp.result_type(float) == jnp.float64
