"""Blocks of chains side by side: one compiled program advances a block by a stretch of generations."""

import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
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
    """The two compiled functions of a block, and the seconds it took to trace and compile them.

    Attributes:
      start: ``(world, values, keys) -> state``.
      advance: ``(world, values, state, generation) -> (state, {metric: [stretch, lanes]})``.
      lanes: of one call: those of a device times the devices.
      stretch: generations of one call.
    """

    start: Callable[..., Tree]
    advance: Callable[..., tuple[Tree, dict[str, Array]]]
    lanes: int
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

    A device runs the same program whatever their number, so results do not depend on it, bit for bit.

    Args:
      chain_of: the chain of one lane's values (tracers).
      world: shared by all lanes.
      points: ``{name: [lanes]}``, any values of the right types.
      keys: ``[lanes]``, any.
      metrics: which observations to keep.
      width: lanes side by side on a device.
      stretch: generations of one call.
      devices: default all; lanes are spread over them.
    """
    devices = jax.devices() if devices is None else devices
    clock = time.perf_counter()
    start, advance = functions(chain_of, metrics, stretch)
    side_by_side = width * len(devices)
    if len(devices) > 1:
        mesh = jax.make_mesh((len(devices),), ("chain",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
        one, each = jax.P(), jax.P("chain")
        start = jax.shard_map(start, mesh=mesh, in_specs=(one, each, each), out_specs=each, check_vma=False)
        advance = jax.shard_map(
            advance, mesh=mesh, in_specs=(one, each, each, one), out_specs=(each, jax.P(None, "chain")), check_vma=False
        )
    first = lanes(points, keys, np.zeros(side_by_side, int))
    traced_start = jax.jit(start).trace(world, *first)
    state = jax.eval_shape(start, world, *first)
    traced_advance = jax.jit(advance, donate_argnums=2).trace(world, first[0], state, jnp.int32(1))
    trace_seconds, clock = time.perf_counter() - clock, time.perf_counter()
    compiled = traced_start.lower().compile(), traced_advance.lower().compile()
    return Programs(*compiled, side_by_side, stretch, trace_seconds, time.perf_counter() - clock)


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
    number, width = keys.shape[0], programs.lanes
    padded = np.minimum(np.arange(-(-number // width) * width), number - 1)
    parts = []
    for block, begin in enumerate(range(0, number, width)):
        here = min(width, number - begin)
        values, block_keys = lanes(points, keys, padded[begin : begin + width])
        tell = partial(_scaled, progress, here)
        parts.append(_run_block(programs, world, values, block_keys, num_generations, metrics, block, saver, tell))
    return {name: np.concatenate([part[name] for part in parts])[:number] for name in metrics}


def _run_block(
    programs: Programs,
    world: World,
    values: dict[str, Array],
    keys: Key,
    num_generations: int,
    metrics: tuple[str, ...],
    block: int,
    saver: Saver | None,
    progress: Callable[[int], None],
) -> dict[str, np.ndarray]:
    stretch, done = programs.stretch, 0
    out = {name: np.full((programs.lanes, num_generations), np.nan, jnp.result_type(float)) for name in metrics}
    state = programs.start(world, values, keys)
    if saver is not None and (found := saver.load(block, (state, out))) is not None:
        done, (state, out) = found
        progress(done)

    def collect(begin: int, seen: dict[str, Array]) -> None:
        now = min(stretch, num_generations - begin)
        for name, value in jax.device_get(seen).items():
            out[name][:, begin : begin + now] = value[:now].T
        progress(now)

    # What a stretch gave is fetched while the next one runs; two blocks never run at once (LAPACK, see README).
    ahead: tuple[int, dict[str, Array]] | None = None
    for begin in range(done, num_generations, stretch):
        state, seen = programs.advance(world, values, state, jnp.int32(begin + 1))
        if ahead is not None:
            collect(*ahead)
        ahead = begin, seen
        if saver is not None:
            collect(*ahead)
            saver.save(block, min(begin + stretch, num_generations), (state, out))
            ahead = None
    if ahead is not None:
        collect(*ahead)
    return out


def _scaled(progress: Callable[[int], None], lanes: int, generations: int) -> None:
    progress(lanes * generations)


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
