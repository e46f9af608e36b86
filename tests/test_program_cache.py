"""Programs are compiled once in a process: floats, seeds and the number of chains are their inputs."""

import warnings
from typing import Annotated

import chex
import jax
import numpy as np
import pytest
from test_compiles import compiled

import collapse_jax as cj
from collapse_jax import data, policies, settings
from collapse_jax.core.bounded_cache import BoundedCache
from collapse_jax.core.registry import register_setting
from collapse_jax.execution import compiled_programs
from collapse_jax.execution.compiled_programs import RecompilationWarning, clear_cache
from collapse_jax.planning.program_key import NoKeyError, value_key
from collapse_jax.types import OffAt

SMALL = {"num_samples": 6, "num_generations": 4, "num_chains": 3}


@pytest.fixture(autouse=True)
def empty_cache():
    """Each test begins without compiled programs, and leaves none whose parts it registered."""
    clear_cache()
    yield
    clear_cache()


@pytest.fixture
def limited_traces(own_parts):
    """Register ``limited``, a Gaussian whose fit may be traced as often as one run traces it, and never again."""
    traced = []

    def fit(key, train, start):
        traced.append(key)
        return settings.gaussian(num_test=4).fit(key, train, start)

    clear_cache()
    probe = settings.gaussian(num_test=4)._replace(fit=fit)
    cj.run(probe, policies.decay(0.2), **SMALL)
    watched = chex.assert_max_traces(lambda *arguments: settings.gaussian(num_test=4).fit(*arguments), n=len(traced))

    @register_setting
    def limited(temperature: float = 1.0, num_test: int = 4):
        return settings.gaussian(num_test=num_test, temperature=temperature)._replace(fit=watched)

    return limited


@pytest.mark.fast
def test_a_second_run_with_other_numbers_traces_nothing(limited_traces):
    cj.run(limited_traces(0.9), policies.decay(0.2), **SMALL)
    assert compiled(lambda: cj.run(limited_traces(0.8), policies.decay(0.7), **{**SMALL, "num_chains": 7}, seed=5)) == 0
    assert compiled(lambda: cj.run(limited_traces(), "decay", **{**SMALL, "num_chains": 300}, seed=6)) == 0
    with pytest.raises(AssertionError, match="is traced"):  # so that the limit is one that a trace more would break
        cj.run(limited_traces(0.9), policies.decay(0.2), **{**SMALL, "num_samples": 7})


ANY_NUMBERS = [
    (settings.gaussian, {"dim": 2}, "temperature", (0.9, 0.7), "replace"),
    (settings.kde, {"num_test": 5}, "bandwidth", (0.3, 0.4), "accumulate"),
    (settings.discrete, {}, "temperature", (0.9, 0.8), "replace"),
    (settings.poisson, {}, "rate", (2.0, 3.0), "replace"),
    (settings.linear_regression, {"dim": 2}, "ridge", (0.1, 0.2), "replace"),
    (settings.logistic_regression, {"dim": 2}, "ridge", (0.1, 0.2), "accumulate_subsample"),
    (settings.gaussian_mixture, {"steps": 2}, "floor", (1e-3, 2e-3), "replace"),
    (settings.ideal_diffusion, {}, "delta", (0.2, 0.3), "replace"),
    (settings.markov, {}, "smoothing", (0.2, 0.3), "replace"),
]


@pytest.mark.parametrize(("factory", "options", "name", "numbers", "policy"), ANY_NUMBERS)
def test_other_numbers_compile_nothing_and_give_what_a_new_program_gives(factory, options, name, numbers, policy):
    first, second = (factory(**options, **{name: number}) for number in numbers)
    cj.run(first, policy, **SMALL)
    again, runs = {}, {}
    again["compiled"] = compiled(lambda: runs.update(warm=cj.run(second, policy, **SMALL, seed=3)))
    assert again["compiled"] == 0
    assert runs["warm"].attrs["seconds_compile"] == 0
    clear_cache()
    cold = cj.run(second, policy, **SMALL, seed=3)
    assert cold.attrs["seconds_compile"] > 0
    for metric in cold.data_vars:
        np.testing.assert_array_equal(runs["warm"][metric], cold[metric])
    other = cj.run(first, policy, **SMALL, seed=3)
    assert any((other[metric] != cold[metric]).any() for metric in cold.data_vars)  # the number is no constant


