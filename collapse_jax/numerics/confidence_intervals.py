"""Centres of samples over chains, with 95% intervals, chosen by how heavy the tails are."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Interval = tuple[float, float, float]  # centre, low, high

LEVEL = 0.95
_RESAMPLES = 10_000  # of the median: each costs two random numbers, whatever the number of chains
_NORMAL = 2.4387  # (95% - 5% quantile) / (75% - 25% quantile) of a normal law
_LIGHT = 1.25  # times that; an exponential law has 1.10, Student's t of 3 degrees 1.26, a Cauchy law 2.6
_FEWEST = 40  # two values beyond each 5% quantile: fewer say nothing of tails


def median_interval(values: np.ndarray) -> Interval:
    """Median and 95% percentile-bootstrap interval; NaNs are left out, infinities are values like any other.

    The median of a resample is one or two order statistics of `values`, whose ranks have a known law (David and
    Nagaraja, Order Statistics, 2003, 2.1): drawing the ranks is the bootstrap, at a cost that does not grow with
    the number of chains.
    """
    values = np.sort(_numbers(values))
    n, half = len(values), (len(values) + 1) // 2
    if n < 2:
        return (values[0] if n else np.nan), np.nan, np.nan
    rng = np.random.default_rng(0)
    lower = rng.beta(half, n - half + 1, _RESAMPLES)
    upper = lower if n % 2 else 1 - (1 - lower) * rng.beta(n - half, 1, _RESAMPLES)
    ranks = np.minimum((np.stack([lower, upper]) * n).astype(int), n - 1)
    medians = _middle(values[ranks[0]], values[ranks[1]])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(medians, [tail, 1 - tail], method="inverted_cdf")
    return float(_middle(values[half - 1], values[n // 2])), float(low), float(high)


def mean_interval(values: np.ndarray, trim: float = 0.0) -> Interval:
    """Mean without a share `trim` of the values at either end, and its 95% t interval; NaNs are left out.

    The variance of a trimmed mean is that of the values with both ends drawn in to the last one kept (Tukey and
    McLaughlin 1963); without trimming this is Student's interval. Infinite values among those kept make it NaN.
    """
    from scipy.special import stdtrit

    values = np.sort(_numbers(values))
    n = len(values)
    cut = int(trim * n)
    kept = values[cut : n - cut]
    if len(kept) == 0 or not np.isfinite(kept).all():
        return np.nan, np.nan, np.nan
    mean = float(kept.mean())
    if len(kept) < 2:
        return mean, np.nan, np.nan
    spread = np.clip(values, kept[0], kept[-1]).std(ddof=1) * np.sqrt(n) / len(kept)
    half = float(stdtrit(len(kept) - 1, (1 + LEVEL) / 2) * spread)
    return mean, mean - half, mean + half


def trimmed_mean_interval(values: np.ndarray) -> Interval:
    """`mean_interval` without a tenth of the values at either end."""
    return mean_interval(values, 0.1)


def geometric_mean_interval(values: np.ndarray) -> Interval:
    """Mean of the logarithms of values above 0 and its t interval, taken back to the values' own scale."""
    centre, low, high = np.exp(mean_interval(np.log(_numbers(values))))
    return float(centre), float(low), float(high)


def tail_weight(values: np.ndarray) -> float:
    """The width of the middle 90% over that of the middle 50%; 1 for a normal law, inf where a value is infinite.

    NaNs are left out. Constant values weigh 0.
    """
    values = _numbers(values)
    if not np.isfinite(values).all():
        return np.inf
    if len(values) == 0 or np.ptp(values) == 0:
        return 0.0
    low, first, third, high = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
    return float((high - low) / (third - first) / _NORMAL) if third > first else np.inf


SUMMARIES: dict[str, Callable[[np.ndarray], Interval]] = {
    "trimmed mean": trimmed_mean_interval,
    "mean of logs": geometric_mean_interval,
    "median": median_interval,
}


def choose_summary(samples: Iterable[np.ndarray]) -> str:
    """The one of ``SUMMARIES`` that fits all samples of a metric (one a policy, say).

    Trimmed mean where the tail weight of each is at most 1.25; else mean of logs, where that holds for their
    logarithms; else median, as for samples under 40 values, and for infinite ones.
    """
    found = [x for x in map(_numbers, samples) if len(x)]
    if not found or min(map(len, found)) < _FEWEST:
        return "median"
    if max(map(tail_weight, found)) <= _LIGHT:
        return "trimmed mean"
    if all((x > 0).all() for x in found) and max(tail_weight(np.log(x)) for x in found) <= _LIGHT:
        return "mean of logs"
    return "median"


def _numbers(values: Any) -> np.ndarray:
    values = np.asarray(values, float).ravel()
    return values[~np.isnan(values)]


def _middle(low: Any, high: Any) -> Any:
    with np.errstate(invalid="ignore"):  # between -inf and inf: NaN
        return (low + high) / 2
