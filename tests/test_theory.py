"""Formulas of ``theory`` that chains do not hold by themselves, against plain simulations in NumPy."""

import numpy as np
import pytest
from oracle_helpers import assert_law
from scipy import stats

from collapse_jax import config, data, theory
from collapse_jax.analysis import theory_check_cases
from collapse_jax.analysis.predictions import case_at
from collapse_jax.theory import VarianceMap, diffusion, discrete, fit_moments, gaussian, moment_recursions, regression

CHAINS, T = 40_000, 8


def cases():
    for raw in theory_check_cases.EXPERIMENTS:
        experiment = config.from_dict(raw)
        grid = experiment.grid()
        yield from (case_at(grid, i) for i in range(len(experiment.policies)))


@pytest.mark.fast
def test_every_prediction_is_verified():
    """Each of the table holds, and is fair somewhere, for an experiment of ``verify``; those on policies, for each."""
    seen = {
        (id(p), case.policy["kind"]) for case in cases() for p in theory.find_predictions(case) if p.is_fair(case).any()
    }
    assert {id(p) for p in theory.TABLE} == {p for p, _ in seen}
    for p in theory.TABLE:
        if (
            set(moment_recursions.POLICIES) <= set(p.policies) and p.setting != "gaussian_mixture"
        ):  # whose moments are a KDE's
            assert {policy for i, policy in seen if i == id(p)} == set(p.policies)


@pytest.mark.fast
def test_predictions_are_intervals():
    for case in cases():
        found = theory.find_predictions(case)
        assert found
        assert [p.exact for p in found] == sorted((p.exact for p in found), reverse=True)
        for p in found:
            low, high = p.interval(case)[:, p.is_fair(case)]
            assert np.isfinite([low, high]).all(), p.quantity
            assert (low <= high).all(), p.quantity
            assert p.source
            if p.exact:
                np.testing.assert_array_equal(low, high)


@pytest.mark.fast
def test_assumptions_are_checked():
    """What needs a normal law, one column or maximum likelihood is not said of other cases."""
    base = {"setting": {"kind": "gaussian", "dim": 1}, "policies": ["replace"], "num_samples": 9}
    base |= {"num_generations": 3, "num_chains": 1}

    def quantities(**setting):
        case = case_at(config.from_dict({**base, "setting": {**base["setting"], **setting}}).grid())
        return {p.quantity for p in theory.find_predictions(case)}

    everything = quantities()
    assert everything - quantities(dim=2) == {"log_trace_ratio", "standard deviation ratio", "wasserstein2_squared"}
    assert everything - quantities(ddof=1) == {"squared_error_of_mean + trace"}
    assert quantities(dim=None, source="moons") == {
        "squared_error_of_mean + trace", "squared_error_of_mean", "trace_ratio",
    }  # fmt: skip
    assert "is singular" in quantities(dim=9)


@pytest.mark.fast
def test_the_rank_of_one_row_is_none():
    raw = {"setting": {"kind": "gaussian", "dim": 2}, "policies": ["replace"], "num_generations": 3, "num_chains": 1}
    case = case_at(config.from_dict({**raw, "num_samples": 1}).grid())
    (rank,) = (p for p in theory.find_predictions(case) if p.quantity == "effective_rank")
    np.testing.assert_array_equal(rank.interval(case), 0)


