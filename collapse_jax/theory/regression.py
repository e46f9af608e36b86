"""Theory of regressions whose labels are generated anew, and of all regular estimators of many rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import digamma, polygamma

from collapse_jax.core.errors import UsageError
from collapse_jax.theory.moment_recursions import VarianceMap, fit_moments
from collapse_jax.theory.prediction import Case, Condition, Prediction, ratio_to_first

# Policies that mix whole batches, so that rows keep sharing inputs.
WHOLE_BATCH_POLICIES = ("replace", "accumulate", "window", "decay")


def first_risk(n: int, dim: int, noise: float) -> float:
    """Return E |w - truth|^2 of least squares on n standard normal rows: noise d / (n - d - 1).

    It is the trace of an inverse Wishart matrix's mean; `noise` is the variance of the labels.

    Raises:
      UsageError: there are no more than d + 1 rows, so the mean is infinite.
    """
    if n <= dim + 1:
        raise UsageError(f"n must be > dim + 1 = {dim + 1} for a mean to exist, not {n}")
    return noise * dim / (n - dim - 1)


def risk_ratio(policy: Mapping[str, Any], n: int, num_generations: int) -> np.ndarray:
    """Return the risk of fits 1 .. T over that of the first, where the noise of the labels is known.

    It is T under replace and H_T under accumulate, H_T = sum of 1/t^2 <= pi^2/6 (arXiv 2404.01413, theorem 1;
    2410.22812 for any regular estimator, as n grows). It is exact for linear regression when the policies mix whole
    batches and every batch has the same inputs; under replace for any inputs. Other policies follow from the recursions
    of a mean (derived here), for n much larger than d.

    For other estimators it is the first order in the coefficients' error, of T p / n with p coefficients: logistic
    regression of one input (p = 2) at n = 200 under replace has 1.10 times the ratio at T = 4, 1.20 at 10, 1.43 at 20
    and 1.77 at 40.
    """
    moments = fit_moments(policy, n, num_generations, VarianceMap(known=True))
    return moments.square / moments.square[0]


def log_first_risk(n: int, dim: int, noise: float) -> float:
    """Return E log |w - truth|^2 of least squares on n >= d standard normal rows.

    The error is a multivariate t vector: its square is noise chi^2_d / chi^2_{n-d+1}, the two independent. With inputs
    shared by all batches, that of a later fit has the same law times ``risk_ratio`` (derived here).
    """
    return float(np.log(noise) + digamma(dim / 2) - digamma((n - dim + 1) / 2))


def log_risk_variance(n: int, dim: int) -> float:
    """Return the variance of the log of ``log_first_risk``, which is the same at every fit."""
    return float(polygamma(1, dim / 2) + polygamma(1, (n - dim + 1) / 2))


def new_inputs_risk(n: int, dim: int, noise: float, num_generations: int) -> np.ndarray:
    """Return E |w - truth|^2 of fits 1 .. T under accumulate, each batch having its own inputs; exact (derived here).

    It is the sum of noise d / (k (k n - d - 1)): fit k is fit k - 1 plus G^-1 X_k' noise, G the sum of k Gram matrices.
    These are exchangeable, so E G^-1 G_k G^-1 = E G^-1 / k.
    """
    k = np.arange(1, num_generations + 1)
    return np.cumsum(noise * dim / (k * (k * n - dim - 1)))


def _case_size(case: Case) -> tuple[int, int, float]:
    return case.num_samples, case.setting["dim"], case.setting["noise_variance"]


def _case_risk_ratio(case: Case) -> np.ndarray:
    return risk_ratio(case.policy, case.num_samples, case.num_generations)


def _predict_plateau(case: Case) -> np.ndarray:
    _, dim, noise = _case_size(case)
    return noise * dim / case.num_samples * (np.pi**2 / 2 - 2) * np.array([[0.94], [1.1]]) + 0 * case.generations


PLAIN = Condition("no ridge", lambda case: case.setting["ridge"] == 0)
SAME_INPUTS = Condition("all batches have the same inputs", lambda case: case.setting["reuse_inputs"])
NEW_INPUTS = Condition("each batch has its own", lambda case: not case.setting["reuse_inputs"])
REGULAR = Condition("no fewer rows than inputs", lambda case: case.num_samples >= case.setting["dim"])
LIGHT = Condition("n > d + 3 rows: the risk has a variance", lambda case: case.num_samples > case.setting["dim"] + 3)
MANY = Condition("n >= 100 d rows, as many drawn, without replacement",
                 lambda c: c.num_samples >= 100 * c.setting["dim"] and c.policy["num"] is None
                 and not c.policy["replacement"])  # fmt: skip
LARGE = Condition("n >= 100 (d + 1) rows, two classes of the model itself, ridge <= 1e-4",
                  lambda c: c.num_samples >= 100 * ((c.setting["dim"] or 2) + 1) and c.setting["ridge"] <= 1e-4
                  and (c.setting["classes"] or 2) == 2 and c.source is None)  # fmt: skip
FIRST_ORDER = Condition("T (d + 1) / n <= 0.04: errors small enough for the first order",
                        lambda c: 25 * c.num_generations * ((c.setting["dim"] or 2) + 1) <= c.num_samples)  # fmt: skip

TABLE = (
    Prediction(
        "excess_mse", "linear_regression", WHOLE_BATCH_POLICIES, ("excess_mse",),
        lambda case: first_risk(*_case_size(case)) * _case_risk_ratio(case),
        "arXiv 2404.01413; window and decay derived here",
        assumptions=(PLAIN, SAME_INPUTS, LIGHT),
    ),
    Prediction(
        "excess_mse", "linear_regression", ("replace",), ("excess_mse",),
        lambda case: first_risk(*_case_size(case)) * case.generations,
        "derived here: errors of independent batches add up",
        assumptions=(PLAIN, NEW_INPUTS, LIGHT),
    ),
    Prediction(
        "excess_mse", "linear_regression", ("accumulate",), ("excess_mse",),
        lambda case: new_inputs_risk(*_case_size(case), case.num_generations), "derived here (new_inputs_risk)",
        assumptions=(PLAIN, NEW_INPUTS, LIGHT),
    ),
    Prediction(
        "log_excess_mse", "linear_regression", WHOLE_BATCH_POLICIES, ("log_excess_mse",),
        lambda case: log_first_risk(*_case_size(case)) + np.log(_case_risk_ratio(case)),
        "derived here (log_first_risk)",
        assumptions=(PLAIN, SAME_INPUTS, REGULAR),
    ),
    Prediction(
        "log_excess_mse", "linear_regression", WHOLE_BATCH_POLICIES, ("log_excess_mse",),
        lambda case: log_risk_variance(*_case_size(case)[:2]) + 0 * case.generations, "derived here (log_first_risk)",
        statistic="variance", assumptions=(PLAIN, SAME_INPUTS, REGULAR),
    ),
    Prediction(
        "excess_mse", "linear_regression", ("accumulate",), ("excess_mse",),
        lambda case: first_risk(*_case_size(case)) * np.array([[1.0], [np.pi**2 / 6]]) + 0 * case.generations,
        "arXiv 2404.01413, theorem 1: bounded by pi^2 / 6 times the first", assumptions=(PLAIN, SAME_INPUTS, LIGHT),
        exact=False,
    ),
    Prediction(
        "excess_mse", "linear_regression", ("accumulate_subsample",), ("excess_mse",), _predict_plateau,
        "derived here: n / (noise d) times it -> pi^2/2 - 2, within -6% to 10% from n = 100 d and T = 60",
        assumptions=(PLAIN, MANY), exact=False, fair=lambda case: case.generations >= 60,
    ),
    Prediction(
        "forward_kl over its mean at fit 1", "logistic_regression", WHOLE_BATCH_POLICIES, ("forward_kl",),
        lambda case: _case_risk_ratio(case) * np.array([[0.9], [1.15]]),
        "arXiv 2410.22812: of any regular estimator, as n grows; within -10% to 15% from n = 100 (d + 1) and up to "
        "T (d + 1) / n = 0.04 (risk_ratio)",
        samples=ratio_to_first, assumptions=(SAME_INPUTS, LARGE, FIRST_ORDER), exact=False,
    ),
)  # fmt: skip
