"""Formulas of ``theory.selection`` against plain simulations in NumPy."""

import numpy as np
import pytest
from oracle_helpers import assert_law

from collapse_jax import theory
from collapse_jax.analysis.predictions import case_at
from collapse_jax.config import experiment
from collapse_jax.theory import selection

CHAINS = 20_000


@pytest.mark.fast
def test_the_variance_of_the_largest():
    assert selection.best_of_variance(1) == pytest.approx(1)
    assert selection.best_of_mean(2) == pytest.approx(np.pi**-0.5)
    assert selection.best_of_variance(2) == pytest.approx(1 - 1 / np.pi)
    assert selection.best_of_variance(3) == pytest.approx(1 - (9 - 3**0.5 * 2) / (4 * np.pi), abs=1e-9)


@pytest.mark.fast
def test_the_second_fit_to_what_a_judge_chose():
    n, judge, noise = 12, 1.5, 0.7
    rng = np.random.default_rng(3)
    first = rng.normal(size=(CHAINS, n))
    z = rng.normal(size=(CHAINS, n, 2))
    row = first.mean(1)[:, None, None] + first.std(1)[:, None, None] * z
    seen = judge * row + noise * rng.normal(size=z.shape)
    chosen = np.take_along_axis(row, seen.argmax(2)[:, :, None], 2)[:, :, 0]
    assert_law("variance", chosen.var(1), selection.judged_variance(n, judge, noise),
               selection.judged_variance(n, 1.0, 2 * noise))  # fmt: skip
    best = row.max(2).mean(1)
    raw = {"setting": {"kind": "gaussian", "dim": 1}, "policies": ["replace"], "num_samples": n, "num_generations": 2,
           "num_chains": 1, "curator": {"kind": "best_of", "by": "value"}}  # fmt: skip
    assert_law("squared mean", best**2, selection._predict_move(case_at(experiment.from_dict(raw).grid())), 1 / np.pi)
    assert selection.judged_variance(n, 1.0, 0.0) == pytest.approx((1 - 1 / n) ** 2 * selection.best_of_variance(2))


@pytest.mark.fast
def test_the_variance_of_the_upper_part():
    n, kept = 12, 5
    top = np.sort(np.random.default_rng(0).normal(size=(4 * CHAINS, n)), 1)[:, -kept:]
    exact = selection.top_variance(n, kept)
    assert_law("top variance", top.var(1), exact, (1 - 1 / kept) * (1 - 2 / np.pi))
    assert selection.top_variance(n, n) == pytest.approx(1 - 1 / n)
    assert selection.top_variance(2000, 1000) == pytest.approx(1 - 2 / np.pi, rel=2e-3)


@pytest.mark.fast
def test_choices_among_zeros_and_ones():
    p, strength = np.array([0.0, 0.3, 1.0]), 0.8
    np.testing.assert_allclose(selection.chosen_probability(p, 1, strength), p)
    np.testing.assert_allclose(
        selection.chosen_probability(p, 2, strength), p**2 + 2 * p * (1 - p) / (1 + np.exp(-strength))
    )
    np.testing.assert_allclose(selection.chosen_probability(p, 3, np.inf), 1 - (1 - p) ** 3)
    np.testing.assert_allclose(selection.chosen_probability(p, 4, 0.0), p)
    tilted = p * np.exp(strength) / (p * np.exp(strength) + 1 - p)  # of many candidates: p_0 exp((T - 1) strength)
    np.testing.assert_allclose(selection.chosen_probability(p, 1000, strength), tilted, rtol=1e-3)
    rng, n, k, horizon = np.random.default_rng(1), 15, 3, 4
    share, seen = np.full(CHAINS, 0.2), []
    for g in range(horizon):
        draws = rng.random((CHAINS, n, k if g else 1)) < share[:, None, None]
        odds = np.where(draws, np.exp(strength), 1.0).cumsum(2)
        pick = (rng.random((CHAINS, n, 1)) * odds[:, :, -1:] > odds).sum(2)
        share = np.take_along_axis(draws, pick[:, :, None], 2)[:, :, 0].mean(1)
        seen.append(share)
    exact = selection.chosen_mean(0.2, n, horizon, k, strength)
    mean_field = [0.2]
    for _ in range(horizon - 1):
        mean_field.append(float(selection.chosen_probability(mean_field[-1], k, strength)))
    assert_law("p", np.stack(seen, 1), exact, mean_field)


@pytest.mark.fast
def test_verified_rows():
    n, p, keep = 40, 0.3, (0.8, 0.3)
    rng = np.random.default_rng(2)
    first = rng.binomial(n, p, CHAINS) / n
    ones = rng.binomial(n, first)
    right, wrong = rng.binomial(ones, keep[0]), rng.binomial(n - ones, keep[1])
    share = right / (right + wrong)
    assert_law("right", share, selection.verified_mean(p, n, *keep), float(selection.verified_share(p, *keep)) + 0.03)
    majority = selection.majority_probability
    assert_law("most", (right > wrong) + 0.5 * (right == wrong), majority(p, n, *keep),
               majority(p, 2 * n, *keep), majority(p, n, *keep[::-1]))  # fmt: skip


@pytest.mark.fast
def test_accuracy_jumps_at_the_threshold():
    keep = 0.8, 0.2
    limit = selection.verifier_threshold(*keep)
    assert limit == pytest.approx(0.2)
    assert selection.verified_share(limit, *keep) == pytest.approx(0.5)
    log_odds = lambda p: np.log(p / (1 - p))  # noqa: E731
    assert log_odds(selection.verified_share(0.3, *keep)) - log_odds(0.3) == pytest.approx(np.log(4))
    below, above = ([selection.majority_probability(limit + d, n, *keep) for n in (20, 80, 320)] for d in (-0.08, 0.08))
    assert (np.diff(below) < 0).all()
    assert (np.diff(above) > 0).all()
    assert (below[-1], above[-1]) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))


@pytest.mark.fast
def test_theory_of_chains_without_curators_is_not_said_of_others():
    raw = {"setting": {"kind": "gaussian", "dim": 1}, "policies": ["replace"], "num_samples": 5, "num_generations": 3,
           "num_chains": 4}  # fmt: skip
    assert theory.find_predictions(case_at(experiment.from_dict(raw).grid()))
    for curator in ("diverse", ["best_of", "detect"]):
        assert not theory.find_predictions(case_at(experiment.from_dict({**raw, "curator": curator}).grid()))
