"""List the cases of a benchmark: pairs of settings and policies at typical sizes."""

from collections.abc import Callable
from typing import NamedTuple

from collapse_jax import data, policies, settings
from collapse_jax.core import registry
from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import require_choice
from collapse_jax.data import symbols
from collapse_jax.types import Policy, Setting


class BenchCase(NamedTuple):
    """A setting and a policy at one size.

    Attributes:
      setting: the name of the setting.
      make: makes the setting at a size.
      policy: which data are kept.
      size: the size of the setting.
      num_samples: n, the rows of a batch.
      num_generations: the horizon T.
      metrics: the metrics that are observed; () for all.
      backend: the backend, as in ``sweep``.
      letter: the letter of `size`: d, K (symbols), k (components) or w (width); "" where sizes are fixed.
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
        """Return a name that no other case has."""
        size = f" {self.letter}={self.size}" if self.letter else ""
        rows = " rows" if self.backend == "rows" else ""
        return f"{self.setting}{size} {self.policy.name} n={self.num_samples}{rows}"


_PAPER_POLICIES = (policies.replace(), policies.accumulate(), policies.accumulate_subsample())
_MOMENTS = ("squared_error_of_mean", "trace_ratio", "log_det_ratio")


def _gaussian(policy: Policy, dim: int, num: int, backend: str = "auto") -> BenchCase:
    return BenchCase("gaussian", settings.gaussian, policy, dim, num, metrics=_MOMENTS, backend=backend)


def _kde(policy: Policy, num: int = 1000) -> BenchCase:
    return BenchCase(
        "kde", lambda dim: settings.kde(0.1, source=data.normal(dim)), policy, 2, num, num_generations=20,
        metrics=("test_nll",),
    )  # fmt: skip


def _discrete(policy: Policy) -> BenchCase:
    return BenchCase(
        "discrete", lambda num: settings.discrete(symbols.uniform(num)), policy, 10, 1000, metrics=("entropy",),
        letter="K",
    )  # fmt: skip


def _regression(policy: Policy) -> BenchCase:
    return BenchCase("linear_regression", settings.linear_regression, policy, 10, 1000, metrics=("excess_mse",))


def list_closed_forms() -> tuple[BenchCase, ...]:
    """Return every setting in closed form under replace, and four under the three policies of arXiv 2410.16713."""
    replace = policies.replace()

    def mixture(k: int) -> Setting:
        return settings.gaussian_mixture(k, 20, source=data.blobs(num_centers=8))

    return (
        _gaussian(replace, 1, 100),
        _kde(replace),
        *(_gaussian(policy, 10, 1000) for policy in _PAPER_POLICIES),
        _gaussian(replace, 10, 1000, "rows"),
        _gaussian(replace, 100, 1000),
        *(_kde(policy) for policy in _PAPER_POLICIES[1:]),
        *map(_discrete, _PAPER_POLICIES),
        *map(_regression, _PAPER_POLICIES),
        BenchCase("poisson", lambda _: settings.poisson(10.0), replace, 0, 1000, metrics=("reverse_kl",), letter=""),
        BenchCase("bernoulli", lambda _: settings.bernoulli(0.5), replace, 0, 1000, metrics=("reverse_kl",), letter=""),
        BenchCase("logistic_regression", settings.logistic_regression, replace, 5, 200, 20, ("forward_kl",)),
        BenchCase("gaussian_mixture", mixture, replace, 8, 500, 10, ("test_nll",), letter="k"),
        BenchCase("ideal_diffusion", lambda _: settings.ideal_diffusion(), replace, 0, 200, 20, letter=""),
        BenchCase("markov", lambda _: settings.markov(), replace, 0, 100, 20, ("entropy_rate",), letter=""),
    )


def list_networks() -> tuple[BenchCase, ...]:
    """Return small networks, trained for a hundred steps a generation."""

    def flow(width: int) -> Setting:
        return settings.flow_matching(width=width, steps=100)

    def points(width: int) -> Setting:
        return settings.diffusion(width=width, steps=100)

    def text(width: int) -> Setting:
        return settings.language_model(width=width, steps=100, num_test=64)

    replace = policies.replace()
    return (
        BenchCase("flow_matching", flow, replace, 64, 500, 2, ("test_loss",), letter="w"),
        BenchCase("diffusion", points, replace, 64, 500, 2, ("test_loss",), letter="w"),
        BenchCase("flow_matching", flow, policies.accumulate(), 64, 500, 2, ("test_loss",), letter="w"),
        BenchCase("language_model", text, replace, 64, 256, 2, ("test_nll_per_symbol",), letter="w"),
    )


def list_policies() -> tuple[BenchCase, ...]:
    """Return every policy on the cheapest setting that draws rows, which shows what pools cost."""
    return tuple(_gaussian(factory(), 1, 100, "rows") for factory in registry.factories("policy").values())


SUITES: dict[str, Callable[[], tuple[BenchCase, ...]]] = {
    "core": list_closed_forms,
    "nets": list_networks,
    "engine": list_policies,
}


def select_cases(name: str, quick: bool = False, only: str = "") -> tuple[BenchCase, ...]:
    """Return the cases of a suite whose names hold the text `only`; `quick` returns the first two of them.

    Raises:
      UsageError: there is no such suite, or no such case.
    """
    require_choice("suite", name, tuple(SUITES))
    cases = [case for case in SUITES[name]() if only in case.name]
    if not cases:
        raise UsageError(f"only: no case of suite {name} has {only!r} in its name")
    return tuple(cases[:2] if quick else cases)
