"""First and second moments of the fits under every policy, by exact recursions that are derived here.

A batch's mean is the mean of the fit it came from plus noise of variance V / rows, uncorrelated with all before it; a
fit's mean is a weighted mean of batches. The second moment of a fit (about the truth's mean) is the same weighted mean
of its batches' second moments, and V is the second moment less the squared mean. So the expectations follow from each
other, for any real law with a variance, any number of rows and any horizon. This holds column by column, and for every
setting whose samples have the mean and the variance of the training rows: Gaussian, categorical; a KDE adds noise.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from collapse_jax import policies
from collapse_jax.core.errors import UsageError
from collapse_jax.theory.prediction import Condition
from collapse_jax.types import PartlyReal


class FitMoments(NamedTuple):
    """Moments of the fits of generations 1 .. T, ``[T]`` each.

    Attributes:
      square: expected squared error of the mean.
      variance: expected variance.
    """

    square: np.ndarray
    variance: np.ndarray


class VarianceMap(NamedTuple):
    """How a setting maps the variance of rows to that of a fit, and of a fit to that of its samples.

    Attributes:
      truth: variance of the real law.
      ddof: a fit's variance is divided by its number of rows less this.
      noise: variance that sampling adds to the fitted one (the squared bandwidth of a KDE).
      factor: factor by which sampling multiplies the fitted variance (a temperature).
      known: whether the variance is known: samples have the truth's, and only the mean is fitted.
    """

    truth: float = 1.0
    ddof: int = 0
    noise: float = 0.0
    factor: float = 1.0
    known: bool = False

    def fitted(self, variance: Any, mass: float) -> Any:
        """Return the fit's variance (or an array of them), from that of `mass` rows divided by `mass`."""
        return variance * mass / (mass - self.ddof)

    def sampled(self, fitted: float) -> float:
        """Return the variance of a row sampled from a fit."""
        return self.truth if self.known else self.factor * fitted + self.noise


def fit_moments(
    policy: Mapping[str, Any], n: int, num_generations: int, variance_map: VarianceMap | None = None
) -> FitMoments:
    """Return the moments of the fits of `num_generations` generations of `n` rows; exact.

    Args:
      policy: name and parameters, as in a config: ``{"kind": "window", "k": 3}``; defaults may be left out.
      n: rows of the first real batch and of every synthetic one.
      num_generations: T.
      variance_map: how rows become fits and fits rows; default: a maximum-likelihood Gaussian of unit variance.

    Raises:
      UsageError: a policy whose moments are not known here.

    Example:
      >>> from collapse_jax.theory import fit_moments
      >>> fit_moments({"kind": "replace"}, n=10, num_generations=2).variance.round(3).tolist()
      [0.9, 0.81]
    """
    options = {name: value for name, value in policy.items() if name != "kind"}
    if policy["kind"] not in _STEPS:
        raise UsageError(f"policy: no moments are known of {policy['kind']!r}; one of {', '.join(_STEPS)}")
    steps = _STEPS[policy["kind"]](n, variance_map or VarianceMap(), **options)
    return FitMoments(*np.array([next(steps) for _ in range(num_generations)]).T)


Steps = Iterator[tuple[float, float]]
Part = tuple[float, float]  # rows, and their total weight


def _pool_steps(n: int, variance_map: VarianceMap, fade: float, joined: Iterable[tuple[Part, Part]]) -> Steps:
    """Yield the moments of one pool that fades and is joined by synthetic and by new real rows every generation."""
    square, second, mass = variance_map.truth / n, variance_map.truth, float(n)
    for synthetic, fresh in joined:
        variance = variance_map.fitted(second - square, mass)
        yield square, variance
        sampled, total = variance_map.sampled(variance), fade * mass + synthetic[1] + fresh[1]
        second = (fade * mass * second + synthetic[1] * (square + sampled) + fresh[1] * variance_map.truth) / total
        noise = (synthetic[1] / total) ** 2 * sampled / max(synthetic[0], 1)
        noise += (fresh[1] / total) ** 2 * variance_map.truth / max(fresh[0], 1)
        square = (1 - fresh[1] / total) ** 2 * square + noise
        mass = total


def _split_batches(sizes: Iterable[int], share: float = 0.0) -> Iterator[tuple[Part, Part]]:
    """Yield batches of these sizes, in each a share of new real rows, all of weight 1."""
    for size in sizes:
        real = count_real_rows(share, size)
        yield (size - real, size - real), (real, real)


