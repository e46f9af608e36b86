"""Theory of models that train on each other's outputs (``settings.ecosystem``), derived here.

Given the fits, a row that model i reads comes from model j with probability a_ij: its expectation is sum a_ij mu_j and
its second moment sum a_ij (V_j + mu_j^2). So the moments of one loop (``moment_recursions``) generalise to m loops:
with C the expected products of the fits' means, a batch's means have the products A C A^T, and their noise over n rows
is 1/n times the expected product of the rows that models i and k read at one place, less (A C A^T)_ik. This is exact
for any real law with a variance, any matrix, n and horizon, column by column.

Under replace all rows together lose V / (m n) of their variance a generation where all models are alike and every row
is read once. If the models are fully mixed, V is nearly all of the variance, and 1 - 1/(m n) is left a generation, as
for one model of m n rows. Isolated models lose their V, and what is left, 1 - (1 - (1 - 1/n)^(T + 1)) / m, has the
limit 1 - 1/m.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.theory.gaussian import REGULAR, log_variance_drift
from collapse_jax.theory.moment_recursions import GROWING, STEADY, VarianceMap, describe_pool
from collapse_jax.theory.prediction import Case, Condition, Prediction

POLICIES = (*GROWING, "growing")


class EcosystemMoments(NamedTuple):
    """Moments of the fits of generations 1 .. T.

    Attributes:
      product: ``[T, m, m]``, expected products of the errors of the models' means.
      variance: ``[T, m]``, expected variances.
      together: ``[T]``, expected variance of a fit to all new rows of all models together.
    """

    product: np.ndarray
    variance: np.ndarray
    together: np.ndarray


def mixing_matrix(models: int, mixing: float | Sequence[Sequence[float]]) -> np.ndarray:
    """Return the matrix ``[m, m]`` of `mixing`, which is the share that is mixed, or the matrix itself."""
    given = np.asarray(mixing, float)
    return given if given.ndim else (1 - given) * np.eye(models) + given / models


def joint_readings(matrix: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yield each combination of models that the m models read from at one place, ``[m]``, with its probability.

    Model i reads from i where a uniform number common to all models lies below a_ii, from i + 1 in the next interval,
    of length a_i,i+1, and so on.
    """
    m = len(matrix)
    place = np.arange(m)
    edges = np.cumsum(np.take_along_axis(matrix, (place[:, None] + place) % m, 1), 1)[:, :-1]
    cuts = np.unique(np.clip([0.0, *edges.reshape(-1), 1.0], 0, 1))
    for low, high in itertools.pairwise(cuts):
        yield high - low, (place + (0.5 * (low + high) >= edges).sum(1)) % m


def ecosystem_moments(
    policy: Mapping[str, Any], n: int, num_generations: int, matrix: np.ndarray, variance_map: VarianceMap | None = None
) -> EcosystemMoments:
    """Return the moments of the fits of m models; exact.

    Args:
      policy: as in a config, one of ``POLICIES``.
      n: rows of each model's first real batch and of each of its synthetic ones.
      num_generations: T.
      matrix: ``[m, m]``, whose rows sum to 1.
      variance_map: how rows become fits and fits rows; default: a maximum-likelihood Gaussian of unit variance.

    Raises:
      UsageError: a policy whose moments are not known here.
    """
    variance_map = variance_map or VarianceMap()
    fade, joined = describe_pool(policy, n)
    m, read = len(matrix), list(joint_readings(matrix))
    product, second, mass = np.eye(m) * variance_map.truth / n, np.full(m, variance_map.truth), float(n)
    moments = []
    for synthetic, fresh in itertools.islice(joined, num_generations):
        variance = variance_map.fitted(second - np.diag(product), mass)
        sampled = variance_map.sampled(variance)
        rows = product + np.diag(sampled)
        centre, of_row = matrix @ product @ matrix.T, sum(p * rows[np.ix_(source, source)] for p, source in read)
        everything = np.diag(of_row).mean() - (centre + (of_row - centre) / n).mean()
        moments.append((product, variance, variance_map.fitted(everything, m * n)))
        total = fade * mass + synthetic[1] + fresh[1]
        second = (fade * mass * second + synthetic[1] * np.diag(of_row) + fresh[1] * variance_map.truth) / total
        across = product @ matrix.T  # of a pool's means and those of new batches
        product = (
            (fade * mass) ** 2 * product
            + fade * mass * synthetic[1] * (across + across.T)
            + synthetic[1] ** 2 * (centre + (of_row - centre) / max(synthetic[0], 1))
        )
        product = (product + fresh[1] ** 2 * np.eye(m) * variance_map.truth / max(fresh[0], 1)) / total**2
        mass = total
    return EcosystemMoments(*map(np.array, zip(*moments, strict=True)))


def _case_matrix(case: Case) -> np.ndarray:
    return mixing_matrix(case.setting["models"], case.setting["mixing"])


def _variance_map(case: Case) -> VarianceMap:
    generator = case.setting["generator"] or {}
    return VarianceMap(ddof=generator.get("ddof", 0), factor=generator.get("temperature", 1.0))


def _case_moments(case: Case) -> EcosystemMoments:
    return ecosystem_moments(
        case.policy, case.num_samples, case.num_generations, _case_matrix(case), _variance_map(case)
    )


def _log_variance(case: Case) -> np.ndarray:
    variance_map = _variance_map(case)
    drift = case.generations * log_variance_drift(case.num_samples, variance_map.ddof)
    return drift + (case.generations - 1) * np.log(variance_map.factor)


def _is_light(case: Case) -> np.ndarray:
    """Return the generations at which means over chains are fair (``gaussian.has_light_tails``)."""
    return _case_moments(case).variance.min(1) >= np.exp(-0.5)


GAUSSIAN = Condition(
    "Gaussians", lambda case: (case.setting["generator"] or {"kind": "gaussian"})["kind"] == "gaussian"
)
ISOLATED = Condition(
    "no model reads another", lambda case: np.array_equal(_case_matrix(case), np.eye(len(_case_matrix(case))))
)
ONE_COLUMN = Condition("one normal column", lambda case: case.law.is_normal and case.law.dim == 1)

_SOURCE = "derived here (theory.ecosystem)"
TABLE = (
    Prediction(
        "squared_error_of_mean", "ecosystem", POLICIES, ("squared_error_of_mean",),
        lambda case: case.truth * np.trace(_case_moments(case).product, axis1=1, axis2=2) / case.setting["models"],
        _SOURCE,
        assumptions=(GAUSSIAN, STEADY), fair=_is_light,
    ),
    Prediction(
        "trace_ratio", "ecosystem", POLICIES, ("trace_ratio",), lambda case: _case_moments(case).variance.mean(1),
        _SOURCE,
        assumptions=(GAUSSIAN, STEADY), fair=_is_light,
    ),
    Prediction(
        "trace_ratio_together", "ecosystem", POLICIES, ("trace_ratio_together",),
        lambda case: _case_moments(case).together,
        _SOURCE, assumptions=(GAUSSIAN, STEADY), fair=_is_light,
    ),
    Prediction(
        "log_trace_ratio", "ecosystem", ("replace",), ("log_trace_ratio",),
        _log_variance, "as of one Gaussian (gaussian.log_variance_drift)",
        assumptions=(GAUSSIAN, ISOLATED, ONE_COLUMN, REGULAR), in_logs=True,
    ),
)  # fmt: skip
