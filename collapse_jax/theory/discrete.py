"""Theory of counts: symbols (Wright and Fisher's model of drift), rates and probabilities."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from collapse_jax.theory.moment_recursions import POLICIES, STEADY, VarianceMap, fit_moments
from collapse_jax.theory.prediction import Case, Condition, Prediction


def survival_exponents(num_generations: int) -> np.ndarray:
    """Return g_1 = 1, g_{k+1} = 1 - exp(-g_k), ``[T]``, which falls as 2 / k."""
    g = [1.0]
    for _ in range(num_generations - 1):
        g.append(-np.expm1(-g[-1]))
    return np.array(g)


def alive_probability_bound(n: int, probability: np.ndarray | float, num_generations: int) -> np.ndarray:
    """Return a lower bound on the probability that a symbol of share p is alive at fits 1 .. T under replace.

    The bound is 1 - exp(-n p g_t) and is tight for rare symbols (derived here). P(gone at fit 1) = (1 - p)^n <= exp(-n
    p g_1), and given the share p_1 the probability to be gone k fits later is at most exp(-n p_1 g_k), whose mean over
    a binomial n p_1 is (1 - p (1 - exp(-g_k)))^n <= exp(-n p g_{k+1}).
    """
    return -np.expm1(-n * np.multiply.outer(np.asarray(probability), survival_exponents(num_generations)))


def drift_laws(n: int, first: np.ndarray, num_generations: int, temperature: float = 1.0) -> np.ndarray:
    """Return the law of one symbol's count among n rows at fits 1 .. T under replace, ``[T, ..., n + 1]``.

    `first` is the law at fit 1. In Wright and Fisher's chain, a count of j is followed by a binomial count of n draws
    at j / n, whatever the other symbols do. With another temperature and two symbols, draws are at p^(1/tau) /
    (p^(1/tau) + (1 - p)^(1/tau)), p = j / n, which selects the more common symbol (derived here).
    """
    share = np.arange(n + 1) / n
    chain = _binomial_law(n, share if temperature == 1 else sharpen_share(share, temperature))
    laws = [np.asarray(first, float)]
    for _ in range(num_generations - 1):
        laws.append(laws[-1] @ chain)
    return np.stack(laws)


def sharpen_share(share: np.ndarray, temperature: float) -> np.ndarray:
    """Return the share that a share of two symbols becomes when sampled at a temperature."""
    first, second = share ** (1 / temperature), (1 - share) ** (1 / temperature)
    return first / (first + second)


def _binomial_law(n: int, probability: np.ndarray) -> np.ndarray:
    """Return the law of a count of n draws at each `probability`, ``[..., n + 1]``."""
    from scipy.stats import binom  # takes longer to import than all the rest of this package

    return binom.pmf(np.arange(n + 1), n, probability[..., None])


def expected_symbols_alive(
    n: int, probabilities: np.ndarray, num_generations: int, temperature: float = 1.0
) -> np.ndarray:
    """Return the expected number of symbols alive at fits 1 .. T under replace; exact (``drift_laws``)."""
    laws, number = _drift_of_shares(n, probabilities, num_generations, temperature)
    return (1 - laws[..., 0]) @ number


def expected_gini_simpson(
    n: int, probabilities: np.ndarray, num_generations: int, temperature: float = 1.0
) -> np.ndarray:
    """Return E[1 - sum p^2] at fits 1 .. T under replace, summed symbol by symbol; exact (``drift_laws``)."""
    laws, number = _drift_of_shares(n, probabilities, num_generations, temperature)
    share = np.arange(n + 1) / n
    return laws @ (share * (1 - share)) @ number


def fixation_probability(
    n: int, probabilities: np.ndarray, num_generations: int, temperature: float = 1.0
) -> np.ndarray:
    """Return the probability that fits 1 .. T see one symbol only, under replace; exact.

    It is the sum over K events that exclude each other.
    """
    laws, number = _drift_of_shares(n, probabilities, num_generations, temperature)
    return laws[..., n] @ number


def _drift_of_shares(
    n: int, probabilities: np.ndarray, num_generations: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``drift_laws`` of each different probability, and how many symbols have that probability."""
    share, number = np.unique(np.asarray(probabilities, float), return_counts=True)
    return drift_laws(n, _binomial_law(n, share), num_generations, temperature), number


def ancestor_share(n: int, num_generations: int) -> np.ndarray:
    """Return the expected share of n real rows from which rows of fits 1 .. T descend, under replace; exact."""
    return 1 - drift_laws(n, np.eye(n + 1)[1], num_generations)[:, 0]