@pytest.mark.fast
def test_a_loop_over_numbers_compiles_what_one_of_them_compiles():
    one = compiled(lambda: cj.run("gaussian", policies.decay(0.31), **SMALL))
    assert one > 0
    assert compiled(lambda: [cj.run("gaussian", policies.decay(i / 20), **SMALL) for i in range(20)]) == 0


@pytest.mark.fast
def test_a_policy_of_a_sweep_is_compiled_for_a_run_too():
    cj.sweep("gaussian", ["replace", policies.decay(0.3)], **SMALL)
    assert compiled(lambda: cj.run("gaussian", policies.decay(0.4), **SMALL)) == 0


DIFFERENT = {
    "another n": {"num_samples": 7},
    "another horizon": {"num_generations": 5},
    "another policy": {"policy": "accumulate"},
    "other metrics": {"metrics": "trace_ratio"},
    "rows": {"backend": "rows"},
    "another precision": {"precision": "float64"},
    "another generator": {"rng": "rbg"},
    "a curator": {"curator": "top_fraction"},
    "another width": {"chains_per_block": 2},
    "another whole number": {"setting": settings.gaussian(dim=2, ddof=1)},
    "another source": {"setting": settings.gaussian(source=data.normal(2, mean=1.0))},
}


def test_what_changes_a_program_makes_another():
    """Each of them, after all those before it, gives what it gives alone."""
    few = ["trace_ratio", "squared_error_of_mean"]
    before = {"setting": settings.gaussian(dim=2), "policy": "replace", "metrics": few, **SMALL}
    cj.run(**before)
    assert compiled(lambda: cj.run(**{**before, "seed": 1})) == 0
    warm = {name: cj.run(**{**before, **changed}) for name, changed in DIFFERENT.items()}
    clear_cache()
    for name, changed in DIFFERENT.items():
        assert warm[name].attrs["seconds_compile"] > 0, name
        cold = cj.run(**{**before, **changed})
        for metric in cold.data_vars:
            np.testing.assert_array_equal(warm[name][metric], cold[metric], err_msg=name)


def test_a_flag_of_jax_makes_another_program():
    cj.run("gaussian", "replace", **SMALL)
    with jax.default_matmul_precision("float32"):
        assert cj.run("gaussian", "replace", **SMALL).attrs["seconds_compile"] > 0
    assert cj.run("gaussian", "replace", **SMALL).attrs["seconds_compile"] == 0


def warm_and_cold(first, second):
    """Return the results of the second pair of a setting and a policy, after the first one and alone."""
    cj.run(*first, **SMALL)
    warm = cj.run(*second, **SMALL)
    clear_cache()
    return warm, cj.run(*second, **SMALL)


@pytest.mark.parametrize("kind", ["list", "array"])
def test_what_a_part_was_made_of_may_change_later(kind):
    if kind == "list":
        sizes = [7, 8]
        first = policies.growing(sizes)
        sizes[1] = 30
        pairs = ("gaussian", first), ("gaussian", policies.growing(sizes))
    else:
        mix = np.eye(2)
        parts = []
        for share in (1.0, 0.5):
            mix[:] = [[share, 1 - share], [1 - share, share]]
            parts.append(settings.ecosystem(settings.gaussian(num_test=4), 2, mix))
        pairs = tuple((part, "replace") for part in parts)
    warm, cold = warm_and_cold(*pairs)
    for metric in cold.data_vars:
        np.testing.assert_array_equal(warm[metric], cold[metric])


def test_a_factory_that_looks_at_its_numbers_takes_them_as_constants(own_parts):
    @register_setting
    def branching(temperature: float = 0.9, num_test: int = 4):
        if temperature < 0:
            raise ValueError("below 0")
        assert f"{temperature:.1f}" in ("0.9", "0.8")
        return settings.gaussian(temperature=float(np.exp(np.log(temperature))), num_test=num_test)

    for temperature in (0.9, 0.8):
        own = cj.run(branching(temperature), "replace", **SMALL)
        same = cj.run(settings.gaussian(temperature=temperature, num_test=4), "replace", **SMALL)
        np.testing.assert_allclose(own.trace_ratio, same.trace_ratio, rtol=1e-5)
    assert cj.run(branching(0.8), "replace", **SMALL).attrs["seconds_compile"] == 0


RATE = 0.9


