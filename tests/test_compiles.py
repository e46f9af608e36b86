"""Traces and compiles are counted: a grid of floats is one program, a static point is one, and chains cost none."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from collapse_jax import policies
from collapse_jax.core.random import draw_normals
from collapse_jax.execution import runner
from collapse_jax.execution.sweep import run, sweep
from collapse_jax.planning import units
from collapse_jax.settings.gaussian import gaussian
from collapse_jax.settings.kde import kde


class Counter:
    """A factory of settings that counts how often their fits are traced."""

    def __init__(self, factory):
        self.factory, self.traces = factory, 0

    def __call__(self, *args, **kwargs):
        setting = self.factory(*args, **kwargs)

        def fit(key, train, start):
            self.traces += 1
            return setting.fit(key, train, start)

        return setting._replace(fit=fit)


def counting_gaussian():
    """A counter, and a factory of Gaussian settings that it watches."""
    counter = Counter(gaussian)

    def factory(dim: int = 1):
        return counter(dim, num_test=4)

    return counter, factory


SMALL = {"num_samples": 4, "num_generations": 3, "num_chains": 2}
OPTIONS = {**SMALL, "metrics": ["trace_ratio"]}


def compiled(function):
    """How many programs XLA compiled meanwhile."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        function()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(seen)


@pytest.mark.fast
def test_a_grid_of_floats_of_a_policy_is_one_program():
    counter, factory = counting_gaussian()
    sweep(factory(), policies.decay, axes={"gamma": [0.5]}, **OPTIONS)
    once, counter.traces = counter.traces, 0
    assert once > 0
    sweep(factory(), policies.decay, axes={"gamma": [0.1, 0.3, 0.5, 0.7, 0.9]}, **OPTIONS)
    assert counter.traces == once


def test_a_grid_of_floats_of_a_setting_is_one_program():
    counter = Counter(kde)

    def factory(bandwidth: float = 0.5):
        return counter(bandwidth, num_test=4)

    options = {**SMALL, "metrics": ["training_variance"]}
    sweep(factory, policies.accumulate(), axes={"bandwidth": [0.5]}, **options)
    once, counter.traces = counter.traces, 0
    assert once > 0
    sweep(factory, policies.accumulate(), axes={"bandwidth": [0.1, 0.3, 0.5, 0.7, 0.9]}, **options)
    assert counter.traces == once


def test_a_static_point_is_one_program():
    counter, factory = counting_gaussian()
    run(factory(), policies.replace(), **OPTIONS)
    once, counter.traces = counter.traces, 0
    options = {k: v for k, v in OPTIONS.items() if k != "num_samples"}
    sweep(factory, policies.replace(), axes={"num_samples": [4, 5], "dim": [1]}, **options)
    assert counter.traces == 2 * once
    counter.traces = 0
    sweep(factory(), [policies.replace(), policies.accumulate()], **OPTIONS)
    assert counter.traces == 2 * once


@pytest.mark.fast
def test_chains_generations_and_seeds_trace_nothing_more():
    counter, factory = counting_gaussian()
    run(factory(), policies.accumulate(), **{**OPTIONS, "num_chains": 10})
    once, counter.traces = counter.traces, 0
    run(factory(), policies.accumulate(), **{**OPTIONS, "num_chains": 1000, "chains_per_block": 64, "seed": 3})
    assert 0 < counter.traces <= once
    counter.traces = 0
    run(factory(), policies.accumulate(), **{**OPTIONS, "num_generations": 200})
    assert counter.traces == once


def test_a_sweep_compiles_two_programs_a_static_point():
    setting = gaussian(1)  # whose held-out rows are more than JAX's own loop draws
    go = lambda gammas, **options: lambda: sweep(setting, policies.decay, axes={"gamma": gammas}, **OPTIONS | options)  # noqa: E731
    compiled(go([0.5]))  # small eager programs (keys, worlds) are cached after the first
    one = compiled(go([0.3]))
    compiled(go([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert compiled(go([0.2, 0.3, 0.4, 0.5, 0.6])) == one
    assert one <= 4


@pytest.mark.fast
def test_numbers_drawn_outside_of_a_program_are_compiled_once():
    draw = lambda seed: draw_normals(jax.random.key(seed, impl="threefry2x32"), (200,))  # noqa: E731
    draw(0)
    assert compiled(lambda: draw(1)) == 0


def lapack_gaussian(dim: int = 1):
    """A Gaussian whose trace is found by LAPACK, two calls of which may not run at once."""
    made = gaussian(dim, num_test=4)

    def observe(key, world, params, summary, new):
        return {
            **made.observe(key, world, params, summary, new),
            "trace_ratio": jnp.linalg.svdvals(params.factor).sum(),
        }

    return made._replace(observe=observe)


@pytest.mark.parametrize("lapack", [False, True])
def test_the_next_program_is_traced_beside_blocks_unless_they_must_be_alone(monkeypatch, lapack):
    events, alone, trace, blocks = [], [], runner.Runner._trace, runner.run_blocks

    def traced(self, number):
        events.append(number)
        return trace(self, number)

    def watched(programs, *args, **kwargs):
        events.append("blocks")
        alone.append(programs.runs_alone)
        out = blocks(programs, *args, **kwargs)
        events.append("done")
        return out

    monkeypatch.setattr(runner.Runner, "_trace", traced)
    monkeypatch.setattr(runner, "run_blocks", watched)
    factory = lapack_gaussian if lapack else partial(gaussian, num_test=4)
    sweep(factory, policies.replace(), axes={"dim": [2, 3]}, **OPTIONS)
    assert alone == [lapack] * 2
    first = [0, 1, "blocks"] if alone[0] else [0, "blocks", 1]
    assert events == [*first, "done", "blocks", "done"]


def test_a_program_that_cannot_be_traced_is_tried_once(monkeypatch):
    tried, trace = [], runner.Runner._trace

    def fails(self, number):
        tried.append(number)
        if number == 1:
            raise ValueError("not this one")
        return trace(self, number)

    monkeypatch.setattr(runner.Runner, "_trace", fails)
    monkeypatch.setattr(units, "_UNIT_OPERATIONS", 1)  # a block is a unit
    factory = lambda dim: gaussian(dim, num_test=4)  # noqa: E731
    with pytest.raises(ValueError, match="not this one"):
        sweep(factory, policies.replace(), axes={"dim": [2, 3]}, **{**OPTIONS, "num_chains": 6, "chains_per_block": 2})
    assert tried == [0, 1]
