"""Units of work: blocks of points and chains that are run and stored together."""

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from collapse_jax.core.sharding import mesh_size
from collapse_jax.planning.block_functions import blocks_at_once
from collapse_jax.planning.grid import Grid
from collapse_jax.planning.options import Options

if TYPE_CHECKING:
    from collapse_jax.planning.plan import Plan
from collapse_jax.types import Setting

_UNIT_OPERATIONS = 2e10  # some seconds on a few CPU cores


_UNIT_BYTES = 32 << 20  # of results, of the largest metric


class Program(NamedTuple):
    """What is compiled once: a policy at a static point.

    Attributes:
      policy: its number.
      point: index on each axis, 0 on traced ones.
      traced: which axes are traced here.
      setting: at the first traced point.
      metrics: those it observes.
      law: whether statistics are drawn from their law.
      world: what its chains share, or the outline of it.
      width: chains side by side on a device.
      work: operations a chain-generation.
      lane: bytes a chain takes, at least.
      block: lengths of a unit (at most) along the dimensions of the results, but for the generations.
    """

    policy: int
    point: tuple[int, ...]
    traced: tuple[bool, ...]
    setting: Setting
    metrics: tuple[str, ...]
    law: bool
    world: Any = None
    width: int = 0
    work: float = 0.0
    lane: int = 0
    block: tuple[int, ...] = ()


class Unit(NamedTuple):
    """A block of one program's results.

    Attributes:
      program: its number.
      where: one slice a dimension of the results, but for the generations.
    """

    program: int
    where: tuple[slice, ...]

    @property
    def name(self) -> str:
        """Says where it lies."""
        return "-".join(str(s.start) for s in self.where)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its slices."""
        return tuple(s.stop - s.start for s in self.where)


class Cut(NamedTuple):
    """How a program is cut; a store remembers it, since bits depend on the width and no other machine may choose anew.

    Attributes:
      width: chains side by side on a device.
      block: lengths of a unit (at most) along the dimensions of the results, but for the generations.
    """

    width: int
    block: tuple[int, ...]


def numbers_per_generation(program: Program) -> int:
    """In one value of its largest metric."""
    return max(math.prod(m.shape) for m in program.setting.metrics if m.name in program.metrics)


def block_shape(grid: Grid, program: Program, options: Options) -> tuple[int, ...]:
    """A unit's lengths, filled from the last dimension. Parts of a dimension are powers of two, so that they nest."""
    work = max(program.work, 1.0) * options.num_generations
    most = min(_UNIT_OPERATIONS / work, _UNIT_BYTES / 4 / options.num_generations / numbers_per_generation(program))
    places = max(len(jax.local_devices()) // mesh_size(options.mesh), 1)
    blocks = max(most // program.width, blocks_at_once(places))
    left = 2 ** int(math.log2(blocks)) * program.width
    lengths = [len(axis.values) if t else 1 for axis, t in zip(grid.axes, program.traced, strict=True)]
    block = []
    for length in (options.num_chains, *reversed(lengths)):
        block.append(length if length <= left else 2 ** int(math.log2(max(left, 1))))
        left //= block[-1]
        left = left if block[-1] == length else 0
    return 1, *block[::-1]


def cut_units(plan: "Plan") -> Iterator[Unit]:
    """Yield the units of a plan, program by program."""
    for number, program in enumerate(plan.programs):
        spans = [
            range(len(a.values)) if t else range(i, i + 1)
            for a, t, i in zip(plan.grid.axes, program.traced, program.point, strict=True)
        ]
        spans = [range(program.policy, program.policy + 1), *spans, range(plan.options.num_chains)]
        cuts = [
            [slice(s, min(s + step, span.stop)) for s in range(span.start, span.stop, step)]
            for span, step in zip(spans, program.block, strict=True)
        ]
        for where in itertools.product(*cuts):
            yield Unit(number, where)
