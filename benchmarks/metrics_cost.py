"""Measure what default metrics cost beside the chain: ``python benchmarks/metrics_cost.py [--only NAME] [--each]``.

Each line is a setting under a policy: microseconds a chain-generation with one cheap metric alone, and with the default
ones, in turn, medians of the rounds, as a markdown table. ``--each`` times each default metric alone, too, and prints
the dearest ones. Loops run as ``run`` runs them; compiling is left out.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from collapse_jax import data, policies, settings
from collapse_jax.bench.measure import prepare_case
from collapse_jax.bench.suites import BenchCase
from collapse_jax.core import registry
from collapse_jax.data import symbols
from collapse_jax.types import Policy, Setting

SECONDS = 0.15  # that a round of a case should take
REPLACE, ACCUMULATE = policies.replace(), policies.accumulate()


class Job(NamedTuple):
    """A setting under a policy, and the metric of it that costs least."""

    name: str
    make: Callable[[], Setting]
    num_samples: int
    metric: str
    num_generations: int = 50
    policy: Policy = REPLACE

    def timed(self, metrics: tuple[str, ...]) -> Callable[[], float]:
        """Compile the chain with these metrics, () for the default ones; each call gives its microseconds."""
        case = BenchCase(
            self.name, lambda _: self.make(), self.policy, 0, self.num_samples, self.num_generations, metrics
        )
        prepared = prepare_case(case, SECONDS)
        return lambda: 1e6 * prepared.time_run() / len(prepared.keys) / self.num_generations


def gaussian(dim: int, policy: Policy) -> Job:
    """Return the Gaussian of so many columns, n = 1,000."""
    name = f"gaussian d={dim} {policy.name} n=1000"
    return Job(name, lambda: settings.gaussian(dim), 1000, "squared_error_of_mean", policy=policy)


NETWORK = {"width": 32, "steps": 100}
JOBS = (
    *(gaussian(dim, policy) for policy in (REPLACE, ACCUMULATE) for dim in (1, 3, 10, 31, 100)),
    Job("discrete K=10 n=1000", lambda: settings.discrete(symbols.uniform(10)), 1000, "gini_simpson"),
    Job("poisson n=1000", lambda: settings.poisson(10.0), 1000, "log_rate_ratio"),
    Job("bernoulli n=1000", lambda: settings.bernoulli(0.5), 1000, "log_probability_ratio"),
    Job("kde d=2 n=1000", lambda: settings.kde(0.1, source=data.normal(2)), 1000, "training_variance", 20),
    Job("linear_regression d=10 n=1000", lambda: settings.linear_regression(10), 1000, "excess_mse"),
    Job("logistic_regression d=5 n=200", lambda: settings.logistic_regression(5), 200,
        "squared_error_of_coefficients", 20),
    Job("gaussian_mixture k=8 n=500", lambda: settings.gaussian_mixture(8, 20, source=data.blobs(num_centers=8)), 500,
        "squared_error_of_mean", 10),
    Job("ideal_diffusion n=200", settings.ideal_diffusion, 200, "fitted_variance", 20),
    Job("markov n=100", settings.markov, 100, "gini_simpson", 20),
    Job("ecosystem of 2 gaussians d=10 n=1000", lambda: settings.ecosystem(settings.gaussian(10)), 1000,
        "squared_error_of_mean"),
    Job("flow_matching w=32 n=200", lambda: settings.flow_matching(**NETWORK), 200, "test_loss", 2),
    Job("diffusion w=32 n=200", lambda: settings.diffusion(**NETWORK), 200, "test_loss", 2),
    Job("vae w=32 n=200", lambda: settings.vae(**NETWORK), 200, "test_negative_elbo", 2),
    Job("language_model w=32 n=64", lambda: settings.language_model(**NETWORK, num_test=64), 64,
        "test_nll_per_symbol", 2),
    Job("self_supervised w=32 n=200", lambda: settings.self_supervised(
        settings.diffusion(data.digits(labels=True), **NETWORK), width=32, steps=100), 200, "pretext_loss", 2),
)  # fmt: skip


def print_line(job: Job, rounds: int, each: bool) -> None:
    """Print the line of a job and, where it is asked for, its dearest metrics."""
    names = [metric.name for metric in job.make().metrics if metric.default] if each else []
    runs = [job.timed(metrics) for metrics in ((job.metric,), (), *((name,) for name in names))]
    times = np.array([[run() for run in runs] for _ in range(rounds)])
    alone, defaults, *others = np.median(times, axis=0)
    ratio = np.median(times[:, 1] / times[:, 0])
    print(f"| {job.name} | {job.metric} | {alone:.4g} | {defaults:.4g} | {ratio:.2f} |", flush=True)
    dearest = sorted(zip(others, names, strict=True), reverse=True)[:5]
    if dearest:
        print("    " + ", ".join(f"{name} {microseconds:.4g}" for microseconds, name in dearest), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="jobs whose name holds this")
    parser.add_argument("--each", action="store_true", help="time each metric alone, too")
    arguments = parser.parse_args()
    missing = [name for name in registry.factories("setting") if not any(job.name.startswith(name) for job in JOBS)]
    if missing:
        print(f"These settings have no job: {', '.join(missing)}")
    print("| setting, policy | cheap metric | it alone, us | defaults, us | ratio |\n|---|---|---|---|---|")
    for job in JOBS:
        if arguments.only in job.name:
            print_line(job, arguments.rounds, arguments.each)


if __name__ == "__main__":
    main()
