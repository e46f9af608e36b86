"""A small multilayer perceptron of points and times."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from collapse_jax.types import Array


class TimedMLP(nnx.Module):
    """A vector field ``v(x, t)`` on points of R^dim, with `depth` hidden layers of `width` SiLU units.

    Time, about 1 in size, enters beside the point as ``t`` and ``cos, sin(pi k t)`` for k = 1 .. `frequencies`. A label
    enters as one of `classes` columns that is 1; all are 0 for a label that is no class. Parameters are float32, and
    the hidden layers' arithmetic has dtype `dtype`.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        frequencies: int = 4,
        classes: int = 0,
        dtype: jnp.dtype = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        self.frequencies, self.classes = frequencies, classes
        sizes = [dim + 1 + 2 * frequencies + classes, *[width] * depth]
        self.hidden = nnx.List([nnx.Linear(i, o, dtype=dtype, rngs=rngs) for i, o in pairwise(sizes)])
        self.out = nnx.Linear(sizes[-1], dim, rngs=rngs)

    def __call__(self, x_BxD: Array, t_B: Array, label_B: Array | None = None) -> Array:
        """Return vectors ``[B, D]`` at points ``[B, D]`` and times ``[B]``; labels ``[B]`` need classes."""
        angle_BxF = jnp.pi * t_B[:, None] * jnp.arange(1, self.frequencies + 1, dtype=t_B.dtype)[None]
        inputs = [x_BxD, t_B[:, None], jnp.cos(angle_BxF), jnp.sin(angle_BxF)]
        if label_B is not None:
            inputs.append(jax.nn.one_hot(label_B, self.classes))
        h_BxH = jnp.concatenate(inputs, axis=1)
        for layer in self.hidden:
            h_BxH = nnx.silu(layer(h_BxH))
        return self.out(h_BxH)
