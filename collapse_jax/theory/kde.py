"""Theory of kernel density estimates that are fitted to what they generated."""

import numpy as np

from collapse_jax.theory.gaussian import accumulate_variance, has_light_tails
from collapse_jax.theory.moment_recursions import POLICIES, VarianceMap, fit_moments
from collapse_jax.theory.prediction import Case, Condition, Prediction


def accumulate_growth(n: int, num_generations: int, bandwidth: float, truth: float = 1.0) -> np.ndarray:
    """Return an interval of the variance under accumulate: about s^2 + h^2 log T.

    It is s^2 + h^2 (1/2 + ... + 1/T), less what the means take: W_{t+1} = W_t (1 - 1/(n (t+1)^2)) + h^2 [1/(t+1) - 1/(n
    (t+1)^2)]. The upper end leaves out the subtracted terms; the lower end has the product of all factors in front.
    """
    t = np.arange(1, num_generations + 1)
    above = truth + bandwidth**2 * (np.cumsum(1 / t) - 1)
    below = above * accumulate_variance(n, num_generations) - bandwidth**2 * (np.cumsum(1 / t**2) - 1) / n
    return np.stack([below, above])


def _predict_variance(case: Case) -> np.ndarray:
    variance_map = VarianceMap(truth=case.truth / case.law.dim, noise=case.setting["bandwidth"] ** 2)
    return fit_moments(case.policy, case.num_samples, case.num_generations, variance_map).variance


def _predict_growth(case: Case) -> np.ndarray:
    truth = case.truth / case.law.dim
    return accumulate_growth(case.num_samples, case.num_generations, case.setting["bandwidth"], truth)


FIXED = Condition("a fixed bandwidth", lambda case: not isinstance(case.setting["bandwidth"], str))

TABLE = (
    Prediction(
        "training_variance", "kde", POLICIES, ("training_variance",), _predict_variance,
        "derived here (moment_recursions)",
        assumptions=(FIXED,), fair=has_light_tails,
    ),
    Prediction(
        "training_variance", "kde", ("accumulate",), ("training_variance",), _predict_growth,
        "derived here (accumulate_growth): grows as the logarithm of the generation", assumptions=(FIXED,), exact=False,
    ),
)  # fmt: skip
