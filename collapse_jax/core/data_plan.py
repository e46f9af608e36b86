"""Which forms of the data a setting and a policy need: rows, statistics, or the law of statistics."""

from typing import NamedTuple

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import require_choice
from collapse_jax.types import Curator, Policy, Setting

BACKENDS = ("auto", "rows", "law")


FOLDS = ("auto", "blocks")


class DataPlan(NamedTuple):
    """Which forms of the data a pair of setting and policy needs; all static."""

    law: bool  # statistics are drawn from their law
    fold: bool  # fits see statistics, rows are not kept
    summarise: bool  # evaluations are made at birth and merged
    shared: bool  # batches differ in their labels alone, and statistics of these are kept


def plan_data(
    setting: Setting, policy: Policy, curator: Curator | None = None, backend: str = "auto", fold: str = "auto"
) -> DataPlan:
    """The cheapest forms that `setting` and `policy` allow.

    Raises:
      UsageError: the law of the statistics is asked for, and rows are needed or no law is known.
    """
    require_choice("backend", backend, BACKENDS)
    require_choice("fold", fold, FOLDS)
    statistics = setting.sample_compressed is not None and policy.redraw is None and curator is None
    folds = statistics and fold == "auto"
    shared = folds and setting.inputs is not None and policy.real is None and not policy.sizes
    lawful = shared if setting.relabel is not None else folds
    if backend == "law" and not lawful:
        why = (
            f"setting {setting.name} knows no law of its statistics"
            if setting.sample_compressed is None
            else f"policy {policy.name} draws rows from its pool"
            if policy.redraw
            else f"policy {policy.name} needs other rows than the first, which setting {setting.name} relabels"
            if folds
            else "rows are curated or kept"
        )
        raise UsageError(f"backend 'law' is not possible here: {why}; use 'auto' or 'rows'")
    return DataPlan(
        law=lawful and backend != "rows",
        fold=folds,
        summarise=setting.summarise is not None and policy.redraw is None and not folds,
        shared=shared,
    )
