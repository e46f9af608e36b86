"""What a job is, and what a peer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Peer(NamedTuple):
    """Somebody else's way.

    Attributes:
      chains: of one timed run: enough to take some tenths of a second.
      run: ``(seed, chains) -> [chains, generations, metrics]``.
    """

    chains: int
    run: Callable[[int, int], np.ndarray]


class Job(NamedTuple):
    """One piece of work; `ours` is an ``xarray.Dataset`` with the seconds of its run, `target` the ratio meant."""

    name: str
    ours: Callable[[], Any]
    metrics: tuple[str, ...]
    peers: dict[str, Peer]
    target: float | None = None


def alone(run: Callable[[int], np.ndarray]) -> Callable[[int, int], np.ndarray]:
    """Chains one after the other."""
    return lambda seed, chains: np.stack([run(seed * 1000 + chain) for chain in range(chains)])


def seeded(run: Callable[..., np.ndarray], *given: Any) -> Callable[[int, int], np.ndarray]:
    """Chains one after the other, of a function that takes a generator."""
    return alone(lambda seed: run(np.random.default_rng(seed), *given))
