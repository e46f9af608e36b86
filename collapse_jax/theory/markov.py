"""Theory of Markov chains that are counted without smoothing, where they reduce to the drift of frequencies."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from collapse_jax.theory.discrete import FEW, diversity_ratio, expected_symbols_alive
from collapse_jax.theory.prediction import Case, Condition, Prediction, ratio_to_first


def _symbol_law(case: Case) -> np.ndarray:
    """Return the real law ``[V]`` of the last symbol of a row of one gram."""
    num = round(len(case.shares) ** (1 / (case.setting["order"] + 1)))
    return case.shares.reshape(-1, num).sum(0)


def _predict_diversity(case: Case) -> np.ndarray:
    """Return the diversity of symbols, because the last symbol of every row is one draw from their law."""
    return (1 - (_symbol_law(case) ** 2).sum()) * diversity_ratio(case.policy, case.num_samples, case.num_generations)


def _symbols_alive(case: Case) -> np.ndarray:
    return expected_symbols_alive(case.num_samples, _symbol_law(case), case.num_generations)


def _transitions_alive(case: Case) -> np.ndarray:
    return expected_symbols_alive(case.num_samples, case.shares, case.num_generations)


def diversity_over_first(policy: Mapping[str, Any], draws: int, num_generations: int) -> np.ndarray:
    """Return E[1 - sum p^2] over that of the first fit, order 0; exact (derived here).

    Without context each of a batch's n L symbols is an independent draw from the last fit, although symbols of real
    rows depend on their neighbours. Where a batch joins a pool whose earlier rows only fade, the pool's frequencies are
    a martingale: a batch of weight w among all takes w^2 / (n L) of what is left, whatever the first fit was.
    """
    kept = diversity_ratio(policy, draws, num_generations)
    return kept / kept[0]


def _predict_diversity_ratio(case: Case) -> np.ndarray:
    return diversity_over_first(case.policy, case.num_samples * case.setting["length"], case.num_generations)


UNSMOOTHED = Condition("no smoothing", lambda case: case.setting["smoothing"] == 0)
ONE_GRAM = Condition("rows of order + 1 symbols, drawn by a table", lambda case: case.source is not None)
ORDER_0 = Condition("order 0", lambda case: case.setting["order"] == 0)
_SAME = "derived here: a row is one draw from the law of grams, as in ``discrete``"

TABLE = (
    Prediction(
        "gini_simpson", "markov", ("replace", "accumulate", "fixed_real", "decay"), ("gini_simpson",),
        _predict_diversity,
        _SAME, assumptions=(UNSMOOTHED, ONE_GRAM),
        fair=lambda case: diversity_ratio(case.policy, case.num_samples, case.num_generations) >= 0.05,
    ),
    Prediction(
        "training_symbols_alive", "markov", ("replace",), ("training_symbols_alive",), _symbols_alive, _SAME,
        assumptions=(UNSMOOTHED, ONE_GRAM, FEW), fair=lambda case: _symbols_alive(case) >= 1.05,
    ),
    Prediction(
        "transitions_alive", "markov", ("replace",), ("transitions_alive",), _transitions_alive, _SAME,
        assumptions=(UNSMOOTHED, ONE_GRAM, FEW), fair=lambda case: _transitions_alive(case) >= 1.05,
    ),
    Prediction(
        "gini_simpson over its mean at fit 1", "markov", ("replace", "accumulate", "decay"), ("gini_simpson",),
        _predict_diversity_ratio,
        "derived here (diversity_over_first)", samples=ratio_to_first, assumptions=(UNSMOOTHED, ORDER_0),
        fair=lambda case: _predict_diversity_ratio(case) >= 0.05,
    ),
)  # fmt: skip
