"""Bytes that a block of chains takes on its device, read off its jaxpr."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.blocks import device_memory, functions, lanes
from collapse_jax.cost import inner_jaxprs
from collapse_jax.keys import chain_keys
from collapse_jax.spread import mesh_size
from collapse_jax.units import Plan, Program, stretch

# What XLA computes on the way into another operation instead of keeping it.
_FUSED = {
    "add", "sub", "mul", "div", "neg", "max", "min", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "tanh",
    "logistic", "pow", "integer_pow", "abs", "sign", "floor", "ceil", "round", "erf", "erf_inv",
    "select_n", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "shift_left", "shift_right_logical",
    "shift_right_arithmetic", "is_finite",
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "bitcast_convert_type", "iota",
    "stop_gradient", "slice", "transpose", "rev", "copy", "clamp", "random_bits", "random_wrap", "random_unwrap",
    "random_fold_in", "random_split", "threefry2x32", "square", "nextafter", "rem", "concatenate", "pad", "mul_add",
}  # fmt: skip

# The same bytes as what they are given.
_ALIASES = {"dynamic_update_slice", "scatter", "scatter-add", "scatter-min", "scatter-max", "reshape", "squeeze",
            "expand_dims", "stop_gradient", "copy"}  # fmt: skip


def check_fits(plan: Plan) -> None:
    """Refuses what cannot run.

    Raises:
      ValueError: a block of some program does not fit into a device's memory; it says how many chains would.
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
            raise ValueError(
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
    arguments = sum(map(_bytes, jaxpr.invars))
    results = sum(map(_bytes, jaxpr.outvars)) - sum(_size(x) for x in jax.tree.leaves(state))  # the state is donated
    return int(arguments + max(results, 0) + peak(jaxpr))


def peak(jaxpr: Any) -> int:
    """Most bytes of intermediate values alive at once; what is fused into what reads it takes none."""
    last = {v: i for i, e in enumerate(jaxpr.eqns) for v in e.invars if not hasattr(v, "val")}
    keep = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    kept = _kept(jaxpr)
    alive, now, most = {}, 0, 0
    for i, equation in enumerate(jaxpr.eqns):
        inner = max((peak(j) for j in inner_jaxprs(equation.params)), default=0)
        for v in equation.outvars:
            if v in kept and v not in keep and equation.primitive.name not in _ALIASES:
                alive[v] = _bytes(v)
                now += alive[v]
        most = max(most, now + inner)
        for v in [v for v in alive if last.get(v, -1) <= i]:
            now -= alive.pop(v)
    return most


def _kept(jaxpr: Any) -> set[Any]:
    """Values that are written to memory: what is not fused, and what such operations read."""
    kept = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name not in _FUSED:
            kept |= {v for v in (*equation.invars, *equation.outvars) if not hasattr(v, "val")}
    return kept


def _bytes(variable: Any) -> int:
    return _size(variable.aval)


def _size(x: Any) -> int:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(x.shape)
    return math.prod(x.shape) * jnp.dtype(x.dtype).itemsize
