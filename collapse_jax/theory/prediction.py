"""What a prediction is, and what it may depend on."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from collapse_jax.types import Source, Symbols


class Case(NamedTuple):
    """What predictions may depend on.

    Attributes:
      setting: name and all parameters, as in a config: ``{"kind": "gaussian", "ddof": 0, ...}``.
      policy: the same of the policy.
      num_samples: n.
      num_generations: T.
      source: the real law; None where the setting has none.
      curator: name and parameters, as in a config; None where there is none.
    """

    setting: Mapping[str, Any]
    policy: Mapping[str, Any]
    num_samples: int
    num_generations: int
    source: Source | Symbols | None = None
    curator: Any = None

    @property
    def generations(self) -> np.ndarray:
        """1 .. T."""
        return np.arange(1, self.num_generations + 1)

    @property
    def law(self) -> Source:
        """The real law of a setting whose rows are in columns."""
        assert isinstance(self.source, Source)
        return self.source

    @property
    def shares(self) -> np.ndarray:
        """``[K]``, the real law of a setting of symbols."""
        assert isinstance(self.source, Symbols)
        return np.asarray(self.source.probabilities, float)

    @property
    def truth(self) -> float:
        """Variance of the real law, summed over columns."""
        return float(np.trace(np.asarray(self.law.covariance)))


class Condition(NamedTuple):
    """An assumption that can be checked: in words, and as a function of the case."""

    description: str
    holds: Callable[[Case], bool]


Samples = Callable[[Case, Mapping[str, np.ndarray]], np.ndarray]


class Prediction(NamedTuple):
    """What a statistic over chains is, at every generation.

    Attributes:
      quantity: in words; the metric's name where it is a metric.
      setting: name of the setting.
      policies: names of the policies.
      metrics: those that the quantity is computed from.
      values: ``(case) -> [T]``, or ``[2, T]``: the ends of an interval.
      source: arXiv number and equation, or "derived here" (see the docstring of the formula).
      statistic: over chains.
      samples: ``(case, {metric: [chains, T]}) -> [chains, T]``: the quantity; default: the one metric.
      assumptions: all must hold.
      exact: for every n and T. Otherwise an interval: a bound, or a limit with the tolerance that `source` states.
      fair: ``(case) -> [T]``: generations whose statistic over chains can be compared at all: tails are not too heavy,
        and a limit is reached. Default: all.
      in_logs: the quantity is a logarithm whose law is all but symmetric, so that medians over chains lie where its
        mean does. Not that of a risk of few coefficients: the log of an F(1, m) has a median 0.5 above its mean.
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
        """Whether this is said of `case`."""
        several = isinstance(case.curator, list)
        return (
            (None if case.curator is None else "several" if several else case.curator["kind"]) == self.curator
            and case.setting["kind"] == self.setting
            and case.policy["kind"] in self.policies
            and all(condition.holds(case) for condition in self.assumptions)
        )

    def interval(self, case: Case) -> np.ndarray:
        """``[2, T]``: the ends of the interval, which are equal where the prediction is exact."""
        return np.broadcast_to(self.values(case), (2, case.num_generations))

    def is_fair(self, case: Case) -> np.ndarray:
        """``[T]``: where chains can be held to it."""
        everywhere = np.ones(case.num_generations, bool)
        return everywhere if self.fair is None else everywhere & self.fair(case)

    def sampled(self, case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """The quantity of each chain, ``[chains, T]``."""
        if self.samples is None:
            return metrics[self.metrics[0]]
        return self.samples(case, {name: metrics[name] for name in self.metrics})

    @property
    def reference(self) -> str:
        """The source in short: arXiv numbers, where it names some."""
        return ", ".join(re.findall(r"\d{4}\.\d{4,5}", self.source)) or "derived here"


def ratio_to_first(case: Case, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of one metric: samples whose mean is the ratio of its mean to that at fit 1, and whose error is that ratio's.

    The first order of a ratio of two means that the same chains make (delta method): what a chain adds to it.
    """
    (values,) = metrics.values()
    first = values[:, :1]
    ratio = values.mean(0) / first.mean()
    return ratio + (values - ratio * first) / first.mean()
