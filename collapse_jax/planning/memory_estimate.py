"""Bytes that a block of chains takes on its device, read off its jaxpr."""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import chain_keys
from collapse_jax.core.sharding import mesh_size
from collapse_jax.planning.block_functions import functions, lanes
from collapse_jax.planning.block_size import device_memory
from collapse_jax.planning.cost import peak, size_of
from collapse_jax.planning.plan import Plan, stretch
from collapse_jax.planning.units import Program


def check_fits(plan: Plan) -> None:
    """Refuses what cannot run.

    Raises:
      UsageError: a block of some program does not fit into a device's memory; it says how many chains would.
    """
    memory = device_memory()
    if memory is None:
        return
    for program in plan.programs:
        trained = program.setting.init is not None  # whose activations outweigh what a chain keeps
        if not trained and program.lane * program.width < memory / 8:  # far from it: not worth a trace
            continue
        needed = max(block_bytes(plan, program), program.lane * program.width)
        needed //= mesh_size(plan.options.mesh)  # no device holds less
        if needed > memory:
            at_most = program.width * memory // needed
            name = plan.grid.policies[program.policy]
            raise UsageError(
                f"{name}: {program.width} chains side by side need {needed / 2**30:.1f} GiB, the device has "
                f"{memory / 2**30:.1f}: "
                + (f"set chains_per_block to {at_most} or less" if at_most else "lower num_samples or num_generations")
            )


def block_bytes(plan: Plan, program: Program) -> int:
    """Predicted bytes of device memory while a block of the program runs.

    Within a fifth of XLA's own account (on CPU) where pools of rows or networks fill it; up to two thirds too low for
    blocks of two or three megabytes whose rows are drawn and at once reduced.
    """
    start, advance = functions(lambda values: plan.chain_of(program, values), program.metrics, stretch(plan))
    unit = next(unit for unit in plan.units if plan.programs[unit.program].policy == program.policy
                and plan.programs[unit.program].point == program.point)  # fmt: skip
    points, _ = plan.lanes(unit)
    keys = chain_keys(0, 1, plan.options.rng)
    first = lanes({n: v[:1] for n, v in points.items()}, keys, np.zeros(program.width, int))
    state = jax.eval_shape(start, program.world, *first)
    jaxpr = jax.make_jaxpr(advance)(program.world, first[0], state, jnp.int32(1)).jaxpr
    arguments, results = (sum(size_of(v.aval) for v in variables) for variables in (jaxpr.invars, jaxpr.outvars))
    results -= sum(map(size_of, jax.tree.leaves(state)))  # which is donated
    return int(arguments + max(results, 0) + peak(jaxpr))
