"""Theory of chains whose synthetic rows are selected before a model learns from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy  # imports its submodules where they are used; stats takes longer than all of this package

from collapse_jax.theory.gaussian import MAXIMUM_LIKELIHOOD
from collapse_jax.theory.prediction import Case, Condition, Prediction

FEW = 400  # up to so many rows the law of a Bernoulli chain is followed state by state


def best_of_mean(k: int) -> float:
    """Return the mean of the largest of `k` standard normals: 1 / sqrt pi for two."""
    return _best_of_moment(k, 1)


def best_of_variance(k: int) -> float:
    """Return the variance of the largest of `k` standard normals: 1 - 1/pi for two."""
    return _best_of_moment(k, 2) - best_of_mean(k) ** 2


def _best_of_moment(k: int, power: int) -> float:
    return scipy.integrate.quad(
        lambda x: x**power * k * scipy.stats.norm.pdf(x) * scipy.stats.norm.cdf(x) ** (k - 1), -12, 12
    )[0]


def judged_variance(n: int, judge: float, noise: float) -> float:
    """Return E of the variance, divided by n, of `n` rows at the second fit, each the better of two for a noisy judge.

    The judge sees `judge` times a normal row plus noise. If that has the correlation r with the row, choosing leaves 1
    - r^2 / pi of the variance; r depends on the first fit's variance, chi^2_{n-1} / n, over whose law this is the mean
    (derived here).
    """
    first = scipy.stats.gamma((n - 1) / 2, scale=2 / n)

    def kept(v: float) -> float:
        return v * (1 - judge**2 * v / (judge**2 * v + noise**2) / np.pi)

    return (1 - 1 / n) * scipy.integrate.quad(lambda u: kept(first.ppf(u)), 0, 1)[0]


def top_variance(n: int, kept: int) -> float:
    """Return E of the variance, divided by their number, of the `kept` largest of `n` standard normals; exact.

    Given the largest one that is dropped, those kept are independent draws from a truncated normal law, whose variance
    is averaged over the law of this order statistic (derived here).
    """
    if kept == n:
        return 1 - 1 / n

    def truncated(t: float) -> float:
        hazard = np.exp(scipy.stats.norm.logpdf(t) - scipy.stats.norm.logsf(t))
        return 1 + hazard * (t - hazard)

    order = scipy.stats.beta(n - kept, kept + 1)  # law of the (n - kept)-th smallest of n uniforms
    mean = scipy.integrate.quad(
        lambda u: truncated(scipy.stats.norm.ppf(u)) * order.pdf(u), 0, 1, points=[order.mean()]
    )[0]
    return (1 - 1 / kept) * mean


def chosen_probability(p: np.ndarray, k: int, strength: float) -> np.ndarray:
    """Return the probability that a 1 is chosen out of `k` draws that are 1 with probability `p`.

    A 1 is preferred by exp(strength): this is Bradley-Terry (arXiv 2407.09499, equation 1). An infinite strength takes
    the best of k: 1 - (1 - p)^k.
    """
    ones = np.arange(k + 1)
    odds = np.exp(-strength) * (k - ones)
    share = np.where(ones == 0, 0.0, ones / np.maximum(ones + odds, 1e-300))
    p = np.asarray(p, float)[..., None]
    return (scipy.special.comb(k, ones) * p**ones * (1 - p) ** (k - ones) * share).sum(-1)


def chosen_mean(p: float, n: int, num_generations: int, k: int, strength: float) -> np.ndarray:
    """Return E of the fitted p of T = 1 .. `num_generations` under replace, each row chosen as above; exact.

    The number of 1s among n rows is a Markov chain, whose law is followed state by state (derived here).
    """
    states = np.arange(n + 1)
    step = scipy.stats.binom.pmf(states, n, chosen_probability(states / n, k, strength)[:, None])
    law, means = scipy.stats.binom.pmf(states, n, p), []
    for _ in range(num_generations):
        means.append(law @ states / n)
        law = law @ step
    return np.array(means)


def verifier_threshold(keep_right: float, keep_wrong: float) -> float:
    """Return the share of right rows p* above which most of the rows that pass a verifier are right (arXiv 2406.07515).

    p keep_right > (1 - p) keep_wrong above p* = keep_wrong / (keep_right + keep_wrong).
    """
    return keep_wrong / (keep_right + keep_wrong)


def verified_share(p: np.ndarray, keep_right: float, keep_wrong: float) -> np.ndarray:
    """Return the share of right rows among those that pass: log odds grow by log(keep_right / keep_wrong)."""
    right, wrong = p * keep_right, (1 - p) * keep_wrong
    return right / (right + wrong)


def verified_mean(p: float, n: int, keep_right: float, keep_wrong: float) -> float:
    """Return E of the second fit's share of right rows, after the first fit to n rows and a verifier; exact.

    However many pass, each is right with the probability ``verified_share`` of the first fit (derived here).
    """
    states = np.arange(n + 1)
    return float(scipy.stats.binom.pmf(states, n, p) @ verified_share(states / n, keep_right, keep_wrong))


def majority_probability(p: float, n: int, keep_right: float, keep_wrong: float) -> float:
    """Return the probability that most rows of the second fit are right, a draw counted half; exact (derived here).

    It rises from 0 to 1 at ``verifier_threshold``, the more sharply the more rows there are.
    """
    states = np.arange(n + 1)
    below = np.zeros(n + 1)
    for first, share in enumerate(states / n):
        right = scipy.stats.binom.pmf(states, n, share * keep_right)
        wrong = (1 - share) * keep_wrong / max(1 - share * keep_right, 1e-300)
        less, as_many = (f(states, n - states, wrong) for f in (scipy.stats.binom.cdf, scipy.stats.binom.pmf))
        below[first] = right @ (less - 0.5 * as_many)
    return float(scipy.stats.binom.pmf(states, n, p) @ below)


def _curator_options(case: Case) -> Mapping[str, Any]:
    return case.curator


def _num_kept(case: Case) -> int:
    return max(int(np.ceil(_curator_options(case)["fraction"] * case.num_samples - 1e-4)), 1)


def _predict_best(case: Case) -> np.ndarray:
    return _narrow_variance(
        case, best_of_variance(_curator_options(case)["k"]) * (1 - 1 / case.num_samples), case.num_samples
    )


def _predict_top(case: Case) -> np.ndarray:
    return _narrow_variance(case, top_variance(case.num_samples, _num_kept(case)), _num_kept(case))


def _narrow_variance(case: Case, factor: float, kept: int) -> np.ndarray:
    """Return the variance at each fit: every generation multiplies it by an independent factor of this mean."""
    n, ddof, later = case.num_samples, case.setting["ddof"], case.generations - 1
    return (n - 1) / (n - ddof) * (factor * case.setting["temperature"] * kept / (kept - ddof)) ** later


def _predict_move(case: Case) -> float:
    """Return E of the squared mean of the second fit: that of the first, and the shift by choosing, s (m + noise)."""
    n, k = case.num_samples, _curator_options(case)["k"]
    square = best_of_mean(k) ** 2 + best_of_variance(k) / n
    return case.truth * (1 / n + (n - 1) / (n - case.setting["ddof"]) * case.setting["temperature"] * square)


def _predict_judged(case: Case) -> float:
    judge = 1 + _curator_options(case)["bias"]
    return judged_variance(case.num_samples, judge, _curator_options(case)["noise"] / np.sqrt(case.truth))


def _is_light(case: Case) -> np.ndarray:
    """Return the generations at which means are fair.

    The logarithm's variance grows by about 2 / rows a generation; beyond 0.5, rare chains make the mean.
    """
    kept = _num_kept(case) if _curator_options(case)["kind"] == "top_fraction" else case.num_samples
    return 2 * case.generations / kept <= 0.5


def _chain_probability(case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.exp(metrics["log_probability_ratio"]) * case.setting["p"]


def _is_most(case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    p = _chain_probability(case, metrics)
    return np.where(np.isclose(p, 0.5, atol=1e-6), 0.5, p > 0.5)


def _chosen_mean(case: Case) -> np.ndarray:
    curator = _curator_options(case)
    n, horizon = case.num_samples, case.num_generations
    return chosen_mean(case.setting["p"], n, horizon, curator["k"], curator["strength"])


def _of_second(value: float, case: Case) -> np.ndarray:
    return np.where(case.generations == 2, value, np.nan)


def _keep_probabilities(case: Case) -> tuple[float, float]:
    return _curator_options(case)["keep_right"], _curator_options(case)["keep_wrong"]


def _second_only(case: Case) -> np.ndarray:
    return case.generations == 2


def _predict_majority(case: Case) -> float:
    return majority_probability(case.setting["p"], case.num_samples, *_keep_probabilities(case))


def _none_passes(case: Case) -> float:
    """Return an upper bound on the probability that no row of the second batch passes (then all are kept)."""
    n, right = case.num_samples, np.arange(case.num_samples + 1) / case.num_samples
    keep_right, keep_wrong = _keep_probabilities(case)
    passes = right * keep_right + (1 - right) * keep_wrong
    return float(scipy.stats.binom.pmf(np.arange(n + 1), n, case.setting["p"]) @ (1 - passes) ** n)


BY_VALUE = Condition("rows are judged by their value", lambda case: _curator_options(case)["by"] == "value")
ANY_VALUE = Condition(
    "rows are judged by their value", lambda case: _curator_options(case)["by"] in (None, "value", ["value"])
)
ONE_NORMAL = Condition("one normal column", lambda case: case.law.is_normal and case.law.dim == 1)
ONE_TASTE = Condition("two candidates, judged by their value with a bias towards it",
                      lambda case: (case.curator["k"], case.curator["towards"]) == (2, "value"))  # fmt: skip
FEW_ROWS = Condition(f"n <= {FEW}", lambda case: case.num_samples <= FEW)
ONE_CANDIDATE = Condition("k is 1", lambda case: _curator_options(case)["k"] == 1)
SOME_PASS = Condition("that no row passes is rarer than 1e-6", lambda case: _none_passes(case) < 1e-6)
TWO_FITS = Condition("two fits", lambda case: case.num_generations >= 2)

_VERIFIED = (BY_VALUE, ONE_CANDIDATE, FEW_ROWS, SOME_PASS, TWO_FITS)

TABLE = (
    Prediction(
        "trace_ratio", "gaussian", ("replace",), ("trace_ratio",), _predict_best,
        "derived here: the variance of the largest of k normals (1 - 1/pi of two) a generation", curator="best_of",
        assumptions=(BY_VALUE, ONE_NORMAL), fair=_is_light,
    ),
    Prediction(
        "squared_error_of_mean", "gaussian", ("replace",), ("squared_error_of_mean",),
        lambda case: _of_second(_predict_move(case), case),
        "derived here: the mean moves by s / sqrt pi for the best of two",
        curator="best_of", assumptions=(BY_VALUE, ONE_NORMAL, TWO_FITS), fair=_second_only,
    ),
    Prediction(
        "trace_ratio", "gaussian", ("replace",), ("trace_ratio",), lambda case: _of_second(_predict_judged(case), case),
        "derived here (judged_variance); cf. arXiv 2510.16657", curator="verifier",
        assumptions=(BY_VALUE, ONE_NORMAL, ONE_TASTE, MAXIMUM_LIKELIHOOD, TWO_FITS), fair=_second_only,
    ),
    Prediction(
        "trace_ratio", "gaussian", ("replace",), ("trace_ratio",), _predict_top,
        "derived here (top_variance): a truncated normal's variance a generation", curator="top_fraction",
        assumptions=(BY_VALUE, ONE_NORMAL), fair=_is_light,
    ),
    Prediction(
        "probability", "bernoulli", ("replace",), ("log_probability_ratio",), _chosen_mean,
        "arXiv 2407.09499; finite n derived here (chosen_mean)", curator="curate", samples=_chain_probability,
        assumptions=(ANY_VALUE, FEW_ROWS),
    ),
    Prediction(
        "probability", "bernoulli", ("replace",), ("log_probability_ratio",),
        lambda case: _of_second(verified_mean(case.setting["p"], case.num_samples, *_keep_probabilities(case)), case),
        "arXiv 2406.07515; finite n derived here (verified_mean)", curator="verify", samples=_chain_probability,
        assumptions=_VERIFIED, fair=_second_only,
    ),
    Prediction(
        "most are right", "bernoulli", ("replace",), ("log_probability_ratio",),
        lambda case: _of_second(_predict_majority(case), case),
        "arXiv 2406.07515: jumps at p* = keep_wrong / (keep_right + keep_wrong); "
        "finite n derived here (majority_probability)",
        curator="verify", samples=_is_most, assumptions=_VERIFIED, fair=_second_only,
    ),
)  # fmt: skip
