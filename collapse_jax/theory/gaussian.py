"""Theory of Gaussians that are fitted to what Gaussians generated."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import digamma, gammaln, polygamma

from collapse_jax.theory.moment_recursions import (
    POLICIES,
    STEADY,
    FitMoments,
    VarianceMap,
    batch_sizes,
    count_real_rows,
    fit_moments,
    growing_kind,
)
from collapse_jax.theory.prediction import Case, Condition, Prediction

WITHOUT_NEW_ROWS = ("replace", "accumulate", "accumulate_subsample", "fixed_real", "window", "decay")


def c4(n: float) -> float:
    """Return E s / sigma of the unbiased variance s^2 of n normal rows."""
    return float(np.sqrt(2 / (n - 1)) * np.exp(gammaln(n / 2) - gammaln((n - 1) / 2)))


def log_variance_drift(n: int, ddof: int = 0, column: np.ndarray | int = 1) -> np.ndarray:
    """Return E log of the `column`-th (from 1) conditional variance of a normal fit: chi^2_{n - column} / (n - ddof).

    The variance is conditional on the columns before it. Under replace the factors of T generations are independent, so
    T of these add up: they are the exponents of the covariance's eigenvalues (Bartlett's decomposition; derived here).
    """
    return digamma((n - column) / 2) + np.log(2 / (n - ddof))


def variance_of_log_variance(n: int, column: np.ndarray | int = 1) -> np.ndarray:
    """Return the variance of the logarithm in ``log_variance_drift``; over T generations it is T times as large."""
    return polygamma(1, (n - np.asarray(column)) / 2)


def accumulate_variance(n: int, num_generations: int) -> np.ndarray:
    """Return E S_T of T = 1 .. `num_generations` under accumulate, maximum likelihood: prod (1 - 1 / (n t^2))."""
    t = np.arange(1, num_generations + 1)
    return np.cumprod(1 - 1 / (n * t**2))


def accumulate_limit(n: int, num_generations: int) -> np.ndarray:
    """Return an interval of ``accumulate_variance`` about its limit sin(x) / x, x = pi / sqrt n.

    The rest of the product is above 1 - 1/(n T).
    """
    x, t = np.pi / np.sqrt(n), np.arange(1, num_generations + 1)
    with np.errstate(divide="ignore"):
        return np.sin(x) / x * np.stack([np.ones(len(t)), 1 / np.maximum(1 - 1 / (n * t), 0)])


def accumulate_square(n: int, num_generations: int) -> np.ndarray:
    """Return an interval of E mu_T^2 = 1 - E S_T: H / n less at most its square / 2, H = sum of 1/t^2 (-> pi^2 / 6)."""
    first = np.cumsum(1 / np.arange(1, num_generations + 1) ** 2) / n
    return np.stack([first - first**2 / 2, first])


def golden_ratio_error(weight: np.ndarray | float, n_real: float, n_synthetic: float) -> np.ndarray:
    """Return n_real times the stationary squared error of the weighted fresh loop, maximum-likelihood variance; exact.

    It is [w^2 + k (1 - w)^2] / [w (2 - w) + (1 - w)^2 / n_synthetic], k = n_real / n_synthetic. Where the variance is
    known the denominator is w (2 - w) (arXiv 2502.18049); the error of the fitted variance adds the rest (derived
    here). With known variance the least error is at w* = (sqrt(k^2 + 4 k) - k) / 2 with value w*: 0.618 for k = 1.
    """
    w, ratio = np.asarray(weight), n_real / n_synthetic
    return (w**2 + ratio * (1 - w) ** 2) / (w * (2 - w) + (1 - w) ** 2 / n_synthetic)


def growing_square(n: int, sizes: Sequence[int], num_generations: int) -> np.ndarray:
    """Return an interval of E mu_T^2 under replace with batches of n, then of `sizes` rows, maximum likelihood.

    It is 1 - prod (1 - 1/n_t): H = sum of 1/n_t, its value where the variance is known, less at most H^2 / 2. So it
    stays small at any T where that sum converges, n_t = n t^(1 + s) (arXiv 2505.13947; finite n derived here).
    """
    later = itertools.islice(batch_sizes(n, sizes), num_generations - 1)
    total = np.cumsum(1 / np.array([n, *later], float))
    return np.stack([total - total**2 / 2, total])


def one_shot_error(real: np.ndarray | int, synthetic: np.ndarray | int, n: int, nested: bool = True) -> np.ndarray:
    """Return the squared error of a mean fitted to R real rows beside S rows of a generator made from n real rows.

    The variance is 1 and known (derived here); ``fit_moments`` has what a fitted one changes. If the R rows are not
    among the n, the error is 1 / N + (S / N)^2 / n, N = R + S. If they are (nested), it is 1 / N + 1 / n - R^2 / (n
    N^2).
    """
    rows = np.asarray(real) + synthetic
    if nested:
        return 1 / rows + 1 / n - np.square(real) / (n * np.square(rows))
    return 1 / rows + np.square(synthetic / rows) / n


def best_synthetic_rows(real: int, n: int) -> float:
    """Return the S of least ``one_shot_error`` beside R real rows of their own: R n / (2 R - n), or inf if R <= n / 2.

    Nested rows have no such optimum: for R > n / 2 the error first rises with S, is worst at N = 2 R^2 / n, and then
    falls to 1 / n, its infimum (derived here).
    """
    return real * n / (2 * real - n) if 2 * real > n else np.inf


def best_weights(num_fits: int, ratio: float = 1.0) -> np.ndarray:
    """Return the weights of new real rows that give the least error of the mean at every fit, from a fresh start.

    n_real times that error is the weight itself: w = (e + k) / (1 + e + k) after an error e, k = `ratio` = n_real /
    n_synthetic, starting from e = k (derived here; the variance is known). For k = 1 they are ratios of Fibonacci
    numbers, 2/3, 5/8, 13/21, ..., which approach the golden ratio's 0.618.

    Args:
      num_fits: the number of fits, without the fit to the first real batch.
      ratio: k.
    """
    error, weights = ratio, []
    for _ in range(num_fits):
        error = (error + ratio) / (1 + error + ratio)
        weights.append(error)
    return np.array(weights)


def sized_loop_error(sizes: np.ndarray | Sequence[float], weight: float = 0.0) -> float:
    """Return the squared error of the last mean, where fit t sees n_t synthetic and n_t new real rows of weight w.

    It is (1 - w)^(2 T - 2) / n_1 + ((1 - w)^2 + w^2) sum of (1 - w)^(2 T - 2 t) / n_t, t = 2 .. T, with unit variance,
    which is known; the first n_1 rows are real. At w = 0, ``replace``, it is the sum of all 1 / n_t (derived here).
    """
    return float((_row_influence(len(sizes), weight) ** 2 / np.asarray(sizes, float)).sum())


def best_sizes(budget: float, num_generations: int, weight: float = 0.0) -> np.ndarray:
    """Return the sizes ``[T]`` of least ``sized_loop_error`` that sum to `budget`: n_t grows as (1 - w)^(T - t).

    By the Cauchy-Schwarz inequality sizes are in proportion to the square roots of the terms, so n_1 is 1 / sqrt((1 -
    w)^2 + w^2) times as large. Equal sizes cost T sum(c^2) / sum(c)^2 times the error: late rows count most, because
    the influence of early rows fades.
    """
    influence = _row_influence(num_generations, weight)
    return budget * influence / influence.sum()


def _row_influence(num_generations: int, weight: float) -> np.ndarray:
    """Return c_t, the part of a row's error at fits 1 .. T that is left in the last fit."""
    fading = (1 - weight) ** np.arange(num_generations - 1, -1.0, -1.0)
    fading[1:] *= np.hypot(1 - weight, weight)
    return fading


