"""How much work a function is, and how much memory it takes, read off its jaxpr; loops count as often as they turn."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

# Operations an element, roughly, on a CPU's vector units; everything else counts as one.
_HEAVY = {
    "random_bits": 80, "threefry2x32": 80, "random_gamma": 2000, "erf_inv": 40, "exp": 10, "log": 15, "log1p": 15,
    "tanh": 15, "logistic": 15, "sin": 15, "cos": 15, "erf": 30, "pow": 25, "sqrt": 4, "div": 4, "rem": 8, "sort": 60,
    "gather": 4, "scatter": 8, "scatter-add": 8, "cumsum": 8,
}  # fmt: skip
_MATMUL = 0.3  # a multiplication and an addition of a matrix product
_FREE = {"broadcast_in_dim", "reshape", "squeeze", "slice", "iota", "convert_element_type", "stop_gradient"}
_DECOMPOSITIONS = {"cholesky", "svd", "eigh", "qr", "lu", "triangular_solve"}

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


def operations(jaxpr: Any) -> float:
    """Elementary operations of one call; a ``while`` loop, whose turns are not known, counts as one turn."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    inner = [operations(jaxpr) for jaxpr in inner_jaxprs(params)]
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
        return _MATMUL * out * math.prod(equation.invars[0].aval.shape[i] for i in contracting)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        return _MATMUL * out * math.prod(kernel) / max(kernel[params["dimension_numbers"].rhs_spec[0]], 1)
    if name in _DECOMPOSITIONS:
        return 20.0 * shape * equation.invars[0].aval.shape[-1]
    return 0.0 if name in _FREE else float(_HEAVY.get(name, 1) * (out if name in ("random_bits", "gather") else shape))


def inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs that an equation calls."""
    for value in jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr


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
                alive[v] = size_of(v.aval)
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


def size_of(x: Any) -> int:
    """Bytes of an array of that shape and type."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(x.shape)
    return math.prod(x.shape) * jnp.dtype(x.dtype).itemsize
