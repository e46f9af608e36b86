"""A small multilayer perceptron of points and times."""

from itertools import pairwise

import jax.numpy as jnp
from flax import nnx

from collapse_jax.types import Array


class VelocityMLP(nnx.Module):
    """A velocity field ``v(x, t)`` on points of R^dim: `depth` hidden layers of `width` SiLU units.

    Time, in [0, 1], enters beside the point as ``t`` and ``cos, sin(pi k t)`` for k = 1 .. `frequencies`.
    """

    def __init__(self, dim: int, width: int, depth: int, frequencies: int = 4, *, rngs: nnx.Rngs):
        self.frequencies = frequencies
        sizes = [dim + 1 + 2 * frequencies, *[width] * depth]
        self.hidden = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairwise(sizes)])
        self.out = nnx.Linear(sizes[-1], dim, rngs=rngs)

    def __call__(self, x_BxD: Array, t_B: Array) -> Array:
        """Velocities ``[B, D]`` at points ``[B, D]`` and times ``[B]``."""
        angle_BxF = jnp.pi * t_B[:, None] * jnp.arange(1, self.frequencies + 1)
        h_BxH = jnp.concatenate([x_BxD, t_B[:, None], jnp.cos(angle_BxF), jnp.sin(angle_BxF)], axis=1)
        for layer in self.hidden:
            h_BxH = nnx.silu(layer(h_BxH))
        return self.out(h_BxH)