def _case_moments(case: Case) -> FitMoments:
    variance_map = VarianceMap(ddof=case.setting["ddof"], factor=case.setting["temperature"])
    return fit_moments(case.policy, case.num_samples, case.num_generations, variance_map)


def _cooling_factor(case: Case) -> np.ndarray:
    """Return the factor by which sampling has multiplied the variance under replace."""
    return case.setting["temperature"] ** (case.generations - 1.0)


def has_light_tails(case: Case) -> np.ndarray:
    """Return the generations at which means over chains are fair: a fit has lost under 40% of its variance.

    s^2 is a product of T factors, whose logarithm has a variance of about 2 T / n: beyond T / n = 0.5 its mean is made
    by chains too rare to be sampled.
    """
    return fit_moments(case.policy, case.num_samples, case.num_generations).variance >= np.exp(-0.5)


def _mean_of_deviation(case: Case) -> np.ndarray:
    """Return E s_T of one column under replace: c4^T, times the factors of another divisor and a temperature."""
    n, ddof = case.num_samples, case.setting["ddof"]
    return (c4(n) * np.sqrt((n - 1) / (n - ddof))) ** case.generations * np.sqrt(_cooling_factor(case))


def _predict_distance(case: Case) -> np.ndarray:
    """Return E W2^2 = E (mu - m)^2 + E s^2 + 1 - 2 E s, times the truth's variance."""
    moments = _case_moments(case)
    return case.truth * (moments.square + moments.variance + 1 - 2 * _mean_of_deviation(case))


