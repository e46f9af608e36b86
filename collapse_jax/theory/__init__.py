"""Predictions of statistics over chains, by setting and policy.

``find_predictions(case)`` returns the predictions whose assumptions one experiment meets; ``collapse-jax verify``
compares chains with all of them. The table names settings and policies as the registries do. Each formula can also be
called by itself.
"""

from collapse_jax.theory import diffusion, discrete, ecosystem, gaussian, kde, markov, mixture, regression, selection
from collapse_jax.theory.moment_recursions import FitMoments, VarianceMap, fit_moments
from collapse_jax.theory.prediction import Case, Condition, Prediction, make_case

TABLE: tuple[Prediction, ...] = (
    *gaussian.TABLE, *kde.TABLE, *discrete.TABLE, *regression.TABLE, *diffusion.TABLE,
    *mixture.TABLE, *markov.TABLE, *selection.TABLE, *ecosystem.TABLE,
)  # fmt: skip


def find_predictions(case: Case) -> list[Prediction]:
    """Return the predictions whose assumptions `case` meets, exact ones first."""
    return sorted((p for p in TABLE if p.applies(case)), key=lambda p: not p.exact)


__all__ = [
    "TABLE",
    "Case",
    "Condition",
    "FitMoments",
    "Prediction",
    "VarianceMap",
    "find_predictions",
    "fit_moments",
    "make_case",
]
