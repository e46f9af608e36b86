"""What the engine costs beside the compute, and how it scales.

``python benchmarks/engine.py`` prints, from one run: what plan, store and progress add to a sweep whose units take
about a second; how long the command takes on a sweep that is finished; and chain-generations a second on 1, 2, 4 and 8
forced host devices, with the same number of chains a device (devices beyond the cores can only show what they cost).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """
setting: {kind: gaussian, dim: 10, num_test: 50}
policies: [replace, accumulate]
num_generations: 200
num_chains: %d
chains_per_block: 256
metrics: [log_trace_ratio, log_det_ratio]
sweep: {product: {num_samples: [50, 100, 200]}}
"""

INSIDE = """
import json, statistics, sys, time
import jax
from collapse_jax import config
from collapse_jax.execution import resumable
from collapse_jax.execution.runner import Runner
from collapse_jax.planning.plan import make_plan

experiment = config.load(sys.argv[1], [])
grid, options, repeats = experiment.grid(), experiment.options(), int(sys.argv[3])


def plan():
    return make_plan(grid, options)


def compute(made):
    runner = Runner(made, lambda _: None)
    for unit in runner.announce(made.units):
        runner.run_unit(unit)


def clock(function, *arguments):
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


made = plan()
compute(made)  # fills the cache of compiled programs
planned, computed, streamed = zip(*(
    (clock(plan), clock(compute, made), clock(resumable.fill_store, grid, options, f"{sys.argv[2]}/{i}"))
    for i in range(repeats)
))
generations = experiment.num_chains * experiment.num_generations * 6
print(json.dumps({"units": len(made.units), "devices": jax.device_count(), "plan": statistics.median(planned),
                  "compute": statistics.median(computed), "streamed": statistics.median(streamed),
                  "overhead": statistics.median(s / c - 1 for s, c in zip(streamed, computed)),
                  "rate": generations / statistics.median(computed)}))
"""


def inside(folder: Path, chains: int, devices: int, repeats: int) -> dict:
    """Timings of the sweep, in a process with so many host devices: medians over pairs of compute and stream."""
    path = folder / f"engine-{chains}.yaml"
    path.write_text(CONFIG % chains)
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder)}
    words = [sys.executable, "-c", INSIDE, str(path), tempfile.mkdtemp(dir=folder), str(repeats)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=4096, help="of each point, on one device")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = inside(folder, arguments.chains, 1, 5)
        print(
            f"{one['units']} units of {one['compute'] / one['units']:.2f} s: compute {one['compute']:.2f} s, streamed "
            f"{one['streamed']:.2f} s, its plan of {one['plan']:.2f} s and its store included: {one['overhead']:+.1%}"
        )
        command = [sys.executable, "-m", "collapse_jax.cli", "run", str(folder / f"engine-{arguments.chains}.yaml")]
        out = ["--out", str(folder / "whole")]
        subprocess.run([*command, *out], check=True, capture_output=True)
        begin = time.perf_counter()
        subprocess.run([*command, *out], check=True, capture_output=True)
        print(f"the command on a finished sweep: {time.perf_counter() - begin:.2f} s")
        print(f"{'devices':>7s} {'chains a point':>15s} {'chain-generations/s':>20s} {'of one device':>14s}")
        base = None
        for devices in (1, 2, 4, 8):
            chains = arguments.chains // 4 * devices
            now = inside(folder, chains, devices, 1)
            base = base or now["rate"]
            print(f"{devices:7d} {chains:15,} {now['rate']:20,.0f} {now['rate'] / base:14.2f}", flush=True)


if __name__ == "__main__":
    main()
