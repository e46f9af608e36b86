"""Time what a user waits for after the first call: a second run, a loop over numbers, and few chains.

Run it on two commits to compare them: it needs ``cj.run`` and ``cj.sweep`` alone.

    python benchmarks/warm.py [--rounds 7]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import collapse_jax as cj
from collapse_jax import policies, settings

SECOND_RUNS = {
    "Gaussian, n = 100, T = 50, 100 chains": (lambda x: settings.gaussian(temperature=x), 100, 50, 100),
    "Gaussian, d = 10, n = 1,000, T = 50, 100 chains": (lambda x: settings.gaussian(10, temperature=x), 1000, 50, 100),
    "KDE, n = 100, T = 50, 100 chains": (lambda x: settings.kde(bandwidth=x), 100, 50, 100),
    "discrete, n = 100, T = 50, 100 chains": (lambda x: settings.discrete(temperature=x), 100, 50, 100),
}
FEW_CHAINS = {
    "Gaussian, n = 100, T = 100": (settings.gaussian, {}, 100, 100),
    "discrete, n = 100, T = 100": (settings.discrete, {}, 100, 100),
    "KDE, n = 300, T = 20": (settings.kde, {}, 300, 20),
}


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def print_second_runs(rounds: int) -> None:
    """Print what a run costs after one with another float, another seed and another number of chains."""
    print("| second run | whole call, ms | of which the kernel, ms | over the kernel, ms |\n|---|---|---|---|")
    for name, (make, n, generations, chains) in SECOND_RUNS.items():
        cj.run(make(0.9), "replace", num_samples=n, num_generations=generations, num_chains=chains + 1)
        whole, kernel = [], []
        for seed in range(rounds):
            begin = time.perf_counter()
            runs = cj.run(make(0.7 + 0.01 * seed), "replace", num_samples=n, num_generations=generations,
                          num_chains=chains, seed=seed)  # fmt: skip
            whole.append(1e3 * (time.perf_counter() - begin))
            kernel.append(1e3 * runs.attrs["seconds_run"])
        over = statistics.median(a - b for a, b in zip(whole, kernel, strict=True))
        print(
            f"| {name} | {statistics.median(whole):,.0f} | {statistics.median(kernel):,.0f} | {over:,.0f} |", flush=True
        )


def print_loop(rounds: int) -> None:
    """Print a loop of runs over 20 values of a float beside one sweep over them, both after a run at another value."""
    sizes = {"num_samples": 100, "num_generations": 50, "num_chains": 100}
    values = [(i + 0.5) / 20 for i in range(20)]
    print("\n| 20 values of `policies.decay(gamma)`, 100 chains | s |\n|---|---|")
    first = seconds(lambda: cj.sweep("gaussian", policies.decay, axes={"gamma": values}, **sizes))
    print(f"| one sweep, the first time (compiled) | {first:.2f} |")
    first = seconds(lambda: [cj.run("gaussian", policies.decay(value), **sizes) for value in values])
    print(f"| a loop of 20 runs, the first time | {first:.2f} |")
    sweeps = [seconds(lambda: cj.sweep("gaussian", policies.decay, axes={"gamma": values}, **sizes))
              for _ in range(rounds)]  # fmt: skip
    loops = [seconds(lambda: [cj.run("gaussian", policies.decay(value), **sizes) for value in values])
             for _ in range(max(rounds // 3, 1))]  # fmt: skip
    print(f"| one sweep, again | {statistics.median(sweeps):.3f} |")
    print(f"| a loop of 20 runs, again | {statistics.median(loops):.3f} |", flush=True)


def print_few_chains(rounds: int) -> None:
    """Print the kernel's time at several numbers of chains."""
    numbers = (3, 10, 100, 1000)
    print("\n| kernel, ms | " + " | ".join(f"{number:,} chains" for number in numbers) + " |")
    print("|---|" + "---|" * len(numbers))
    for name, (make, options, n, generations) in FEW_CHAINS.items():
        cells = []
        for number in numbers:
            sizes = {"num_samples": n, "num_generations": generations, "num_chains": number}
            runs = [cj.run(make(**options), "replace", seed=seed, **sizes) for seed in range(rounds + 1)]
            times = [run.attrs["seconds_run"] for run in runs]
            cells.append(f"{1e3 * statistics.median(times[1:]):,.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print_second_runs(rounds)
    print_loop(rounds)
    print_few_chains(rounds)