def describe_pool(policy: Mapping[str, Any], n: int) -> tuple[float, Iterator[tuple[Part, Part]]]:
    """Return the factor by which a pool fades, and the synthetic and new real rows that join it after fits 1, 2, ....

    Raises:
      UsageError: the policy's pool cannot be described by these.
    """
    grows = policy["kind"] == "growing"
    inner = (policy.get("policy") or {"kind": "replace"}) if grows else policy
    kind, sizes = inner["kind"], batch_sizes(n, policy.get("sizes", ()) if grows else ())
    if kind not in GROWING:
        what = f"growing {kind!r}" if grows else repr(kind)
        raise UsageError(f"policy: no moments are known of {what}; one of {', '.join(GROWING)}")
    fade = {"accumulate": 1.0, "contaminated": 1.0, "decay": inner.get("gamma", 0.5)}.get(kind, 0.0)
    share = inner.get("share", 0.5) if kind in ("fresh_real", "contaminated") else 0.0
    return fade, _split_batches(sizes, share)


def _single_pool_steps(kind: str, n: int, variance_map: VarianceMap, **options: Any) -> Steps:
    return _pool_steps(n, variance_map, *describe_pool({"kind": kind, **options}, n))


def growing_kind(policy: Mapping[str, Any]) -> str:
    """Return the kind of policy under which batches grow, from the policy ``growing``."""
    return (policy.get("policy") or {"kind": "replace"})["kind"]


def batch_sizes(n: int, sizes: Sequence[int]) -> Iterator[int]:
    """Yield the sizes of the batches that join after fits 1, 2, ..., of the policy ``growing``."""
    return itertools.chain(sizes, itertools.repeat(sizes[-1] if sizes else n))


def _weighted_fresh_steps(n: int, variance_map: VarianceMap, weight: float = 0.5, real: int | None = None) -> Steps:
    part = (n, 2 * n * (1 - weight)), (n if real is None else real, 2 * n * weight)
    return _pool_steps(n, variance_map, 0.0, itertools.repeat(part))


def _fixed_real_steps(n: int, variance_map: VarianceMap, share: float = 0.5) -> Steps:
    real = count_real_rows(share, n)
    return _nested_steps(n, variance_map, real, n - real)


def _mix_steps(
    n: int, variance_map: VarianceMap, real: int | None = None, synthetic: int | None = None, nested: bool = True
) -> Steps:
    num_real, num_synthetic = n if real is None else real, n if synthetic is None else synthetic
    if nested:
        return _nested_steps(n, variance_map, num_real, num_synthetic)
    return _pool_steps(n, variance_map, 0.0, itertools.repeat(((num_synthetic, num_synthetic), (num_real, num_real))))


def _nested_steps(n: int, variance_map: VarianceMap, real: int, synthetic: int) -> Steps:
    """Yield the moments of `synthetic` synthetic rows beside `real` of the first n rows.

    The mean of those real rows is correlated with every fit: by `shared`.
    """
    truth, mass = variance_map.truth, n
    square, second, shared = truth / n, truth, truth / n
    while True:
        variance = variance_map.fitted(second - square, mass)
        yield square, variance
        sampled, mass = variance_map.sampled(variance), real + synthetic
        second = (real * truth + synthetic * (square + sampled)) / mass
        square = (real * truth + synthetic**2 * square + synthetic * sampled + 2 * real * synthetic * shared) / mass**2
        shared = ((truth if real else 0.0) + synthetic * shared) / mass


def _window_steps(n: int, variance_map: VarianceMap, k: int = 5) -> Steps:
    """Yield the moments of a window, from the covariances of its batches' means and their second moments."""
    covariance, seconds = np.full((1, 1), variance_map.truth / n), [variance_map.truth]
    while True:
        square = float(covariance.mean())
        variance = variance_map.fitted(float(np.mean(seconds)) - square, n * len(seconds))
        yield square, variance
        sampled, column = variance_map.sampled(variance), covariance.mean(1, keepdims=True)
        grown = np.block([[covariance, column], [column.T, np.full((1, 1), square + sampled / n)]])
        covariance, seconds = grown[-k:, -k:], [*seconds, square + sampled][-k:]


