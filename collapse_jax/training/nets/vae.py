"""The two networks of a variational autoencoder, both multilayer perceptrons."""

from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from collapse_jax.core.validation import require_integer
from collapse_jax.training.nnx_functional import draw_parameters, make_functional
from collapse_jax.types import Array, Key, Tree


class Autoencoder(nnx.Module):
    """Two networks: rows to the normal law of their latents, and latents to rows.

    Each has `depth` hidden layers of `width` SiLU units; without a hidden layer both are linear. A label enters both as
    one of `classes` columns that is 1.
    """

    def __init__(self, dim: int, latent: int, width: int, depth: int, classes: int, *, rngs: nnx.Rngs):
        self.classes = classes
        wide = [width] * depth
        self.encoder = _make_layers([dim + classes, *wide, 2 * latent], rngs)
        self.decoder = _make_layers([latent + classes, *wide, dim], rngs)

    def encode(self, x_BxD: Array, label_B: Array | None = None) -> tuple[Array, Array]:
        """Return the mean and log variance ``[B, L]`` of the latents of rows ``[B, D]``."""
        mean_BxL, log_variance_BxL = jnp.split(self._through(self.encoder, x_BxD, label_B), 2, axis=1)
        return mean_BxL, log_variance_BxL

    def decode(self, z_BxL: Array, label_B: Array | None = None) -> Array:
        """Return the mean ``[B, D]`` of the rows of latents ``[B, L]``."""
        return self._through(self.decoder, z_BxL, label_B)

    def _through(self, layers: nnx.List, x_BxI: Array, label_B: Array | None) -> Array:
        if label_B is not None:
            x_BxI = jnp.concatenate([x_BxI, jax.nn.one_hot(label_B, self.classes)], axis=1)
        for layer in layers[:-1]:
            x_BxI = nnx.silu(layer(x_BxI))
        return layers[-1](x_BxI)


def make_autoencoder(
    dim: int, latent: int, width: int, depth: int, classes: int
) -> tuple[Callable[[Key], Tree], Callable[..., Tree]]:
    """Return ``(init, apply)`` of an ``Autoencoder``; ``apply(params, x, label, method="encode")``, or ``"decode"``.

    Raises:
      UsageError: a size is below 1, or the depth is below 0.
    """
    for name, size in (("latent", latent), ("width", width)):
        require_integer(name, size, 1)
    require_integer("depth", depth, 0)
    by_nnx, apply = make_functional(lambda rngs: Autoencoder(dim, latent, width, depth, classes, rngs=rngs))
    shapes = jax.eval_shape(by_nnx, jax.random.key(0))

    def deviation(names: tuple, shape: tuple[int, ...]) -> float:
        return 0.0 if names[-1] == "bias" else shape[0] ** -0.5

    return lambda key: draw_parameters(key, shapes, deviation), apply


def _make_layers(sizes: list[int], rngs: nnx.Rngs) -> nnx.List:
    return nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairwise(sizes)])
