"""Kill runs at random, resume them, and compare their stores with unbroken ones: ``python tests/soak.py --minutes 20``.

Four tiny configs run again and again as commands. Each process is killed after a random time by SIGKILL, SIGTERM or
SIGINT and started again until it ends by itself; then its store must hold the numbers of an unbroken run, bit for bit,
and nothing else may lie about. The exit status is 1 where anything differs.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from collapse_jax import results

CONFIGS = {
    "gaussian": """
        setting: {kind: gaussian}
        policies: [replace, accumulate]
        num_samples: 20
        num_generations: 50
        num_chains: 64
        metrics: [trace_ratio, squared_error_of_mean]
        sweep: {product: {setting.dim: [1, 2, 3, 4]}}
    """,
    "discrete": """
        setting: {kind: discrete}
        policies: [replace, accumulate_subsample]
        num_generations: 50
        num_chains: 64
        sweep: {product: {num_samples: [10, 20, 40]}}
    """,
    "flow with checkpoints": """
        setting: {kind: flow_matching, width: 16, depth: 1, steps: 20, batch_size: 16, sampler_steps: 5}
        policies: [replace, accumulate]
        num_samples: 32
        num_generations: 30
        num_chains: 4
        checkpoint_every: 3
    """,
    "markov": """
        setting: {kind: markov}
        policies: [replace, {kind: window, k: 2}, {kind: fresh_real, share: 0.5}]
        num_samples: 20
        num_generations: 20
        num_chains: 16
    """,
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What a process may end with that got a signal, beside its death by it: it had just finished, or it says 143 or 130.
ENDS = {signal.SIGKILL: {-9, 0}, signal.SIGTERM: {143, -15, 0}, signal.SIGINT: {130, -2, 0}}
_IGNORED = "Exception ignored in: "  # an exception that Python raised in a callback, where it has no effect
LONGEST = 12.0  # seconds until a kill: imports take two, compiling and running the rest


def start_run(config: Path, out: Path) -> subprocess.Popen:
    """Start the command that runs a config."""
    words = [sys.executable, "-m", "collapse_jax.cli", "run", str(config), "--out", str(out)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def soak_config(name: str, folder: Path, whole: Path, rng: random.Random, end: float, counts: Counter) -> None:
    """Kill and resume one run until it ends by itself, and compare it; counts say what happened."""
    config, out, kills = folder / "run.yaml", folder / "out", 0
    config.write_text(CONFIGS[name])
    while True:
        process = start_run(config, out)
        number = rng.choice(SIGNALS) if time.monotonic() < end else None
        try:
            _, err = process.communicate(timeout=rng.uniform(0.1, LONGEST) if number else 300)
        except subprocess.TimeoutExpired:
            if number is None:
                process.kill()
                counts["runs that do not end"] += 1
                return
            process.send_signal(number)
            kills += 1
            counts["kills", number.name] += 1
            begin = time.monotonic()
            try:
                _, err = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                counts["alive after 30 s"] += 1
                continue
            late = time.monotonic() - begin > 7.0  # 5 s of grace, and a busy machine
            counts["alive after 7 s"] += late
            if process.returncode not in ENDS[number] or ("Traceback" in err and _IGNORED not in err):
                counts["wrong ends"] += 1
                print(f"{name}: {number.name} ended with {process.returncode}: {err[-2000:]}", file=sys.stderr)
        else:
            if process.returncode != 0:
                counts["failed runs"] += 1
                print(f"{name}: ended with {process.returncode}: {err[-2000:]}", file=sys.stderr)
                return
            break
    counts["stores compared"] += 1
    counts["kills of the compared"] += kills
    left = [path for path in folder.rglob("*") if path.name.endswith(".partial") and path.is_dir()]
    counts["folders left over"] += len(left)
    if (difference := find_difference(out, whole)) is not None:
        counts["stores that differ"] += 1
        print(f"{name}: {difference}", file=sys.stderr)


def find_difference(first: Path, second: Path) -> str | None:
    """Return what of two results folders is not the same, bit for bit; None where all numbers and labels are."""
    a, b = results.open(first), results.open(second)
    names = sorted(map(str, a.variables))
    if names != sorted(map(str, b.variables)):
        return f"the names are {names} and {sorted(map(str, b.variables))}"
    for name in names:
        x, y = a[name].to_numpy(), b[name].to_numpy()
        if not np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
            return f"{name} differs in {int((x != y).sum())} of {x.size} values" if x.shape == y.shape else name
    return None


def main() -> int:
    """Soak for some minutes, print a table of what happened, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts: dict[str, Counter] = {name: Counter() for name in CONFIGS}
    with tempfile.TemporaryDirectory(prefix="soak-") as root:
        wholes = {name: Path(root) / f"whole {name}" / "out" for name in CONFIGS}
        for name, out in wholes.items():
            out.parent.mkdir()
            (out.parent / "run.yaml").write_text(CONFIGS[name])
            process = start_run(out.parent / "run.yaml", out)
            if process.wait() != 0:
                print(process.stderr.read(), file=sys.stderr)
                return 1
        end, turns, lock = time.monotonic() + 60 * arguments.minutes, iter(range(10**9)), threading.Lock()

        def work() -> None:
            while time.monotonic() < end:
                with lock:
                    turn = next(turns)
                name = [*CONFIGS][turn % len(CONFIGS)]
                folder = Path(root) / str(turn)
                folder.mkdir()
                own = Counter()
                soak_config(name, folder, wholes[name], random.Random(f"{arguments.seed} {turn}"), end, own)
                with lock:
                    counts[name].update(own)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            for future in [pool.submit(work) for _ in range(arguments.jobs)]:
                future.result()
    return print_table(counts)


def print_table(counts: dict[str, Counter]) -> int:
    """Print what happened to each config, and return 1 where anything went wrong."""
    kills = [("kills", number.name) for number in SIGNALS]
    wrong = ("stores that differ", "wrong ends", "failed runs", "runs that do not end", "alive after 30 s",
             "alive after 7 s", "folders left over")  # fmt: skip
    print("| config | " + " | ".join(name for _, name in kills) + " | stores compared | " + " | ".join(wrong) + " |")
    print("|---" * (2 + len(kills) + len(wrong)) + "|")
    for name, own in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        cells = [own[key] for key in (*kills, "stores compared", *wrong)]
        print(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return int(any(own[key] for own in counts.values() for key in wrong[:-2]))


if __name__ == "__main__":
    sys.exit(main())