def zero_rate_probability(n: int, rate: float, num_generations: int) -> np.ndarray:
    """Return P(rate = 0 at fits 1 .. T) of a Poisson model under replace, the rate being the mean of n counts; exact.

    It is exp(-n rate g_t): a Poisson count of mean m gives E exp(-g count) = exp(-m (1 - exp(-g))) (derived here).
    """
    return np.exp(-n * rate * survival_exponents(num_generations))


def fixation_time(n: int, probabilities: np.ndarray, num_generations: int, temperature: float = 1.0) -> float:
    """Return the mean number of the first fit that sees one symbol, under replace; exact.

    A chain that still has several symbols at fit T counts as T + 1. The result is 1 + sum of 1 - P(fit t sees one),
    from ``fixation_probability``. As n and T grow it approaches the diffusion approximation -2 n sum (1 - x) ln(1 - x)
    of shares x (Kimura and Ohta 1969), which is off by up to 2.5 fits at n = 10 to 100.
    """
    return float(1 + (1 - fixation_probability(n, probabilities, num_generations, temperature)).sum())


def diversity_ratio(policy: Mapping[str, Any], n: int, num_generations: int) -> np.ndarray:
    """Return E[1 - sum p^2] of the fits over the truth's under any mixture policy; exact (``moment_recursions``).

    One-hot rows have the variance 1 - sum p^2, so a categorical fit has a Gaussian fit's moments: (1 - 1/n)^T under
    replace (Wright and Fisher), prod (1 - 1/(n t^2)) under accumulate. For two symbols of probability p, it is p (1 -
    p) over the truth's.
    """
    return fit_moments(policy, n, num_generations).variance


def rate_variance(policy: Mapping[str, Any], n: int, num_generations: int, rate: float) -> np.ndarray:
    """Return the variance of a Poisson model's fitted rate under any mixture policy; exact (``moment_recursions``).

    The mean rate is conserved, so that every batch's noise is rate / n in expectation: replace gives rate T / n.
    """
    return fit_moments(policy, n, num_generations, VarianceMap(truth=rate, known=True)).square


def _predict_diversity(case: Case) -> np.ndarray:
    return (1 - (case.shares**2).sum()) * diversity_ratio(case.policy, case.num_samples, case.num_generations)


def _drift_arguments(case: Case) -> tuple[int, np.ndarray, int, float]:
    return case.num_samples, case.shares, case.num_generations, case.setting["temperature"]


def _predict_alive(case: Case) -> np.ndarray:
    return expected_symbols_alive(*_drift_arguments(case))


def _alive_bounds(case: Case) -> np.ndarray:
    """Return the lower bound and the expected number at fit 1, which is an upper bound."""
    n, t = case.num_samples, case.num_generations
    at_first_fit = (1 - (1 - case.shares) ** n).sum()
    shares, number = np.unique(case.shares, return_counts=True)  # of a thousand symbols many are alike
    return np.stack([number @ alive_probability_bound(n, shares, t), np.full(t, at_first_fit)])


def _predict_fixation_time(case: Case) -> np.ndarray:
    return fixation_time(*_drift_arguments(case)) + 0.0 * case.generations


