"""Test whether a curve goes on growing without bound, or may level off soon after the run's end."""

import itertools

import numpy as np

from collapse_jax.numerics.confidence_intervals import MIN_CHAINS, Interval, median_interval, student_interval

# A run that ends at T cannot tell growth without bound from a plateau far beyond T: plateaus that are reached within
# about 3 T are what growth is held against. Coarser or finer scales were tried: these four figures keep false alarms
# under 5% and have the power that docs/numerics.md tabulates.
_SCALES = np.geomspace(0.2, 3.0, 5)  # of plateaus, in units of T
_EXPONENTS = (0.25, 0.35, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)
MIN_SHARE = 0.25  # of the way from the best plateau to the best growth without bound


def unbounded_share(values: np.ndarray, generations: np.ndarray) -> Interval:
    """Return how far curves lie from the best plateau towards the best growth without bound, and a 95% interval.

    It is 0 where the mean curve is a plateau, and 1 where it grows as a power or the logarithm of the generation. A
    plateau is a + b g(t) + c h(t), where g and h approach 1 exponentially or hyperbolically, or are sums of 1/k^2. The
    contrast between the two best fits is taken in each chain, so that errors that last over generations count.

    Args:
      values: ``[chain, generation]``; chains with values that are not finite count as unbounded if their first value is
        finite.
      generations: ``[generation]``, in increasing order.

    Returns:
      The mean of the contrast over chains with Student's interval (the median with its interval where a chain became
      infinite), or NaN where nothing grows or fewer than 6 chains can be compared.
    """
    finite = np.isfinite(values).all(1)
    became_infinite = np.isfinite(values[:, 0]) & (values == np.inf).any(1)
    curves, unknown = values[finite], (np.nan, np.nan, np.nan)
    if became_infinite.sum() > len(curves):
        return median_interval(np.repeat(np.inf, became_infinite.sum()))
    if len(curves) + became_infinite.sum() < MIN_CHAINS or len(curves) < 2:
        return unknown
    mean, weights = curves.mean(0), _weigh_generations(curves)
    plateau, growth = _fit_plateau(mean, weights, generations), _fit_growth(mean, weights, generations)
    if growth is None:
        return unknown
    contrast = weights * (growth if plateau is None else growth - _project(growth, plateau, weights))
    shares = curves @ contrast / (growth @ contrast)
    if became_infinite.any():
        return median_interval(np.append(shares, np.repeat(np.inf, became_infinite.sum())))
    return student_interval(shares)


def _weigh_generations(curves: np.ndarray) -> np.ndarray:
    """Return weights of the generations: one over the variance of what is not a chain's own level and scale."""
    centred, mean = curves - curves.mean(1, keepdims=True), curves.mean(0)
    direction = mean - mean.mean()
    residuals = centred - np.outer(centred @ direction / max(direction @ direction, 1e-300), direction)
    variance = (residuals**2).mean(0)
    floor = 1e-3 * variance.mean()
    return 1 / (variance + floor) if floor > 0 else np.ones(len(mean))


def _fit_plateau(curve: np.ndarray, weights: np.ndarray, t: np.ndarray) -> np.ndarray | None:
    """Return the best sum of at most two plateaus that rise, without its mean; None where none does."""
    from scipy.special import polygamma

    ages = t[:, None] / (t[-1] * _SCALES)
    sums = -polygamma(1, t + 1)  # of 1/k^2 up to t, less the limit
    shapes = np.concatenate([1 - np.exp(-ages).T, (ages / (1 + ages)).T, [sums]])
    centred = shapes - (shapes @ weights / weights.sum())[:, None]
    gram, target = centred * weights @ centred.T, centred * weights @ curve
    best, found = 0.0, None
    for i, shape in enumerate(centred):
        if target[i] > 0 and (gain := target[i] ** 2 / gram[i, i]) > best:
            best, found = gain, target[i] / gram[i, i] * shape
    for i, j in itertools.combinations(range(len(centred)), 2):
        pair = [i, j]
        rates, *_ = np.linalg.lstsq(gram[np.ix_(pair, pair)], target[pair])
        if (rates > 0).all() and (gain := rates @ target[pair]) > best:
            best, found = gain, rates @ centred[pair]
    return found


def _fit_growth(curve: np.ndarray, weights: np.ndarray, t: np.ndarray) -> np.ndarray | None:
    """Return the best rising power or logarithm of `t`, without its mean; None where none rises."""
    best, found = 0.0, None
    for shape in [np.log(t), *(t**exponent for exponent in _EXPONENTS)]:
        centred = shape - shape @ weights / weights.sum()
        target, norm = centred * weights @ curve, centred * weights @ centred
        if target > 0 and target**2 / norm > best:
            best, found = target**2 / norm, target / norm * centred
    return found


def _project(curve: np.ndarray, onto: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the part of a curve along another; both have the weighted mean 0."""
    return (curve * weights @ onto) / (onto * weights @ onto) * onto
