"""Theory of mixtures of Gaussians that are fitted by expectation maximisation."""

import numpy as np

from collapse_jax.theory.gaussian import has_light_tails
from collapse_jax.theory.moment_recursions import POLICIES, FitMoments, VarianceMap, fit_moments
from collapse_jax.theory.prediction import Case, Prediction


def mixture_moments(case: Case) -> FitMoments:
    """Return the moments of the whole mixture, averaged over columns; exact (derived here).

    A step of EM shares each row out among the components, whose means and covariances are then those of their shares.
    So whatever the start, the number of steps and the form of the covariances, the mixture has the mean of the training
    rows, and their variance (for spherical ones averaged over columns) plus the floor. It behaves like a kernel density
    estimate whose squared bandwidth is the floor, which samples add to the variance of the rows.
    """
    floor = case.setting["floor"]
    moments = fit_moments(
        case.policy, case.num_samples, case.num_generations, VarianceMap(case.truth / case.law.dim, noise=floor)
    )
    return FitMoments(moments.square, moments.variance + floor)


def _trace_ratio(case: Case) -> np.ndarray:
    return case.law.dim / case.truth * mixture_moments(case).variance


TABLE = (
    Prediction(
        "trace_ratio", "gaussian_mixture", POLICIES, ("trace_ratio",), _trace_ratio, "derived here (mixture_moments)",
        fair=has_light_tails,
    ),
    Prediction(
        "squared_error_of_mean", "gaussian_mixture", POLICIES, ("squared_error_of_mean",),
        lambda case: case.law.dim * mixture_moments(case).square, "derived here (mixture_moments)",
        fair=has_light_tails,
    ),
)  # fmt: skip
