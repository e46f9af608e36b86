"""Measure how often the 95% intervals of tables, pictures and comparisons hold what they estimate."""

import argparse
from collections.abc import Callable

import numpy as np
import scipy.stats

from collapse_jax.analysis.collapse_times import estimate_survival
from collapse_jax.analysis.comparisons import subtract
from collapse_jax.numerics.confidence_intervals import mean_band, median_interval

SIZES = (2, 3, 4, 6, 10, 20, 100)
LAWS = {
    "normal": scipy.stats.norm(),
    "exponential": scipy.stats.expon(),
    "chi-square, 1 degree": scipy.stats.chi2(1),
}
Intervals = Callable[[scipy.stats.rv_continuous, int, int, np.random.Generator], tuple[np.ndarray, np.ndarray, float]]


def find_medians(law, n, runs, rng):
    """Return the ends of ``median_interval`` in each of `runs` samples of n values, and the median of the law."""
    found = np.array([median_interval(values) for values in law.rvs((runs, n), random_state=rng)])
    return found[:, 1], found[:, 2], law.median()


def find_means(law, n, runs, rng):
    """Return the ends of ``mean_band`` in each sample, and the mean of the law."""
    _, low, high = mean_band(law.rvs((n, runs), random_state=rng))
    return low, high, law.mean()


def find_paired_differences(law, n, runs, rng):
    """Return the ends of ``subtract`` for n pairs that share half of their variance, and their mean difference 1."""
    shared, *own = law.rvs((3, runs, n), random_state=rng)
    found = [subtract(shared[i] + own[0][i] + 1.0, shared[i] + own[1][i]) for i in range(runs)]
    return np.array([cell.low for cell in found]), np.array([cell.high for cell in found]), 1.0


def find_unpaired_differences(law, n, runs, rng):
    """Return the ends of ``subtract`` for two samples of n values, the second twice as wide."""
    first, second = law.rvs((2, runs, n), random_state=rng)
    found = [subtract(first[i], 2 * second[i], paired=False) for i in range(runs)]
    return np.array([cell.low for cell in found]), np.array([cell.high for cell in found]), -law.mean()


def find_survival_times(law, n, runs, rng):
    """Return the ends of ``estimate_survival`` for exp of the values, of which a quarter is censored, and the median.

    The censoring times are those of a run that ends at the law's 75% quantile.
    """
    end, found = law.ppf(0.75), []
    for values in law.rvs((runs, n), random_state=rng):
        survival = estimate_survival(np.exp(np.minimum(values, end)), values < end)
        found.append((survival.low, survival.high))
    low, high = np.array(found).T
    return low, high, np.exp(law.median())


INTERVALS: dict[str, Intervals] = {
    "median": find_medians,
    "mean": find_means,
    "difference in pairs": find_paired_differences,
    "difference of two samples": find_unpaired_differences,
    "median time": find_survival_times,
}


def measure_coverage(find: Intervals, law: scipy.stats.rv_continuous, n: int, runs: int, seed: int = 0) -> float:
    """Return the share of samples whose interval holds the truth; NaN where samples of n values have no interval."""
    low, high, truth = find(law, n, runs, np.random.default_rng(seed))
    return float(((low <= truth) & (truth <= high)).mean()) if not np.isnan(low).all() else np.nan


def main() -> None:
    """Print a table: a row an interval and a law, a column a number of chains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000, help="samples for each cell")
    runs = parser.parse_args().runs
    print("| interval | law | " + " | ".join(map(str, SIZES)) + " |")
    print("|---" * (2 + len(SIZES)) + "|")
    for name, find in INTERVALS.items():
        for law_name, law in LAWS.items():
            cells = [measure_coverage(find, law, n, runs) for n in SIZES]
            shown = ["-" if np.isnan(cell) else f"{100 * cell:.1f}" for cell in cells]
            print(f"| {name} | {law_name} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
