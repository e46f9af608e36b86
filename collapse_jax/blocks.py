"""Blocks of chains side by side: one compiled program advances a block by a stretch of generations."""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Array, Chain, Key, Tree, World

# What a block draws in one generation should stay in cache (on CPU), and its pools in memory; bytes.
_WORKING_SET = {"cpu": 256 << 10, "gpu": 256 << 20, "tpu": 256 << 20}
_POOLS = {"cpu": 1 << 30, "gpu": 16 << 30, "tpu": 4 << 30}
_WIDEST = 1024


class Timing(NamedTuple):
    """Seconds spent in tracing, compiling and running."""

    trace: float
    compile: float
    run: float


def run_blocks(
    chain_of: Callable[[dict[str, Array]], Chain],
    world: World,
    points: dict[str, np.ndarray],
    keys: Key,
    *,
    num_generations: int,
    metrics: tuple[str, ...],
    width: int,
    progress: Callable[[int], None],
) -> tuple[dict[str, np.ndarray], Timing]:
    """Runs one chain a lane, ``width`` lanes at a time; lanes are padded to whole blocks.

    Args:
      chain_of: the chain of one lane's values (tracers).
      world: shared by all lanes.
      points: ``{name: [lanes]}``, the values by which lanes differ.
      keys: ``[lanes]``.
      num_generations: T.
      metrics: which observations to keep.
      width: lanes a block.
      progress: called with the number of chain-generations just done.

    Returns:
      ``{metric: [lanes, T]}`` and the seconds it took.
    """
    lanes, stretch = keys.shape[0], _stretch(num_generations)
    start, advance = _programs(chain_of, metrics, stretch)
    padded = np.minimum(np.arange(-(-lanes // width) * width), lanes - 1)
    first = _lanes(points, keys, padded[:width])
    clock = time.perf_counter()
    traced_start = jax.jit(start).trace(world, *first)
    state = jax.eval_shape(start, world, *first)
    traced_advance = jax.jit(advance, donate_argnums=2).trace(world, first[0], state, jnp.int32(1))
    trace_seconds, clock = time.perf_counter() - clock, time.perf_counter()
    start, advance = traced_start.lower().compile(), traced_advance.lower().compile()
    compile_seconds, clock = time.perf_counter() - clock, time.perf_counter()
    out = {name: np.empty((lanes, num_generations), jnp.result_type(float)) for name in metrics}

    def collect(begin: int, done: int, seen: dict[str, Array]) -> None:
        here, now = min(width, lanes - begin), min(stretch, num_generations - done)
        for name, value in jax.device_get(seen).items():
            out[name][begin : begin + here, done : done + now] = value[:now, :here].T
        progress(here * now)

    for begin in range(0, lanes, width):
        values, block_keys = _lanes(points, keys, padded[begin : begin + width])
        state, seen = advance(world, values, start(world, values, block_keys), jnp.int32(1))
        # What a stretch gave is fetched while the next one runs; two blocks never run at once (LAPACK, see README).
        for done in range(stretch, num_generations, stretch):
            state, ahead = advance(world, values, state, jnp.int32(done + 1))
            collect(begin, done - stretch, seen)
            seen = ahead
        collect(begin, (num_generations - 1) // stretch * stretch, seen)
    return out, Timing(trace_seconds, compile_seconds, time.perf_counter() - clock)


def _programs(chain_of: Callable[..., Chain], metrics: tuple[str, ...], stretch: int) -> tuple[Callable, Callable]:
    """The two functions that are compiled: a block's first state, and its next `stretch` generations."""

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


def _lanes(points: dict[str, np.ndarray], keys: Key, index: np.ndarray) -> tuple[dict[str, Array], Key]:
    return {name: jnp.asarray(value[index]) for name, value in points.items()}, keys[index]


def _stretch(num_generations: int) -> int:
    """Generations between two looks at the host: a divisor of the horizon where there is one of a useful size."""
    divisors = [s for s in range(8, 33) if num_generations % s == 0]
    if divisors or num_generations < 8:
        return max(divisors, default=num_generations)
    return -(-num_generations // -(-num_generations // 24))


def block_width(
    chain: Chain, world: World, key: Key, rows: Tree, law: bool, hint: int | None, wanted: int | None = None
) -> int:
    """Chains to run side by side: a power of two set by sizes alone, never by how many chains were asked for.

    Args:
      chain: one of them.
      world: theirs.
      key: any chain's.
      rows: has the shapes of n real rows, or is () where none are drawn.
      law: whether only the first batch is rows.
      hint: at most so many.
      wanted: exactly so many.

    Raises:
      ValueError: their pools do not fit into this machine's memory.
    """
    platform = jax.default_backend()
    state = jax.eval_shape(chain.init, key, world)
    _, new, _ = jax.eval_shape(chain.emit, world, state, jnp.int32(1))
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


def grid(axes: dict[str, list]) -> Iterator[dict[str, Any]]:
    """All points of a product of axes, the last one fastest."""
    for point in itertools.product(*axes.values()):
        yield dict(zip(axes, point, strict=True))
