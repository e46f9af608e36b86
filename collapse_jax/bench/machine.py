"""What this machine can do: the rates of products, exponentials, random numbers and copies, and the floor under a work.

Each rate is that of a bare loop of one thing, on all devices and cores at once, in arrays as large as blocks of chains.
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

_SIDE = {"cpu": 512, "gpu": 8192, "tpu": 8192}  # of a matrix
_ELEMENTS = {"cpu": 1 << 16, "gpu": 1 << 26, "tpu": 1 << 26}  # of an array that is worked on
_COPIES = (1 << 16, 1 << 26)  # bytes of the smallest and the largest array that is copied
_SECONDS, _TURNS = 0.02, 16  # of a measurement, at least: a call first makes room for its result

TERMS = ("products", "exponentials", "random numbers", "memory")


class Probe(NamedTuple):
    """A bare loop of one thing.

    Attributes:
      loop: ``(turns, start) -> array``, compiled; the number of turns is traced.
      start: what it starts from.
      amount: of the thing in a turn: operations, elements or bytes.
    """

    loop: Callable[[int, Any], Array]
    start: Any
    amount: float


class Rates(NamedTuple):
    """What is done in a second.

    Attributes:
      products: floating-point operations of products of matrices, at JAX's default precision.
      exponentials: of an array's elements.
      random_words: random words of 32 bits.
      normals: standard normal numbers.
      copies: bytes read and written, by the bytes of the array.
    """

    products: float
    exponentials: float
    random_words: float
    normals: float
    copies: dict[int, float]


def copied_size(size: float) -> int:
    """The array that stands for one of `size` bytes: a power of two, within what is measured."""
    return min(max(1 << (int(size) - 1).bit_length(), _COPIES[0]), _COPIES[1])


class Machine:
    """The probes of this machine: compiled once, measured again and again."""

    def __init__(self, sizes: Iterable[float]):
        platform = jax.default_backend()
        side, elements = _SIDE.get(platform, 512), _ELEMENTS.get(platform, 1 << 16)
        key, array, matrix = jax.random.key(0), jnp.full(elements, 0.5), jnp.full((side, side), 1 / side)
        drawn = lambda draw: lambda i, x: x + draw(jax.random.fold_in(key, i), (elements,))  # noqa: E731
        bits = lambda key, shape: jax.random.bits(unroll_rounds(key), shape)  # noqa: E731
        self.probes = {
            "products": _probe(lambda i, x: x @ matrix, matrix, 2.0 * side**3),
            "exponentials": _probe(lambda i, x: jnp.exp(-x), array, elements),
            "random_words": _probe(drawn(bits), jnp.zeros(elements, jnp.uint32), elements),
            "normals": _probe(drawn(draw_normals), array, elements),
        }
        self.copies = {
            size: _probe(lambda i, x: 1.0 - x, jnp.full(size // 4, 0.25), 2.0 * size)
            for size in sorted(set(map(copied_size, sizes)))
        }
        devices = jax.local_devices()
        self.places = [device for device in devices for _ in range(max_concurrent_blocks(len(devices)) // len(devices))]
        self.turns: dict[Any, int] = {}

    def measure(self) -> Rates:
        """All rates, now."""
        with ThreadPoolExecutor(len(self.places)) as pool:
            rates = {name: self._rate(pool, name, probe) for name, probe in self.probes.items()}
            return Rates(**rates, copies={size: self._rate(pool, size, probe) for size, probe in self.copies.items()})

    def _rate(self, pool: ThreadPoolExecutor, name: Any, probe: Probe) -> float:
        """Of one probe at all places at once; the first call finds out how many turns take long enough."""

        def seconds(turns: int) -> float:
            clock = time.perf_counter()
            list(pool.map(lambda place: self._run(probe, turns, place), self.places))
            return time.perf_counter() - clock

        if name not in self.turns:
            seconds(1)  # compiles
            self.turns[name] = _TURNS
            while seconds(self.turns[name]) < _SECONDS:
                self.turns[name] *= 2
        turns = self.turns[name]
        return probe.amount * turns * len(self.places) / seconds(turns)

    def _run(self, probe: Probe, turns: int, place: jax.Device) -> None:
        jax.block_until_ready(probe.loop(turns, jax.device_put(probe.start, place)))


def _probe(step: Callable[[Any, Any], Any], start: Any, amount: float) -> Probe:
    return Probe(jax.jit(lambda turns, x: jax.lax.fori_loop(0, turns, step, x)), start, float(amount))


def floor(work: Work, rates: Rates, size: float) -> dict[str, float]:
    """Seconds that each part of a work takes at the machine's rates, if nothing else were done.

    Products, exponentials and random numbers share the same units: their sum is a floor, and so is the traffic with a
    memory of `size` bytes, in which the program's values lie. Plain arithmetic is not counted.
    """
    plain = max(work.random_words - work.normals, 0.0)
    return {
        "products": work.products / rates.products,
        "exponentials": work.exponentials / rates.exponentials,
        "random numbers": work.normals / rates.normals + plain / rates.random_words,
        "memory": work.bytes / rates.copies[copied_size(size)],
    }


def lowest(parts: dict[str, float]) -> float:
    """Seconds that no program of this work goes below: of ``floor``."""
    return max(sum(parts[name] for name in TERMS[:3]), parts["memory"])


def limit(parts: dict[str, float]) -> str:
    """What most of ``lowest`` is: memory, or the largest of those that it is the sum of."""
    return "memory" if parts["memory"] == lowest(parts) else max(TERMS[:3], key=parts.__getitem__)