@pytest.mark.fast
def test_assumptions_of_other_settings_are_checked():
    base = {"policies": ["replace"], "num_samples": 9, "num_generations": 3, "num_chains": 1}

    def found(kind, n=9, policy="replace", t=3, **given):
        sizes = {"num_samples": n, "num_generations": t}
        raw = {**base, **sizes, "setting": {"kind": kind, **given}, "policies": [policy]}
        return [(p.quantity, p.statistic) for p in theory.find_predictions(case_at(config.from_dict(raw).grid()))]

    risk, logs = ("excess_mse", "mean"), [("log_excess_mse", "mean"), ("log_excess_mse", "variance")]
    assert found("linear_regression") == [risk, *logs]
    assert found("linear_regression", ridge=0.1) == []
    assert found("linear_regression", dim=5) == [risk, *logs]
    assert found("linear_regression", dim=6) == logs  # the risk has no variance
    assert found("linear_regression", dim=10) == []
    assert found("linear_regression", reuse_inputs=False) == [risk]
    assert found("linear_regression", policy="accumulate") == [risk, *logs, risk]  # the bound, too
    assert found("linear_regression", policy="accumulate", reuse_inputs=False) == [risk]
    assert found("linear_regression", policy="window", reuse_inputs=False) == []
    assert found("logistic_regression", n=299) == found("logistic_regression", n=300, classes=3) == []
    assert len(found("logistic_regression", n=300)) == len(found("logistic_regression", n=300, t=4)) == 1
    assert found("logistic_regression", n=300, t=5) == []  # beyond the first order
    digits = {"kind": "digits", "pca": 1, "labels": True}
    assert found("logistic_regression", n=300, source=digits) == []  # the truth is no such model
    assert len(found("ideal_diffusion")) == len(found("ideal_diffusion", policy="window")) == 4
    assert len(found("ideal_diffusion", degree=2)) == 2
    assert found("ideal_diffusion", solver_steps=8) == found("ideal_diffusion", source="moons") == []
    one_gram = found("markov", smoothing=0.0, length=2)
    assert [quantity for quantity, _ in one_gram] == ["gini_simpson", "training_symbols_alive", "transitions_alive"]
    assert found("markov", length=2) == found("markov", smoothing=0.0) == []
    assert found("markov", smoothing=0.0, length=2, language="shakespeare") == []
    assert len(found("markov", order=0, smoothing=0.0, length=1)) == 4
    ratio = [("gini_simpson over its mean at fit 1", "mean")]
    assert found("markov", order=0, smoothing=0.0, language="shakespeare") == ratio
    assert found("markov", order=0, smoothing=0.0, policy="window") == []
    ancestors = ("ancestors_alive", "mean")
    assert ancestors in found("discrete", lineage=True)
    assert ancestors not in found("discrete")
    assert ("symbols_alive", "mean") in found("discrete", n=501)  # its bound
    assert len(found("discrete", n=500)) == len(found("discrete", n=501)) + 3


@pytest.mark.fast
def test_medians_lie_where_means_do():
    """Wherever a picture of medians shows the mean: chi^2 of many degrees, but no risk of few coefficients."""
    shown = {p.quantity for p in theory.TABLE if p.in_logs}
    assert shown == {"log_trace_ratio", "log_det_ratio"}
    for n in (5, 20):
        median = np.log(stats.chi2(n - 1).median() / n)
        spread = gaussian.variance_of_log_variance(n) ** 0.5
        assert abs(median - gaussian.log_variance_drift(n)) < 0.13 * spread
    median = np.log(stats.f(1, 99).median() / 99)
    assert median - regression.log_first_risk(99, 1, 1.0) > 0.4


@pytest.mark.fast
def test_unknown_policies_are_refused():
    with pytest.raises(ValueError, match="no moments are known of 'mystery'; one of replace, "):
        fit_moments({"kind": "mystery"}, 10, 3)


@pytest.mark.fast
def test_policies_meet_where_they_are_the_same():
    """window(1) = replace, decay(1) = window(T) = accumulate, shares of 0 and 1, and a draw of the whole pool."""
    n, of = 7, lambda **policy: np.array(fit_moments(policy, 7, T, VarianceMap(1.5, 1, 0.2)))
    assert_same = np.testing.assert_allclose
    for other in ({"kind": "window", "k": 1}, {"kind": "decay", "gamma": 0.0}, {"kind": "fixed_real", "share": 0.0},
                  {"kind": "fresh_real", "share": 0.0}):  # fmt: skip
        assert_same(of(**other), of(kind="replace"), rtol=1e-12)
    for other in ({"kind": "window", "k": T}, {"kind": "decay", "gamma": 1.0}, {"kind": "contaminated", "share": 0.0},
                  {"kind": "accumulate_subsample", "num": n * T}):  # fmt: skip
        assert_same(of(**other), of(kind="accumulate"), rtol=1e-12)
    assert_same(of(kind="fixed_real", share=1.0)[0], 1.5 / n, rtol=1e-12)
    assert_same(of(kind="fresh_real", share=1.0)[0], 1.5 / n, rtol=1e-12)


