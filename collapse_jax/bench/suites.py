"""What is measured: pairs of settings and policies at typical sizes."""

from collections.abc import Callable
from typing import NamedTuple

from collapse_jax import data, policies, settings
from collapse_jax.core import registry
from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import require_choice
from collapse_jax.data import symbols
from collapse_jax.types import Policy, Setting


class Case(NamedTuple):
    """A setting and a policy at one size.

    Attributes:
      setting: name of the setting.
      make: the setting at a size.
      policy: which data are kept.
      size: of the setting.
      num_samples: n.
      num_generations: T.
      metrics: those that are observed; () for all.
      backend: as in ``sweep``.
      letter: what `size` is called: d, K (symbols), k (components) or w (width); none where sizes are fixed.
    """

    setting: str
    make: Callable[[int], Setting]
    policy: Policy
    size: int
    num_samples: int
    num_generations: int = 50
    metrics: tuple[str, ...] = ()
    backend: str = "auto"
    letter: str = "d"

    @property
    def name(self) -> str:
        """Tells the case from others."""
        size = f" {self.letter}={self.size}" if self.letter else ""
        rows = " rows" if self.backend == "rows" else ""
        return f"{self.setting}{size} {self.policy.name} n={self.num_samples}{rows}"


_THREE = (policies.replace(), policies.accumulate(), policies.accumulate_subsample())
_MOMENTS = ("squared_error_of_mean", "trace_ratio", "log_det_ratio")


def _gaussian(policy: Policy, dim: int, num: int, backend: str = "auto") -> Case:
    return Case("gaussian", settings.gaussian, policy, dim, num, metrics=_MOMENTS, backend=backend)


def _kde(policy: Policy, num: int = 1000) -> Case:
    make = lambda dim: settings.kde(0.1, source=data.normal(dim))  # noqa: E731
    return Case("kde", make, policy, 2, num, num_generations=20, metrics=("test_nll",))


def _discrete(policy: Policy) -> Case:
    make = lambda num: settings.discrete(symbols.uniform(num))  # noqa: E731
    return Case("discrete", make, policy, 10, 1000, metrics=("entropy",), letter="K")


def _regression(policy: Policy) -> Case:
    return Case("linear_regression", settings.linear_regression, policy, 10, 1000, metrics=("excess_risk",))


def core() -> tuple[Case, ...]:
    """Every setting in closed form under replace, and four of them under the three policies of arXiv 2410.16713."""
    replace, mixture = policies.replace(), lambda k: settings.gaussian_mixture(k, 20, source=data.blobs(num_centers=8))
    return (
        _gaussian(replace, 1, 100),
        _kde(replace),
        *(_gaussian(policy, 10, 1000) for policy in _THREE),
        _gaussian(replace, 10, 1000, "rows"),
        _gaussian(replace, 100, 1000),
        *(_kde(policy) for policy in _THREE[1:]),
        *map(_discrete, _THREE),
        *map(_regression, _THREE),
        Case("poisson", lambda _: settings.poisson(10.0), replace, 0, 1000, metrics=("divergence",), letter=""),
        Case("bernoulli", lambda _: settings.bernoulli(0.5), replace, 0, 1000, metrics=("divergence",), letter=""),
        Case("logistic_regression", settings.logistic_regression, replace, 5, 200, 20, ("excess_risk",)),
        Case("gaussian_mixture", mixture, replace, 8, 500, 10, ("test_nll",), letter="k"),
        Case("ideal_diffusion", lambda _: settings.ideal_diffusion(), replace, 0, 200, 20, letter=""),
        Case("markov", lambda _: settings.markov(), replace, 0, 100, 20, ("entropy_rate",), letter=""),
    )


def nets() -> tuple[Case, ...]:
    """Small networks, trained for a hundred steps a generation."""
    flow = lambda width: settings.flow_matching(width=width, steps=100)  # noqa: E731
    points = lambda width: settings.diffusion(width=width, steps=100)  # noqa: E731
    text = lambda width: settings.language_model(width=width, steps=100, num_test=64)  # noqa: E731
    replace = policies.replace()
    return (
        Case("flow_matching", flow, replace, 64, 500, 2, ("test_loss",), letter="w"),
        Case("diffusion", points, replace, 64, 500, 2, ("test_loss",), letter="w"),
        Case("flow_matching", flow, policies.accumulate(), 64, 500, 2, ("test_loss",), letter="w"),
        Case("language_model", text, replace, 64, 256, 2, ("test_loss",), letter="w"),
    )


def engine() -> tuple[Case, ...]:
    """Every policy, on the cheapest setting that draws rows: what pools cost."""
    made = {name: factory() for name, factory in registry.factories("policy").items()}
    return tuple(_gaussian(policy, 1, 100, "rows") for policy in made.values())


SUITES: dict[str, Callable[[], tuple[Case, ...]]] = {"core": core, "nets": nets, "engine": engine}


def suite(name: str, quick: bool = False, only: str = "") -> tuple[Case, ...]:
    """The cases of a suite; `quick` takes the first two, `only` those whose names hold it.

    Raises:
      UsageError: no such suite, or no such case.
    """
    require_choice("suite", name, tuple(SUITES))
    cases = [case for case in SUITES[name]() if only in case.name]
    if not cases:
        raise UsageError(f"only: no case of suite {name} has {only!r} in its name")
    return tuple(cases[:2] if quick else cases)
