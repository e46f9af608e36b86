"""Run blocks of chains: one compiled program advances the chains of a block side by side, some generations a call."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.execution.programs import CompiledBlock, is_x64
from collapse_jax.planning.block_functions import select_chains
from collapse_jax.types import Array, Key, Tree, World


class StateSaver(NamedTuple):
    """Two functions that keep the state of a block, so that another process can continue it.

    Attributes:
      load: ``(block, template) -> (generations done, (state, {metric: [chains, T, ...]})) | None``.
      save: ``(block, generations done, (state, {metric: [chains, T, ...]}))``.
    """

    load: Callable[[int, Tree], tuple[int, Tree] | None]
    save: Callable[[int, int, Tree], None]


def do_nothing() -> None:
    """Return at once."""


def run_blocks(
    compiled: CompiledBlock,
    world: World,
    values: dict[str, np.ndarray],
    keys: Key,
    *,
    num_generations: int,
    progress_callback: Callable[[int], None],
    saver: StateSaver | None = None,
    meanwhile: Callable[[], None] = do_nothing,
) -> dict[str, np.ndarray]:
    """Run one chain for each key; the last block is padded to the size of the others.

    Args:
      compiled: the result of ``compile_block``.
      world: what all chains share.
      values: ``{parameter: [chains]}``, the traced values by which chains differ.
      keys: ``[chains]``.
      num_generations: the horizon T.
      progress_callback: is called with the number of chain-generations just done, from other threads, one call at a
        time.
      saver: keeps the state of a block after each call of its program, so that another process can continue.
      meanwhile: is called in this thread while blocks run in other threads.

    Returns:
      ``{metric: [chains, T, ...]}``.
    """
    num_chains, chains_per_block = keys.shape[0], compiled.chains_per_block
    padded = np.minimum(np.arange(-(-num_chains // chains_per_block) * chains_per_block), num_chains - 1)
    outputs: list[dict[str, np.ndarray]] = [{} for _ in range(0, num_chains, chains_per_block)]
    x64, stop, lock = is_x64(), threading.Event(), threading.Lock()
    # These two options exist only at run time: JAX adds them to its config object there.
    nans, infs = jax.config.jax_debug_nans, jax.config.jax_debug_infs  # type: ignore[attr-defined]  # see above
    locked_saver = None if saver is None else _lock_saver(saver)

    def run_one(index: int) -> None:
        first = index * chains_per_block
        num_real_chains = min(chains_per_block, num_chains - first)

        def count_generations(generations: int) -> None:
            with lock:
                progress_callback(num_real_chains * generations)

        try:
            with jax.enable_x64(x64), jax.debug_nans(nans), jax.debug_infs(infs):  # JAX keeps them for each thread
                chosen = select_chains(values, keys, padded[first : first + chains_per_block])
                inputs = (world, *chosen)
                _run_block(
                    compiled, index, inputs, num_generations, locked_saver, outputs[index], count_generations,
                    stop.is_set,
                )  # fmt: skip
        except BaseException:  # the others stop at once: the caller may be waiting for another block's result
            stop.set()
            raise

    _run_in_pools(compiled, run_one, len(outputs), stop, meanwhile)
    return {name: np.concatenate([output[name] for output in outputs])[:num_chains] for name in outputs[0]}


def _run_in_pools(
    compiled: CompiledBlock,
    run_one: Callable[[int], None],
    num_blocks: int,
    stop: threading.Event,
    meanwhile: Callable[[], None],
) -> None:
    """Run all blocks in threads, and `meanwhile` in this one; the first error stops all."""
    with contextlib.ExitStack() as stack:  # a pool for each placement: one must not run what has room on all of them
        threads = [compiled.max_concurrent] * len(compiled.placements) if compiled.max_concurrent else [1]
        pools = [stack.enter_context(ThreadPoolExecutor(number)) for number in threads]
        try:
            running = [pools[i % len(pools)].submit(run_one, i) for i in range(num_blocks)]
            meanwhile()
            for future in running:
                future.result()
        except BaseException:  # Ctrl-C too: running blocks end with the call that they are in
            stop.set()
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)
            raise


def _lock_saver(saver: StateSaver) -> StateSaver:
    """Return a saver that runs one call at a time, since checkpoint libraries keep state of their own."""
    lock = threading.Lock()

    def load(*arguments: Any) -> Any:
        with lock:
            return saver.load(*arguments)

    def save(*arguments: Any) -> None:
        with lock:
            saver.save(*arguments)

    return StateSaver(load, save)


def _run_block(
    compiled: CompiledBlock,
    index: int,
    inputs: tuple[World, dict[str, Array], Key],
    num_generations: int,
    saver: StateSaver | None,
    output: dict[str, np.ndarray],
    progress_callback: Callable[[int], None],
    is_stopped: Callable[[], bool],
) -> None:
    """Fill `output` with the metrics of one block, call by call."""
    number = index % len(compiled.placements)
    step, placement, done = compiled.generations_per_call, compiled.placements[number], 0
    start, advance = compiled.start[number], compiled.advance[number]
    world, values, keys = jax.device_put(inputs, placement.inputs)
    for name, value in advance.out_info[1].items():  # [generations_per_call, chains_per_block, ...]
        shape = (compiled.chains_per_block, num_generations, *value.shape[2:])
        output[name] = np.full(shape, np.nan, jnp.result_type(float))
    state = start(world, values, keys)
    if saver is not None and (loaded := saver.load(index, (state, dict(output)))) is not None:
        done, (state, saved_metrics) = loaded
        state = jax.device_put(state, placement.state)
        for name, value in saved_metrics.items():
            output[name][...] = value
        progress_callback(done)

    def fetch(begin: int, observations: dict[str, Array]) -> None:
        length = min(step, num_generations - begin)
        for name, value in jax.device_get(observations).items():
            output[name][:, begin : begin + length] = value[:length].swapaxes(0, 1)
        progress_callback(length)

    # The observations of a call are fetched while the next call runs.
    pending: tuple[int, dict[str, Array]] | None = None
    for begin in range(done, num_generations, step):
        if is_stopped():
            return
        state, observations = advance(world, values, state, jax.device_put(jnp.int32(begin + 1), placement.inputs))
        if pending is not None:
            fetch(*pending)
        pending = begin, observations
        if saver is not None:
            fetch(*pending)
            saver.save(index, min(begin + step, num_generations), (state, dict(output)))
            pending = None
    if pending is not None:
        fetch(*pending)
