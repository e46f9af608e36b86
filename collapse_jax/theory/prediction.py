"""Predictions of theory, and the facts about an experiment that they may depend on."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import Call, require_unchanged
from collapse_jax.core.validation import plain_scalar
from collapse_jax.types import Curator, Policy, Setting, Source, Symbols


class Case(NamedTuple):
    """The facts about an experiment that predictions may depend on.

    Attributes:
      setting: name and all parameters, as in a config: ``{"kind": "gaussian", "ddof": 0, ...}``.
      policy: name and all parameters of the policy, in the same form.
      num_samples: n.
      num_generations: T.
      source: the real law; None where the setting has none.
      curator: the call of the curator's factory; None where there is none.
    """

    setting: Mapping[str, Any]
    policy: Mapping[str, Any]
    num_samples: int
    num_generations: int
    source: Source | Symbols | None = None
    curator: Any = None

    @property
    def generations(self) -> np.ndarray:
        """Return the generations 1 .. T."""
        return np.arange(1, self.num_generations + 1)

    @property
    def law(self) -> Source:
        """Return the real law of a setting whose rows are in columns."""
        assert isinstance(self.source, Source)
        return self.source

    @property
    def shares(self) -> np.ndarray:
        """Return the real law ``[K]`` of a setting of symbols."""
        assert isinstance(self.source, Symbols)
        return np.asarray(self.source.probabilities, float)

    @property
    def truth(self) -> float:
        """Return the variance of the real law, summed over columns."""
        return float(np.trace(np.asarray(self.law.covariance)))


def make_case(
    setting: Setting, policy: Policy, *, num_samples: int, num_generations: int, curator: Curator | None = None
) -> Case:
    """Return what predictions may depend on, by the recorded calls of parts.

    Raises:
      UsageError: a part was not made by a registered factory, or changed since.
    """
    fitted, kept = (_describe_call(require_unchanged(part)) for part in (setting, policy))
    curated = None if curator is None else _describe_call(require_unchanged(curator))
    return Case(fitted, kept, num_samples, num_generations, setting.info.source, curated)


def _describe_call(call: Call) -> dict[str, Any]:
    return {"kind": call.kind, **{name: _describe(value) for name, value in call.arguments.items()}}


def _describe(value: Any) -> Any:
    """Return a part among arguments as its call, of the kind None where that is not recorded; a plain number."""
    if isinstance(value, Setting | Policy | Curator | Source | Symbols):
        try:
            return _describe_call(require_unchanged(value))
        except UsageError:
            return {"kind": None}
    return plain_scalar(value)


class Condition(NamedTuple):
    """An assumption that can be checked: its description in English, and whether it holds for a case."""

    description: str
    holds: Callable[[Case], bool]


Samples = Callable[[Case, Mapping[str, np.ndarray]], np.ndarray]


class Prediction(NamedTuple):
    """A prediction of a statistic over chains at every generation.

    Attributes:
      quantity: its description; the metric's name where it is a metric.
      setting: name of the setting.
      policies: names of the policies.
      metrics: the metrics that the quantity is computed from.
      values: ``(case) -> [T]``, or ``[2, T]``: the ends of an interval.
      source: arXiv number and equation, or "derived here" (see the docstring of the formula).
      statistic: the statistic over chains.
      samples: ``(case, {metric: [chains, T]}) -> [chains, T]``: computes the quantity; by default it is the one metric.
      assumptions: conditions that must all hold.
      exact: whether the prediction holds exactly for every n and T. Otherwise it is an interval: a bound, or a limit
        with the tolerance that `source` states.
      fair: ``(case) -> [T]``: the generations at which chains can be compared with the prediction, because tails are
        not too heavy and a limit is reached. Default: all.
      in_logs: whether the quantity is a logarithm whose law is nearly symmetric, so that medians over chains lie near
        its mean. This does not hold for a risk of few coefficients: the log of an F(1, m) has a median 0.5 above its
        mean.
      curator: name of the curator; None: there must be none.
    """

    quantity: str
    setting: str
    policies: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Callable[[Case], np.ndarray]
    source: str
    statistic: Literal["mean", "variance"] = "mean"
    samples: Samples | None = None
    assumptions: tuple[Condition, ...] = ()
    exact: bool = True
    fair: Callable[[Case], np.ndarray] | None = None
    in_logs: bool = False
    curator: str | None = None

    def applies(self, case: Case) -> bool:
        """Return whether the prediction holds for `case`."""
        return (
            (None if case.curator is None else case.curator["kind"]) == self.curator
            and case.setting["kind"] == self.setting
            and case.policy["kind"] in self.policies
            and (not isinstance(case.source, Source) or (case.source.independent and case.source.draw_own is None))
            and all(condition.holds(case) for condition in self.assumptions)
        )

    def interval(self, case: Case) -> np.ndarray:
        """Return the ends of the interval ``[2, T]``, which are equal where the prediction is exact."""
        return np.broadcast_to(self.values(case), (2, case.num_generations))

    def is_fair(self, case: Case) -> np.ndarray:
        """Return the generations ``[T]`` at which chains can be compared with the prediction."""
        everywhere = np.ones(case.num_generations, bool)
        return everywhere if self.fair is None else everywhere & self.fair(case)

    def sampled(self, case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the quantity of each chain, ``[chains, T]``."""
        if self.samples is None:
            return metrics[self.metrics[0]]
        return self.samples(case, {name: metrics[name] for name in self.metrics})

    @property
    def reference(self) -> str:
        """Return the source in short: its arXiv numbers, if it names some."""
        return ", ".join(re.findall(r"\d{4}\.\d{4,5}", self.source)) or "derived here"


def ratio_to_first(case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return samples whose mean is the ratio of one metric's mean to its mean at fit 1, with the error of that ratio.

    This is the first order of a ratio of two means that the same chains make (delta method): the contribution of each
    chain.
    """
    (values,) = metrics.values()
    first = values[:, :1]
    ratio = values.mean(0) / first.mean()
    return ratio + (values - ratio * first) / first.mean()
