"""Blocks of chains side by side: one compiled program advances a block by a stretch of generations."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.execution.programs import Programs, is_x64
from collapse_jax.planning.block_functions import lanes
from collapse_jax.types import Array, Key, Tree, World


class Saver(NamedTuple):
    """How the state of a block outlives its process.

    Attributes:
      load: ``(block, template) -> (generations done, (state, {metric: [lanes, T, ...]})) | None``.
      save: ``(block, generations done, (state, {metric: [lanes, T, ...]}))``.
    """

    load: Callable[[int, Tree], tuple[int, Tree] | None]
    save: Callable[[int, int, Tree], None]


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
    x64, stop, lock = is_x64(), threading.Event(), threading.Lock()
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
