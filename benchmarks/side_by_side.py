"""What benchmarks beside PyTorch share: calls timed in turn, the command line, and what is printed and written."""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def timed(call: Callable[[], Any]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def in_turn(calls: Sequence[Callable[[], Any] | None], rounds: int) -> np.ndarray:
    """Seconds ``[rounds, calls]``, after one round to warm up; NaN where there is no peer."""
    return np.array([[np.nan if call is None else timed(call) for call in calls] for _ in range(rounds + 1)][1:])


def told_of(name: str, times: np.ndarray, our_units: int, their_units: int) -> dict[str, Any]:
    """Summarize seconds ``[rounds, 2]`` as the best milliseconds a unit and the median of their ratios."""
    mine, theirs = times[:, 0] / our_units, times[:, 1] / their_units
    return {
        "job": name,
        "ours_ms": 1e3 * float(mine.min()),
        "torch_ms": 1e3 * float(theirs.min()),
        "ratio": float(np.median(theirs / mine)),
    }


def options(description: str | None, alone: bool = False) -> argparse.ArgumentParser:
    """Those of all; `alone`: of benchmarks that run without a peer, too."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="jobs whose name holds this")
    parser.add_argument("--json")
    if alone:
        parser.add_argument("--ours", action="store_true", help="without PyTorch")
    return parser


def run(jobs: Mapping[str, Callable[[], dict[str, Any]]], arguments: argparse.Namespace) -> None:
    """Runs the jobs that were asked for, prints each as it ends, and writes all."""
    results = []
    for name, job in jobs.items():
        if arguments.only in name:
            results.append(job())
            print({k: v if isinstance(v, str) else round(float(v), 3) for k, v in results[-1].items()}, flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)