def drift(n, start, generations, accumulate, seed):
    """Fits of symbols' shares, ``[chains, T, K]``."""
    rng = np.random.default_rng(seed)
    pool, mass, fitted = np.zeros((CHAINS, len(start))), 0, []
    share = np.broadcast_to(start, pool.shape)
    for _ in range(generations):
        counts = rng.multinomial(n, share)
        pool, mass = (pool + counts, mass + n) if accumulate else (counts, n)
        share = pool / mass
        fitted.append(share)
    return np.stack(fitted, 1)


@pytest.mark.parametrize("accumulate", [False, True])
def test_symbols_drift(accumulate):
    n, start = 10, np.array([0.6, 0.3, 0.1])
    shares, policy = drift(n, start, T, accumulate, 1), {"kind": "accumulate" if accumulate else "replace"}
    first = 1 - (start**2).sum()
    exact = first * discrete.diversity_ratio(policy, n, T)
    other = first * discrete.diversity_ratio({"kind": "replace" if accumulate else "accumulate"}, n, T)
    assert_law("E 1 - sum p^2", 1 - (shares**2).sum(2), exact, other, exact * n / (n - 1))


def test_rare_symbols_survive_at_least_so_often():
    n, start = 40, np.array([0.02, 0.2, 0.78])
    alive = (drift(n, start, T, False, 2) > 0).mean(0)
    bound = discrete.alive_probability_bound(n, start, T).T
    error = np.sqrt(alive * (1 - alive) / CHAINS)
    assert (alive >= bound - 4 * error).all()
    assert (alive[:, 0] / bound[:, 0] < 1.05).all()  # tight where rare
    assert (alive[:, 0] < discrete.alive_probability_bound(n, start[0], T + 1)[:-1] * 1.15).all()
    assert alive[-1, 0] / bound[0, 0] < 0.8  # and it falls: a bound of another generation would not do