def _fixation_times(case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return each chain's fixation time, repeated for all generations."""
    return (metrics["symbols_alive"] > 1).sum(1, keepdims=True) + 1 + 0 * case.generations


def _chain_probability(case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    return case.setting["p"] * np.exp(metrics["log_probability_ratio"])


def _pair_of_shares(case: Case) -> np.ndarray:
    return np.array([case.setting["p"], 1 - case.setting["p"]])


def _predict_pair_diversity(case: Case) -> np.ndarray:
    ratio = diversity_ratio(case.policy, case.num_samples, case.num_generations)
    return _pair_of_shares(case).prod() * ratio


def _squared_error(case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    return (case.setting["rate"] * np.expm1(metrics["log_rate_ratio"])) ** 2


def _is_diverse(case: Case) -> np.ndarray:
    """Return the generations at which means of 1 - sum p^2 are fair: later, few chains still have two symbols."""
    return diversity_ratio(case.policy, case.num_samples, case.num_generations) >= 0.05


def _is_common(chance: np.ndarray) -> np.ndarray:
    """Return where neither an event nor its absence is so rare that chains hold too few of them."""
    return (chance >= 0.01) & (chance <= 0.99)


def _predict_fixation(case: Case) -> np.ndarray:
    return fixation_probability(*_drift_arguments(case))


def _fixed_of_two(case: Case) -> np.ndarray:
    return fixation_probability(case.num_samples, _pair_of_shares(case), case.num_generations)


def _zero_rate(case: Case) -> np.ndarray:
    return zero_rate_probability(case.num_samples, case.setting["rate"], case.num_generations)


def _is_light(case: Case) -> np.ndarray:
    """Return the generations at which means of squared rates are fair: later, a few live chains make the whole mean."""
    return case.generations <= 0.5 * case.num_samples * case.setting["rate"]


PLAIN = Condition("fits are sampled as they are", lambda case: case.setting["temperature"] == 1)
ONE_BY_ONE = Condition(
    "fits are sampled as they are, or there are two symbols",
    lambda case: case.setting["temperature"] == 1 or len(case.shares) == 2,
)
HEATED = Condition("two symbols, at another temperature",
                   lambda case: case.setting["temperature"] != 1 and len(case.shares) == 2)  # fmt: skip
FEW = Condition("n <= 500 rows", lambda case: case.num_samples <= 500)
LINEAGE = Condition("rows know their ancestors", lambda case: case.setting["lineage"])

_REPLACE, _DRIFT = ("replace",), "Wright and Fisher's chain; derived here (drift_laws)"
TABLE = (
    Prediction(
        "gini_simpson", "discrete", POLICIES, ("gini_simpson",), _predict_diversity, "derived here (diversity_ratio)",
        assumptions=(PLAIN,), fair=_is_diverse,
    ),
    Prediction(
        "gini_simpson", "discrete", _REPLACE, ("gini_simpson",),
        lambda case: expected_gini_simpson(*_drift_arguments(case)), _DRIFT,
        assumptions=(FEW, HEATED), fair=lambda case: expected_gini_simpson(*_drift_arguments(case)) >= 0.05,
    ),
    Prediction(
        "symbols_alive", "discrete", _REPLACE, ("symbols_alive",), _predict_alive, _DRIFT,
        assumptions=(FEW, ONE_BY_ONE),
        fair=lambda case: _predict_alive(case) >= 1.05,
    ),
    Prediction(
        "symbols_alive", "discrete", _REPLACE, ("symbols_alive",), _alive_bounds,
        "derived here (alive_probability_bound)", assumptions=(PLAIN,), exact=False,
    ),
    Prediction(
        "one symbol is left", "discrete", _REPLACE, ("symbols_alive",), _predict_fixation, _DRIFT,
        assumptions=(FEW, ONE_BY_ONE),
        samples=lambda case, metrics: (metrics["symbols_alive"] == 1).astype(float),
        fair=lambda case: _is_common(_predict_fixation(case)),
    ),
    Prediction(
        "first fit of one symbol", "discrete", _REPLACE, ("symbols_alive",), _predict_fixation_time,
        "Wright and Fisher's chain; derived here (fixation_time)", samples=_fixation_times,
        assumptions=(FEW, ONE_BY_ONE),
        fair=lambda case: (case.generations == case.num_generations) & _is_common(_predict_fixation(case)).any(),
    ),
    *(
        Prediction(
            "ancestors_alive", setting, _REPLACE, ("ancestors_alive",),
            lambda case: ancestor_share(case.num_samples, case.num_generations), _DRIFT, assumptions=(LINEAGE, FEW),
        )
        for setting in ("discrete", "kde", "ideal_diffusion")
    ),
    Prediction(
        "p (1 - p)", "bernoulli", (*POLICIES, "growing"), ("log_probability_ratio",),
        _predict_pair_diversity, "derived here (diversity_ratio)", assumptions=(STEADY,),
        samples=lambda case, metrics: _chain_probability(case, metrics) * (1 - _chain_probability(case, metrics)),
        fair=_is_diverse,
    ),
    Prediction(
        "dead", "bernoulli", _REPLACE, ("dead",), _fixed_of_two, _DRIFT, assumptions=(FEW,),
        fair=lambda case: _is_common(_fixed_of_two(case)),
    ),
    Prediction(
        "symbols_alive", "bernoulli", _REPLACE, ("symbols_alive",), lambda case: 2 - _fixed_of_two(case), _DRIFT,
        assumptions=(FEW,), fair=lambda case: _is_common(_fixed_of_two(case)),
    ),
    Prediction(
        "dead", "poisson", _REPLACE, ("dead",), _zero_rate, "derived here (zero_rate_probability)",
        fair=lambda case: _is_common(_zero_rate(case)),
    ),
    Prediction(
        "squared error of the rate", "poisson", POLICIES, ("log_rate_ratio",),
        lambda case: rate_variance(case.policy, case.num_samples, case.num_generations, case.setting["rate"]),
        "derived here (rate_variance)", samples=_squared_error, fair=_is_light,
    ),
)  # fmt: skip