def _column_numbers(case: Case) -> np.ndarray:
    return np.arange(1, case.law.dim + 1)


def _log_det_drift(case: Case) -> np.ndarray:
    n, ddof = case.num_samples, case.setting["ddof"]
    drift = case.generations * log_variance_drift(n, ddof, _column_numbers(case)).sum()
    return drift + case.law.dim * np.log(_cooling_factor(case))


def _variance_of_log_det(case: Case) -> np.ndarray:
    return case.generations * variance_of_log_variance(case.num_samples, _column_numbers(case)).sum()


def _predict_determinant(case: Case) -> np.ndarray:
    n = case.num_samples
    shrink = np.prod((n - _column_numbers(case)) / (n - case.setting["ddof"])) ** case.generations
    return shrink * _cooling_factor(case) ** case.law.dim


def _det_is_light(case: Case) -> np.ndarray:
    return _variance_of_log_det(case) <= 1.0


def _conserved_sum(case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    return metrics["squared_error_of_mean"] + case.truth * metrics["trace_ratio"]


def _case_rank(case: Case) -> int:
    return min(case.law.dim, case.num_samples - 1)


def _loop_options(case: Case) -> tuple[float, float, float]:
    """Return (w, n_real, n_synthetic) of a loop with new real rows."""
    n = case.num_samples
    if case.policy["kind"] == "weighted_fresh":
        return case.policy["weight"], case.policy["real"] or n, n
    real = count_real_rows(case.policy["share"], n)
    return real / n, real, n - real


def _predict_golden_ratio(case: Case) -> np.ndarray:
    weight, real, synthetic = _loop_options(case)
    limit = case.truth * golden_ratio_error(weight, real, synthetic) / real
    return limit * np.array([[1 - 1e-4], [1 + 1e-4]]) + 0 * case.generations


def _is_stationary(case: Case) -> np.ndarray:
    """Return the generations at which less than 1e-4 of the start is left.

    What is left falls as (1 - w)^2 (1 - 1 / n_synthetic) a generation.
    """
    weight, _, synthetic = _loop_options(case)
    return ((1 - weight) ** 2 * (1 - 1 / synthetic)) ** (case.generations - 1) < 1e-4


def _growing_square(case: Case) -> np.ndarray:
    return case.truth * growing_square(case.num_samples, case.policy["sizes"], case.num_generations)


def _predict_plateau(case: Case) -> np.ndarray:
    limit = np.pi**2 / 3 if case.policy["replacement"] else np.pi**2 / 2 - 2
    ends = limit / case.num_samples * np.array([[0.94], [1.06]])
    return case.truth * ends + 0 * case.generations


MAXIMUM_LIKELIHOOD = Condition("ddof is 0, and fits are sampled as they are",
                               lambda case: case.setting["ddof"] == 0 and case.setting["temperature"] == 1)  # fmt: skip
NORMAL = Condition("the real law is normal", lambda case: case.law.is_normal)
ONE_COLUMN = Condition("one column", lambda case: case.law.dim == 1)
REGULAR = Condition("more rows than columns", lambda case: case.num_samples > case.law.dim)
SINGULAR = Condition("no more rows than columns", lambda case: case.num_samples <= case.law.dim)
MIXED = Condition("0 < w < 1", lambda case: 0 < _loop_options(case)[0] < 1)
GROWN = Condition("replace", lambda case: growing_kind(case.policy) == "replace")
LARGE = Condition("n >= 100 rows, as many drawn", lambda c: c.num_samples >= 100 and c.policy["num"] is None)

EVERY = (*POLICIES, "mix", "growing")
_REPLACE, _REPLACE_SOURCE = ("replace",), "arXiv 2305.17493, 2307.01850; finite n derived here"

TABLE = (
    Prediction(
        "squared_error_of_mean + trace", "gaussian", EVERY, ("squared_error_of_mean", "trace_ratio"),
        lambda case: case.truth + 0.0 * case.generations,
        "derived here (moment_recursions): E[mu^2 + variance] is conserved under every mixture of batches",
        samples=_conserved_sum, assumptions=(MAXIMUM_LIKELIHOOD, STEADY), fair=has_light_tails,
    ),
    Prediction(
        "squared_error_of_mean", "gaussian", EVERY, ("squared_error_of_mean",),
        lambda case: case.truth * _case_moments(case).square, "derived here (moment_recursions)",
        assumptions=(STEADY,), fair=has_light_tails,
    ),
    Prediction(
        "trace_ratio", "gaussian", EVERY, ("trace_ratio",),
        lambda case: _case_moments(case).variance, "derived here (moment_recursions)", assumptions=(STEADY,),
        fair=has_light_tails,
    ),
    Prediction(
        "log_trace_ratio", "gaussian", _REPLACE, ("log_trace_ratio",), _log_det_drift, _REPLACE_SOURCE,
        assumptions=(NORMAL, ONE_COLUMN, REGULAR), in_logs=True,
    ),
    Prediction(
        "log_det_ratio", "gaussian", _REPLACE, ("log_det_ratio",), _log_det_drift, _REPLACE_SOURCE,
        assumptions=(NORMAL, REGULAR), in_logs=True,
    ),
    Prediction(
        "log_det_ratio", "gaussian", _REPLACE, ("log_det_ratio",), _variance_of_log_det,
        "derived here (log_variance_drift)", statistic="variance", assumptions=(NORMAL, REGULAR),
    ),
    Prediction(
        "determinant ratio", "gaussian", _REPLACE, ("log_det_ratio",), _predict_determinant,
        "derived here (log_variance_drift)",
        samples=lambda case, metrics: np.exp(metrics["log_det_ratio"]),
        assumptions=(NORMAL, REGULAR), fair=_det_is_light,
    ),
    Prediction(
        "standard deviation ratio", "gaussian", _REPLACE, ("log_trace_ratio",), _mean_of_deviation, _REPLACE_SOURCE,
        samples=lambda case, metrics: np.exp(0.5 * metrics["log_trace_ratio"]),
        assumptions=(NORMAL, ONE_COLUMN, REGULAR), fair=has_light_tails,
    ),
    Prediction(
        "wasserstein2_squared", "gaussian", _REPLACE, ("wasserstein2_squared",), _predict_distance,
        "arXiv 2305.17493 (ddof = 1); ddof = 0 derived here", assumptions=(NORMAL, ONE_COLUMN, REGULAR),
        fair=has_light_tails,
    ),
    Prediction(
        "is singular", "gaussian", WITHOUT_NEW_ROWS, ("log_det_ratio",), lambda case: 1.0 + 0.0 * case.generations,
        "derived here: samples stay in the span of the first rows", assumptions=(SINGULAR,),
        samples=lambda case, metrics: np.isneginf(metrics["log_det_ratio"]).astype(float),
    ),
    Prediction(
        "effective_rank", "gaussian", WITHOUT_NEW_ROWS, ("effective_rank",),
        lambda case: np.array([[min(1, _case_rank(case))], [_case_rank(case)]]) + 0.0 * case.generations,
        "derived here: the rank is at most min(d, n - 1)", assumptions=(SINGULAR,), exact=False,
    ),
    Prediction(
        "trace_ratio", "gaussian", ("accumulate",), ("trace_ratio",),
        lambda case: accumulate_limit(case.num_samples, case.num_generations),
        "arXiv 2410.16713, 2404.01413; limit within 1/(n T), derived here", assumptions=(MAXIMUM_LIKELIHOOD,),
        exact=False, fair=has_light_tails,
    ),
    Prediction(
        "squared_error_of_mean", "gaussian", ("accumulate",), ("squared_error_of_mean",),
        lambda case: case.truth * accumulate_square(case.num_samples, case.num_generations),
        "arXiv 2410.22812, 2404.01413: sum of 1/t^2; bounds derived here", assumptions=(MAXIMUM_LIKELIHOOD,),
        exact=False, fair=has_light_tails,
    ),
    Prediction(
        "squared_error_of_mean", "gaussian", ("growing",), ("squared_error_of_mean",), _growing_square,
        "arXiv 2505.13947: sum of 1/n_t; bounds derived here", assumptions=(MAXIMUM_LIKELIHOOD, GROWN), exact=False,
        fair=has_light_tails,
    ),
    Prediction(
        "squared_error_of_mean", "gaussian", ("accumulate_subsample",), ("squared_error_of_mean",), _predict_plateau,
        "derived here: n E mu^2 -> pi^2/2 - 2 (with replacement pi^2/3), within 6% from n = 100 and T = 60",
        assumptions=(MAXIMUM_LIKELIHOOD, LARGE), exact=False, fair=lambda case: case.generations >= 60,
    ),
    Prediction(
        "squared_error_of_mean", "gaussian", ("weighted_fresh", "fresh_real"), ("squared_error_of_mean",),
        _predict_golden_ratio,
        "arXiv 2502.18049; the fitted variance's part derived here: a limit, within 1e-4 of it once stationary",
        assumptions=(MAXIMUM_LIKELIHOOD, MIXED), exact=False, fair=_is_stationary,
    ),
)  # fmt: skip