def _accumulate_subsample_steps(
    n: int, variance_map: VarianceMap, num: int | None = None, replacement: bool = False
) -> Steps:
    """Yield the moments of fits to m rows of a pool of N = n t rows with variance W and squared mean A.

    Without replacement the m rows have variance c W, c = N (m - 1) / ((N - 1) m), and their mean has variance r W about
    the pool's, r = (N - m) / ((N - 1) m); with replacement c = 1 - 1 / m and r = 1 / m. The next batch's mean lies
    about the pool's with variance r W + V / n, and its own rows have variance (1 - 1 / n) V.
    """
    pool, centre, t = (1 - 1 / n) * variance_map.truth, variance_map.truth / n, 1
    while True:
        rows, m = n * t, num or n
        if replacement:
            share, apart = 1 - 1 / m, 1 / m
        elif m >= rows:
            m, share, apart = rows, 1.0, 0.0
        else:
            share, apart = rows * (m - 1) / ((rows - 1) * m), (rows - m) / ((rows - 1) * m)
        variance = variance_map.fitted(share * pool, m)
        yield centre + apart * pool, variance
        sampled = variance_map.sampled(variance)
        step = apart * pool + sampled / n
        centre += step / (t + 1) ** 2
        pool = (t * pool + (1 - 1 / n) * sampled) / (t + 1) + t * step / (t + 1) ** 2
        t += 1


def batch_weights(policy: Mapping[str, Any], n: int, num_generations: int) -> np.ndarray:
    """Return the expected share of fit t's training rows that are real (column 0) or that fit i made (column i).

    Row t - 1 of ``[T, T]`` is for t = 1 .. T; rows sum to 1. A draw from the pool has, in expectation, the shares of
    the pool.

    Raises:
      UsageError: a policy that is not known here.
    """
    kind = policy["kind"]
    if kind not in _STEPS:
        raise UsageError(f"policy: no weights are known of {kind!r}; one of {', '.join(_STEPS)}")
    age = np.subtract.outer(np.arange(num_generations), np.arange(num_generations))
    mass = (age >= 0) * 1.0
    if kind == "window":
        mass *= age < policy.get("k", 5)
    elif kind == "decay":
        mass *= policy.get("gamma", 0.5) ** np.maximum(age, 0.0)
    elif kind not in ("accumulate", "accumulate_subsample", "contaminated"):
        mass *= age == 0
    weights = mass / mass.sum(1, keepdims=True)
    real = 0.0
    if kind in ("fixed_real", "fresh_real", "contaminated"):
        real = count_real_rows(policy.get("share", 0.5), n) / n
    elif kind == "weighted_fresh":
        real = policy.get("weight", 0.5)
    weights[:, 0] += real * weights[:, 1:].sum(1)
    weights[:, 1:] *= 1 - real
    return weights


def kept_expectation(policy: Mapping[str, Any], n: int, num_generations: int, factor: float) -> np.ndarray:
    """Return the factor ``[T]`` that fits 1 .. T keep of an expectation that each fit multiplies by `factor`; exact.

    This holds for any statistic that is linear in the law: rows of a fit have the fit's value, and a fit trains on the
    mixture of batches of ``batch_weights``, whether or not the same real row is used again (derived here).
    """
    factors = np.ones(num_generations + 1)  # of the real batch, then of the fits
    for t, weight in enumerate(batch_weights(policy, n, num_generations), 1):
        factors[t] = factor * (weight[:t] @ factors[:t])
    return factors[1:]


@functools.lru_cache(1024)  # a recursion asks at each generation, and a policy takes long to make
def count_real_rows(share: float, n: int) -> int:
    """Return how many of `n` rows are real, as the policies round it."""
    batches = policies.fixed_real(share).batches
    assert isinstance(batches, PartlyReal)
    return int(batches.num_real(n))


GROWING = ("replace", "accumulate", "decay", "fresh_real", "contaminated")  # whose batches may have any size
_STEPS: dict[str, Callable[..., Steps]] = {
    **{kind: functools.partial(_single_pool_steps, kind) for kind in (*GROWING, "growing")},
    "accumulate_subsample": _accumulate_subsample_steps,
    "fixed_real": _fixed_real_steps,
    "weighted_fresh": _weighted_fresh_steps,
    "window": _window_steps,
    "mix": _mix_steps,
}
POLICIES = tuple(name for name in _STEPS if name not in ("mix", "growing"))  # loops of one size
STEADY = Condition(
    f"batches of one size, or that grow under one of {', '.join(GROWING)}",
    lambda case: case.policy["kind"] != "growing" or growing_kind(case.policy) in GROWING,
)
