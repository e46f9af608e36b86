"""What a kernel density estimate under Scott's rule costs when all rows are kept, evaluated anew or at their birth.

``python benchmarks/bandwidths.py [--rounds 3]`` runs both in turn, in the published shape (moons, 500 held-out rows),
and extrapolates to the published sweep: 100 chains of 1,000 generations, four shapes, two rules, n = 10 to 1,000.
"""

import argparse
from typing import Any

import numpy as np

import collapse_jax as cj
from collapse_jax import data, policies, settings

CHAINS, GENERATIONS, SAMPLES = 800, 1000, (10, 32, 100, 316, 1000)  # of the published sweep


def run(n: int, generations: int, chains: int, pool_rows: tuple[int, int] | None) -> Any:
    setting = settings.kde("scott", source=data.moons(), pool_rows=pool_rows)
    metrics = ("test_nll",) if pool_rows is None else ("test_nll", "certified_error")
    sizes = {"num_samples": n, "num_generations": generations, "num_chains": chains}
    return cj.run(setting, policies.accumulate(), **sizes, metrics=metrics)


def microseconds(runs: Any) -> float:
    """Return the microseconds that a chain-generation takes."""
    return runs.attrs["seconds_run"] / runs.sizes["chain"] / runs.sizes["generation"] * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chains", type=int, default=64)
    arguments = parser.parse_args()
    print("| n | T | anew, us | at birth, us | anew, ns a kernel | largest certificate | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for n, generations in ((100, 20), (100, 80), (1000, 20)):
        anew, birth = [], []
        for _ in range(arguments.rounds):
            slow = run(n, generations, arguments.chains, None)
            fast = run(n, generations, arguments.chains, (n, n * GENERATIONS))
            anew.append(microseconds(slow))
            birth.append(microseconds(fast))
        kernel = 1e3 * np.median(anew) / n / generations / 500
        error, gap = float(fast.certified_error.max()), float(abs(fast.test_nll - slow.test_nll).max())
        figures = f"{np.median(anew):.0f} | {np.median(birth):.0f} | {kernel:.2f} | {error:.1e} | {gap:.1e}"
        print(f"| {n} | {generations} | {figures} |", flush=True)
    rows = CHAINS * GENERATIONS * sum(SAMPLES)
    there, places = rows * 500 * GENERATIONS / 2, rows * 500 * GENERATIONS
    print(f"\nThe sweep has {there:.1e} kernels of rows that are there; anew, all places of the pool are evaluated.")
    print(f"Anew {places * kernel / 3.6e12:.0f} h, at birth {rows * np.median(birth) / n / 3.6e9:.1f} h.")


if __name__ == "__main__":
    main()
