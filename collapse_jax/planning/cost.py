"""Count the operations and the memory of a function from its jaxpr; the body of a loop counts once for each turn."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Rough operations an element on a CPU's vector units; every other primitive counts as one.
_HEAVY = {
    "random_bits": 80, "threefry2x32": 80, "random_gamma": 2000, "erf_inv": 40, "exp": 10, "log": 15, "log1p": 15,
    "tanh": 15, "logistic": 15, "sin": 15, "cos": 15, "erf": 30, "pow": 25, "sqrt": 4, "div": 4, "rem": 8, "sort": 60,
    "gather": 4, "scatter": 8, "scatter-add": 8, "cumsum": 8,
}  # fmt: skip
MATMUL_OPERATIONS = 0.3  # a multiplication and an addition of a matrix product
FREE = {"broadcast_in_dim", "reshape", "squeeze", "slice", "iota", "convert_element_type", "stop_gradient"}
LOOPS = ("scan", "while", "cond")
_DECOMPOSITIONS = {"cholesky", "svd", "eigh", "qr", "lu", "triangular_solve"}

# Primitives that XLA computes on the way into another operation instead of keeping their results.
FUSED = {
    "add", "sub", "mul", "div", "neg", "max", "min", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "tanh",
    "logistic", "pow", "integer_pow", "abs", "sign", "floor", "ceil", "round", "erf", "erf_inv",
    "select_n", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "shift_left", "shift_right_logical",
    "shift_right_arithmetic", "is_finite",
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "bitcast_convert_type", "iota",
    "stop_gradient", "slice", "transpose", "rev", "copy", "clamp", "random_bits", "random_wrap", "random_unwrap",
    "random_fold_in", "random_split", "threefry2x32", "square", "nextafter", "rem", "concatenate", "pad", "mul_add",
}  # fmt: skip

# Primitives whose result lies in the bytes of their argument.
_ALIASES = {"dynamic_update_slice", "scatter", "scatter-add", "scatter-min", "scatter-max", "reshape", "squeeze",
            "expand_dims", "stop_gradient", "copy"}  # fmt: skip


def count_operations(jaxpr: Any) -> float:
    """Return the elementary operations of one call; a ``while`` loop, whose turns are not known, counts as one turn."""
    return sum(count_equation_operations(equation) for equation in jaxpr.eqns)


def count_live_operations(jaxpr: Any, is_live: Sequence[bool]) -> float:
    """Return the operations of one call that the live outputs need, with one flag for each output of `jaxpr`.

    XLA removes the others. What a loop or a conditional computes counts as a whole.
    """
    return _count_live(jaxpr, is_live)[0]


def _count_live(jaxpr: Any, is_live: Sequence[bool]) -> tuple[float, list[bool]]:
    """Return the operations that live outputs need, and which inputs they need."""
    needed = {v for v, live in zip(jaxpr.outvars, is_live, strict=True) if live and not is_literal(v)}
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        live = [v in needed for v in equation.outvars]
        if not any(live) and not equation.effects:
            continue
        body = called_jaxpr(equation)
        if body is None:
            operations, inputs = count_equation_operations(equation), [True] * len(equation.invars)
        else:
            operations, inputs = _count_live(body, live)
        total += operations
        needed |= {v for v, live in zip(equation.invars, inputs, strict=True) if live and not is_literal(v)}
    return total, [v in needed for v in jaxpr.invars]


def called_jaxpr(equation: Any) -> Any | None:
    """Return the jaxpr that an equation calls once with its own arguments, as ``jit`` does, or None."""
    bodies = list(inner_jaxprs(equation.params))
    if equation.primitive.name in LOOPS or len(bodies) != 1 or len(bodies[0].invars) != len(equation.invars):
        return None
    return bodies[0]


def is_literal(variable: Any) -> bool:
    """Return whether an argument in a jaxpr is a constant written in place rather than a variable."""
    return hasattr(variable, "val")


def count_equation_operations(equation: Any) -> float:
    """Return the elementary operations of one equation of a jaxpr, with those of the jaxprs that it calls."""
    name, params = equation.primitive.name, equation.params
    inner = [count_operations(jaxpr) for jaxpr in inner_jaxprs(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if inner:
        return sum(inner)
    shape = max((math.prod(v.aval.shape) for v in (*equation.invars, *equation.outvars)), default=1)
    out = sum(math.prod(v.aval.shape) for v in equation.outvars)
    if name == "dot_general":
        (contracting, _), _ = params["dimension_numbers"]
        return MATMUL_OPERATIONS * out * math.prod(equation.invars[0].aval.shape[i] for i in contracting)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        return MATMUL_OPERATIONS * out * math.prod(kernel) / max(kernel[params["dimension_numbers"].rhs_spec[0]], 1)
    if name in _DECOMPOSITIONS:
        return 20.0 * shape * equation.invars[0].aval.shape[-1]
    return 0.0 if name in FREE else float(_HEAVY.get(name, 1) * (out if name in ("random_bits", "gather") else shape))


def inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs that an equation calls."""
    for value in jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr


def count_peak_bytes(jaxpr: Any) -> int:
    """Return the most bytes of intermediate values alive at once; values fused into their readers take none."""
    last_use = {v: i for i, e in enumerate(jaxpr.eqns) for v in e.invars if not is_literal(v)}
    outputs = {v for v in jaxpr.outvars if not is_literal(v)}
    for equation in reversed(jaxpr.eqns):  # what lies in the bytes of a result takes no others
        if equation.primitive.name in _ALIASES and outputs & set(equation.outvars):
            outputs |= {v for v in equation.invars[:1] if not is_literal(v)}
    stored = _stored_values(jaxpr)
    alive: dict[Any, int] = {}
    current = peak = 0
    for i, equation in enumerate(jaxpr.eqns):
        inner = max((count_peak_bytes(j) for j in inner_jaxprs(equation.params)), default=0)
        for v in equation.outvars:
            if v in stored and v not in outputs and equation.primitive.name not in _ALIASES:
                alive[v] = count_array_bytes(v.aval)
                current += alive[v]
        peak = max(peak, current + inner)
        for v in [v for v in alive if last_use.get(v, -1) <= i]:
            current -= alive.pop(v)
    return peak


def _stored_values(jaxpr: Any) -> set[Any]:
    """Return the values that are written to memory: those of primitives that are not fused, and what those read."""
    stored = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name not in FUSED:
            stored |= {v for v in (*equation.invars, *equation.outvars) if not is_literal(v)}
    return stored


def count_array_bytes(x: Any) -> int:
    """Return the bytes of an array of the shape and type of `x`."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(x.shape)
    return math.prod(x.shape) * jnp.dtype(x.dtype).itemsize
