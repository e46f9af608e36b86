"""Blocks of chains side by side: one compiled program advances a block by a stretch of generations."""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Array, Chain, Key, Tree, World

# What a block draws in one generation should stay in cache (on CPU), and its pools in memory; bytes.
_WORKING_SET = {"cpu": 256 << 10, "gpu": 256 << 20, "tpu": 256 << 20}
_POOLS = {"cpu": 1 << 30, "gpu": 16 << 30, "tpu": 4 << 30}
_WIDEST = 1024


class Programs(NamedTuple):
    """The two compiled functions of a block, on each device, and the seconds it took to trace and compile them.

    Attributes:
      start: one a device, ``(world, values, keys) -> state``.
      advance: one a device, ``(world, values, state, generation) -> (state, {metric: [stretch, width]})``.
      devices: where they run.
      width: lanes of a block.
      stretch: generations of one call.
    """

    start: tuple[Callable[..., Tree], ...]
    advance: tuple[Callable[..., tuple[Tree, dict[str, Array]]], ...]
    devices: tuple[jax.Device, ...]
    width: int
    stretch: int
    trace_seconds: float
    compile_seconds: float


class Saver(NamedTuple):
    """How the state of a block outlives its process.

    Attributes:
      load: ``(block, template) -> (generations done, (state, {metric: [lanes, T]})) | None``.
      save: ``(block, generations done, (state, {metric: [lanes, T]}))``.
    """

    load: Callable[[int, Tree], tuple[int, Tree] | None]
    save: Callable[[int, int, Tree], None]


