"""Time metrics of images beside another commit: ``python benchmarks/image_metrics.py [COMMIT]``.

These are the Frechet distance, overlaps by nearest neighbours, and copies.

Milliseconds a chain of one call, several chains at once, by this tree and by the commit's files in turn, medians of the
rounds, as a markdown table. Compiling is left out.
"""

import argparse
import importlib.util
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.numerics import frechet, nearest_neighbors

ROUNDS = 7


class Case(NamedTuple):
    """A call: its name, how many chains it serves, and the function of a module that makes it."""

    name: str
    chains: int
    make: Callable[[ModuleType], Callable[[], Any]]


def read_module(commit: str, name: str) -> ModuleType:
    """Return a module of ``collapse_jax.numerics`` as it is at a commit; what it imports is of this tree."""
    code = subprocess.check_output(["git", "show", f"{commit}:collapse_jax/numerics/{name}.py"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}_before.py"
        path.write_bytes(code)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def frechet_case(num: int, dim: int, chains: int, decay: float) -> Case:
    """Return the distance of normal rows whose scales fall by exp(-decay) from column to column."""
    rng, scale = np.random.default_rng(0), np.exp(-decay * np.arange(dim))
    x = jnp.asarray(rng.normal(size=(chains, num, dim)) * scale, jnp.float32)
    moments = frechet.compute_moments([(rng.normal(size=(2000, dim)) * scale).astype(np.float32)])
    mean, root = (jnp.asarray(moment, jnp.float32) for moment in moments)

    def make(module: ModuleType) -> Callable[[], Any]:
        return partial(jax.jit(jax.vmap(module.frechet_distance, (0, None, None))), x, mean, root)

    return Case(f"Frechet distance, {num} rows, {dim} columns, decay {decay:g}", chains, make)


def neighbor_cases(num: int, num_real: int, num_train: int, dim: int, chains: int) -> list[Case]:
    """Return the overlap of images of random bytes with others, and the copies among them."""
    rng = np.random.default_rng(0)
    sizes = (chains, num, dim), (num_real, dim), (num_train, dim)
    x, real, train = (jnp.asarray(rng.integers(0, 256, size) / 255, jnp.float32) for size in sizes)

    def overlap(module: ModuleType) -> Callable[[], Any]:
        balls = jax.jit(module.build_manifold, static_argnums=1)(real, 5)
        return partial(jax.jit(jax.vmap(lambda balls, x: module.measure_overlap(balls, x, 5), (None, 0))), balls, x)

    def copies(module: ModuleType) -> Callable[[], Any]:
        known = [module.find_lattice(train, real, finest=True)] if hasattr(module, "find_lattice") else []
        run = jax.jit(jax.vmap(module.copied_share, (0, None, None, *(None for _ in known))))
        return partial(run, x, train, real, *known)

    size = f"{num} rows, {dim} columns"
    return [
        Case(f"overlap, {size}, {num_real} real", chains, overlap),
        Case(f"copies, {size}, {num_train} trained on", chains, copies),
    ]


def time_call(call: Callable[[], Any]) -> float:
    """Return the milliseconds of a call."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - begin)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", default="15e7499")
    commit = parser.parse_args().commit
    frechet_sizes = ((1000, 2, 16, 0.0), (500, 64, 8, 0.0), (500, 64, 8, 0.2), (1000, 64, 8, 0.1), (2000, 256, 1, 0.02))
    pairs = [(frechet, [frechet_case(*size) for size in frechet_sizes])]
    pairs += [(nearest_neighbors, neighbor_cases(1000, 500, 1437, 64, 4) + neighbor_cases(500, 500, 4000, 784, 1))]
    print(f"| call | chains | at {commit}, ms a chain | now | times as fast |\n|---|---|---|---|---|")
    for module, cases in pairs:
        before = read_module(commit, module.__name__.rsplit(".", 1)[-1])
        for case in cases:
            calls = [case.make(before), case.make(module)]
            for call in calls:
                time_call(call)
            rounds = [[time_call(call) / case.chains for call in calls] for _ in range(ROUNDS)]
            old, new = np.median(rounds, 0)
            print(f"| {case.name} | {case.chains} | {old:.3g} | {new:.3g} | {old / new:.2g} |", flush=True)


if __name__ == "__main__":
    main()
