"""How much work a function is, and how much memory it takes, read off its jaxpr; loops count as often as they turn."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

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


_EXPONENTIALS = {"exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "erf", "erfc", "pow",
                 "lgamma", "digamma", "cbrt"}  # fmt: skip
# Operations a matrix of d rows, over d^3.
_CUBES = {"cholesky": 1 / 3, "lu": 2 / 3, "qr": 4 / 3, "eigh": 9.0, "svd": 4.0, "triangular_solve": 1.0}
_MOVES = _FREE | {"transpose", "rev", "copy", "concatenate", "pad", "gather", "scatter", "dynamic_slice",
                  "dynamic_update_slice", "expand_dims", "bitcast_convert_type", "random_wrap", "random_unwrap",
                  "random_seed", "split"}  # fmt: skip
_LOOPS = ("scan", "while", "cond")
_ELEMENTWISE = ("scatter", "reduce")  # whose inner function is of one element


class Work(NamedTuple):
    """What a function does when it is called once.

    Attributes:
      flops: arithmetic, random numbers apart: one an element of an operation, two a multiplication and an addition of
        a matrix product.
      products: of these, what matrix products and convolutions are.
      exponentials: elements of exponentials, logarithms and their like.
      words: random words of 32 bits, and keys made from keys.
      normals: how many of the words become normals.
      bytes: of what no fusion keeps in registers, each value written once and read once; a part of an array (what is
        gathered from it, or written in place) counts as the part.
    """

    flops: float = 0.0
    products: float = 0.0
    exponentials: float = 0.0
    words: float = 0.0
    normals: float = 0.0
    bytes: float = 0.0

    def times(self, factor: float) -> "Work":
        """That of so many calls."""
        return Work(*(factor * value for value in self))


def count(jaxpr: Any) -> Work:
    """The work of one call; a ``while`` loop, whose turns are not known, counts as one turn."""
    names: dict[Any, Any] = {}
    equations = list(_inlined(jaxpr, names))
    results = {names.get(v, v) for v in jaxpr.outvars if not hasattr(v, "val")}
    parts = [_work_of(equation) for equation, _, _ in equations]
    moved = _traffic(equations, {*jaxpr.invars, *jaxpr.constvars}, results)
    return Work(*map(sum, zip(Work(bytes=moved), *parts, strict=True)))


def _inlined(jaxpr: Any, names: dict[Any, Any]) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """Equations with what they read and write; those of an inner call stand in its place, and `names` what it gave."""
    of = lambda v: None if hasattr(v, "val") else names.get(v, v)  # noqa: E731
    for equation in jaxpr.eqns:
        inner = list(inner_jaxprs(equation.params))
        ins, outs = [of(v) for v in equation.invars], [of(v) for v in equation.outvars]
        if equation.primitive.name in _LOOPS or len(inner) != 1 or len(inner[0].invars) != len(ins):
            yield equation, ins, outs
            continue
        inside = dict(zip(inner[0].invars, ins, strict=True))
        yield from _inlined(inner[0], inside)
        # What a call returns is what its last equations wrote.
        names |= {o: inside.get(v, v) for o, v in zip(outs, inner[0].outvars, strict=True) if not hasattr(v, "val")}


def _work_of(equation: Any) -> Work:
    name, params = equation.primitive.name, equation.params
    inner = [count(jaxpr) for jaxpr in inner_jaxprs(params) if not name.startswith(_ELEMENTWISE)]
    if name == "cond":
        return Work(*map(max, zip(*inner, strict=True)))
    if inner:
        return Work(*map(sum, zip(*inner, strict=True))).times(params["length"] if name == "scan" else 1)
    out = float(sum(math.prod(v.aval.shape) for v in equation.outvars))
    whole = max([out, *(math.prod(v.aval.shape) for v in equation.invars)])
    if name in ("random_bits", "threefry2x32"):
        return Work(words=out * params.get("bit_width", 32) / 32)
    if name in ("random_fold_in", "random_split"):
        return Work(words=out)
    if name in ("erf_inv", "random_gamma"):
        return Work(normals=out, words=out if name == "random_gamma" else 0.0)
    if name in _EXPONENTIALS:
        return Work(flops=out, exponentials=out)
    if name in ("dot_general", "conv_general_dilated"):
        product = 2 * _of_equation(equation) / _MATMUL
        return Work(flops=product, products=product)
    if name in _CUBES:
        return Work(flops=_CUBES[name] * whole * equation.invars[0].aval.shape[-1])
    return Work() if name in _MOVES else Work(flops=whole * (math.log2(max(whole, 2)) if name == "sort" else 1.0))


def _traffic(equations: list[tuple[Any, list[Any], list[Any]]], given: set[Any], results: set[Any]) -> float:
    """Bytes that one call, or one turn of a loop, reads and writes outside of the loops in it."""
    read, moved = set(), 0.0
    for equation, ins, outs in equations:
        name = equation.primitive.name
        if name in ("gather", "dynamic_slice"):
            moved += 2.0 * sum(size_of(v.aval) for v in outs)
        elif name == "dynamic_update_slice" or name.startswith("scatter"):
            moved += 2.0 * size_of(equation.invars[1 if name == "dynamic_update_slice" else 2].aval)
        elif name not in _LOOPS:
            read |= given & {v for v in ins if v is not None}
            kept = outs if name not in _FUSED else [v for v in outs if v in results]
            moved += sum(size_of(v.aval) * (1 if v in results else 2) for v in kept)
    return moved + sum(size_of(v.aval) for v in read)


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
