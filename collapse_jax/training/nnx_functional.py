"""The only module that deals with flax nnx: it turns a module into two pure functions of a plain pytree of arrays.

Other modules use only ``init``, ``apply`` and JAX's own transformations, so a change of nnx concerns this file alone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import draw_normals
from collapse_jax.types import Key, Tree

if TYPE_CHECKING:
    from flax import nnx


def make_functional(build: "Callable[[nnx.Rngs], nnx.Module]") -> tuple[Callable[[Key], Tree], Callable[..., Tree]]:
    """Return ``build(rngs)`` as two pure functions ``(init, apply)``.

    Args:
      build: makes the module. All its state must be ``nnx.Param``: no batch statistics and no stored random streams
        (dropout). Whatever is random or running is an argument of the module's call.

    Returns:
      ``init(key) -> params``, nested dicts of arrays, and ``apply(params, *args, method="__call__")``, which calls the
        module or another method of it.

    Raises:
      UsageError: the module holds state that is no parameter.
    """
    from flax import nnx  # takes as long to import as JAX

    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    for path, leaf in nnx.to_flat_state(abstract):
        if not isinstance(leaf, nnx.Param):
            name = ".".join(map(str, path))
            raise UsageError(
                f"make_functional() takes modules whose state is all nnx.Param; {name} is {type(leaf).__name__}"
            )

    def init(key: Key) -> Tree:
        return nnx.to_pure_dict(nnx.split(build(nnx.Rngs(key)))[1])

    def apply(params: Tree, *args: Any, method: str = "__call__") -> Tree:
        return getattr(nnx.merge(graphdef, params), method)(*args)

    return init, apply


def draw_parameters(key: Key, shapes: Tree, deviation: Callable[[tuple, tuple[int, ...]], float]) -> Tree:
    """Draw normal parameters, all from one draw: a generator for each leaf would take most of the time to compile.

    `deviation` is ``(names on the way to a leaf, its shape) -> standard deviation``; leaves called ``scale`` are 1.
    """
    leaves, tree = jax.tree.flatten_with_path(shapes)
    numbers = draw_normals(key, (sum(leaf.size for _, leaf in leaves),))
    drawn, begin = [], 0
    for path, leaf in leaves:
        names = tuple(entry.key for entry in path)
        values = numbers[begin : begin + leaf.size].reshape(leaf.shape).astype(leaf.dtype)
        begin += leaf.size
        drawn.append(jnp.ones_like(values) if names[-1] == "scale" else deviation(names, leaf.shape) * values)
    return jax.tree.unflatten(tree, drawn)
