"""The work of a program, counted for its roofline."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from collapse_jax.planning.cost import _FREE, _FUSED, _MATMUL, _of_equation, inner_jaxprs, size_of

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
