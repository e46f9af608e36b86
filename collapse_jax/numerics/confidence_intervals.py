"""Summaries of samples over chains with 95% intervals, chosen by how heavy the tails are."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Interval = tuple[float, float, float]  # estimate, lower end, upper end

LEVEL = 0.95
_RESAMPLES = 10_000  # resamples of the median: each costs two random numbers, whatever the number of chains
_NORMAL_RATIO = 2.4387  # (95% - 5% quantile) / (75% - 25% quantile) of a normal law
_LIGHT_TAIL = 1.25  # an exponential law weighs 1.10, Student's t with 3 degrees of freedom 1.26, a Cauchy law 2.6
_MIN_VALUES = 40  # two values lie beyond each 5% quantile: fewer say nothing about tails


def median_interval(values: np.ndarray) -> Interval:
    """Return the median and its 95% percentile-bootstrap interval.

    NaNs are left out; infinities are values like any other. The median of a resample is one or two order statistics of
    `values`, whose ranks have a known law (David and Nagaraja, Order Statistics, 2003, 2.1), so the bootstrap draws
    ranks. Its cost does not grow with the number of chains.
    """
    values = np.sort(_drop_nans(values))
    n, half = len(values), (len(values) + 1) // 2
    if n < 2:
        return (values[0] if n else np.nan), np.nan, np.nan
    rng = np.random.default_rng(0)
    lower = rng.beta(half, n - half + 1, _RESAMPLES)
    upper = lower if n % 2 else 1 - (1 - lower) * rng.beta(n - half, 1, _RESAMPLES)
    ranks = np.minimum((np.stack([lower, upper]) * n).astype(int), n - 1)
    medians = _midpoint(values[ranks[0]], values[ranks[1]])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(medians, [tail, 1 - tail], method="inverted_cdf")
    return float(_midpoint(values[half - 1], values[n // 2])), float(low), float(high)


def mean_interval(values: np.ndarray, trim: float = 0.0) -> Interval:
    """Return the mean without a share `trim` of the values at either end, and its 95% t interval.

    NaNs are left out. The variance of a trimmed mean is the variance of the values after both ends are drawn in to the
    last value kept (Tukey and McLaughlin 1963); without trimming this is Student's interval. The result is NaN if an
    infinite value is kept.
    """
    from scipy.special import stdtrit

    values = np.sort(_drop_nans(values))
    n = len(values)
    cut = int(trim * n)
    kept = values[cut : n - cut]
    if len(kept) == 0 or not np.isfinite(kept).all():
        return np.nan, np.nan, np.nan
    mean = float(kept.mean())
    if len(kept) < 2:
        return mean, np.nan, np.nan
    standard_error = np.clip(values, kept[0], kept[-1]).std(ddof=1) * np.sqrt(n) / len(kept)
    half = float(stdtrit(len(kept) - 1, (1 + LEVEL) / 2) * standard_error)
    return mean, mean - half, mean + half


def trimmed_mean_interval(values: np.ndarray) -> Interval:
    """Return ``mean_interval`` without a tenth of the values at either end."""
    return mean_interval(values, 0.1)


def geometric_mean_interval(values: np.ndarray) -> Interval:
    """Return the geometric mean of values above 0 and its interval, the t interval of the logarithms."""
    mean, low, high = np.exp(mean_interval(np.log(_drop_nans(values))))
    return float(mean), float(low), float(high)


def tail_weight(values: np.ndarray) -> float:
    """Return the width of the middle 90% over the width of the middle 50%, in units of a normal law's ratio.

    A normal law has weight 1, constant values have 0, and samples with an infinite value have infinity. NaNs are left
    out.
    """
    values = _drop_nans(values)
    if not np.isfinite(values).all():
        return np.inf
    if len(values) == 0 or np.ptp(values) == 0:
        return 0.0
    low, first, third, high = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
    return float((high - low) / (third - first) / _NORMAL_RATIO) if third > first else np.inf


SUMMARIES: dict[str, Callable[[np.ndarray], Interval]] = {
    "trimmed mean": trimmed_mean_interval,
    "mean of logs": geometric_mean_interval,
    "median": median_interval,
}


def choose_summary(samples: Iterable[np.ndarray]) -> str:
    """Return the name in ``SUMMARIES`` of the summary that suits all samples of a metric.

    It is the trimmed mean if the tail weight of each sample is at most 1.25; else the mean of logs, if that holds for
    the logarithms; else the median. Samples of under 40 values and samples with infinite values get the median.
    """
    nonempty = [x for x in map(_drop_nans, samples) if len(x)]
    if not nonempty or min(map(len, nonempty)) < _MIN_VALUES:
        return "median"
    if max(map(tail_weight, nonempty)) <= _LIGHT_TAIL:
        return "trimmed mean"
    if all((x > 0).all() for x in nonempty) and max(tail_weight(np.log(x)) for x in nonempty) <= _LIGHT_TAIL:
        return "mean of logs"
    return "median"


def _drop_nans(values: Any) -> np.ndarray:
    """Return the values flat and without NaNs."""
    values = np.asarray(values, float).ravel()
    return values[~np.isnan(values)]


def _midpoint(low: Any, high: Any) -> Any:
    """Return the midpoint of two numbers."""
    with np.errstate(invalid="ignore"):  # the midpoint of -inf and inf is NaN
        return (low + high) / 2
