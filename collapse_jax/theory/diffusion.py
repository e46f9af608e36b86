"""What is known of diffusion models with the exact score, stopped early."""

from functools import partial

import numpy as np
from numpy.polynomial.hermite_e import hermegauss, hermeval
from scipy.special import gamma

from collapse_jax.theory.prediction import Case, Condition, Prediction
from collapse_jax.theory.recursions import rows_of
from collapse_jax.types import Source

_DEGREES = (1, 2, 3, 4)


def hermite_factor(degree: int, delta: float, fresh: float, num_generations: int) -> np.ndarray:
    """What is left of the Hermite coefficient of `degree` k of the real law, ``[T]``; exact (derived here).

    p_t = OU_delta[fresh p_0 + (1 - fresh) p_{t-1}], where OU_delta is the Ornstein-Uhlenbeck flow of a diffusion that
    is stopped at time delta, whose stationary law is N(0, 1): it multiplies E He_k by e = exp(-k delta). So
    f_t = e (fresh + (1 - fresh) f_{t-1}), f_0 = 1, which ends at fresh e / (1 - (1 - fresh) e).
    """
    e = np.exp(-degree * delta)
    kept = (1 - fresh) * e
    end = fresh * e / (1 - kept) if kept < 1 else 1.0
    return end + kept ** np.arange(1, num_generations + 1) * (1 - end)


def coefficient(source: Source, degree: int) -> float:
    """E h_k of a mixture of equally likely isotropic modes, h_k = He_k / sqrt(k!) of each column, mean over columns.

    Quadrature of each mode, exact for polynomials; the modes' spread is what their centres leave of the covariance.
    """
    centres = np.asarray(source.modes, float)
    spread = np.sqrt((np.trace(np.asarray(source.covariance)) - centres.var(0).sum()) / source.dim)
    nodes, weights = hermegauss(degree + 1)
    values = hermeval(centres[..., None] + spread * nodes, np.eye(degree + 1)[degree]) / np.sqrt(gamma(degree + 1))
    return float((values @ weights).mean() / weights.sum())


def _hermite(degree: int, case: Case) -> np.ndarray:
    """Expectations are linear in the training rows' law, whatever becomes of a real row later."""
    policy, n = case.policy, case.num_samples
    fresh = policy["weight"] if policy["kind"] == "weighted_fresh" else rows_of(policy.get("share", 0.0), n) / n
    kept = hermite_factor(degree, case.setting["delta"], fresh, case.num_generations)
    return coefficient(case.law, degree) * kept


def _has(degree: int, case: Case) -> bool:
    return case.setting["degree"] >= degree


MODES = Condition("the real law is a mixture of known modes", lambda case: case.law.modes is not None)
DRAWN = Condition("samples are drawn exactly", lambda case: case.setting["solver_steps"] == 0)

TABLE = tuple(
    Prediction(
        f"hermite_{degree}", "ideal_diffusion", ("replace", "fixed_real", "fresh_real", "weighted_fresh"),
        (f"hermite_{degree}",), partial(_hermite, degree), "arXiv 2606.13796; finite T derived here (hermite_factor)",
        assumptions=(MODES, DRAWN, Condition(f"degree >= {degree}", partial(_has, degree))),
    )
    for degree in _DEGREES
)  # fmt: skip
