"""Measure how long a cold process takes to its first chain-generation, and where that time goes.

``python benchmarks/cold_start.py`` starts the command ``collapse-jax run`` anew for each figure and prints medians in
seconds, with no compiled programs on disk ("empty") and with those that an earlier start left there ("warm"). The jobs
are the quickstart and the published Gaussian grid (75 points). ``--tree NAME=FOLDER``, once for each of several
checkouts, starts them in turn, so that old and new stand beside each other; ``--whole`` adds the time of the whole
command. A start ends at its first chain-generation; ``jax.monitoring`` says what was traced and compiled.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
JOBS = {"quickstart": "configs/quickstart.yaml", "grid": "configs/papers/collapse_or_thrive/gaussian.yaml"}
PHASES = {
    "start": "start, imports, config",
    "plan": "plan, store",
    "trace": "trace",
    "lower": "lower",
    "compile": "compile",
    "first": "world, first call",
    "total": "first chain-generation",
}

# The whole command, but for what shows its progress: that notes the time, and ends the process at the first generation.
INSIDE = """
import contextlib, json, os, sys, threading, time
from collapse_jax.cli.main import main
from collapse_jax.execution import progress

began, times, events = float(sys.argv[1]), {}, []
lock = threading.Lock()


@contextlib.contextmanager
def note_progress():
    import jax

    def note(event, seconds, **about):
        now = time.time()
        events.append((event.rpartition("/")[2], now - seconds - began, now - began, str(about.get("fun_name"))))

    times["start"] = time.time() - began
    jax.monitoring.register_event_duration_secs_listener(note)
    yield count


def count(done):
    times.setdefault("plan", time.time() - began)
    with lock:
        if done.done:
            times["total"] = time.time() - began
            print(json.dumps({**times, "events": events}), file=sys.__stdout__, flush=True)
            os._exit(0)


progress.show_run_progress = note_progress
sys.exit(main(sys.argv[2:]))
"""


def start_once(tree: Path, job: str, folder: Path, cache: Path, options: tuple[str, ...] = ()) -> tuple[dict, str]:
    """Return the seconds of each phase of one start, and what it wrote to stderr."""
    words = ["run", str(HERE / JOBS[job]), "--out", tempfile.mkdtemp(dir=folder)]
    began = time.time()
    done = subprocess.run(
        [sys.executable, *options, "-c", INSIDE, str(began), *words],
        check=True, capture_output=True, text=True, cwd=folder, env=make_environment(tree, cache),
    )  # fmt: skip
    return split_phases(json.loads(done.stdout.splitlines()[-1])), done.stderr


def make_environment(tree: Path, cache: Path) -> dict[str, str]:
    """Return the environment of a start: the command keeps compiled programs under `cache`, as it does at home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    return {**kept, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(cache), "MPLCONFIGDIR": str(cache.parent / "mpl")}


def split_phases(times: Mapping) -> dict[str, float]:
    """Return the seconds of each phase, from the marks of a start and from what JAX said that it did."""
    compiles = [
        event for event in times["events"] if event[0] == "backend_compile_duration" and event[1] > times["plan"]
    ]
    named = [event for event in compiles if "advance" in event[3]]
    ready = (named or [max(compiles, key=lambda event: event[2] - event[1])])[0][2]  # the next program follows it
    parts = {
        "trace": "jaxpr_trace_duration",
        "lower": "jaxpr_to_mlir_module_duration",
        "compile": "backend_compile_duration",
    }
    spans = {
        part: [
            (begin, min(end, ready))
            for name, begin, end, _ in times["events"]
            if name == event and begin > times["plan"]
        ]
        for part, event in parts.items()
    }
    seconds = {part: measure_union([span for span in spans[part] if span[0] < ready]) for part in parts}
    rest = times["total"] - times["plan"] - sum(seconds.values())
    plan = times["plan"] - times["start"]
    return {"start": times["start"], "plan": plan, **seconds, "first": rest, "total": times["total"]}


def measure_union(spans: list[tuple[float, float]]) -> float:
    """Return the length of a union of intervals: functions are traced inside others."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total


def time_imports(tree: Path, job: str, folder: Path, cache: Path) -> float:
    """Return the seconds that imports take before the first chain-generation, all modules together."""
    _, written = start_once(tree, job, folder, cache, ("-X", "importtime"))
    lines = [
        line.removeprefix("import time:").split("|") for line in written.splitlines() if line.startswith("import time:")
    ]
    return sum(int(line[0]) for line in lines if line[0].strip().isdecimal()) / 1e6


def time_command(tree: Path, job: str, folder: Path, cache: Path) -> float:
    """Return the wall seconds of the whole command."""
    words = ["run", str(HERE / JOBS[job]), "--out", tempfile.mkdtemp(dir=folder)]
    command, began = [sys.executable, "-m", "collapse_jax.cli", *words], time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=make_environment(tree, cache))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", action="append", metavar="NAME=FOLDER", help="a checkout; default: this one")
    parser.add_argument("--jobs", nargs="*", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--disks", nargs="*", default=["empty", "warm"], choices=["empty", "warm"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="time the whole command, too")
    parser.add_argument("--json", type=Path, help="add the seconds of each start to this file, a line each")
    arguments = parser.parse_args()
    trees = dict(text.partition("=")[::2] for text in arguments.tree or [f"this={HERE}"])
    cases = [(job, disk, tree) for job in arguments.jobs for disk in ("empty", "warm") for tree in trees]
    cases = [case for case in cases if case[1] in arguments.disks]
    seconds: dict[tuple[str, str, str], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = {(job, tree): folder / f"{job}-{tree}" for job in arguments.jobs for tree in trees}
        for (job, tree), cache in kept.items():  # fills the warm disk, and the cache of Python's byte code
            cache.mkdir()
            imports = time_imports(Path(trees[tree]).resolve(), job, folder, cache)
            print(f"{job}, {tree}: imports take {imports:.2f} s (-X importtime)", flush=True)
        for _ in range(arguments.rounds):
            for job, disk, tree in cases:
                place = Path(trees[tree]).resolve()
                cache = kept[job, tree] if disk == "warm" else Path(tempfile.mkdtemp(dir=folder))
                phases, _ = start_once(place, job, folder, cache)
                if arguments.whole:
                    cache = kept[job, tree] if disk == "warm" else Path(tempfile.mkdtemp(dir=folder))
                    phases["whole"] = time_command(place, job, folder, cache)
                seconds[job, disk, tree].append(phases)
                if arguments.json:
                    with arguments.json.open("a") as file:
                        print(json.dumps({"job": job, "disk": disk, "tree": tree, **phases}), file=file)
    names = {**PHASES, **({"whole": "whole command"} if arguments.whole else {})}
    print("\n| job | disk | tree | " + " | ".join(names.values()) + " | least .. most |")
    print("|---" * (len(names) + 4) + "|")
    for (job, disk, tree), starts in seconds.items():
        medians = " | ".join(f"{statistics.median(start[name] for start in starts):.2f}" for name in names)
        totals = [start["total"] for start in starts]
        print(f"| {job} | {disk} | {tree} | {medians} | {min(totals):.2f} .. {max(totals):.2f} |")


if __name__ == "__main__":
    main()
