"""Count the work of a program for its roofline: arithmetic, random numbers and bytes moved."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from collapse_jax.planning.cost import (
    FREE,
    FUSED,
    LOOPS,
    MATMUL_OPERATIONS,
    called_jaxpr,
    count_array_bytes,
    count_equation_operations,
    inner_jaxprs,
    is_literal,
)

_EXPONENTIALS = {"exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "erf", "erfc", "pow",
                 "lgamma", "digamma", "cbrt"}  # fmt: skip

# Operations of decomposing a matrix of d rows, divided by d^3.
_CUBES = {"cholesky": 1 / 3, "lu": 2 / 3, "qr": 4 / 3, "eigh": 9.0, "svd": 4.0, "triangular_solve": 1.0}

_MOVES = FREE | {"transpose", "rev", "copy", "concatenate", "pad", "gather", "scatter", "dynamic_slice",
                  "dynamic_update_slice", "expand_dims", "bitcast_convert_type", "random_wrap", "random_unwrap",
                  "random_seed", "split"}  # fmt: skip

_ELEMENTWISE = ("scatter", "reduce")  # primitives whose inner function takes one element


class Work(NamedTuple):
    """The work of one call of a function.

    Attributes:
      flops: arithmetic operations without random numbers: one an element of a primitive, two a multiplication and an
        addition of a matrix product.
      products: the part of `flops` that matrix products and convolutions are.
      exponentials: elements of exponentials, logarithms and similar functions.
      random_words: random words of 32 bits, and keys made from keys.
      normals: how many of the random words become normals.
      bytes: bytes of what no fusion keeps in registers, each value written once and read once; a part of an array (what
        is gathered from it, or written in place) counts as the part.
    """

    flops: float = 0.0
    products: float = 0.0
    exponentials: float = 0.0
    random_words: float = 0.0
    normals: float = 0.0
    bytes: float = 0.0

    def times(self, factor: float) -> "Work":
        """Return the work of `factor` calls."""
        return Work(*(factor * value for value in self))


class _Operation(NamedTuple):
    """An equation with the variables that it reads and writes, by their names outside of inner calls."""

    equation: Any
    inputs: list[Any]
    outputs: list[Any]


def count_work(jaxpr: Any) -> Work:
    """Return the work of one call; a ``while`` loop, whose turns are not known, counts as one turn."""
    names: dict[Any, Any] = {}
    operations = list(_inline_calls(jaxpr, names))
    results = {names.get(v, v) for v in jaxpr.outvars if not is_literal(v)}
    works = [_count_equation_work(operation.equation) for operation in operations]
    moved = _count_moved_bytes(operations, {*jaxpr.invars, *jaxpr.constvars}, results)
    return Work(*map(sum, zip(Work(bytes=moved), *works, strict=True)))


def _inline_calls(jaxpr: Any, names: dict[Any, Any]) -> Iterator[_Operation]:
    """Yield the equations of a jaxpr with those of inner calls in their place.

    Afterwards `names` maps each variable that such a call returned to the variable that holds the value.
    """

    def resolve(variable: Any) -> Any:
        return None if is_literal(variable) else names.get(variable, variable)

    for equation in jaxpr.eqns:
        inputs, outputs = [resolve(v) for v in equation.invars], [resolve(v) for v in equation.outvars]
        body = called_jaxpr(equation)
        if body is None:
            yield _Operation(equation, inputs, outputs)
            continue
        inner_names = dict(zip(body.invars, inputs, strict=True))
        yield from _inline_calls(body, inner_names)
        returned = zip(outputs, body.outvars, strict=True)
        names |= {output: inner_names.get(v, v) for output, v in returned if not is_literal(v)}


def _count_equation_work(equation: Any) -> Work:
    name, params = equation.primitive.name, equation.params
    inner = [count_work(jaxpr) for jaxpr in inner_jaxprs(params) if not name.startswith(_ELEMENTWISE)]
    if name == "cond":
        return Work(*map(max, zip(*inner, strict=True)))
    if inner:
        return Work(*map(sum, zip(*inner, strict=True))).times(params["length"] if name == "scan" else 1)
    out = float(sum(math.prod(v.aval.shape) for v in equation.outvars))
    whole = max([out, *(math.prod(v.aval.shape) for v in equation.invars)])
    if name in ("random_bits", "threefry2x32"):
        return Work(random_words=out * params.get("bit_width", 32) / 32)
    if name in ("random_fold_in", "random_split"):
        return Work(random_words=out)
    if name in ("erf_inv", "random_gamma"):
        return Work(normals=out, random_words=out if name == "random_gamma" else 0.0)
    if name in _EXPONENTIALS:
        return Work(flops=out, exponentials=out)
    if name in ("dot_general", "conv_general_dilated"):
        product = 2 * count_equation_operations(equation) / MATMUL_OPERATIONS
        return Work(flops=product, products=product)
    if name in _CUBES:
        return Work(flops=_CUBES[name] * whole * equation.invars[0].aval.shape[-1])
    return Work() if name in _MOVES else Work(flops=whole * (math.log2(max(whole, 2)) if name == "sort" else 1.0))


def _count_moved_bytes(operations: list[_Operation], arguments: set[Any], results: set[Any]) -> float:
    """Return the bytes that one call, or one turn of a loop, reads and writes outside of the loops in it."""
    read: set[Any] = set()
    moved = 0.0
    for equation, inputs, outputs in operations:
        name = equation.primitive.name
        if name in ("gather", "dynamic_slice"):
            moved += 2.0 * sum(count_array_bytes(v.aval) for v in outputs)
        elif name == "dynamic_update_slice" or name.startswith("scatter"):
            moved += 2.0 * count_array_bytes(equation.invars[1 if name == "dynamic_update_slice" else 2].aval)
        elif name not in LOOPS:
            read |= arguments & {v for v in inputs if v is not None}
            stored = outputs if name not in FUSED else [v for v in outputs if v in results]
            moved += sum(count_array_bytes(v.aval) * (1 if v in results else 2) for v in stored)
    return moved + sum(count_array_bytes(v.aval) for v in read)
