"""Microseconds a chain-generation of the package and of its peers: ``python benchmarks/peers [--only WORDS]``.

``jobs`` holds work that many peers do, ``closed_forms`` more sizes and policies beside a user's loop. ``--growth``
prints what should not grow instead: with the horizon, and from replace to accumulate_subsample.

Before anything is timed, each peer's statistics at the last generation must have the law of ours over chains: ranks,
within five standard errors. Then all run in turn; a time is the median over rounds, a ratio the median of pairs of one
round. Compile times are left out on all sides: a first run of each is not timed.
"""

import argparse
import json
import os
import time
from typing import Any

import closed_forms
import growth
import jobs
import numpy as np
from work import Job, Peer


def check(job: Job, ours: Any, name: str, peer: Peer) -> None:
    """Stops where a peer does not do the same work."""
    theirs = peer.run(0, max(peer.chains, 16))[:, -1]
    for column, metric in enumerate(job.metrics):
        mine, other = ours[metric].isel(generation=-1).values, theirs[:, column]
        # The share of ours below a chain of theirs is uniform; means would hang on a few chains of heavy tails.
        rank = ((mine < other[:, None]) + 0.5 * (mine == other[:, None])).mean(1).mean()
        error = np.sqrt((1 / mine.size + 1 / other.size) / 12)
        if np.isnan(other).any() or abs(rank - 0.5) > 5 * error:
            raise SystemExit(f"{job.name}, {name}: {metric} is {np.median(other):.4g} in the middle, ours "
                             f"{np.median(mine):.4g} (mean rank {rank:.3f} +- {error:.3f})")  # fmt: skip


def seconds(peer: Peer, seed: int) -> float:
    """Return the seconds that a chain-generation takes."""
    clock = time.perf_counter()
    out = peer.run(seed, peer.chains)
    return (time.perf_counter() - clock) / out.shape[0] / out.shape[1]


def compare(job: Job, peers: dict[str, Peer], rounds: int) -> list[dict[str, Any]]:
    """One line a peer."""
    runs = job.ours()
    for name, peer in peers.items():
        check(job, runs, name, peer)
        peer.run(0, peer.chains)  # compiles
    mine, theirs = [], {name: [] for name in peers}
    for seed in range(1, rounds + 1):
        runs = job.ours()
        mine.append(runs.attrs["seconds_run"] / runs.sizes["chain"] / runs.sizes["generation"])
        for name, peer in peers.items():
            theirs[name].append(seconds(peer, seed))
    return [
        {"job": job.name, "peer": name, "us": float(np.median(times) * 1e6), "ours_us": float(np.median(mine) * 1e6),
         "ratio": float(np.median(np.array(times) / mine)),
         "target": job.target, "compile_s": runs.attrs["seconds_compile"], "backend": runs.attrs["backend"],
         "low": float(np.min(np.array(times) / mine)), "high": float(np.max(np.array(times) / mine))}
        for name, times in theirs.items()
    ]  # fmt: skip


def table(only: str, peer: str, rounds: int) -> list[dict[str, Any]]:
    """Prints one line a job and peer."""
    print("| job | peer | peer, us | ours, us | ratio | least .. most | target | compile, s | command |")
    print("|---|---|---|---|---|---|---|---|---|")
    found = []
    for make in (*jobs.JOBS, *closed_forms.JOBS):
        job = make()
        peers = {name: each for name, each in job.peers.items() if peer in name}
        if only not in job.name or not peers:
            continue
        for row in compare(job, peers, rounds):
            found.append(row)
            command = f"`python benchmarks/peers --only '{row['job']}' --peer '{row['peer']}'`"
            figures = "{us:.4g} | {ours_us:.3g} | {ratio:.3g} | {low:.3g} .. {high:.3g}".format(**row)
            target = "" if job.target is None else f"{job.target:g}"
            ends = f"{target} | {row['compile_s']:.1f} | {command}"
            print(f"| {row['job']} | {row['peer']} | {figures} | {ends} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="jobs whose names hold this")
    parser.add_argument("--peer", default="", help="peers whose names hold this")
    parser.add_argument("--growth", action="store_true", help="what should not grow")
    parser.add_argument("--json", help="write the figures here too")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}, {arguments.rounds} rounds\n")
    found = (
        growth.rows(arguments.rounds) if arguments.growth else table(arguments.only, arguments.peer, arguments.rounds)
    )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
