"""Run blocks of chains: one compiled program advances the chains of a block side by side, some generations a call."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.random import HostKeys
from collapse_jax.execution.programs import CompiledBlock, is_x64
from collapse_jax.types import Array, Tree, World


class StateSaver(NamedTuple):
    """Two functions that keep the state of some chains, so that another process can continue it.

    Attributes:
      load: ``(name, template) -> (generations done, (state, {metric: [chains, T, ...]})) | None``.
      save: ``(name, generations done, (state, {metric: [chains, T, ...]}))``.
    """

    load: Callable[[str, Tree], tuple[int, Tree] | None]
    save: Callable[[str, int, Tree], None]


def do_nothing() -> None:
    """Return at once."""


def run_blocks(
    compiled: CompiledBlock,
    world: World,
    values: dict[str, np.ndarray],
    keys: HostKeys,
    *,
    num_generations: int,
    progress_callback: Callable[[int], None],
    floats: Mapping[str, Array] = MappingProxyType({}),
    saver: StateSaver | None = None,
    meanwhile: Callable[[], None] = do_nothing,
) -> dict[str, np.ndarray]:
    """Run one chain for each key; the last block is padded to the size of the others.

    Args:
      compiled: the result of ``compile_block``.
      world: what all chains share.
      values: ``{parameter: [chains]}``, the traced values by which chains differ.
      keys: one for each chain.
      num_generations: the horizon T.
      progress_callback: is called with the number of chain-generations just done, from other threads, one call at a
        time.
      floats: ``{parameter: []}``, the traced numbers that all chains share.
      saver: keeps the state after each call of the program, so that another process can continue.
      meanwhile: is called in this thread while blocks run in other threads.

    Returns:
      ``{metric: [chains, T, ...]}``.
    """
    spans = _deal_chains(compiled, len(keys))
    outputs: list[dict[str, np.ndarray]] = [{} for _ in spans]
    x64, stop, lock = is_x64(), threading.Event(), threading.Lock()
    # These two options exist only at run time: JAX adds them to its config object there.
    nans, infs = jax.config.jax_debug_nans, jax.config.jax_debug_infs  # type: ignore[attr-defined]  # see above
    locked_saver = None if saver is None else _lock_saver(saver)

    def run_one(number: int) -> None:
        def count_generations(generations: int) -> None:
            with lock:
                progress_callback(len(spans[number]) * generations)

        try:
            with jax.enable_x64(x64), jax.debug_nans(nans), jax.debug_infs(infs):  # JAX keeps them for each thread
                outputs[number] = _run_call(
                    compiled, number % len(compiled.placements), (world, dict(floats), values, keys), spans[number],
                    num_generations, locked_saver, count_generations, stop.is_set,
                )  # fmt: skip
        except BaseException:  # the others stop at once: the caller may be waiting for another call's result
            stop.set()
            raise

    _run_in_pools(compiled, run_one, len(spans), stop, meanwhile)
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def _deal_chains(compiled: CompiledBlock, num_chains: int) -> list[range]:
    """Return the chains of each call: whole blocks, as many calls as can run at once where there are so many blocks."""
    size, most = compiled.shape.chains_per_block, compiled.shape.blocks_per_call
    blocks = -(-num_chains // size)
    workers = max(compiled.max_concurrent, 1) * len(compiled.placements)
    rounds = -(-blocks // (most * workers))  # so that all workers have the same number of calls
    calls = min(blocks, rounds * workers)
    ends = [min(-(-blocks * i // calls) * size, num_chains) for i in range(calls + 1)]
    return [range(first, end) for first, end in itertools.pairwise(ends)]


def _run_in_pools(
    compiled: CompiledBlock,
    run_one: Callable[[int], None],
    num_calls: int,
    stop: threading.Event,
    meanwhile: Callable[[], None],
) -> None:
    """Run all calls in threads, and `meanwhile` in this one; the first error stops all."""
    with contextlib.ExitStack() as stack:  # a pool for each placement: one must not run what has room on all of them
        threads = [compiled.max_concurrent] * len(compiled.placements) if compiled.max_concurrent else [1]
        pools = [stack.enter_context(ThreadPoolExecutor(number)) for number in threads]
        try:
            running = [pools[i % len(pools)].submit(run_one, i) for i in range(num_calls)]
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


def _run_call(
    compiled: CompiledBlock,
    number: int,
    inputs: tuple[World, dict[str, Array], dict[str, np.ndarray], HostKeys],
    span: range,
    num_generations: int,
    saver: StateSaver | None,
    progress_callback: Callable[[int], None],
    is_stopped: Callable[[], bool],
) -> dict[str, np.ndarray]:
    """Return the metrics of the chains `span`, call by call of the program at one placement."""
    (size, step, most), placement = compiled.shape, compiled.placements[number]
    start, advance, done = compiled.start[number], compiled.advance[number], 0
    # Chains and blocks that are not there are copies of the last chain; no block beyond the last one is computed.
    chosen = np.minimum(span.start + np.arange(most * size).reshape(most, size), span.stop - 1)
    world, floats, values, keys = inputs
    values = {name: value[chosen] for name, value in values.items()}
    blocks = -(-len(span) // size)
    inputs_there = jax.device_put((world, floats, values, keys.at(chosen).words, np.int32(blocks)), placement.inputs)
    *prepared, words, blocks_there = inputs_there
    state = start(*prepared, words, blocks_there)
    output = {}
    for name, value in advance.out_info[1].items():  # [blocks_per_call, generations_per_call, chains_per_block, ...]
        output[name] = np.full((len(span), num_generations, *value.shape[3:]), np.nan, jnp.result_type(float))
    place = f"{span.start}-{span.stop}-{most}x{size}"
    if saver is not None and (loaded := saver.load(place, (state, dict(output)))) is not None:
        done, (state, saved_metrics) = loaded
        state = jax.device_put(state, placement.state)
        output = {name: np.array(value) for name, value in saved_metrics.items()}
        progress_callback(done)

    def fetch(begin: int, observations: dict[str, Array]) -> None:
        length = min(step, num_generations - begin)
        for name, value in jax.device_get(observations).items():
            by_chain = np.moveaxis(value[:blocks, :length], 1, 2)
            output[name][:, begin : begin + length] = by_chain.reshape(-1, *by_chain.shape[2:])[: len(span)]
        progress_callback(length)

    # The observations of a call are fetched while the next call runs.
    pending: tuple[int, dict[str, Array]] | None = None
    for begin in range(done, num_generations, step):
        if is_stopped():
            return output
        generation = jax.device_put(np.int32(begin + 1), placement.inputs)
        state, observations = advance(*prepared, state, generation, blocks_there)
        if pending is not None:
            fetch(*pending)
        pending = begin, observations
        if saver is not None:
            fetch(*pending)
            saver.save(place, min(begin + step, num_generations), (state, dict(output)))
            pending = None
    if pending is not None:
        fetch(*pending)
    return output
