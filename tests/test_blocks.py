"""Blocks side by side: neither their number nor their order nor a failure among them shows in the results."""

import threading

import jax
import numpy as np
import pytest

from collapse_jax import policies, settings
from collapse_jax.core.chain import make_chain
from collapse_jax.core.random import chain_keys
from collapse_jax.execution.blocks import Saver, run_blocks
from collapse_jax.execution.programs import compile_blocks, trace_blocks

LANES, WIDTH, GENERATIONS, STRETCH = 13, 2, 6, 2
METRICS = ("log_trace_ratio", "test_nll")


def blocks_of(width):
    """``run(at_once, **options)`` of blocks of so many lanes."""
    setting = settings.gaussian(2, num_test=8)
    world, keys = setting.world(), chain_keys(0, LANES, "threefry2x32")
    chain = make_chain(setting, policies.accumulate_subsample(), num_samples=5, num_generations=GENERATIONS)
    traced = trace_blocks(lambda values: chain, world, {}, keys, metrics=METRICS, width=width, stretch=STRETCH)
    programs = compile_blocks(traced)

    def run(at_once, progress=lambda generations: None, saver=None, **others):
        return run_blocks(
            programs._replace(at_once=at_once), world, {}, keys,
            num_generations=GENERATIONS, progress=progress, saver=saver, **others,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def blocks():
    """Seven of two, the last half empty."""
    return blocks_of(WIDTH)


def test_a_lane_alone_is_what_it_is_among_others(blocks):
    alone, among = blocks_of(1)(2), blocks(2)
    for name in METRICS:
        np.testing.assert_allclose(alone[name], among[name], rtol=1e-4, atol=1e-4)


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

    return kept, Saver(load, save)


@pytest.mark.parametrize("at_once", [1, 2, 4, 16])
def test_how_many_run_at_once_does_not_matter(blocks, at_once):
    steps, one = [], blocks(0)
    many = blocks(at_once, steps.append)
    assert sum(steps) == LANES * GENERATIONS
    for name in METRICS:
        assert one[name].shape == (LANES, GENERATIONS)
        assert np.isfinite(one[name]).all()
        np.testing.assert_array_equal(one[name], many[name])


@pytest.mark.parametrize("at_once", [1, 4])
def test_what_died_goes_on_from_its_states(blocks, at_once):
    kept, dying = memory(after=8)
    with pytest.raises(OSError, match="no room"):
        blocks(at_once, saver=dying)
    assert len(kept) == 8
    steps, (_, saver) = [], memory()
    there = dict(kept)

    def save(block, done, state):
        assert (block, done) not in there  # nothing is done twice
        saver.save(block, done, state)

    resumed = blocks(at_once, steps.append, Saver(dying.load, save))
    assert sum(steps) == LANES * GENERATIONS
    for name, value in blocks(0).items():
        np.testing.assert_array_equal(value, resumed[name])


@pytest.mark.parametrize("at_once", [1, 4])
def test_ctrl_c_stops_all(blocks, at_once):
    steps = []

    def progress(generations):
        steps.append(generations)
        if len(steps) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blocks(at_once, progress)
    assert len(steps) < 3 * at_once  # what was under way and what it had ahead, not all of the 21 stretches


@pytest.mark.parametrize("at_once", [0, 1, 4])
def test_something_else_can_be_done_meanwhile(blocks, at_once):
    done, begun = [], threading.Event()

    def tell(generations):
        done.append(generations)
        begun.set()

    blocks(at_once, tell, meanwhile=lambda: begun.wait(60) or pytest.fail("no block has begun"))
    assert sum(done) == LANES * GENERATIONS


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
    assert sum(done) < LANES * GENERATIONS
