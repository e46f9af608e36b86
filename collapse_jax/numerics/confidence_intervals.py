"""Summaries of samples over chains with 95% intervals, whose coverage ``docs/numerics.md`` tabulates."""

from typing import Any

import numpy as np

Interval = tuple[float, float, float]  # estimate, lower end, upper end

LEVEL = 0.95
MIN_CHAINS = 6  # even the whole range of fewer values holds their median in less than 95% of samples
_NO_SKEWNESS = 1e-6  # below, the cubic transformation of t is the identity to rounding


def median_interval(values: np.ndarray) -> Interval:
    """Return the median and its 95% interval, which holds for every law of the values.

    The ends are two of the sorted values, chosen by the binomial law of the number of values below the median (David
    and Nagaraja, Order Statistics, 2003, 7.1). NaNs are left out; infinities are values like any other. Fewer than 6
    values have no interval: its ends are NaN.
    """
    from scipy.special import bdtrik

    values = np.sort(drop_nans(values))
    n = len(values)
    if n == 0:
        return np.nan, np.nan, np.nan
    with np.errstate(invalid="ignore"):  # the midpoint of -inf and inf is NaN
        median = float((values[(n - 1) // 2] + values[n // 2]) / 2)
    if n < MIN_CHAINS:
        return median, np.nan, np.nan
    rank = int(np.floor(bdtrik((1 - LEVEL) / 2, n, 0.5)))  # the most values that may all lie on one side
    return median, float(values[rank]), float(values[n - 1 - rank])


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean and its 95% interval, which allows for a skewed law; see ``mean_band``.

    NaNs are left out. The result is NaN if a value is infinite; the ends are NaN for fewer than 6 values.
    """
    values = drop_nans(values)
    if not np.isfinite(values).all():
        return np.nan, np.nan, np.nan
    mean, low, high = mean_band(values[:, None])
    return float(mean[0]), float(low[0]), float(high[0])


def mean_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of the finite values of each column of ``[chain, column]``, and the ends of its 95% interval.

    Student's interval holds the mean of 20 values of an exponential law in 92% of samples. These ends come from t
    after Hall's cubic transformation, which removes the effect of skewness to first order (Hall 1992, Journal of the
    Royal Statistical Society B 54, 221, eq. 2.5), with the quantiles of Student's law. They are NaN in columns of fewer
    than 6 finite values.
    """
    from scipy.special import stdtrit

    finite = np.isfinite(values)
    n = finite.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):  # of no values, or of equal ones
        mean = np.where(finite, values, 0.0).sum(0) / n
        centred = np.where(finite, values - mean, 0.0)
        scale = np.sqrt((centred**2).sum(0) / n)
        skewness = np.where(scale > 0, (centred**3).sum(0) / n / scale**3, 0.0)
        error = scale * np.sqrt(n / (n - 1.0))
        quantile = stdtrit(np.maximum(n - 1, 1), (1 + LEVEL) / 2)
        ends = [mean - error * _undo_cubic(t / np.sqrt(n), skewness, n) for t in (quantile, -quantile)]
    low, high = (np.where(n >= MIN_CHAINS, end, np.nan) for end in ends)
    return mean, low, high


def _undo_cubic(t: np.ndarray, skewness: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the studentized mean, over the root of n, that Hall's transformation takes to `t`."""
    is_straight = np.abs(skewness) < _NO_SKEWNESS
    skewness = np.where(is_straight, 1.0, skewness)
    bent = 3 / skewness * (np.cbrt(1 + skewness * (t - skewness / (6 * n))) - 1)
    return np.where(is_straight, t, bent)


def student_interval(values: np.ndarray) -> Interval:
    """Return the mean and Student's interval, for differences in pairs: two values are enough.

    NaNs are left out. The result is NaN if a value is infinite.
    """
    from scipy.special import stdtrit

    values = drop_nans(values)
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    if n < 2:
        return mean, np.nan, np.nan
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def range_interval(values: np.ndarray) -> Interval:
    """Return the median with the smallest and the largest value, which is no interval at a known level."""
    values = drop_nans(values)
    median, _, _ = median_interval(values)
    return (median, float(values.min()), float(values.max())) if len(values) > 1 else (median, np.nan, np.nan)


def name_interval(num_chains: int) -> str:
    """Return what the ends are that tables print of so many chains: an interval, or a range."""
    return f"{LEVEL:.0%} interval" if num_chains >= MIN_CHAINS else f"range of {num_chains} chains"


def drop_nans(values: Any) -> np.ndarray:
    """Return the values flat and without NaNs."""
    values = np.asarray(values, float).ravel()
    return values[~np.isnan(values)]
