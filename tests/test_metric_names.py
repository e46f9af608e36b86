"""Names of metrics: one name has one meaning in all settings, and one meaning has one name."""

from collections import defaultdict
from typing import Any

import pytest
from laws import SETTINGS

from collapse_jax.types import Metric

# What one name may mean in several settings: the same number, got in another way.
VARIANTS = {
    "copied_from_real": ("rows that metrics look at, or a few new ones where only counts are kept", 2),
    "gini_simpson": ("of a fit that is the frequencies of symbols, or of the symbols in context", 2),
    "hallucinated_mass": ("of the fit where it is known, else of generated rows", 2),
    "test_loss": ("what the training minimizes, which differs from objective to objective", 2),
    "test_nll": ("of rows, or of labels given their inputs", 2),
    "test_nll_per_symbol": ("of held-out rows, or of the law itself where it is a table", 2),
    "reverse_kl": ("by its formula, or by nearest neighbours of generated rows", 2),
    "forward_kl": ("of rows, or of labels given their inputs", 2),
    "forward_kl_per_symbol": ("by its formula, or its mean over held-out rows", 2),
    "trace_ratio": ("of the fit where it is known, else of generated rows", 2),
}
# A loss has the units of its objective.
UNITS = {"test_loss": {"1", "data units^2"}}
# What is added to a name and to its long name alike.
DERIVED = (("", ", mean over models"), ("_by_model", ", by model"), ("_together", ", of all models' rows"))


def plain(metric: Metric) -> tuple[str, str]:
    """The name and the long name of a metric without what an ecosystem adds to both."""
    name, words = metric.name, metric.long_name
    for suffix, added in DERIVED:
        if words.endswith(added) and name.endswith(suffix):
            name, words = name.removesuffix(suffix), words.removesuffix(added)
            break
    return name, words


@pytest.fixture(scope="module")
def metrics() -> list[Metric]:
    return [metric for make in SETTINGS.values() for metric in make().metrics]


def test_one_name_has_one_meaning(metrics):
    meanings: dict[str, set] = defaultdict(set)
    attributes: dict[str, dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
    for metric in metrics:
        name, words = plain(metric)
        meanings[name].add(words)
        for field in ("units", "scale"):
            attributes[name][field].add(getattr(metric, field))
        attributes[metric.name]["role"].add(metric.role)
    for name, words in meanings.items():
        assert len(words) == VARIANTS.get(name, ("", 1))[1], (name, words)
    for name, found in attributes.items():
        for field, values in found.items():
            assert len(values) == 1 or values == UNITS.get(name), (name, field, values)
    assert set(VARIANTS) <= set(meanings)


def test_one_meaning_has_one_name(metrics):
    names: dict[tuple[str, str], set] = defaultdict(set)
    for metric in metrics:
        name, words = plain(metric)
        names[words, metric.units].add(name)
    for (words, units), found in names.items():
        assert len(found) == 1, (words, units, found)


def test_a_name_is_no_role(metrics):
    """But for what is a definition itself: a risk has the name of what it measures."""
    assert not {m.name for m in metrics} & {"risk", "excess_risk", "log_variance", "loss", "error", "divergence", "kl"}
