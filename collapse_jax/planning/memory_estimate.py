"""Estimate the bytes that a block of chains takes on its device, from its jaxpr."""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.bounded_cache import BoundedCache
from collapse_jax.core.errors import UsageError
from collapse_jax.core.sharding import mesh_size
from collapse_jax.planning.block_functions import make_block_functions
from collapse_jax.planning.block_size import device_memory
from collapse_jax.planning.cost import count_array_bytes, count_peak_bytes
from collapse_jax.planning.plan import Plan
from collapse_jax.planning.units import Program


def check_memory(plan: Plan) -> None:
    """Refuse a plan whose blocks do not fit into a device's memory.

    Raises:
      UsageError: a block of some program is too large; the error says how many chains would fit.
    """
    memory = device_memory()
    if memory is None:
        return
    for program in plan.programs:
        block_bytes = program.bytes_per_chain * program.chains_per_block
        is_trained = program.setting.init is not None  # activations outweigh what a chain keeps
        if not is_trained and block_bytes < memory / 8:  # so small that a trace is not worth its time
            continue
        needed = max(estimate_block_bytes(plan, program), block_bytes)
        needed //= mesh_size(plan.options.mesh)  # no device holds less
        if needed > memory:
            chains_that_fit = program.chains_per_block * memory // needed
            advice = f"set chains_per_block to {chains_that_fit} or less"
            raise UsageError(
                f"{plan.grid.policies[program.policy]}: {program.chains_per_block} chains side by side need "
                f"{needed / 2**30:.1f} GiB, the device has {memory / 2**30:.1f}: "
                + (advice if chains_that_fit else "lower num_samples or num_generations")
            )


def estimate_block_bytes(plan: Plan, program: Program) -> int:
    """Return the estimated bytes of device memory while a call of the program runs.

    The estimate is within a fifth of XLA's own account (on CPU) where pools of rows or networks fill the memory; it is
    up to two thirds too low for blocks of two or three megabytes whose rows are drawn and reduced at once.
    """
    key = None if program.key is None else (program.key, program.chains_per_block, program.blocks_per_call)
    known = None if key is None else _ESTIMATES.get(key)
    if known is not None:
        return known
    start, advance = make_block_functions(
        lambda values: plan.build_chain(program, values), program.metrics, plan.generations_per_call(program)
    )
    unit = next(
        unit
        for unit in plan.units
        if plan.programs[unit.program].policy == program.policy and plan.programs[unit.program].point == program.point
    )
    values, _ = plan.unit_chains(unit)
    size = (1, program.chains_per_block)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl=plan.options.rng), size))
    inputs = program.world, dict(program.floats), {name: np.full(size, v[0]) for name, v in values.items()}
    state = jax.eval_shape(start, *inputs, keys, jnp.int32(1))
    jaxpr = jax.make_jaxpr(advance)(*inputs, state, jnp.int32(1), jnp.int32(1)).jaxpr
    argument_bytes = sum(count_array_bytes(v.aval) for v in jaxpr.invars)
    state_bytes = sum(map(count_array_bytes, jax.tree.leaves(state)))
    result_bytes = max(sum(count_array_bytes(v.aval) for v in jaxpr.outvars) - state_bytes, 0)  # the state is donated
    other_blocks = program.blocks_per_call - 1  # a call keeps them all, and computes one after the other
    estimate = int(
        argument_bytes + result_bytes + count_peak_bytes(jaxpr) + other_blocks * (state_bytes + result_bytes)
    )
    if key is not None:
        _ESTIMATES.put(key, estimate)
    return estimate


_ESTIMATES: BoundedCache[int] = BoundedCache(1024)  # of programs by their keys


def forget_estimates() -> None:
    """Forget the estimates of programs that were planned before."""
    _ESTIMATES.clear()
