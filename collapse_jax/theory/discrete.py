"""What is known of counts: symbols (Wright and Fisher's model of drift), rates and probabilities."""

import numpy as np

from collapse_jax.theory.recursions import Spread, fits


def survival_exponents(num_generations: int) -> np.ndarray:
    """g_1 = 1, g_{k+1} = 1 - exp(-g_k), ``[T]``: falls as 2 / k."""
    g = [1.0]
    for _ in range(num_generations - 1):
        g.append(-np.expm1(-g[-1]))
    return np.array(g)


def alive_bound(n: int, probability: np.ndarray | float, num_generations: int) -> np.ndarray:
    """Least probability that a symbol of share p is still there at fits 1 .. T under replace: 1 - exp(-n p g_t).

    Derived here: P(gone at fit 1) = (1 - p)^n <= exp(-n p g_1), and given the share p_1 the chance to be gone k fits
    later is at most exp(-n p_1 g_k), whose mean over a binomial n p_1 is (1 - p (1 - exp(-g_k)))^n <=
    exp(-n p g_{k+1}). Tight for rare symbols.
    """
    return -np.expm1(-n * np.multiply.outer(np.asarray(probability), survival_exponents(num_generations)))


def zero_rate(n: int, rate: float, num_generations: int) -> np.ndarray:
    """P(rate = 0 at fits 1 .. T) of a Poisson model under replace, the rate being the mean of n counts; exact.

    exp(-n rate g_t): a Poisson count of mean m gives E exp(-g count) = exp(-m (1 - exp(-g))) (derived here).
    """
    return np.exp(-n * rate * survival_exponents(num_generations))


def fixation_time(n: int, probabilities: np.ndarray) -> float:
    """Mean number of the fit that sees one symbol, under replace: -2 n sum (1 - x) ln(1 - x), ``[K]`` shares x.

    The diffusion approximation (Kimura and Ohta 1969; Ewens, Mathematical Population Genetics, 2004). Measured: 1 to
    2.5 fits too many from n = 10 to 100, which is 6% at n = 20 and 2% at n = 100.
    """
    x = np.asarray(probabilities, float)
    rest = 1 - x[x < 1]
    return float(-2 * n * (rest * np.log(rest)).sum())


def diversity(policy: dict, n: int, num_generations: int) -> np.ndarray:
    """E[1 - sum p^2] of the fits, over the truth's, under any mixture policy; exact (derived here, ``recursions``).

    One-hot rows have the variance 1 - sum p^2, so a categorical fit keeps a Gaussian one's moments: replace (1 - 1/n)^T
    (Wright and Fisher), accumulate prod (1 - 1/(n t^2)). Two symbols of probability p: p (1 - p) over the truth's.
    """
    return fits(policy, n, num_generations).variance


def rate_variance(policy: dict, n: int, num_generations: int, rate: float) -> np.ndarray:
    """Variance of the fitted rate of a Poisson model under any mixture policy; exact (derived here, ``recursions``).

    The mean rate is conserved, so that every batch's noise is rate / n in expectation: replace gives rate T / n.
    """
    return fits(policy, n, num_generations, Spread(truth=rate, known=True)).square
