"""Centres and intervals against SciPy's, and the choice between them."""

import numpy as np
import pytest
import scipy.stats

from collapse_jax.numerics import confidence_intervals


@pytest.mark.parametrize("n", [2, 7, 8, 51, 200])
def test_the_interval_of_the_median_is_the_bootstrap_one(n):
    values = np.random.default_rng(n).exponential(size=n)
    median, low, high = confidence_intervals.median_interval(values)
    expected = scipy.stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1), batch=1000
    ).confidence_interval
    ranks = scipy.stats.rankdata(np.concatenate([[low, expected.low, high, expected.high], values]), "dense")
    assert median == pytest.approx(np.median(values))
    assert abs(ranks[0] - ranks[1]) <= 2  # neighbours at most: both are Monte Carlo
    assert abs(ranks[2] - ranks[3]) <= 2


def test_the_interval_covers():
    rng = np.random.default_rng(0)
    found = [confidence_intervals.median_interval(rng.normal(size=101))[1:] for _ in range(400)]
    assert 0.92 < np.mean([low <= 0 <= high for low, high in found]) < 0.98


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([np.nan, 1, 2, 3], 2),
        ([-np.inf, -np.inf, 1], -np.inf),
        ([1, 2, np.inf, np.inf], np.inf),
        ([np.inf] * 4, np.inf),
    ],
)
def test_infinities_are_values_and_nan_is_none(values, median):
    found, low, high = confidence_intervals.median_interval(np.array(values))
    assert found == median
    assert low <= found <= high


@pytest.mark.parametrize("values", [[3.0], [3.0, np.nan]])
def test_one_chain_has_no_interval(values):
    median, low, high = confidence_intervals.median_interval(np.array(values))
    assert median == 3
    assert np.isnan([low, high]).all()
    assert np.isnan(confidence_intervals.median_interval(np.array([np.nan]))).all()


def test_without_trimming_it_is_student_s_interval():
    values = np.random.default_rng(0).normal(3, 2, 12)
    mean, low, high = confidence_intervals.mean_interval(np.append(values, np.nan))
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((values.mean(), expected.low, expected.high))


def test_the_trimmed_mean_is_yuen_s():
    """SciPy compares two samples; against many zeros of no spread that is one sample's interval."""
    values = np.random.default_rng(1).standard_t(3, 50)
    mean, low, high = confidence_intervals.trimmed_mean_interval(values)
    assert mean == pytest.approx(scipy.stats.trim_mean(values, 0.1))
    error = scipy.stats.mstats.trimmed_stde(values, (0.1, 0.1))
    half = scipy.stats.t.ppf(0.975, 39) * float(error)
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.02)


@pytest.mark.parametrize(
    ("interval", "draw"),
    [
        (confidence_intervals.mean_interval, lambda rng: rng.normal(size=20)),
        (confidence_intervals.trimmed_mean_interval, lambda rng: rng.standard_t(3, 60)),
        (confidence_intervals.geometric_mean_interval, lambda rng: rng.lognormal(0, 2, 40)),
    ],
    ids=["mean", "trimmed", "logs"],
)
def test_the_intervals_of_means_cover(interval, draw):
    rng, truth = np.random.default_rng(2), float(interval is confidence_intervals.geometric_mean_interval)
    found = [interval(draw(rng))[1:] for _ in range(600)]
    assert 0.92 < np.mean([low <= truth <= high for low, high in found]) < 0.98


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, 1.0, 2.0]])
def test_what_has_no_mean(values):
    assert np.isnan(confidence_intervals.mean_interval(np.array(values))).all()


def test_infinite_values_in_the_trimmed_ends_do_no_harm():
    values = np.append(np.random.default_rng(3).normal(size=38), [np.inf, -np.inf])
    assert np.isfinite(confidence_intervals.trimmed_mean_interval(values)).all()


@pytest.mark.parametrize(
    ("law", "weight"),
    [
        (scipy.stats.norm(), 1.0),
        (scipy.stats.uniform(), 0.738),
        (scipy.stats.expon(), 1.1),
        (scipy.stats.cauchy(), 2.59),
    ],
    ids=["normal", "uniform", "exponential", "cauchy"],
)
def test_tail_weights(law, weight):
    assert confidence_intervals.tail_weight(law.ppf((np.arange(20_000) + 0.5) / 20_000)) == pytest.approx(
        weight, rel=0.01
    )


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (["normal"], "trimmed mean"),
        (["expon"], "trimmed mean"),
        (["lognorm"], "mean of logs"),
        (["cauchy"], "median"),
        (["normal", "cauchy"], "median"),
        (["expon", "lognorm"], "mean of logs"),
        (["normal at 0", "lognorm"], "median"),
        (["constant"], "trimmed mean"),
        (["mostly"], "median"),
        (["infinite"], "median"),
        (["few"], "median"),
        (["normal", "empty"], "trimmed mean"),
        (["empty"], "median"),
    ],
)
def test_the_choice_of_a_centre(samples, kind):
    rng = np.random.default_rng(0)
    made = {
        "normal": rng.normal(5, 1, 2000),
        "normal at 0": rng.normal(size=2000),
        "expon": rng.exponential(size=2000),
        "lognorm": rng.lognormal(0, 2, 2000),
        "cauchy": rng.standard_cauchy(2000),
        "constant": np.ones(100),
        "mostly": np.append(np.ones(95), np.arange(5)),
        "infinite": np.append(rng.normal(size=100), np.inf),
        "few": rng.normal(size=39),
        "empty": np.full(50, np.nan),
    }
    assert confidence_intervals.choose_summary([made[name] for name in samples]) == kind


@pytest.mark.parametrize("interval", confidence_intervals.SUMMARIES.values())
def test_every_centre_takes_few_values(interval):
    assert np.isnan(interval(np.zeros(0))).all()
    assert interval(np.array([2.0]))[0] == pytest.approx(2.0)
