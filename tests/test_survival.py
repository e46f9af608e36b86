"""Times to collapse, with chains that outlast the run."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import collapse_jax as cj
from collapse_jax import policies, settings
from collapse_jax.analysis.collapse_times import collapse_times, estimate_survival, half_life
from collapse_jax.numerics import confidence_intervals


def test_a_worked_example():
    """Leukaemia patients on 6-MP (Freireich et al. 1963): median 23 weeks, 95% limits 13 and none (R's survfit)."""
    times = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    censored = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    observed = np.ones(len(times), bool)
    for time in censored:
        observed[max(i for i, t in enumerate(times) if t == time and observed[i])] = False
    found = estimate_survival(np.array(times), observed)
    assert (found.median, found.low, found.high, found.events, found.chains) == (23, 13, np.inf, 9, 21)


def test_uncensored_times_have_the_sample_s_median():
    times = np.random.default_rng(0).geometric(0.05, 301)
    found = estimate_survival(times, np.ones(301, bool))
    assert found.median == np.median(times)
    _, low, high = confidence_intervals.median_interval(times)
    assert found.low == pytest.approx(low, abs=1)
    assert found.high == pytest.approx(high, abs=1)


@pytest.mark.parametrize("horizon", [20, 1000])
def test_the_interval_covers_the_median(horizon):
    rng, truth, hits = np.random.default_rng(1), 14, 0  # the first k with 1 - 0.95^k >= 1/2
    for _ in range(300):
        times = rng.geometric(0.05, 60)
        found = estimate_survival(np.minimum(times, horizon), times <= horizon)
        hits += found.low <= truth <= found.high
    assert hits / 300 >= 0.92


def test_all_at_once_none_and_one():
    assert estimate_survival(np.full(1000, 7), np.ones(1000, bool))[:3] == (7, 7, 7)
    assert estimate_survival(np.full(6, 7), np.ones(6, bool))[:3] == (7, 7, 7)
    assert np.isnan(estimate_survival(np.full(2, 7), np.ones(2, bool))[1:3]).all()
    assert estimate_survival(np.full(9, 7), np.zeros(9, bool)) == (np.inf, np.inf, np.inf, 0, 9)
    assert np.isnan(estimate_survival(np.zeros(0), np.zeros(0, bool)).median)


def dataset(**metrics):
    variables = {role: (("policy", "chain", "generation"), values, {"role": role}) for role, values in metrics.items()}
    some = next(iter(metrics.values()))
    return xr.Dataset(variables, {"policy": list("ab")[: len(some)], "generation": range(1, some.shape[2] + 1)})


def test_first_passage_of_either_metric():
    logs = np.zeros((2, 8, 10))
    logs[0, :, 5:] = -10.0  # collapsed from generation 6
    logs[0, :4, 7:] = 0.0  # and back again: the first passage counts
    modes = np.full((2, 8, 10), 5.0)
    modes[1, :, 2:] = 1.0
    found = collapse_times(dataset(log_variance=logs, modes=modes))
    assert list(found["median"].to_numpy()) == [6, 3]
    assert list(found["events"].to_numpy()) == [8, 8]
    alone = collapse_times(dataset(log_variance=logs))
    assert list(alone["median"].to_numpy()) == [6, np.inf]
    assert list(half_life(dataset(log_variance=logs, modes=modes))["median"].to_numpy()) == [6, np.inf]
    alive = np.exp(logs)  # what counts ancestors is asked first
    assert list(half_life(dataset(log_variance=0 * logs, ancestors=alive))["median"].to_numpy()) == [6, np.inf]
    assert list(collapse_times(dataset(modes=modes))["median"].to_numpy()) == [np.inf, 3]


def test_unfinished_chains_are_censored_where_they_stop():
    logs = np.zeros((1, 12, 10))
    logs[0, :6, 8:] = -10.0
    logs[0, 6:9, 3:] = np.nan  # stopped after generation 3: no longer at risk at 9
    logs[0, 9:] = np.nan  # never begun
    found = collapse_times(dataset(log_variance=logs)).isel(policy=0)
    assert (found["median"].item(), found["events"].item(), found["chains"].item()) == (9, 6, 9)
    blank = collapse_times(dataset(log_variance=logs * np.nan)).isel(policy=0)
    assert np.isnan(blank["median"])
    assert blank["chains"] == 0


def test_without_a_metric_nothing_is_told():
    found = collapse_times(dataset(risk=np.zeros((2, 3, 4))))
    assert found.sizes == {"policy": 2}
    assert np.isnan(found["median"]).all()
    assert (found["chains"] == 0).all()


@pytest.mark.parametrize("threshold", [0, 1, -1, np.nan, "x"])
def test_thresholds(threshold):
    with pytest.raises(ValueError, match="threshold"):
        collapse_times(dataset(modes=np.ones((1, 2, 3))), threshold)


def test_a_gaussian_halves_when_its_random_walk_does():
    n = 20
    ds = cj.sweep(settings.gaussian(1), [policies.replace(), policies.accumulate()], num_samples=n, num_generations=40,
                  num_chains=2000, metrics=["log_trace_ratio"])  # fmt: skip
    times = half_life(ds)
    # log s^2 is a random walk of independent steps log(chi^2_{n-1} / n): its first passage, simulated apart
    rng = np.random.default_rng(0)
    walk = np.log(rng.chisquare(n - 1, (200_000, 40)) / n).cumsum(1)
    fallen = walk < np.log(0.5)
    expected = np.median(np.where(fallen.any(1), fallen.argmax(1) + 1, np.inf))
    replace, accumulate = times.sel(policy="replace"), times.sel(policy="accumulate")
    assert replace["low"] <= expected <= replace["high"]
    assert np.isinf(accumulate["low"])
    first = np.where(fallen.any(1), fallen.argmax(1) + 1, 41)[:2000]
    test = scipy.stats.ks_2samp(first, _first(ds.log_trace_ratio.sel(policy="replace").to_numpy()))
    assert test.pvalue > 1e-4


def _first(logs):
    fallen = logs < np.log(0.5)
    return np.where(fallen.any(1), fallen.argmax(1) + 1, 41)