def test_one_symbol_by_itself():
    """Expected symbols alive, and whether one is left, from the exact law of one symbol's count."""
    n, start = 10, np.array([0.6, 0.3, 0.1])
    shares = drift(n, start, T, False, 7)
    some, one = (shares > 0).sum(2), (shares > 0).sum(2) == 1
    for name, samples, formula in (
        ("alive", some, discrete.expected_symbols_alive),
        ("one is left", one, discrete.fixation_probability),
    ):
        exact = formula(n, start, T)
        assert_law(name, samples, exact, formula(n, start, T + 1)[1:], formula(n + 1, start, T))
    laws = discrete.drift_laws(n, np.eye(n + 1)[4], T)
    np.testing.assert_allclose(laws.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(laws @ np.arange(n + 1), 4, rtol=1e-12)


def test_real_ancestors():
    n, rng = 8, np.random.default_rng(8)
    root = np.broadcast_to(np.arange(n), (CHAINS, n))
    share = []
    for _ in range(T):
        share.append((np.diff(np.sort(root, 1), axis=1) > 0).sum(1) + 1)
        root = np.take_along_axis(root, rng.integers(n, size=(CHAINS, n)), 1)
    exact = discrete.ancestor_share(n, T)
    assert exact[0] == 1
    assert_law("ancestors", np.stack(share, 1)[:, 1:] / n, exact[1:], exact[:-1])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_time_to_one_symbol(share):
    """Even and uneven laws; a horizon cuts the time of some chains short."""
    n, start, horizon = 10, np.array([share, 1 - share]), 12
    time = (drift(n, start, horizon, False, 3) < 1).all(2).sum(1) + 1
    assert time.max() == horizon + 1
    exact = discrete.fixation_time(n, start, horizon)
    assert_law("first fit of one symbol", time, exact, exact - 1, discrete.fixation_time(n + 5, start, horizon))
    whole = -2 * n * ((1 - start) * np.log(1 - start)).sum()  # of a diffusion
    assert abs(discrete.fixation_time(n, start, 300) - whole) < 2.5
    assert discrete.fixation_time(n, np.array([1.0, 0.0]), horizon) == 1


def test_rates_die_and_spread():
    n, rate, rng = 5, 0.4, np.random.default_rng(4)
    rates = [np.full(CHAINS, rate)]
    for _ in range(T):
        rates.append(rng.poisson(n * rates[-1]) / n)
    rates = np.stack(rates[1:], 1)
    zero = discrete.zero_rate_probability(n, rate, T)
    assert_law("P(rate = 0)", rates == 0, zero, discrete.zero_rate_probability(n, rate, T + 1)[1:])
    variance = discrete.rate_variance({"kind": "replace"}, n, T, rate)
    np.testing.assert_allclose(variance, rate * np.arange(1, T + 1) / n, rtol=1e-12)
    assert_law("Var rate", (rates - rate)[:, :3] ** 2, variance[:3], variance[1:4])


@pytest.mark.parametrize("accumulate", [False, True])
def test_least_squares(accumulate):
    """X drawn once and reused; labels generated anew by the last fit."""
    n, d, noise, chains = 12, 2, 0.5, 20_000
    rng = np.random.default_rng(5)
    x = rng.normal(size=(chains, n, d))
    solve = np.linalg.inv(np.swapaxes(x, 1, 2) @ x) @ np.swapaxes(x, 1, 2)
    error, batches, risks = np.zeros((chains, d)), [], []
    for _ in range(T):
        batches.append(error + np.sqrt(noise) * np.einsum("cdn,cn->cd", solve, rng.normal(size=(chains, n))))
        error = np.mean(batches, 0) if accumulate else batches[-1]
        risks.append((error**2).sum(1))
    policy = {"kind": "accumulate" if accumulate else "replace"}
    ratio, t = regression.risk_ratio(policy, n, T), np.arange(1, T + 1)
    np.testing.assert_allclose(ratio, np.cumsum(1 / t**2) if accumulate else t, rtol=1e-12)
    first = regression.first_risk(n, d, noise)
    assert_law("E |w - truth|^2", np.stack(risks, 1), first * ratio, noise * d / n * ratio, np.full(T, first))
    logs = np.log(np.stack(risks, 1))
    mean = regression.log_first_risk(n, d, noise) + np.log(ratio)
    assert_law("E log", logs, mean, regression.log_first_risk(n, d + 1, noise) + np.log(ratio))
    variance = np.full(T, regression.log_risk_variance(n, d))
    assert_law("Var log", (logs - mean) ** 2, variance, np.full(T, regression.log_risk_variance(n, d + 1)))
    with pytest.raises(ValueError, match="n must be > dim"):
        regression.first_risk(3, 2, noise)


def test_coefficients_of_an_ideal_diffusion():
    """Each row of generation t comes from a real one or from one of t - 1, then through the flow: E He_3."""
    delta, fresh, degree, n = 0.2, 0.3, 3, 10
    rng = np.random.default_rng(6)
    real = lambda: rng.exponential(size=5 * CHAINS) - 1  # noqa: E731
    rows, values = real(), []
    for t in range(4):
        rows = np.where(rng.random(rows.size) < fresh * (t > 0), real(), rows)
        rows = np.exp(-delta) * rows + np.sqrt(-np.expm1(-2 * delta)) * rng.normal(size=rows.size)
        values.append(rows**3 - 3 * rows)

    def factor(degree, share):
        policy = {"kind": "fresh_real", "share": share}
        return 2 * diffusion.hermite_factor(degree, delta, policy, n, 4)  # of the real law: E x^3 = 2

    assert_law("E He_3", np.stack(values, 1), factor(degree, fresh), factor(degree, 0.0), factor(2, fresh))
    e = np.exp(-3 * delta)
    end = diffusion.hermite_factor(degree, delta, {"kind": "weighted_fresh", "weight": fresh}, n, 200)[-1]
    np.testing.assert_allclose(end, fresh * e / (1 - (1 - fresh) * e), rtol=1e-12)


@pytest.mark.fast
def test_what_fits_train_on():
    """Weights of batches, by hand: 4 rows a batch, a quarter of them real."""
    weights = lambda kind, **options: moment_recursions.batch_weights({"kind": kind, **options}, 4, 3)[2]  # noqa: E731
    same = np.testing.assert_allclose
    same(weights("replace"), [0, 0, 1])
    same(weights("accumulate"), [1 / 3] * 3)
    same(weights("accumulate_subsample", num=2), [1 / 3] * 3)
    same(weights("window", k=2), [0, 1 / 2, 1 / 2])
    same(weights("decay", gamma=0.5), np.array([1, 2, 4]) / 7)
    for kind in ("fixed_real", "fresh_real"):
        same(weights(kind, share=0.25), [1 / 4, 0, 3 / 4])
    same(weights("weighted_fresh", weight=0.3), [0.3, 0, 0.7])
    same(weights("contaminated", share=0.25), [(4 + 1 + 1) / 12, 3 / 12, 3 / 12])
    for policy in moment_recursions.POLICIES:
        same(moment_recursions.batch_weights({"kind": policy}, 4, 6).sum(1), 1)
    same(
        moment_recursions.kept_expectation({"kind": "accumulate"}, 4, 3, 0.5),
        [0.5, 0.5 * 1.5 / 2, 0.5 * (1.5 + 0.375) / 3],
    )
    with pytest.raises(ValueError, match="no weights are known of 'mystery'; one of replace, "):
        moment_recursions.batch_weights({"kind": "mystery"}, 4, 3)


@pytest.mark.fast
def test_coefficients_of_a_mixture():
    source = data.blobs(num_centers=3, dim=2, std=0.7)
    centres, variance = np.asarray(source.modes), 0.7**2
    square = centres**2 + variance
    exact = [
        centres, square - 1, centres**3 + 3 * centres * variance - 3 * centres,
        centres**4 + 6 * centres**2 * variance + 3 * variance**2 - 6 * square + 3,
    ]  # fmt: skip
    for degree, (value, factorial) in enumerate(zip(exact, (1, 2, 6, 24), strict=True), 1):
        np.testing.assert_allclose(
            diffusion.hermite_coefficient(source, degree), value.mean() / factorial**0.5, rtol=1e-5
        )


@pytest.mark.fast
@pytest.mark.parametrize("nested", [True, False])
def test_a_mean_of_one_shot(nested):
    """Closed forms against the recursions, and their best and worst numbers of synthetic rows."""
    n, known = 40, moment_recursions.VarianceMap(known=True)
    some = np.arange(0, 2000)
    for real in (8, 20, 30, 40):
        policy = {"kind": "mix", "real": real, "synthetic": 25, "nested": nested}
        assert gaussian.one_shot_error(real, 25, n, nested) == pytest.approx(
            moment_recursions.fit_moments(policy, n, 2, known).square[1]
        )
        error = gaussian.one_shot_error(real, some, n, nested)
        assert error[0] == pytest.approx(1 / real)
        best = gaussian.best_synthetic_rows(real, n)
        if nested:
            assert some[error.argmax()] == max(round(2 * real**2 / n) - real, 0)
        elif real > n / 2:
            assert some[error.argmin()] == round(best)
            assert (np.diff(error)[round(best) :] > 0).all()
        else:
            assert best == np.inf
            assert (np.diff(error) < 0).all()
