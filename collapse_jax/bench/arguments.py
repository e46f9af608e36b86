"""The options of `collapse-jax bench`, apart from what it runs so that ``--help`` stays quick."""

import argparse
from pathlib import Path


def add(bench: argparse.ArgumentParser) -> None:
    """Adds them to the parser of the command."""
    bench.add_argument("--suite", metavar="NAME", default="core", help="core (closed forms), nets or engine (policies)")
    bench.add_argument("--only", metavar="WORDS", default="", help="cases whose names hold this")
    bench.add_argument("--device", metavar="NAME", help="cpu, cuda, rocm or tpu; default: what JAX takes first")
    bench.add_argument("--quick", action="store_true", help="two cases, three short rounds")
    bench.add_argument("--scaling", action="store_true", help="exponents in chains, generations, n and d as well")
    bench.add_argument("--json", metavar="FILE", type=Path, help="write all figures")
    bench.add_argument("--plot", metavar="FILE", type=Path, help="draw roofline, floors and scaling")
    bench.add_argument("--trace", metavar="DIR", type=Path, help="write a profile, and print the time of each region")
    bench.add_argument("--compare", metavar="OLD", type=Path, help="a file of --json: ratios; status 1 if slower")
