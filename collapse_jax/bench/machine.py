"""Measure what this machine can do: its rates of products, exponentials, random numbers and copies.

Each rate is that of a loop which does nothing else, on all devices and cores at once, in arrays as large as blocks of
chains. The rates give a floor: the seconds that the work of a program takes at least.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core.random import draw_normals
from collapse_jax.core.threefry import unroll_rounds
from collapse_jax.planning.block_functions import max_concurrent_blocks
from collapse_jax.planning.roofline import Work
from collapse_jax.types import Array

_SIDE = {"cpu": 512, "gpu": 8192, "tpu": 8192}  # rows of a square matrix
_ELEMENTS = {"cpu": 1 << 16, "gpu": 1 << 26, "tpu": 1 << 26}  # elements of an array
_COPIES = (1 << 16, 1 << 26)  # bytes of the smallest and the largest array that is copied
_SECONDS, _TURNS = 0.02, 16  # the least of a measurement, since a call first makes room for its result

TERMS = ("products", "exponentials", "random numbers", "memory")


class Probe(NamedTuple):
    """A loop that does one thing only.

    Attributes:
      loop: ``(turns, start) -> array``, compiled; the number of turns is traced.
      start: the array that the loop starts from.
      amount: operations, elements or bytes of one turn.
    """

    loop: Callable[[int, Any], Array]
    start: Any
    amount: float


class Rates(NamedTuple):
    """What this machine does in a second.

    Attributes:
      products: floating-point operations of products of matrices, at JAX's default precision.
      exponentials: exponentials of an array's elements.
      random_words: random words of 32 bits.
      normals: standard normal numbers.
      copies: ``{bytes of the array: bytes read and written}``.
    """

    products: float
    exponentials: float
    random_words: float
    normals: float
    copies: dict[int, float]


def copy_size_for(size: float) -> int:
    """Return the bytes of the measured array that stands for one of `size` bytes: a power of two within limits."""
    return min(max(1 << (int(size) - 1).bit_length(), _COPIES[0]), _COPIES[1])


class Machine:
    """The probes of this machine, which are compiled once and measured again and again."""

    def __init__(self, sizes: Iterable[float]):
        platform = jax.default_backend()
        side, elements = _SIDE.get(platform, 512), _ELEMENTS.get(platform, 1 << 16)
        key, array, matrix = jax.random.key(0), jnp.full(elements, 0.5), jnp.full((side, side), 1 / side)

        def add_drawn(draw: Callable[..., Array]) -> Callable[[Any, Array], Array]:
            return lambda i, x: x + draw(jax.random.fold_in(key, i), (elements,))

        def draw_bits(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.bits(unroll_rounds(key), shape)

        self.probes = {
            "products": _make_probe(lambda i, x: x @ matrix, matrix, 2.0 * side**3),
            "exponentials": _make_probe(lambda i, x: jnp.exp(-x), array, elements),
            "random_words": _make_probe(add_drawn(draw_bits), jnp.zeros(elements, jnp.uint32), elements),
            "normals": _make_probe(add_drawn(draw_normals), array, elements),
        }
        self.copies = {
            size: _make_probe(lambda i, x: 1.0 - x, jnp.full(size // 4, 0.25), 2.0 * size)
            for size in sorted(set(map(copy_size_for, sizes)))
        }
        devices = jax.local_devices()
        loops_per_device = max_concurrent_blocks(len(devices)) // len(devices)
        self.workers = [device for device in devices for _ in range(loops_per_device)]
        self.turns: dict[Any, int] = {}

    def measure(self) -> Rates:
        """Return all rates as they are now."""
        with ThreadPoolExecutor(len(self.workers)) as pool:
            rates = {name: self._rate(pool, name, probe) for name, probe in self.probes.items()}
            return Rates(**rates, copies={size: self._rate(pool, size, probe) for size, probe in self.copies.items()})

    def _rate(self, pool: ThreadPoolExecutor, name: Any, probe: Probe) -> float:
        """Return the rate of one probe on all workers at once; the first call finds how many turns take long enough."""

        def time_turns(turns: int) -> float:
            begin = time.perf_counter()
            list(pool.map(lambda device: self._run_probe(probe, turns, device), self.workers))
            return time.perf_counter() - begin

        if name not in self.turns:
            time_turns(1)  # compiles
            self.turns[name] = _TURNS
            while time_turns(self.turns[name]) < _SECONDS:
                self.turns[name] *= 2
        turns = self.turns[name]
        return probe.amount * turns * len(self.workers) / time_turns(turns)

    def _run_probe(self, probe: Probe, turns: int, device: jax.Device) -> None:
        jax.block_until_ready(probe.loop(turns, jax.device_put(probe.start, device)))


def _make_probe(step: Callable[[Any, Any], Any], start: Any, amount: float) -> Probe:
    return Probe(jax.jit(lambda turns, x: jax.lax.fori_loop(0, turns, step, x)), start, float(amount))


def floor_seconds(work: Work, rates: Rates, size: float) -> dict[str, float]:
    """Return the seconds that each part of the work takes at the machine's rates, if nothing else is done.

    Products, exponentials and random numbers use the same parts of the processor, so their sum is a floor; so is the
    traffic with a memory of `size` bytes, in which the program's values lie. Other arithmetic is not counted.
    """
    uniform_words = max(work.random_words - work.normals, 0.0)
    return {
        "products": work.products / rates.products,
        "exponentials": work.exponentials / rates.exponentials,
        "random numbers": work.normals / rates.normals + uniform_words / rates.random_words,
        "memory": work.bytes / rates.copies[copy_size_for(size)],
    }


def lowest_seconds(part_seconds: dict[str, float]) -> float:
    """Return the seconds that no program of this work goes below, from the parts that ``floor_seconds`` returns."""
    return max(sum(part_seconds[name] for name in TERMS[:3]), part_seconds["memory"])


def find_bottleneck(part_seconds: dict[str, float]) -> str:
    """Return the largest part of ``lowest_seconds``: memory, or the largest term of the sum."""
    if part_seconds["memory"] == lowest_seconds(part_seconds):
        return "memory"
    return max(TERMS[:3], key=part_seconds.__getitem__)
