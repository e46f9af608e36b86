"""Predictions by (setting, policy): what theory says a statistic over chains is, and when.

``predictions(case)`` are those that hold for one experiment; ``collapse-jax verify`` holds chains to all of them. The
table speaks of settings and policies by their registered names. The formulas can be called by themselves, too.
"""

from collapse_jax.theory import diffusion, discrete, ecosystem, gaussian, kde, markov, mixture, regression, selection
from collapse_jax.theory.moment_recursions import Fits, Spread, fits
from collapse_jax.theory.prediction import Case, Condition, Prediction

TABLE: tuple[Prediction, ...] = (
    *gaussian.TABLE, *kde.TABLE, *discrete.TABLE, *regression.TABLE, *diffusion.TABLE,
    *mixture.TABLE, *markov.TABLE, *selection.TABLE, *ecosystem.TABLE,
)  # fmt: skip


def predictions(case: Case) -> list[Prediction]:
    """Those of the table whose assumptions hold for `case`, exact ones first."""
    return sorted((p for p in TABLE if p.applies(case)), key=lambda p: not p.exact)


__all__ = ["TABLE", "Case", "Condition", "Fits", "Prediction", "Spread", "fits", "predictions"]
