"""Which forms of the data a setting and a policy need: rows, statistics, or the law of statistics."""

from typing import NamedTuple

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import require_choice
from collapse_jax.types import Curator, Policy, Setting

BACKENDS = ("auto", "rows", "law")
FOLDS = ("auto", "blocks")


class DataPlan(NamedTuple):
    """The forms of the data that a pair of setting and policy needs; all static."""

    law: bool  # statistics are drawn from their law
    fold: bool  # fits see statistics, rows are not kept
    summarize: bool  # evaluations are made at birth and merged
    shared: bool  # batches differ in their labels alone, and statistics of these are kept


def plan_data(
    setting: Setting, policy: Policy, curator: Curator | None = None, backend: str = "auto", fold: str = "auto"
) -> DataPlan:
    """Return the cheapest forms that `setting` and `policy` allow.

    Raises:
      UsageError: the law of the statistics is asked for, and rows are needed or no law is known.
    """
    require_choice("backend", backend, BACKENDS)
    require_choice("fold", fold, FOLDS)
    folds = setting.statistics is not None and policy.resample is None and curator is None and fold == "auto"
    of_labels = None if setting.label_only is None else setting.label_only.statistics
    shared = folds and of_labels is not None and policy.real is None and not policy.sizes
    has_law = folds if setting.label_only is None else shared
    if backend == "law" and not has_law:
        raise UsageError(
            f"backend 'law' is not possible here: {_why_no_law(setting, policy, folds)}; use 'auto' or 'rows'"
        )
    return DataPlan(
        law=has_law and backend != "rows",
        fold=folds,
        summarize=setting.extras.summarize is not None and policy.resample is None and not folds,
        shared=shared,
    )


def _why_no_law(setting: Setting, policy: Policy, folds: bool) -> str:
    """Return why rows must be drawn."""
    if setting.statistics is None:
        return f"setting {setting.name} knows no law of its statistics"
    if policy.resample is not None:
        return f"policy {policy.name} draws rows from its pool"
    if folds:
        return f"policy {policy.name} needs other rows than the first, which setting {setting.name} relabels"
    return "rows are curated or kept"
