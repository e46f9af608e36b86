"""What is known of regressions whose labels are generated anew, and of all regular estimators of many rows."""

import numpy as np

from collapse_jax.theory.recursions import Spread, fits


def first_risk(n: int, dim: int, noise: float) -> float:
    """E |w - truth|^2 of least squares on n standard normal rows, label variance `noise`: noise d / (n - d - 1).

    The trace of an inverse Wishart matrix's mean.

    Raises:
      ValueError: no more than d + 1 rows, where the mean is infinite.
    """
    if n <= dim + 1:
        raise ValueError(f"n must be > dim + 1 = {dim + 1} for a mean to exist, not {n}")
    return noise * dim / (n - dim - 1)


def risk_ratio(policy: dict, n: int, num_generations: int) -> np.ndarray:
    """Risk of fits 1 .. T over that of the first, where the noise of the labels is known: replace T, accumulate H_T.

    H_T = sum of 1/t^2 <= pi^2/6 (arXiv 2404.01413, theorem 1; 2410.22812 for any regular estimator, as n grows).
    Exact for linear regression when the policies mix whole batches and every batch has the same inputs; under replace
    whatever the inputs. Other policies by the recursions of a mean (derived here), for n much larger than d.
    """
    moments = fits(policy, n, num_generations, Spread(known=True))
    return moments.square / moments.square[0]
