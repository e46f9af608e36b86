"""Trace and compile the program of a block of chains, once for each device or mesh that it runs on."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from collapse_jax.core.random import host_chain_keys
from collapse_jax.core.sharding import chain_placements, stacked_param_shardings
from collapse_jax.planning import cost
from collapse_jax.planning.block_functions import make_block_functions, max_concurrent_blocks
from collapse_jax.planning.block_size import device_memory
from collapse_jax.types import Array, Chain, Tree, World


class Placement(NamedTuple):
    """A device or a mesh of devices, with the shardings of what lies there.

    Attributes:
      inputs: the sharding of inputs and observations: each device holds all of them.
      state: the sharding of each leaf of a block's state.
    """

    inputs: Sharding
    state: Tree

    @property
    def platform(self) -> str:
        """Return the platform of its devices: cpu, gpu or tpu."""
        return str(next(iter(self.inputs.device_set)).platform)  # type: ignore[attr-defined]  # stubs lack Device

    @property
    def is_mesh(self) -> bool:
        """Return whether a chain spans several devices, which must run programs in the same order."""
        return len(self.inputs.device_set) > 1


class BlockShape(NamedTuple):
    """How many chains and generations one call of a compiled program makes.

    Attributes:
      chains_per_block: chains that run side by side; bits may depend on it.
      generations_per_call: generations that one call makes.
      blocks_per_call: the most blocks that one call makes, one after the other.
    """

    chains_per_block: int
    generations_per_call: int
    blocks_per_call: int = 1


class TracedBlock(NamedTuple):
    """The two functions of a block, traced for each placement; see ``CompiledBlock``."""

    traced: tuple[jax.stages.Traced, ...]
    placements: tuple[Placement, ...]
    shape: BlockShape
    x64: bool
    seconds: float


class CompiledBlock(NamedTuple):
    """The two compiled functions of a block at each placement, and the seconds that tracing and compiling took.

    Attributes:
      start: one a placement, see ``BlockFunctions.start``; keys are given as ``HostKeys.words``.
      advance: one a placement, see ``BlockFunctions.advance``.
      placements: where the functions run.
      shape: how many chains and generations a call makes.
      max_concurrent: calls that may run at the same time at each placement; 0: one call at all placements together.
      trace_seconds: time spent on tracing.
      compile_seconds: time spent on lowering and compiling.
    """

    start: tuple[jax.stages.Compiled, ...]
    advance: tuple[jax.stages.Compiled, ...]
    placements: tuple[Placement, ...]
    shape: BlockShape
    max_concurrent: int
    trace_seconds: float
    compile_seconds: float

    @property
    def runs_alone(self) -> bool:
        """Return whether nothing may run beside its blocks: LAPACK on a CPU, or devices that must agree on an order."""
        return not self.max_concurrent or self.placements[0].is_mesh


def trace_block(
    make_chain: Callable[[dict[str, Array]], Chain],
    world: World,
    values: dict[str, np.ndarray],
    rng: str = "threefry2x32",
    *,
    metrics: tuple[str, ...],
    shape: BlockShape,
    floats: Mapping[str, Array] = MappingProxyType({}),
    devices: Sequence[jax.Device] | None = None,
    mesh: Mapping[str, int] | None = None,
) -> TracedBlock:
    """Trace blocks of chains at each placement.

    Every placement runs the program that a single one would, so results do not depend on their number, bit for bit.

    Args:
      make_chain: makes the chain of one chain's values (tracers), `floats` among them.
      world: what all chains share.
      values: ``{parameter: [chains]}``, any values of the right types.
      rng: the random-number implementation of the chains' keys.
      metrics: which observations to keep.
      shape: how many chains and generations a call makes.
      floats: ``{parameter: []}``, numbers that all chains share.
      devices: default all local ones; calls are dealt out to them.
      mesh: devices a chain (see ``sweep.sweep``); the chain must be of a setting that is sharded over that mesh.

    Raises:
      UsageError: the devices cannot be divided into whole meshes.
    """
    clock = time.perf_counter()
    start, advance = make_block_functions(make_chain, metrics, shape.generations_per_call)
    size = (shape.blocks_per_call, shape.chains_per_block)
    words = np.zeros((*size, *host_chain_keys(0, 1, rng).words.shape[1:]), np.uint32)
    example = (world, dict(floats), {name: np.full(size, value[0]) for name, value in values.items()})

    def start_from_words(*inputs: Any) -> Tree:
        *others, words, blocks = inputs
        return start(*others, jax.random.wrap_key_data(words, impl=rng), blocks)

    shapes = jax.eval_shape(start_from_words, *example, words, jnp.int32(1))
    traced, placements = [], []
    for sharding in chain_placements(jax.local_devices() if devices is None else devices, mesh):
        *inputs, sharded_words, one = jax.device_put((*example, words, jnp.int32(1)), sharding)
        shardings = jax.tree.map(lambda _, s=sharding: s, shapes)
        if mesh:
            shardings = shardings._replace(params=stacked_param_shardings(sharding, shapes.params, 2))
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        traced.append(jax.jit(start_from_words, out_shardings=shardings).trace(*inputs, sharded_words, one))
        jitted = jax.jit(advance, donate_argnums=3, out_shardings=(shardings, sharding))
        traced.append(jitted.trace(*inputs, state, one, one))
        placements.append(Placement(sharding, shardings))
    seconds = time.perf_counter() - clock
    return TracedBlock(tuple(traced), tuple(placements), shape, is_x64(), seconds)


def compile_block(traced: TracedBlock) -> CompiledBlock:
    """Lower and compile what was traced; another thread may do so."""
    clock, platform = time.perf_counter(), traced.placements[0].platform
    with jax.enable_x64(traced.x64):  # JAX keeps this setting for each thread
        lowered = [program.lower() for program in traced.traced]
        with ThreadPoolExecutor() as pool:
            levels = _optimization_levels(traced, platform) * len(traced.placements)
            compiled = list(pool.map(_compile, lowered, levels))
    # Two batched LAPACK calls at once can lock a CPU's thread pool up (seen with jaxlib 0.10.2).
    calls_lapack = platform == "cpu" and any("lapack_" in (program.as_text() or "") for program in compiled)
    if calls_lapack:
        max_concurrent = 0
    elif traced.placements[0].is_mesh:
        max_concurrent = 1
    else:
        max_concurrent = blocks_that_fit(compiled[1], max_concurrent_blocks(1))
    return CompiledBlock(
        tuple(compiled[::2]),
        tuple(compiled[1::2]),
        traced.placements,
        traced.shape,
        max_concurrent,
        traced.seconds,
        time.perf_counter() - clock,
    )


def _optimization_levels(traced: TracedBlock, platform: str) -> tuple[int | None, int | None]:
    """Return XLA's optimization levels for `start` and `advance`; None leaves XLA's own."""
    if platform != "cpu":
        return None, None
    # On a CPU level 1 gives loops as fast as higher ones. Level 0 compiles faster and gives slower programs, which
    # shows where `start` costs as much as several generations.
    start, advance = (cost.count_operations(program.jaxpr.jaxpr) for program in traced.traced[:2])
    return int(start * traced.shape.generations_per_call > 3 * advance), 1


def _compile(lowered: jax.stages.Lowered, level: int | None) -> jax.stages.Compiled:
    if level is None or jax.config.read("jax_disable_most_optimizations"):  # JAX's own switch comes first
        return lowered.compile()
    return lowered.compile(compiler_options={"xla_backend_optimization_level": str(level)})


def blocks_that_fit(compiled: jax.stages.Compiled, max_concurrent: int) -> int:
    """Return how many calls, at least one and at most `max_concurrent`, have room on a device together."""
    analysis, memory = compiled.memory_analysis(), device_memory()
    if max_concurrent == 1 or analysis is None or memory is None:
        return max_concurrent
    block_bytes = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return max(min(max_concurrent, int(0.5 * memory // max(block_bytes, 1))), 1)


def as_inputs(floats: Mapping[str, float]) -> dict[str, Array]:
    """Return numbers as arrays that take the type of what they meet, as Python's numbers do."""
    return {name: jnp.asarray(value) for name, value in floats.items()}


def is_x64() -> bool:
    """Return whether JAX computes in 64 bits here."""
    return jnp.result_type(float) == jnp.float64
