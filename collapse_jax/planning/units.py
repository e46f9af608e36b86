"""Cut the programs of a plan into units of work: blocks of points and chains that are run and stored together."""

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from collapse_jax.core.sharding import mesh_size
from collapse_jax.planning.block_functions import max_concurrent_blocks
from collapse_jax.planning.grid import Grid
from collapse_jax.planning.options import Options
from collapse_jax.types import Setting

if TYPE_CHECKING:
    from collapse_jax.planning.plan import Plan

_UNIT_OPERATIONS = 2e10  # some seconds on a few CPU cores
_UNIT_BYTES = 32 << 20  # of results, of the largest metric


class Program(NamedTuple):
    """What is compiled once: one policy at one point of the static axes.

    Attributes:
      policy: the number of the policy.
      point: an index for each axis, 0 on traced ones.
      traced: which axes are traced in this program.
      setting: the setting at the first traced point.
      metrics: the metrics that are observed.
      law: whether statistics are drawn from their law.
      num_generations: fits in a chain.
      world: what its chains share, or the shapes of it.
      chains_per_block: chains that run side by side on a device.
      blocks_per_call: the most blocks that one call of the program makes, one after the other.
      floats: ``{path: value}``, arguments of the parts that are inputs of the program, the same for all its chains:
        ``setting.temperature``, ``policy.gamma`` (whatever the number of the policy), ``curator.0.strength``.
      key: stands for all that the compiled program depends on; None where that is not known.
      no_key: the reason why there is no key.
      operations: estimated operations of one generation of one chain.
      bytes_per_chain: bytes that a chain takes, at least.
      unit_shape: the largest lengths of a unit along the dimensions of the results without the generations.
    """

    policy: int
    point: tuple[int, ...]
    traced: tuple[bool, ...]
    setting: Setting
    metrics: tuple[str, ...]
    law: bool
    num_generations: int
    world: Any = None
    chains_per_block: int = 0
    blocks_per_call: int = 1
    floats: Mapping[str, float] = MappingProxyType({})
    key: Hashable | None = None
    no_key: str = ""
    operations: float = 0.0
    bytes_per_chain: int = 0
    unit_shape: tuple[int, ...] = ()


class Unit(NamedTuple):
    """One block of the results of a program.

    Attributes:
      program: the number of the program.
      where: one slice for each dimension of the results without the generations.
    """

    program: int
    where: tuple[slice, ...]

    @property
    def name(self) -> str:
        """Return a name that says where the unit lies in the results."""
        return "-".join(str(s.start) for s in self.where)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of its slices."""
        return tuple(s.stop - s.start for s in self.where)


class Cut(NamedTuple):
    """How a program is cut into units.

    A store records its cuts, so that all processes that fill it have the same units. How many chains run side by side
    is left to each of them, since it depends on the device.

    Attributes:
      unit_shape: the largest lengths of a unit along the dimensions of the results without the generations.
    """

    unit_shape: tuple[int, ...]


def numbers_per_generation(program: Program) -> int:
    """Return how many numbers one value of the program's largest metric holds."""
    return max(math.prod(m.shape) for m in program.setting.metrics if m.name in program.metrics)


def choose_unit_shape(grid: Grid, program: Program, options: Options) -> tuple[int, ...]:
    """Return the lengths of a unit, filled from the last dimension; parts of a dimension are powers of two and nest."""
    operations_per_chain = max(program.operations, 1.0) * program.num_generations
    max_chains = min(
        _UNIT_OPERATIONS / operations_per_chain,
        _UNIT_BYTES / 4 / program.num_generations / numbers_per_generation(program),
    )
    num_placements = max(len(jax.local_devices()) // mesh_size(options.mesh), 1)
    blocks = max(max_chains // program.chains_per_block, max_concurrent_blocks(num_placements))
    left = 2 ** int(math.log2(blocks)) * program.chains_per_block
    lengths = [len(axis.values) if t else 1 for axis, t in zip(grid.axes, program.traced, strict=True)]
    shape = []
    for length in (options.num_chains, *reversed(lengths)):
        shape.append(length if length <= left else 2 ** int(math.log2(max(left, 1))))
        left //= shape[-1]
        left = left if shape[-1] == length else 0
    return 1, *shape[::-1]


def cut_units(plan: "Plan") -> Iterator[Unit]:
    """Yield the units of a plan, program by program."""
    for number, program in enumerate(plan.programs):
        spans = [
            range(len(a.values)) if t else range(i, i + 1)
            for a, t, i in zip(plan.grid.axes, program.traced, program.point, strict=True)
        ]
        spans = [range(program.policy, program.policy + 1), *spans, range(plan.options.num_chains)]
        slices = [
            [slice(s, min(s + step, span.stop)) for s in range(span.start, span.stop, step)]
            for span, step in zip(spans, program.unit_shape, strict=True)
        ]
        for where in itertools.product(*slices):
            yield Unit(number, where)
