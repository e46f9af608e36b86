"""What is known of diffusion models with the exact score, stopped early."""

import numpy as np


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
