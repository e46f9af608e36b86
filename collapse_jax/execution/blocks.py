"""Blocks of chains side by side: one compiled program advances a block by a stretch of generations."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from collapse_jax.core.batching import side_by_side
from collapse_jax.core.sharding import cut_lanes, places
from collapse_jax.planning import cost
from collapse_jax.planning.block_size import device_memory
from collapse_jax.types import Array, Chain, Key, Tree, World

MOST_AT_ONCE = 8


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


class Saver(NamedTuple):
    """How the state of a block outlives its process.

    Attributes:
      load: ``(block, template) -> (generations done, (state, {metric: [lanes, T, ...]})) | None``.
      save: ``(block, generations done, (state, {metric: [lanes, T, ...]}))``.
    """

    load: Callable[[int, Tree], tuple[int, Tree] | None]
    save: Callable[[int, int, Tree], None]


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
      ValueError: devices that are not whole meshes.
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
    return Traced(tuple(traced), tuple(found), width, stretch, _x64(), time.perf_counter() - clock)


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
        0 if locks else 1 if traced.places[0].is_mesh else _that_fit(compiled[1], blocks_at_once(1)),
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


def _that_fit(program: jax.stages.Compiled, wanted: int) -> int:
    """How many of the `wanted` blocks have room on a device together; at least one."""
    about, memory = program.memory_analysis(), device_memory()
    if wanted == 1 or about is None or memory is None:
        return wanted
    needs = about.argument_size_in_bytes + about.output_size_in_bytes + about.temp_size_in_bytes
    return max(min(wanted, int(0.5 * memory // max(needs, 1))), 1)


def blocks_at_once(devices: int) -> int:
    """Blocks that so many local devices can have under way; those of a CPU leave cores idle one at a time."""
    if jax.default_backend() != "cpu":
        return devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(devices, min(cores, MOST_AT_ONCE))


def run_blocks(
    programs: Programs,
    world: World,
    points: dict[str, np.ndarray],
    keys: Key,
    *,
    num_generations: int,
    progress: Callable[[int], None],
    saver: Saver | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Runs one chain a lane; lanes are padded to whole blocks.

    Args:
      programs: of ``compile_blocks``.
      world: shared by all lanes.
      points: ``{name: [lanes]}``, the values by which lanes differ.
      keys: ``[lanes]``.
      num_generations: T.
      progress: called with the number of chain-generations just done, from other threads, one call at a time.
      saver: keeps the state of a block after each stretch, so that another process can go on with it.
      meanwhile: called here while blocks are under way in other threads.

    Returns:
      ``{metric: [lanes, T, ...]}``.
    """
    number, width = keys.shape[0], programs.width
    padded = np.minimum(np.arange(-(-number // width) * width), number - 1)
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(0, number, width)]
    x64, stop, lock = _x64(), threading.Event(), threading.Lock()
    nans, infs = jax.config.jax_debug_nans, jax.config.jax_debug_infs  # type: ignore[attr-defined]
    keeper = None if saver is None else _one_at_a_time(saver)

    def block(i: int) -> None:
        here = min(width, number - i * width)

        def tell(generations: int) -> None:
            with lock:
                progress(here * generations)

        try:
            with jax.enable_x64(x64), jax.debug_nans(nans), jax.debug_infs(infs):  # settings of each thread
                chosen = lanes(points, keys, padded[i * width : (i + 1) * width])
                _run_block(programs, i, (world, *chosen), num_generations, keeper, parts[i], tell, stop.is_set)
        except BaseException:  # told at once: who waits for results may be waiting for another block's
            stop.set()
            raise

    with contextlib.ExitStack() as stack:  # a pool a place, for one must not run what has room on all of them
        each = [programs.at_once] * len(programs.places) if programs.at_once else [1]
        pools = [stack.enter_context(ThreadPoolExecutor(threads)) for threads in each]
        try:
            under_way = [pools[i % len(pools)].submit(block, i) for i in range(len(parts))]
            meanwhile()
            for done in under_way:
                done.result()
        except BaseException:  # Ctrl-C too: what is under way ends with its stretch
            stop.set()
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: np.concatenate([part[name] for part in parts])[:number] for name in parts[0]}


def _one_at_a_time(saver: Saver) -> Saver:
    """Checkpoint libraries keep state of their own."""
    lock = threading.Lock()

    def load(*arguments: Any) -> Any:
        with lock:
            return saver.load(*arguments)

    def save(*arguments: Any) -> None:
        with lock:
            saver.save(*arguments)

    return Saver(load, save)


def _run_block(
    programs: Programs,
    index: int,
    inputs: tuple[World, dict[str, Array], Key],
    num_generations: int,
    saver: Saver | None,
    out: dict[str, np.ndarray],
    progress: Callable[[int], None],
    stopped: Callable[[], bool],
) -> None:
    """Fills `out`, stretch by stretch."""
    number = index % len(programs.places)
    stretch, done, place = programs.stretch, 0, programs.places[number]
    start, advance = programs.start[number], programs.advance[number]
    world, values, keys = jax.device_put(inputs, place.whole)
    for name, value in advance.out_info[1].items():  # [stretch, width, ...]
        out[name] = np.full((programs.width, num_generations, *value.shape[2:]), np.nan, jnp.result_type(float))
    state = start(world, values, keys)
    if saver is not None and (found := saver.load(index, (state, dict(out)))) is not None:
        done, (state, seen) = found
        state = jax.device_put(state, place.state)
        for name, value in seen.items():
            out[name][...] = value
        progress(done)

    def collect(begin: int, seen: dict[str, Array]) -> None:
        now = min(stretch, num_generations - begin)
        for name, value in jax.device_get(seen).items():
            out[name][:, begin : begin + now] = value[:now].swapaxes(0, 1)
        progress(now)

    # What a stretch gave is fetched while the next one runs.
    ahead: tuple[int, dict[str, Array]] | None = None
    for begin in range(done, num_generations, stretch):
        if stopped():
            return
        state, seen = advance(world, values, state, jax.device_put(jnp.int32(begin + 1), place.whole))
        if ahead is not None:
            collect(*ahead)
        ahead = begin, seen
        if saver is not None:
            collect(*ahead)
            saver.save(index, min(begin + stretch, num_generations), (state, dict(out)))
            ahead = None
    if ahead is not None:
        collect(*ahead)


def functions(chain_of: Callable[..., Chain], metrics: tuple[str, ...], stretch: int) -> tuple[Callable, Callable]:
    """What is compiled: a block's first state, and its next `stretch` generations."""

    def start(world: World, values: dict[str, Array], keys: Key) -> Tree:
        return side_by_side(lambda v, k: chain_of(v).init(k, world), values, keys)

    def advance(
        world: World, values: dict[str, Array], state: Tree, generation: Array
    ) -> tuple[Tree, dict[str, Array]]:
        def lane(v: dict[str, Array], s: Tree, g: Array) -> tuple[Tree, dict[str, Array]]:
            chain = chain_of(v)
            s, new, observations = chain.emit(world, s, g)
            return chain.absorb(world, s, new, g), {name: observations[name] for name in metrics}

        # The generation stays outside the vmap, so that pools are written in place rather than scattered into.
        step = lambda s, g: side_by_side(lambda v, s: lane(v, s, g), values, s)  # noqa: E731
        return jax.lax.scan(step, state, generation + jnp.arange(stretch))

    return start, advance


def _x64() -> bool:
    return jnp.result_type(float) == jnp.float64


def lanes(points: dict[str, np.ndarray], keys: Key, index: np.ndarray) -> tuple[dict[str, Array], Key]:
    """The values and keys of some lanes."""
    return {name: jnp.asarray(value[index]) for name, value in points.items()}, keys[index]
