"""Intervals over chains against SciPy's, and how often they hold what they estimate."""

import numpy as np
import pytest
import scipy.stats

from collapse_jax.numerics import confidence_intervals
from experiments.interval_coverage import INTERVALS, LAWS, measure_coverage


@pytest.mark.parametrize("n", [6, 7, 8, 9, 51, 200])
def test_the_interval_of_the_median_inverts_the_sign_test(n):
    """SciPy's quantile test gives the same ends, one side each."""
    values = np.random.default_rng(n).exponential(size=n)
    median, low, high = confidence_intervals.median_interval(values)
    expected = scipy.stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert median == pytest.approx(np.median(values))
    assert (low, high) == (expected.low, expected.high)


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([np.nan, 1, 2, 3, 4, 5, 6, 7], 4),
        ([-np.inf] * 4 + [1, 2], -np.inf),
        ([1, 2] + [np.inf] * 4, np.inf),
        ([np.inf] * 6, np.inf),
    ],
)
def test_infinities_are_values_and_nan_is_none(values, median):
    found, low, high = confidence_intervals.median_interval(np.array(values))
    assert found == median
    assert low <= found <= high


@pytest.mark.parametrize("values", [[3.0], [3.0, np.nan], [3.0] * 5])
def test_fewer_than_six_chains_have_no_interval(values):
    for interval in (confidence_intervals.median_interval, confidence_intervals.mean_interval):
        centre, low, high = interval(np.array(values))
        assert centre == 3
        assert np.isnan([low, high]).all()
        assert np.isnan(interval(np.array([np.nan]))).all()


def test_fewer_than_six_chains_have_a_range():
    assert confidence_intervals.range_interval(np.array([3.0, 1.0, np.nan, 8.0])) == (3.0, 1.0, 8.0)
    assert confidence_intervals.name_interval(3) == "range of 3 chains"
    assert confidence_intervals.name_interval(6) == "95% interval"
    assert np.isnan(confidence_intervals.range_interval(np.array([2.0]))[1:]).all()


def test_student_s_interval_is_scipy_s():
    values = np.random.default_rng(0).normal(3, 2, 12)
    found = confidence_intervals.student_interval(np.append(values, np.nan))
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found == pytest.approx((values.mean(), expected.low, expected.high))
    pair = confidence_intervals.student_interval(values[:2])
    expected = scipy.stats.ttest_1samp(values[:2], 0).confidence_interval(0.95)
    assert pair == pytest.approx((values[:2].mean(), expected.low, expected.high))


def test_the_interval_of_a_mean_is_hall_s():
    """Hall's cubic takes the studentized mean at either end to the quantiles of Student's law, by its definition."""
    values, n = np.random.default_rng(0).exponential(size=15), 15
    mean, low, high = confidence_intervals.mean_interval(values)
    skewness = scipy.stats.skew(values)
    for end, quantile in ((low, 0.975), (high, 0.025)):
        t = np.sqrt(n) * (mean - end) / values.std(ddof=1)
        cubic = t + skewness * t**2 / 3 / np.sqrt(n) + skewness**2 * t**3 / 27 / n + skewness / 6 / np.sqrt(n)
        assert cubic == pytest.approx(scipy.stats.t.ppf(quantile, n - 1))


def test_without_skewness_it_is_student_s_interval():
    values = np.array([-3.0, -2, -1, -1, 1, 1, 2, 3])
    found, expected = confidence_intervals.mean_interval(values), confidence_intervals.student_interval(values)
    assert found == pytest.approx(expected)
    assert confidence_intervals.mean_interval(np.full(8, 2.0)) == (2.0, 2.0, 2.0)


def test_a_band_is_the_interval_of_each_column():
    values = np.random.default_rng(1).lognormal(size=(30, 4))
    values[:4, 1], values[:27, 2] = np.nan, np.inf
    band = np.transpose(confidence_intervals.mean_band(values))
    for column, found in zip(values.T, band, strict=True):
        expected = confidence_intervals.mean_interval(column[np.isfinite(column)])
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, 1.0, 2.0]])
def test_what_has_no_mean(values):
    assert np.isnan(confidence_intervals.mean_interval(np.array(values))).all()


# At least 93% is asked for; a share of so many samples may be four standard errors below it by chance.
RUNS = 2000


@pytest.mark.parametrize(
    ("interval", "law", "n"),
    [
        *[("median", law, n) for law in LAWS for n in (6, 10, 100)],
        *[("mean", "normal", n) for n in (6, 10, 100)],
        *[("mean", "exponential", n) for n in (20, 100)],
        *[("difference in pairs", law, n) for law in LAWS for n in (2, 3, 4, 6, 10, 100)],
        *[("difference of two samples", "normal", n) for n in (6, 10, 100)],
        *[("median time", law, n) for law in LAWS for n in (6, 10, 100)],
    ],
)
def test_intervals_cover(interval, law, n):
    runs = 500 if interval == "median time" else RUNS
    least = 0.93 - 4 * np.sqrt(0.93 * 0.07 / runs)
    assert measure_coverage(INTERVALS[interval], LAWS[law], n, runs) >= least


@pytest.mark.parametrize("n", [2, 3, 4])
def test_fewer_than_six_chains_have_differences_in_pairs_only(n):
    for name, find in INTERVALS.items():
        covered = measure_coverage(find, LAWS["normal"], n, 5)
        assert np.isnan(covered) == (name != "difference in pairs")
