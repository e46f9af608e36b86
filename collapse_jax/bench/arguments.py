"""The flags of ``collapse-jax bench``, apart from what the command runs, so that ``--help`` stays quick."""

import argparse
from pathlib import Path


def add_bench_arguments(bench: argparse.ArgumentParser) -> None:
    """Add the flags of the command to its parser."""
    bench.add_argument("--suite", metavar="NAME", default="core", help="core (closed forms), nets or engine (policies)")
    bench.add_argument("--only", metavar="TEXT", default="", help="measure the cases whose names hold this text")
    bench.add_argument("--device", metavar="NAME", help="cpu, cuda, rocm or tpu (default: the one that JAX prefers)")
    bench.add_argument("--quick", action="store_true", help="measure two cases in three short rounds")
    bench.add_argument("--scaling", action="store_true",
                       help="fit exponents in the chains, generations, rows and size as well")  # fmt: skip
    bench.add_argument("--json", metavar="FILE", type=Path, help="write all measurements to a file")
    bench.add_argument("--plot", metavar="FILE", type=Path, help="draw the roofline, the floors and the scaling")
    bench.add_argument("--trace", metavar="DIR", type=Path, help="write a profile, and print the time of each region")
    bench.add_argument("--compare", metavar="OLD", type=Path,
                       help="compare with a file of --json; the exit status is 1 if a case is slower")  # fmt: skip
