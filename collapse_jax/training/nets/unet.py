"""A U-Net of images, told the noise level by scales and shifts (after arXiv 2006.11239 and 2105.05233).

Convolutions are matrix products of patches: XLA's own run at a few percent of a CPU's rate inside a loop, and with a
set of weights for each of many chains they become grouped ones, which are slow on GPUs as well.
"""

from functools import partial
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx

from collapse_jax.training.nets.dit import attend_heads
from collapse_jax.training.nets.linear import Linear
from collapse_jax.training.nets.time_embedding import TimeAndLabel
from collapse_jax.types import Array

ZERO = ("second", "out", "last")  # maps that start at 0: at first a block adds nothing, and nothing is said
GROUPS = 8


class Convolution(nnx.Module):
    """3 x 3, with zeros around the image: nine shifted images times one matrix ``[9 before, after]``."""

    def __init__(self, before: int, after: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.map = Linear(9 * before, after, dtype=dtype, rngs=rngs)

    def __call__(self, x_BxHxWxC: Array) -> Array:
        """Images ``[B, H, W, after]``."""
        _, height, width, _ = x_BxHxWxC.shape
        around = jnp.pad(x_BxHxWxC, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return self.map(jnp.concatenate(shifted, -1))


class Residual(nnx.Module):
    """Two convolutions of normalised images, added to the image; between them it is scaled and shifted."""

    def __init__(self, before: int, after: int, told: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.norm = nnx.GroupNorm(before, GROUPS, rngs=rngs)
        self.first = Convolution(before, after, dtype, rngs=rngs)
        self.middle = nnx.GroupNorm(after, GROUPS, use_scale=False, use_bias=False, rngs=rngs)
        self.modulate = linear(told, 2 * after)
        self.second = Convolution(after, after, dtype, rngs=rngs)
        self.skip = linear(before, after) if before != after else None

    def __call__(self, x_BxHxWxC: Array, told_BxD: Array) -> Array:
        """Images ``[B, H, W, after]``."""
        h_BxHxWxC = self.first(nnx.silu(self.norm(x_BxHxWxC)))
        scale_BxC, shift_BxC = jnp.split(self.modulate(told_BxD), 2, axis=-1)
        h_BxHxWxC = self.middle(h_BxHxWxC) * (1 + scale_BxC[:, None, None]) + shift_BxC[:, None, None]
        x_BxHxWxC = x_BxHxWxC if self.skip is None else self.skip(x_BxHxWxC)
        return x_BxHxWxC + self.second(nnx.silu(h_BxHxWxC))


class Attention(nnx.Module):
    """Every pixel looks at all others, in one head; what it finds is added."""

    def __init__(self, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(width, GROUPS, rngs=rngs)
        self.qkv = Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_BxHxWxC: Array) -> Array:
        """Images of the same shape."""
        rows, height, width, columns = x_BxHxWxC.shape
        heads = self.qkv(self.norm(x_BxHxWxC)).reshape(rows, height * width, 3, 1, columns)
        return x_BxHxWxC + self.out(attend_heads(heads).reshape(x_BxHxWxC.shape))


class UNet(nnx.Module):
    """Vectors for images of `shape` ``(height, width, channels)`` as flat rows.

    `depth` levels; each halves the image, and the first doubles the channels. Attention at the last one.

    Args:
      shape: of the images; height and width are multiples of ``2^(depth - 1)``.
      width: channels of the first level, a multiple of 8; later ones have twice as many.
      depth: levels.
      classes: that labels tell; 0: none.
      dtype: of the arithmetic of matrices; parameters and what is said are float32.
      rngs: of nnx; parameters come from ``timed.timed_net``.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        depth: int,
        classes: int = 0,
        dtype: jnp.dtype = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        self.shape = shape
        told = 4 * width
        linear, residual = partial(Linear, dtype=dtype, rngs=rngs), partial(Residual, dtype=dtype, rngs=rngs)
        sizes = [width] + [2 * width] * (depth - 1)
        self.told = TimeAndLabel(told, classes, dtype, rngs=rngs)
        self.read = Convolution(shape[2], width, dtype, rngs=rngs)
        self.down = nnx.List([residual(size, size, told) for size in sizes])
        self.halve = nnx.List([linear(4 * a, b) for a, b in pairwise(sizes)])
        self.attend = Attention(sizes[-1], dtype, rngs=rngs)
        self.up = nnx.List([residual(2 * size, size, told) for size in sizes])
        self.double = nnx.List([linear(b, 4 * a) for a, b in pairwise(sizes)])
        self.norm = nnx.GroupNorm(width, GROUPS, rngs=rngs)
        self.last = Convolution(width, shape[2], jnp.float32, rngs=rngs)

    def __call__(self, x_BxD: Array, t_B: Array, label_B: Array | None = None) -> Array:
        """Vectors ``[B, D]`` for rows ``[B, D]``, times ``[B]`` and labels ``[B]``."""
        told_BxD = nnx.silu(self.told(t_B, label_B))
        image = self.read(x_BxD.reshape(-1, *self.shape))
        kept = []
        for i, block in enumerate(self.down):
            image = block(image if i == 0 else self.halve[i - 1](fold_pixels(image)), told_BxD)
            kept.append(image)
        image = self.attend(image)
        for i in reversed(range(len(self.up))):
            image = self.up[i](jnp.concatenate([image, kept[i]], -1), told_BxD)
            image = image if i == 0 else unfold_pixels(self.double[i - 1](image))
        return self.last(nnx.silu(self.norm(image))).reshape(x_BxD.shape)


def fold_pixels(x_BxHxWxC: Array) -> Array:
    """Half as high and wide: each square of four pixels becomes one with four times the channels."""
    rows, height, width, channels = x_BxHxWxC.shape
    squares = x_BxHxWxC.reshape(rows, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return squares.reshape(rows, height // 2, width // 2, 4 * channels)


def unfold_pixels(x_BxHxWxC: Array) -> Array:
    """What ``fold_pixels`` undoes."""
    rows, height, width, channels = x_BxHxWxC.shape
    squares = x_BxHxWxC.reshape(rows, height, width, 2, 2, channels // 4).swapaxes(2, 3)
    return squares.reshape(rows, 2 * height, 2 * width, channels // 4)
