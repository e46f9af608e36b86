"""What is known of mixtures of Gaussians fitted by expectation and maximisation."""

import numpy as np

from collapse_jax.theory.gaussian import is_light
from collapse_jax.theory.moment_recursions import POLICIES, Fits, Spread, fits
from collapse_jax.theory.prediction import Case, Prediction


def whole(case: Case) -> Fits:
    """Moments of the whole mixture, its mean's error and its variance, averaged over columns; exact (derived here).

    A step of EM shares each row out among the components, whose means and covariances are then those of their shares.
    So whatever the start, the number of steps and the form of the covariances, the mixture has the mean of the training
    rows, and their variance (of spherical ones: averaged over columns) plus the floor: like a kernel density estimate
    whose squared bandwidth is the floor, which samples add to what they were fitted on.
    """
    floor = case.setting["floor"]
    moments = fits(case.policy, case.num_samples, case.num_generations, Spread(case.truth / case.law.dim, noise=floor))
    return Fits(moments.square, moments.variance + floor)


def _trace_ratio(case: Case) -> np.ndarray:
    return case.law.dim / case.truth * whole(case).variance


TABLE = (
    Prediction(
        "trace_ratio", "gaussian_mixture", POLICIES, ("trace_ratio",), _trace_ratio, "derived here (whole)",
        fair=is_light,
    ),
    Prediction(
        "squared_error_of_mean", "gaussian_mixture", POLICIES, ("squared_error_of_mean",),
        lambda case: case.law.dim * whole(case).square, "derived here (whole)", fair=is_light,
    ),
)  # fmt: skip