def compile_blocks(
    chain_of: Callable[[dict[str, Array]], Chain],
    world: World,
    points: dict[str, np.ndarray],
    keys: Key,
    *,
    metrics: tuple[str, ...],
    width: int,
    stretch: int,
    devices: Sequence[jax.Device] | None = None,
) -> Programs:
    """Compiles a chain for `width` lanes on each of the devices.

    Every device runs the very program that one alone would run, so results do not depend on their number, bit for bit.
    (A program that is partitioned over a mesh is fused otherwise, and rounds otherwise.)

    Args:
      chain_of: the chain of one lane's values (tracers).
      world: shared by all lanes.
      points: ``{name: [lanes]}``, any values of the right types.
      keys: ``[lanes]``, any.
      metrics: which observations to keep.
      width: lanes side by side on a device.
      stretch: generations of one call.
      devices: default all local ones; blocks are dealt out to them.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    clock, trace_seconds = time.perf_counter(), 0.0
    start, advance = functions(chain_of, metrics, stretch)
    start, advance = jax.jit(start), jax.jit(advance, donate_argnums=2)
    first = (world, *lanes(points, keys, np.zeros(width, int)))
    lowered = []
    for device in devices:
        here = jax.device_put(first, device)
        state = jax.eval_shape(start, *here)
        sharding = jax.sharding.SingleDeviceSharding(device)
        state = jax.tree.map(lambda x, s=sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state)
        traced = start.trace(*here), advance.trace(here[0], here[1], state, jax.device_put(jnp.int32(1), device))
        trace_seconds += time.perf_counter() - clock
        lowered += [program.lower() for program in traced]
        clock = time.perf_counter()
    clock = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(lambda program: program.compile(), lowered))
    seconds = trace_seconds, time.perf_counter() - clock
    return Programs(tuple(compiled[::2]), tuple(compiled[1::2]), devices, width, stretch, *seconds)


def run_blocks(
    programs: Programs,
    world: World,
    points: dict[str, np.ndarray],
    keys: Key,
    *,
    num_generations: int,
    metrics: tuple[str, ...],
    progress: Callable[[int], None],
    saver: Saver | None = None,
) -> dict[str, np.ndarray]:
    """Runs one chain a lane; lanes are padded to whole blocks.

    Args:
      programs: of ``compile_blocks``.
      world: shared by all lanes.
      points: ``{name: [lanes]}``, the values by which lanes differ.
      keys: ``[lanes]``.
      num_generations: T.
      metrics: which observations to keep.
      progress: called with the number of chain-generations just done.
      saver: keeps the state of a block after each stretch, so that another process can go on with it.

    Returns:
      ``{metric: [lanes, T]}``.
    """
    number, width, count = keys.shape[0], programs.width, len(programs.devices)
    padded = np.minimum(np.arange(-(-number // width) * width), number - 1)
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(0, number, width)]

    def block(i: int) -> Iterator[None]:
        here = min(width, number - i * width)
        chosen = lanes(points, keys, padded[i * width : (i + 1) * width])
        return _run_block(programs, i, (world, *chosen), num_generations, metrics, saver, parts[i],
                          lambda generations: progress(here * generations))  # fmt: skip

    # Blocks take turns, one a device; on one device they never run at once (LAPACK, see README).
    for begin in range(0, len(parts), count):
        running = [block(i) for i in range(begin, min(begin + count, len(parts)))]
        for _ in itertools.zip_longest(*running):
            pass
    return {name: np.concatenate([part[name] for part in parts])[:number] for name in metrics}


def _run_block(
    programs: Programs,
    index: int,
    inputs: tuple[World, dict[str, Array], Key],
    num_generations: int,
    metrics: tuple[str, ...],
    saver: Saver | None,
    out: dict[str, np.ndarray],
    progress: Callable[[int], None],
) -> Iterator[None]:
    """Fills `out`; yields when a stretch is under way, so that others may be set going."""
    place = index % len(programs.devices)
    stretch, done, device = programs.stretch, 0, programs.devices[place]
    start, advance = programs.start[place], programs.advance[place]
    world, values, keys = jax.device_put(inputs, device)
    out |= {n: np.full((programs.width, num_generations), np.nan, jnp.result_type(float)) for n in metrics}
    state = start(world, values, keys)
    if saver is not None and (found := saver.load(index, (state, dict(out)))) is not None:
        done, (state, seen) = found
        state = jax.device_put(state, device)
        for name, value in seen.items():
            out[name][...] = value
        progress(done)

    def collect(begin: int, seen: dict[str, Array]) -> None:
        now = min(stretch, num_generations - begin)
        for name, value in jax.device_get(seen).items():
            out[name][:, begin : begin + now] = value[:now].T
        progress(now)

    # What a stretch gave is fetched while the next one runs.
    ahead: tuple[int, dict[str, Array]] | None = None
    for begin in range(done, num_generations, stretch):
        state, seen = advance(world, values, state, jax.device_put(jnp.int32(begin + 1), device))
        yield
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
        return jax.vmap(lambda v, k: chain_of(v).init(k, world))(values, keys)

    def advance(
        world: World, values: dict[str, Array], state: Tree, generation: Array
    ) -> tuple[Tree, dict[str, Array]]:
        def lane(v: dict[str, Array], s: Tree, g: Array) -> tuple[Tree, dict[str, Array]]:
            chain = chain_of(v)
            s, new, observations = chain.emit(world, s, g)
            return chain.absorb(world, s, new, g), {name: observations[name] for name in metrics}

        # The generation stays outside the vmap, so that pools are written in place rather than scattered into.
        step = lambda s, g: jax.vmap(lane, (0, 0, None))(values, s, g)  # noqa: E731
        return jax.lax.scan(step, state, generation + jnp.arange(stretch))

    return start, advance


def lanes(points: dict[str, np.ndarray], keys: Key, index: np.ndarray) -> tuple[dict[str, Array], Key]:
    """The values and keys of some lanes."""
    return {name: jnp.asarray(value[index]) for name, value in points.items()}, keys[index]


def stretch_of(num_generations: int) -> int:
    """Generations between two looks at the host: a divisor of the horizon where there is one of a useful size."""
    divisors = [s for s in range(8, 33) if num_generations % s == 0]
    if divisors or num_generations < 8:
        return max(divisors, default=num_generations)
    return -(-num_generations // -(-num_generations // 24))


def block_width(state: Tree, new: Tree, rows: Tree, law: bool, hint: int | None, wanted: int | None = None) -> int:
    """Chains to run side by side: a power of two set by sizes alone, never by how many chains were asked for.

    Args:
      state: has the shapes of one chain's state.
      new: has those of a generation's batch.
      rows: has those of n real rows, or is () where none are drawn.
      law: whether only the first batch is rows.
      hint: at most so many.
      wanted: exactly so many.

    Raises:
      ValueError: their pools do not fit into this machine's memory.
    """
    platform = jax.default_backend()
    pool, drawn, memory = _bytes(state), _bytes(new) if law else max(_bytes(rows), _bytes(new)), _memory()
    pool += 4 * _bytes(rows)  # the first batch, and what drawing it takes
    if memory is not None and (pool + drawn) * (wanted or 1) > memory:
        at_most = memory // (pool + drawn)
        raise ValueError(
            f"{wanted or 1} chains side by side need {(pool + drawn) * (wanted or 1) / 2**30:.1f} GiB, the device has "
            f"{memory / 2**30:.1f}: "
            + (f"set chains_per_block to {at_most} or less" if at_most else "lower num_samples or num_generations")
        )
    fits = min(_WORKING_SET.get(platform, 256 << 10) // drawn, _POOLS.get(platform, 1 << 30) // pool)
    width = 2 ** int(np.log2(max(fits, 8)))
    most = max(memory // (pool + drawn), 1) if memory is not None else _WIDEST
    return wanted or min(width, most, _WIDEST, hint or _WIDEST)


def _memory() -> int | None:
    """Bytes of the device's memory, or None where it does not tell."""
    if jax.default_backend() == "cpu":
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def _bytes(tree: Any) -> int:
    return max(
        1, sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(jax.eval_shape(_plain, tree)))
    )


def _plain(tree: Any) -> Any:
    """Keys as the words they are made of."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
