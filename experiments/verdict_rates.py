"""Measure how often curves of known kinds are judged to diverge, level off, or still rise at the end of a run."""

import argparse
from collections import Counter

import numpy as np
import xarray as xr

from collapse_jax.analysis.verdicts import score

CHAINS = 20
KINDS = ("two exponentials", "two hyperbolas", "sum of 1/k^2", "t", "t^0.5", "log t")


def draw_curve(rng: np.random.Generator, kind: str, num_generations: int) -> np.ndarray:
    """Return a mean curve ``[generation]``; the scales of plateaus are drawn from T/10 to 3 T, their heights too."""
    t = np.arange(1.0, num_generations + 1)
    height = np.exp(rng.uniform(np.log(0.3), np.log(30)))
    first, second = (t / np.exp(rng.uniform(np.log(t[-1] / 10), np.log(3 * t[-1]))) for _ in range(2))
    share = rng.random()
    curves = {
        "two exponentials": 1 + height * (share * (1 - np.exp(-first)) + (1 - share) * (1 - np.exp(-second))),
        "two hyperbolas": 1 + height * (share * first / (1 + first) + (1 - share) * second / (1 + second)),
        "sum of 1/k^2": np.cumsum(1 / t**2),
        "t": t,
        "t^0.5": np.sqrt(t),
        "log t": 1 + height * np.log(t),
    }
    return curves[kind]


def draw_chains(rng: np.random.Generator, curve: np.ndarray) -> np.ndarray:
    """Return ``[chain, generation]``: the curve times exp(0.3 z) of each chain and exp(0.05 z) of each generation."""
    chain, generation = rng.normal(size=(CHAINS, 1)), rng.normal(size=(CHAINS, len(curve)))
    return curve * np.exp(0.3 * chain + 0.05 * generation)


def judge_curves(kind: str, num_generations: int, num_draws: int, seed: int = 0) -> Counter:
    """Return how many of the drawn curves of a kind get each verdict on a diverging risk."""
    rng, verdicts = np.random.default_rng(seed), Counter()
    for _ in range(num_draws):
        values = draw_chains(rng, draw_curve(rng, kind, num_generations))
        ds = xr.Dataset(
            {"risk": (("chain", "generation"), values, {"role": "risk"})},
            {"generation": np.arange(1, num_generations + 1)},
        )
        verdicts[score(ds)["verdict"].sel(definition="diverging_risk").item()] += 1
    return verdicts


def main() -> None:
    """Print a table: a row a kind of curve, a column a number of generations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500, help="curves of each kind and length")
    parser.add_argument("--generations", type=int, nargs="+", default=[8, 16, 30, 50, 100])
    arguments = parser.parse_args()
    print("| curve | " + " | ".join(f"T = {number}" for number in arguments.generations) + " |")
    print("|---" * (1 + len(arguments.generations)) + "|")
    for kind in KINDS:
        cells = []
        for number in arguments.generations:
            verdicts = judge_curves(kind, number, arguments.draws)
            cells.append(
                " / ".join(f"{100 * verdicts[v] / arguments.draws:.0f}" for v in ("yes", "still rising", "no"))
            )
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
