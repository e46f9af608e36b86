"""Concurrent blocks: neither their number nor their order nor a failure among them changes the results."""

import threading

import jax
import numpy as np
import pytest

from collapse_jax import policies, settings
from collapse_jax.core.chain import make_chain
from collapse_jax.core.random import chain_keys, host_chain_keys
from collapse_jax.execution.blocks import StateSaver, run_blocks
from collapse_jax.execution.programs import BlockShape, compile_block, trace_block

CHAINS, CHAINS_PER_BLOCK, GENERATIONS, GENERATIONS_PER_CALL = 13, 2, 6, 2
METRICS = ("log_trace_ratio", "test_nll")


def blocks_of(chains_per_block, blocks_per_call=1, chains=CHAINS):
    """Return ``run(max_concurrent, **options)`` for blocks of so many chains."""
    setting = settings.gaussian(2, num_test=8)
    world, keys = setting.world(), host_chain_keys(0, chains)
    chain = make_chain(setting, policies.accumulate_subsample(), num_samples=5, num_generations=GENERATIONS)
    compiled = compile_block(trace_block(
        lambda values: chain, world, {}, metrics=METRICS,
        shape=BlockShape(chains_per_block, GENERATIONS_PER_CALL, blocks_per_call),
    ))  # fmt: skip

    def run(max_concurrent, progress_callback=lambda generations: None, saver=None, **others):
        return run_blocks(
            compiled._replace(max_concurrent=max_concurrent), world, {}, keys,
            num_generations=GENERATIONS, progress_callback=progress_callback, saver=saver, **others,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def blocks():
    """Seven of two, the last half empty."""
    return blocks_of(CHAINS_PER_BLOCK)


def test_a_chain_alone_is_what_it_is_among_others(blocks):
    alone, among = blocks_of(1)(2), blocks(2)
    for name in METRICS:
        np.testing.assert_allclose(alone[name], among[name], rtol=1e-4, atol=1e-4)


def test_keys_on_the_host_are_those_of_chains():
    for rng in ("threefry2x32", "rbg"):
        expected = jax.random.key_data(chain_keys(7, 1030, rng))
        np.testing.assert_array_equal(host_chain_keys(7, 1030, rng).words, expected)
        np.testing.assert_array_equal(host_chain_keys(7, 3, rng).at(slice(1, 3)).words, expected[1:3])


@pytest.mark.parametrize("blocks_per_call", [2, 4, 16])
@pytest.mark.parametrize("max_concurrent", [0, 1, 3])
@pytest.mark.parametrize("chains", [1, 3, CHAINS])
def test_bits_do_not_depend_on_how_many_blocks_a_call_makes(blocks, blocks_per_call, max_concurrent, chains):
    one, many = blocks(0), blocks_of(CHAINS_PER_BLOCK, blocks_per_call, chains)(max_concurrent)
    for name in METRICS:
        assert many[name].shape == (chains, GENERATIONS)
        np.testing.assert_array_equal(one[name][:chains], many[name])


def test_a_call_goes_on_from_the_states_of_its_own_chains_alone():
    dying = memory(after=2)[1]
    run = blocks_of(CHAINS_PER_BLOCK, 4)
    with pytest.raises(OSError, match="no room"):
        run(1, saver=dying)
    loaded, (_, saver) = [], memory()

    def load(name, template):
        found = dying.load(name, template)
        loaded.append(found is not None)
        return found

    other = run(3, saver=StateSaver(load, saver.save))  # more calls, of fewer blocks each: none of the states fits
    assert loaded == [False] * len(loaded)
    loaded.clear()
    again = run(1, saver=StateSaver(load, saver.save))
    assert any(loaded)
    for name in METRICS:
        np.testing.assert_array_equal(again[name], other[name])


def memory(after=None):
    """A saver that keeps states in a dictionary, and dies when it has kept so many."""
    kept = {}

    def save(block, done, state):
        if after is not None and len(kept) >= after:
            raise OSError("no room")
        kept[block, done] = jax.tree.map(lambda x: x.copy(), state)

    def load(block, template):
        steps = [done for b, done in kept if b == block]
        return (max(steps), kept[block, max(steps)]) if steps else None

    return kept, StateSaver(load, save)


@pytest.mark.parametrize("max_concurrent", [1, 2, 4, 16])
def test_results_do_not_depend_on_how_many_run_at_once(blocks, max_concurrent):
    steps, one = [], blocks(0)
    many = blocks(max_concurrent, steps.append)
    assert sum(steps) == CHAINS * GENERATIONS
    for name in METRICS:
        assert one[name].shape == (CHAINS, GENERATIONS)
        assert np.isfinite(one[name]).all()
        np.testing.assert_array_equal(one[name], many[name])


@pytest.mark.parametrize("max_concurrent", [1, 4])
def test_what_died_goes_on_from_its_states(blocks, max_concurrent):
    kept, dying = memory(after=8)
    with pytest.raises(OSError, match="no room"):
        blocks(max_concurrent, saver=dying)
    assert len(kept) == 8
    steps, (_, saver) = [], memory()
    there = dict(kept)

    def save(block, done, state):
        assert (block, done) not in there  # nothing is done twice
        saver.save(block, done, state)

    resumed = blocks(max_concurrent, steps.append, StateSaver(dying.load, save))
    assert sum(steps) == CHAINS * GENERATIONS
    for name, value in blocks(0).items():
        np.testing.assert_array_equal(value, resumed[name])


@pytest.mark.parametrize("max_concurrent", [1, 4])
def test_ctrl_c_stops_all(blocks, max_concurrent):
    steps = []

    def progress(generations):
        steps.append(generations)
        if len(steps) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blocks(max_concurrent, progress)
    assert len(steps) < 3 * max_concurrent  # the running calls and the next ones, not all of the 21


@pytest.mark.parametrize("max_concurrent", [0, 1, 4])
def test_something_else_can_be_done_meanwhile(blocks, max_concurrent):
    done, begun = [], threading.Event()

    def count(generations):
        done.append(generations)
        begun.set()

    blocks(max_concurrent, count, meanwhile=lambda: begun.wait(60) or pytest.fail("no block has begun"))
    assert sum(done) == CHAINS * GENERATIONS


def test_settings_of_a_thread_reach_the_blocks(blocks):
    seen = []
    with jax.debug_nans(True), jax.debug_infs(True):
        blocks(1, lambda _: seen.append((jax.config.jax_debug_nans, jax.config.jax_debug_infs)))
    blocks(1, lambda _: seen.append((jax.config.jax_debug_nans, jax.config.jax_debug_infs)))
    assert set(seen[:1]) == {(True, True)}
    assert seen[-1] == (False, False)


def test_what_fails_meanwhile_stops_all(blocks):
    done = []

    def meanwhile():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blocks(1, done.append, meanwhile=meanwhile)
    assert sum(done) < CHAINS * GENERATIONS
