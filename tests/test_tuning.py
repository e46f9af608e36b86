"""Gradients of the final risk with respect to weights, and what is found with them."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import SETTINGS, floats_of

import collapse_jax as cj
from collapse_jax import policies
from collapse_jax.core.random import chain_keys
from collapse_jax.core.registry import factories
from collapse_jax.settings import gaussian, linear_regression
from collapse_jax.theory.gaussian import best_sizes, best_weights, golden_ratio_error, sized_loop_error
from collapse_jax.tuning import final_risk, minimize_risk

GOLDEN = (5**0.5 - 1) / 2
SMALL = {"num_samples": 10, "num_generations": 4, "num_chains": 5}


@pytest.mark.parametrize(
    ("setting", "metric"),
    [
        (gaussian(2, num_test=4), "test_nll"),
        pytest.param(
            linear_regression(2, reuse_inputs=False, num_test=4), "excess_mse", marks=pytest.mark.nightly
        ),  # a minute to compile
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_gradients_are_differences(setting, metric):
    with jax.enable_x64(True):
        schedule, step = jnp.array([0.3, 0.6, 0.5]), 1e-5
        risk = final_risk(setting, policies.weighted_fresh, metric=metric, **SMALL)
        both = jax.jit(jax.value_and_grad(risk))  # one program for all of them
        moved = [(both(schedule + d)[0] - both(schedule - d)[0]) / (2 * step) for d in step * np.eye(3)]
        np.testing.assert_allclose(both(schedule)[1], moved, rtol=1e-5)
        assert (np.abs(moved) > 1e-4).all()
        np.testing.assert_allclose(jax.jit(risk)(0.5), both(jnp.full(3, 0.5))[0], rtol=1e-12)


@pytest.mark.nightly
def test_a_float_has_the_slopes_of_all_its_places():
    with jax.enable_x64(True):
        slope = jax.jit(
            jax.grad(final_risk(gaussian(2, num_test=4), policies.weighted_fresh, metric="test_nll", **SMALL))
        )
        np.testing.assert_allclose(slope(0.5), slope(jnp.full(3, 0.5)).sum(), rtol=1e-6)


GIVEN = {"metric": "squared_error_of_mean", "num_samples": 10, "num_generations": 4, "num_chains": 5}
BY_WEIGHT = re.escape("weighted_fresh(weight) and decay(gamma) weigh rows")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("setting", "policy", "more", "message"),
    [
        (SETTINGS["kde"](), "decay", {"metric": "test_nll"}, "setting kde chooses rows or symbols among others"),
        ("logistic_regression", "decay", {"metric": "accuracy"}, "setting logistic_regression chooses"),
        ("gaussian", "fixed_real", {}, f"policy fixed_real counts rows by this number, .* {BY_WEIGHT}"),
        ("gaussian", policies.fresh_real, {}, "policy fresh_real counts rows by this number"),
        (gaussian, "contaminated", {}, "policy contaminated counts rows by this number"),
        ("gaussian", lambda x: policies.growing([12], policies.fresh_real(x)), {}, "policy growing fresh_real counts"),
        ("gaussian", "window", {}, f"policy window: k is no fraction and has no gradient; {BY_WEIGHT}"),
        ("gaussian", "accumulate_subsample", {}, "policy accumulate_subsample: num is no fraction"),
        ("gaussian", "mix", {}, "policy mix: real is no fraction"),
        ("gaussian", "replace", {}, f"policy replace takes no number that could be tuned; {BY_WEIGHT}"),
        ("gaussian", policies.decay(0.5), {}, "policy decay has its number already: give the factory"),
        ("gaussian", lambda x: policies.accumulate(), {}, "squared_error_of_mean at fit 4 does not change with"),
        ("gaussian", "decay", {"metric": "loss"}, "metric: setting gaussian has no number 'loss'; one of wasserstein2"),
        ("gaussian", "decay", {"num_generations": 1}, "num_generations must be a whole number of at least 2, not 1"),
        ("gauss", "decay", {}, "setting must be one of .*, gaussian, .*, not 'gauss'"),
        ("gaussian", "forget", {}, "policy must be one of replace, .*, not 'forget'"),
        ("gaussian", "decay", {"budget": 40}, "give either num_samples, .* or budget"),
        ("gaussian", "decay", {"num_samples": None}, "give either num_samples, .* or budget"),
        ("gaussian", "decay", {"start": 1.5}, "start must be between 0 and 1, not 1.5"),
        ("gaussian", "decay", {"start": [0.5] * 3}, "start must be a number, not of shape .*; set schedule=True"),
        ("gaussian", "decay", {"start": [0.5] * 4, "schedule": True}, "start must be 3 numbers, not of shape"),
        ("gaussian", "decay", {"steps": 0}, "steps must be a whole number of at least 1"),
    ],
)
def test_a_number_without_a_gradient_is_refused(setting, policy, more, message):
    with pytest.raises(cj.UsageError, match=message) as error:
        cj.tune(setting, policy, **GIVEN | more)
    assert "\n" not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("setting", "policy", "more", "message"),
    [
        ("gaussian", "fresh_real", {}, "policy fresh_real counts rows one by one, so a budget of them cannot be"),
        ("gaussian", "accumulate_subsample", {}, "policy accumulate_subsample counts rows one by one"),
        ("gaussian", policies.weighted_fresh(0.5, real=5), {}, "policy weighted_fresh counts rows one by one"),
        ("gaussian", policies.growing([12]), {}, "policy growing counts rows one by one"),
        ("linear_regression", "decay", {"metric": "excess_mse"}, "setting linear_regression draws rows, of which"),
        ("gaussian", "decay", {"budget": -1.0}, "budget must be a number above 0, not -1.0"),
        ("gaussian", "decay", {"schedule": True}, "schedule: a budget is divided over all generations anyway"),
        ("gaussian", "decay", {"start": 0.5}, "start must be 4 numbers, not of shape"),
    ],
)
def test_a_budget_that_cannot_be_divided_is_refused(setting, policy, more, message):
    with pytest.raises(cj.UsageError, match=message) as error:
        cj.tune(setting, policy, **GIVEN | {"num_samples": None, "budget": 40.0} | more)
    assert "\n" not in str(error.value)


def risk_of(setting, policy, metric, curator=None):
    """The mean of a metric at the last of three fits, as anybody may write it with the functions of a chain."""
    world = setting.world()

    def risk(value):
        chain = cj.make_chain(setting, policy(value), num_samples=6, num_generations=3, curator=curator)
        return jax.vmap(lambda key: cj.simulate(chain, key, world, 3)[metric][-1])(chain_keys(0, 2)).mean()

    return risk


@pytest.mark.parametrize("name", ["fixed_real", "fresh_real", "contaminated"])
def test_a_derivative_through_a_count_is_refused(name):
    risk = risk_of(gaussian(num_test=4), factories("policy")[name], "squared_error_of_mean")
    with pytest.raises(cj.UsageError, match="there is no gradient: a share counts rows"):
        jax.eval_shape(jax.grad(risk), 0.5)
    jax.eval_shape(risk, 0.5)


@pytest.mark.parametrize(
    ("setting", "policy"),
    [
        ("kde", "decay"), ("kde", "weighted_fresh"), ("discrete", "weighted_fresh"), ("poisson", "decay"),
        ("bernoulli", "decay"), ("logistic_regression", "decay"), ("gaussian_mixture", "decay"),
        ("ideal_diffusion", "decay"), ("markov", "decay"), ("flow_matching", "decay"), ("diffusion", "decay"),
        ("vae", "decay"), ("language_model", "decay"),
        pytest.param("self_supervised", "decay", marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_a_derivative_through_a_choice_is_refused(setting, policy):
    """No such setting is differentiable: those that are trained draw the rows of minibatches by weight."""
    made = SETTINGS[setting]()
    assert not made.info.differentiable
    metric = next(m.name for m in made.metrics if not m.dims)
    with pytest.raises(cj.UsageError, match="there is no gradient: "):
        jax.eval_shape(jax.grad(risk_of(made, factories("policy")[policy], metric)), 0.5)


@pytest.mark.parametrize(
    "curator", [factories("curator")[name]() for name in sorted(factories("curator"))], ids=lambda c: c.name
)
def test_a_derivative_through_a_curator_is_refused(curator):
    """Weights of rows do not decide which rows ``detect`` and ``self_correct`` take."""
    if curator.name == "edit":
        pytest.skip("rewrites sequences, whose settings refuse by themselves")
    risk = risk_of(gaussian(num_test=4), policies.weighted_fresh, "squared_error_of_mean", curator)
    if curator.name in ("detect", "self_correct"):
        with jax.enable_x64(True):
            step, both = 1e-5, jax.jit(lambda x: jax.jvp(risk, (x,), (jnp.ones_like(x),)))
            slope = (both(0.5 + step)[0] - both(0.5 - step)[0]) / (2 * step)
            np.testing.assert_allclose(both(0.5)[1], slope, rtol=1e-5)
    else:
        with pytest.raises(cj.UsageError, match="there is no gradient: a curator chooses rows"):
            jax.eval_shape(jax.grad(risk), 0.5)


@pytest.mark.parametrize("curator", ["detect", "self_correct"])
def test_a_derivative_by_a_share_of_a_curator_is_refused(curator):
    def risk(value):
        made = factories("curator")[curator](value)
        return risk_of(gaussian(num_test=4), lambda _: policies.replace(), "squared_error_of_mean", made)(0.5)

    with pytest.raises(cj.UsageError, match="there is no gradient: a share of rows is counted"):
        jax.grad(risk)(0.5)


@pytest.mark.fast
def test_every_setting_has_right_gradients_or_refuses_them():
    """A setting or a policy that is registered must be in one of the lists of tests above and below."""
    smooth = {name for name, make in factories("setting").items() if SETTINGS[name]().info.differentiable}
    assert smooth == {"gaussian", "linear_regression"}
    weights = {name for name, make in factories("policy").items() if floats_of(make)}
    assert weights == {"fixed_real", "fresh_real", "contaminated", "weighted_fresh", "decay"}


@pytest.mark.nightly
def test_the_function_finds_a_number_a_schedule_and_a_division():
    given = {"metric": "squared_error_of_mean", "num_generations": 3, "num_chains": 2_000, "steps": 60}
    number = cj.tune(partial(gaussian, num_test=4), "weighted_fresh", num_samples=100, **given)
    assert number.value.shape == ()
    schedule = cj.tune(gaussian(1, num_test=4), "weighted_fresh", num_samples=100, schedule=True, **given)
    assert schedule.value.shape == (2,)
    assert schedule.risk[-1] < number.risk[-1] < number.risk[0]
    weight = 0.2
    division = cj.tune("gaussian", policies.weighted_fresh(weight), budget=300.0, start=[0.6, 0.2, 0.2], **given)
    assert float(division.value.sum()) == pytest.approx(300, rel=1e-5)
    best = sized_loop_error(best_sizes(300, 3, weight), weight)
    assert sized_loop_error(np.asarray(division.value), weight) < 1.01 * best
    assert sized_loop_error(np.array([180.0, 60.0, 60.0]), weight) > 1.05 * best


@pytest.mark.fast
@pytest.mark.parametrize("start", [0.0, 1.0, [0.5, 1.5], float("nan")])
def test_a_start_is_a_share(start):
    with pytest.raises(ValueError, match="start must be between 0 and 1"):
        minimize_risk(lambda x: x.sum(), start)


@pytest.mark.fast
def test_the_least_of_a_bowl_is_found():
    found = minimize_risk(lambda x: ((x - jnp.array([0.2, 0.7])) ** 2).sum(), jnp.array([0.5, 0.5]), steps=300)
    np.testing.assert_allclose(found.value, [0.2, 0.7], atol=1e-3)
    assert found.risk[0] == pytest.approx(0.13)
    assert found.risk[-1] < 1e-6


@pytest.mark.nightly
def test_the_golden_ratio_is_found():
    """The minimum is flat: what is found is judged by its exact risk."""
    n, setting = 100, gaussian(1, num_test=4)
    risk = final_risk(setting, policies.weighted_fresh, metric="squared_error_of_mean", num_samples=n,
                      num_generations=20, num_chains=4_000)  # fmt: skip
    found = minimize_risk(risk, 0.3, steps=80)
    assert golden_ratio_error(float(found.value), n, n) < 1.01 * golden_ratio_error(GOLDEN, n, n)
    assert found.risk[0] > 1.1 * found.risk[-1]


def exact(schedule):
    """n times the squared error of the mean after these weights, the variance known."""
    error = 1.0
    for w in schedule:
        error = (1 - w) ** 2 * (error + 1) + w**2
    return error


@pytest.mark.fast
def test_the_best_schedule_is_of_fibonacci_numbers():
    np.testing.assert_allclose(best_weights(4), [2 / 3, 5 / 8, 13 / 21, 34 / 55])
    np.testing.assert_allclose(best_weights(40, 0.5)[-1], 0.5)
    best = best_weights(3)
    assert exact(best) == pytest.approx(best[-1])
    for change in 0.05 * np.vstack([np.eye(3), -np.eye(3)]):
        assert exact(best + change) > exact(best)


@pytest.mark.nightly
def test_a_schedule_is_found():
    how = {"num_samples": 200, "num_generations": 3, "num_chains": 40_000, "metric": "squared_error_of_mean"}
    found = minimize_risk(
        final_risk(gaussian(1, num_test=4), policies.weighted_fresh, **how), jnp.array([0.4, 0.8]), steps=120
    )
    assert exact(np.asarray(found.value)) < 1.003 * best_weights(2)[-1]
    assert exact([0.4, 0.8]) > 1.1 * best_weights(2)[-1]


@pytest.mark.fast
def test_a_budget_is_divided():
    found = minimize_risk(lambda x: (jnp.array([1.0, 4.0, 9.0]) / x).sum(), jnp.full(3, 1 / 3), steps=300, budget=12.0)
    np.testing.assert_allclose(found.value, [2, 4, 6], rtol=1e-3)
    with pytest.raises(ValueError, match="budget must be a number above 0"):
        minimize_risk(lambda x: x.sum(), jnp.full(3, 1 / 3), budget=-1.0)


@pytest.mark.fast
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_best_sizes_are_best(weight):
    """And the formula is the recursion of one generation after another."""
    best = best_sizes(60, 4, weight)
    error = 1 / best[0]
    for n in best[1:]:
        error = (1 - weight) ** 2 * (error + 1 / n) + weight**2 / n
    assert best.sum() == pytest.approx(60)
    assert sized_loop_error(best, weight) == pytest.approx(error)
    for i, j in [(0, 1), (1, 3), (2, 0), (3, 2)]:
        assert sized_loop_error(best + 0.5 * (np.arange(4) == i) - 0.5 * (np.arange(4) == j), weight) > error
    assert (weight == 0) == np.allclose(best, 15)


@pytest.mark.fast
def test_starts_have_as_many_numbers_as_there_are_batches():
    with pytest.raises(ValueError, match="a budget is divided by shares, one a batch"):
        minimize_risk(lambda x: x.sum(), 0.5, budget=600)
    risk = final_risk(gaussian(), policies.weighted_fresh, metric="squared_error_of_mean", **SMALL)
    with pytest.raises(ValueError, match="value must be a number or 3 of them, not of shape"):
        minimize_risk(risk, jnp.full(4, 0.5))


@pytest.mark.nightly
def test_the_best_sizes_are_found():
    """From equal ones, which are two fifths worse; judged by their exact risk, and by chains of their own."""
    weight, budget, t = 0.4, 600.0, 5
    risk = final_risk(gaussian(1, num_test=4), lambda rows: policies.weighted_fresh(weight), num_samples=None,
                      metric="squared_error_of_mean", num_generations=t, num_chains=8_000)  # fmt: skip
    found = minimize_risk(risk, jnp.full(t, 1 / t), steps=60, budget=budget)
    best, equal = (
        sized_loop_error(best_sizes(budget, t, weight), weight),
        sized_loop_error(np.full(t, budget / t), weight),
    )
    assert float(found.value.sum()) == pytest.approx(budget, rel=1e-5)
    assert sized_loop_error(np.asarray(found.value), weight) < 1.01 * best
    assert equal > 1.4 * best
    assert float(risk(found.value)) == pytest.approx(best, rel=0.06)