def test_a_global_that_a_factory_reads_makes_another_program(own_parts, monkeypatch):
    @register_setting
    def reading():
        return settings.gaussian(temperature=RATE, num_test=4)

    before = cj.run(reading(), "replace", **SMALL)
    assert cj.run(reading(), "replace", **SMALL).attrs["seconds_compile"] == 0
    monkeypatch.setitem(globals(), "RATE", 0.5)
    after = cj.run(reading(), "replace", **SMALL)
    assert (after.trace_ratio.isel(generation=-1) < before.trace_ratio.isel(generation=-1)).all()


def test_a_part_keeps_the_global_that_it_was_made_by(own_parts, monkeypatch):
    @register_setting
    def reading():
        return settings.gaussian(temperature=RATE, num_test=4)

    first = reading()
    monkeypatch.setitem(globals(), "RATE", 0.3)
    warm, cold = warm_and_cold((first, "replace"), (reading(), "replace"))
    np.testing.assert_array_equal(warm.trace_ratio, cold.trace_ratio)


def test_a_file_that_changed_is_read_again(tmp_path):
    path, rng = tmp_path / "rows.csv", np.random.default_rng(0)

    def mean_of(shift):
        np.savetxt(path, shift + rng.normal(size=(40, 2)), delimiter=",", header="a,b", comments="")
        source = data.table(str(path))
        return cj.run(settings.gaussian(source=source, num_test=4), "replace", **SMALL).attrs["seconds_compile"]

    assert mean_of(0.0) > 0
    assert mean_of(5.0) > 0


@pytest.mark.fast
def test_a_number_is_constant_where_it_turns_something_off(own_parts):
    kinds = []

    @register_setting
    def heated(temperature: Annotated[float, OffAt(1.0)] = 1.0):
        kinds.append(type(temperature))
        return settings.gaussian(num_test=4, temperature=temperature)

    def traced(setting):
        kinds.clear()
        cj.run(setting, "replace", **SMALL)
        return any(issubclass(kind, jax.core.Tracer) for kind in kinds)

    assert not traced(heated())
    assert not traced(heated(1))
    assert traced(heated(0.5))


@pytest.mark.fast
def test_parts_without_a_key_are_compiled_anew_and_said_once(monkeypatch):
    monkeypatch.setattr(compiled_programs, "_said", set())
    monkeypatch.setattr(compiled_programs, "_compiled_before", set())
    own = settings.gaussian(num_test=4)
    own = own._replace(fit=lambda *arguments: settings.gaussian().fit(*arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cj.sweep(own, ["replace", "accumulate"], **SMALL)
    with pytest.warns(RecompilationWarning, match="setting gaussian was not made by a registered factory"):
        assert cj.run(own, "replace", **SMALL).attrs["seconds_compile"] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cj.run(own, "replace", **SMALL)


@pytest.mark.fast
def test_clear_cache_forgets_programs():
    cj.run("gaussian", "replace", **SMALL)
    assert len(compiled_programs.COMPILED) == 1
    cj.clear_cache()
    assert len(compiled_programs.COMPILED) == 0


@pytest.mark.fast
def test_the_cache_keeps_what_was_used_last():
    cache = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


@pytest.mark.fast
def test_keys_of_values_tell_them_apart(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    values = [None, True, 1, 1.0, "1", b"1", (1,), [1], {"a": 1}, np.array([1]), np.array([1.0]), np.float32(1), "x",
              np.ones(1, np.float32), {1: 1, "1": 1}, {"1": 1, 1: 1}, {True: 1},
              float("nan"), -0.0, 0.0, str(tmp_path / "a.txt"), tmp_path, range(1), policies.decay(0.1),
              policies.decay(0.2), data.normal(2)]  # fmt: skip
    keys = [value_key(value, "here") for value in values]
    assert len(set(keys)) == len(values)
    assert keys == [value_key(value, "here") for value in values]
    (tmp_path / "a.txt").write_text("ab")
    assert value_key(tmp_path, "here") not in keys
    records = np.zeros(1, [("a", float)])
    for unknown in (lambda x: x, object(), settings.gaussian()._replace(metrics=()), np.array([{}]), records,
                    np.ma.array([1.0], mask=[True]),
                    jax.random.key(0)):  # fmt: skip
        with pytest.raises(NoKeyError):
            value_key(unknown, "here")
