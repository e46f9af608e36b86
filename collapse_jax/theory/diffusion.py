"""Theory of diffusion models with the exact score that are stopped early."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss, hermeval
from scipy.special import gamma

from collapse_jax.theory.moment_recursions import POLICIES, kept_expectation
from collapse_jax.theory.prediction import Case, Condition, Prediction
from collapse_jax.types import Source

_DEGREES = (1, 2, 3, 4)


def hermite_factor(degree: int, delta: float, policy: Mapping[str, Any], n: int, num_generations: int) -> np.ndarray:
    """Return the factor ``[T]`` that is left of the real law's Hermite coefficient of `degree` k; exact (derived here).

    p_t = OU_delta[mixture of p_0 and of earlier p], where OU_delta is the Ornstein-Uhlenbeck flow of a diffusion that
    is stopped at time delta. Its stationary law is N(0, 1), so it multiplies E He_k by e = exp(-k delta), and every
    policy's coefficients are a linear recursion (``kept_expectation``). With a share alpha of fresh rows f_t = e (alpha
    + (1 - alpha) f_{t-1}), f_0 = 1, which ends at alpha e / (1 - (1 - alpha) e).
    """
    return kept_expectation(policy, n, num_generations, np.exp(-degree * delta))


def hermite_coefficient(source: Source, degree: int) -> float:
    """Return E h_k of a mixture of equally likely isotropic modes, h_k = He_k / sqrt(k!), averaged over columns.

    Each mode is integrated by quadrature, which is exact for polynomials. The modes' variance is the covariance less
    the variance of their centres.
    """
    centres = np.asarray(source.modes, float)
    deviation = np.sqrt((np.trace(np.asarray(source.covariance)) - centres.var(0).sum()) / source.dim)
    nodes, weights = hermegauss(degree + 1)
    values = hermeval(centres[..., None] + deviation * nodes, np.eye(degree + 1)[degree]) / np.sqrt(gamma(degree + 1))
    return float((values @ weights).mean() / weights.sum())


def _predict_hermite(degree: int, case: Case) -> np.ndarray:
    delta = case.setting["delta"]
    left = hermite_factor(degree, delta, case.policy, case.num_samples, case.num_generations)
    return hermite_coefficient(case.law, degree) * left


def _has_degree(degree: int, case: Case) -> bool:
    return case.setting["degree"] >= degree


MODES = Condition("the real law is a mixture of known modes", lambda case: case.law.modes is not None)
DRAWN = Condition("samples are drawn exactly", lambda case: case.setting["solver_steps"] == 0)

TABLE = tuple(
    Prediction(
        f"hermite_{degree}", "ideal_diffusion", POLICIES, (f"hermite_{degree}",), partial(_predict_hermite, degree),
        "arXiv 2606.13796; finite T and other policies derived here (hermite_factor)",
        assumptions=(MODES, DRAWN, Condition(f"degree >= {degree}", partial(_has_degree, degree))),
    )
    for degree in _DEGREES
)  # fmt: skip
