"""Gradients of the final risk with respect to weights, and what is found with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import SETTINGS

from collapse_jax import policies
from collapse_jax.settings import gaussian, linear_regression
from collapse_jax.theory.gaussian import best_sizes, best_weights, golden_ratio_error, sized_loop_error
from collapse_jax.tune import final_risk, tune

GOLDEN = (5**0.5 - 1) / 2
SMALL = {"num_samples": 10, "num_generations": 4, "num_chains": 5}


@pytest.mark.parametrize(
    ("setting", "metric"),
    [
        (gaussian(2, num_test=4), "test_nll"),
        pytest.param(
            linear_regression(2, reuse_inputs=False, num_test=4), "excess_risk", marks=pytest.mark.nightly
        ),  # a minute to compile
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_gradients_are_differences(setting, metric):
    with jax.enable_x64(True):
        schedule, step = jnp.array([0.3, 0.6, 0.5]), 1e-5
        risk = jax.jit(final_risk(setting, policies.weighted_fresh, metric=metric, **SMALL))
        slope = jax.jit(jax.grad(final_risk(setting, policies.weighted_fresh, metric=metric, **SMALL)))
        moved = [(risk(schedule + d) - risk(schedule - d)) / (2 * step) for d in step * np.eye(3)]
        np.testing.assert_allclose(slope(schedule), moved, rtol=1e-5)
        assert (np.abs(moved) > 1e-4).all()
        np.testing.assert_allclose(risk(0.5), risk(jnp.full(3, 0.5)), rtol=1e-12)


@pytest.mark.nightly
def test_a_float_has_the_slopes_of_all_its_places():
    with jax.enable_x64(True):
        slope = jax.jit(
            jax.grad(final_risk(gaussian(2, num_test=4), policies.weighted_fresh, metric="test_nll", **SMALL))
        )
        np.testing.assert_allclose(slope(0.5), slope(jnp.full(3, 0.5)).sum(), rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("setting", "policy", "more", "message"),
    [
        (SETTINGS["kde"](), policies.decay, {}, "setting kde chooses rows or symbols among others"),
        (SETTINGS["logistic_regression"](), policies.decay, {}, "setting logistic_regression chooses"),
        (gaussian(), policies.fixed_real, {}, "policy fixed_real counts rows"),
        (gaussian(), policies.decay, {"metric": "loss"}, "metric: setting gaussian has no 'loss'"),
        (linear_regression(2), policies.decay, {"num_samples": None}, "setting linear_regression draws rows"),
        (gaussian(), policies.decay, {"num_generations": 1}, "num_generations must be a whole number of at least 2"),
    ],
)
def test_what_has_no_gradient_is_refused(setting, policy, more, message):
    metric = setting.metrics[0].name
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(final_risk(setting, policy, **{**SMALL, "metric": metric, **more}), 0.5)
    assert "\n" not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize("start", [0.0, 1.0, [0.5, 1.5], float("nan")])
def test_a_start_is_a_share(start):
    with pytest.raises(ValueError, match="start must lie between 0 and 1"):
        tune(lambda x: x.sum(), start)


@pytest.mark.fast
def test_the_least_of_a_bowl_is_found():
    found = tune(lambda x: ((x - jnp.array([0.2, 0.7])) ** 2).sum(), jnp.array([0.5, 0.5]), steps=300)
    np.testing.assert_allclose(found.value, [0.2, 0.7], atol=1e-3)
    assert found.risk[0] == pytest.approx(0.13)
    assert found.risk[-1] < 1e-6


@pytest.mark.nightly
def test_the_golden_ratio_is_found():
    """The minimum is flat: what is found is judged by its exact risk."""
    n, setting = 100, gaussian(1, num_test=4)
    risk = final_risk(setting, policies.weighted_fresh, metric="squared_error_of_mean", num_samples=n,
                      num_generations=20, num_chains=4_000)  # fmt: skip
    found = tune(risk, 0.3, steps=80)
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
    found = tune(final_risk(gaussian(1, num_test=4), policies.weighted_fresh, **how), jnp.array([0.4, 0.8]), steps=120)
    assert exact(np.asarray(found.value)) < 1.003 * best_weights(2)[-1]
    assert exact([0.4, 0.8]) > 1.1 * best_weights(2)[-1]


@pytest.mark.fast
def test_a_budget_is_divided():
    found = tune(lambda x: (jnp.array([1.0, 4.0, 9.0]) / x).sum(), jnp.full(3, 1 / 3), steps=300, budget=12.0)
    np.testing.assert_allclose(found.value, [2, 4, 6], rtol=1e-3)
    with pytest.raises(ValueError, match="budget must be a number above 0"):
        tune(lambda x: x.sum(), jnp.full(3, 1 / 3), budget=-1.0)


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
        tune(lambda x: x.sum(), budget=600)
    risk = final_risk(gaussian(), policies.weighted_fresh, metric="squared_error_of_mean", **SMALL)
    with pytest.raises(ValueError, match="value must be a number or 3 of them, not of shape"):
        tune(risk, jnp.full(4, 0.5))


@pytest.mark.nightly
def test_the_best_sizes_are_found():
    """From equal ones, which are two fifths worse; judged by their exact risk, and by chains of their own."""
    weight, budget, t = 0.4, 600.0, 5
    risk = final_risk(gaussian(1, num_test=4), lambda rows: policies.weighted_fresh(weight), num_samples=None,
                      metric="squared_error_of_mean", num_generations=t, num_chains=8_000)  # fmt: skip
    found = tune(risk, jnp.full(t, 1 / t), steps=60, budget=budget)
    best, equal = (
        sized_loop_error(best_sizes(budget, t, weight), weight),
        sized_loop_error(np.full(t, budget / t), weight),
    )
    assert float(found.value.sum()) == pytest.approx(budget, rel=1e-5)
    assert sized_loop_error(np.asarray(found.value), weight) < 1.01 * best
    assert equal > 1.4 * best
    assert float(risk(found.value)) == pytest.approx(best, rel=0.06)
