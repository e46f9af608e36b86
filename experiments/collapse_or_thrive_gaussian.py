"""Multivariate Gaussians under three workflows, as in arXiv 2410.16713: replace collapses, the others do not.

``python experiments/collapse_or_thrive_gaussian.py [--chains 100] [--out results/collapse_or_thrive_gaussian.png]``

The published grid has d in 1, 3, 10, 31, 100 and n in 10, 32, 100, 316, 1000, 100 seeds, T = 100; here d = 3 and three
values of n. About 30 s on two CPU cores. Prints the published statement beside what came out.
"""

import argparse
from pathlib import Path

import collapse_jax as cj
from collapse_jax import plots, policies, settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("results/collapse_or_thrive_gaussian.png"))
    arguments = parser.parse_args()
    runs = cj.sweep(
        settings.gaussian(3),
        [policies.replace(), policies.accumulate(), policies.accumulate_subsample()],
        axes={"num_samples": [10, 32, 100]},
        num_generations=100,
        num_chains=arguments.chains,
        metrics=("squared_error_of_mean", "trace_ratio", "log_det_ratio"),
    )
    kept = runs.trace_ratio.isel(generation=-1).median("chain")
    print(kept.to_series().unstack().to_string())
    collapsed = kept < 0.5
    verdict = bool(collapsed.sel(policy="replace", num_samples=10)) and not bool(
        collapsed.sel(policy=["accumulate", "accumulate_subsample"], num_samples=[32, 100]).any()
    )
    print("replace loses its variance, the others keep theirs (n >= 32):", "agrees" if verdict else "differs")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    plots.plot(runs, arguments.out)
    print(f"picture: {arguments.out}")


if __name__ == "__main__":
    main()
