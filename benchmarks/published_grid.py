"""The published closed-form grids from start to end, with a cold and with a warm compilation cache.

``python benchmarks/published_grid.py [--chains 100]`` runs the configs of ``configs/papers/collapse_or_thrive`` with so
many of their 100 chains a point, each time in a process of its own. What was run is extrapolated in proportion to the
chains, the rest (start, plan, compiling, picture) is not; few chains leave blocks half empty and overstate the whole.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import collapse_jax as cj

FOLDER = Path(__file__).parent.parent / "configs/papers/collapse_or_thrive"
CHAINS = 100


def once(config: str, chains: int, out: Path, cache: Path) -> tuple[float, dict]:
    """Wall seconds of the command, and what the store says of them."""
    command = [sys.executable, "-m", "collapse_jax.cli", "run", str(FOLDER / config), "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--num-chains", str(chains)],
        check=True,
        capture_output=True,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache),
             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"},
    )  # fmt: skip
    return time.perf_counter() - start, dict(cj.open(out).attrs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=100, help="of the 100 of each point")
    parser.add_argument("--configs", nargs="*", default=["gaussian.yaml", "kde.yaml"])
    parser.add_argument("--caches", nargs="*", default=["cold", "warm"], choices=["cold", "warm"])
    arguments = parser.parse_args()
    share = arguments.chains / CHAINS
    print(
        f"{'config':16s} {'cache':6s} {'wall s':>8s} {'compile s':>10s} {'run s':>8s} {'all 100 chains, about s':>24s}"
    )
    for config in arguments.configs:
        with tempfile.TemporaryDirectory() as folder:
            for cache in arguments.caches:
                wall, attrs = once(config, arguments.chains, Path(folder) / cache, Path(folder) / "xla")
                whole = wall + attrs["seconds_run"] * (1 / share - 1)
                figures = f"{wall:8.1f} {attrs['seconds_compile']:10.1f} {attrs['seconds_run']:8.1f} {whole:24.0f}"
                print(f"{config:16s} {cache:6s} {figures}", flush=True)


if __name__ == "__main__":
    main()
