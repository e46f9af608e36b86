"""A U-Net of images, conditioned on the noise level by scales and shifts (after arXiv 2006.11239 and 2105.05233)."""

from functools import partial
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx

from collapse_jax.training.nets.convolution import Convolution
from collapse_jax.training.nets.dit import attend_heads
from collapse_jax.training.nets.linear import Linear
from collapse_jax.training.nets.time_embedding import TimeAndLabel
from collapse_jax.types import Array

ZERO = ("second", "out", "last")  # maps that start at 0: at first, blocks add nothing and the output is 0
GROUPS = 8


class Residual(nnx.Module):
    """Two convolutions of normalised images, added to the image, with a scale and a shift between them."""

    def __init__(self, before: int, after: int, condition: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.norm = nnx.GroupNorm(before, GROUPS, rngs=rngs)
        self.first = Convolution(before, after, dtype, rngs=rngs)
        self.middle = nnx.GroupNorm(after, GROUPS, use_scale=False, use_bias=False, rngs=rngs)
        self.modulate = linear(condition, 2 * after)
        self.second = Convolution(after, after, dtype, rngs=rngs)
        self.skip = linear(before, after) if before != after else None

    def __call__(self, x_BxHxWxC: Array, condition_BxD: Array) -> Array:
        """Return images ``[B, H, W, after]``."""
        h_BxHxWxC = self.first(nnx.silu(self.norm(x_BxHxWxC)))
        scale_BxC, shift_BxC = jnp.split(self.modulate(condition_BxD), 2, axis=-1)
        h_BxHxWxC = self.middle(h_BxHxWxC) * (1 + scale_BxC[:, None, None]) + shift_BxC[:, None, None]
        x_BxHxWxC = x_BxHxWxC if self.skip is None else self.skip(x_BxHxWxC)
        return x_BxHxWxC + self.second(nnx.silu(h_BxHxWxC))


class Attention(nnx.Module):
    """Attention of every pixel to all others, in one head, added to the image."""

    def __init__(self, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(width, GROUPS, rngs=rngs)
        self.qkv = Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_BxHxWxC: Array) -> Array:
        """Return images of the same shape."""
        rows, height, width, columns = x_BxHxWxC.shape
        heads = self.qkv(self.norm(x_BxHxWxC)).reshape(rows, height * width, 3, 1, columns)
        return x_BxHxWxC + self.out(attend_heads(heads).reshape(x_BxHxWxC.shape))


class UNet(nnx.Module):
    """A network that maps images of `shape`, as flat rows, to vectors of the same size, at `depth` levels.

    Each level halves the image, and the first doubles the channels. The last has attention.

    Args:
      shape: ``(height, width, channels)`` of the images; height and width are multiples of ``2^(depth - 1)``.
      width: channels of the first level, a multiple of 8; later ones have twice as many.
      depth: number of levels.
      classes: number of classes of labels; 0: none.
      dtype: dtype of matrix arithmetic; parameters and the output are float32.
      rngs: nnx's generators; parameters come from ``denoiser.make_denoiser``.
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
        condition = 4 * width
        linear, residual = partial(Linear, dtype=dtype, rngs=rngs), partial(Residual, dtype=dtype, rngs=rngs)
        sizes = [width] + [2 * width] * (depth - 1)
        self.time_and_label = TimeAndLabel(condition, classes, dtype, rngs=rngs)
        self.read = Convolution(shape[2], width, dtype, rngs=rngs)
        self.down = nnx.List([residual(size, size, condition) for size in sizes])
        self.halve = nnx.List([linear(4 * a, b) for a, b in pairwise(sizes)])
        self.attend = Attention(sizes[-1], dtype, rngs=rngs)
        self.up = nnx.List([residual(2 * size, size, condition) for size in sizes])
        self.double = nnx.List([linear(b, 4 * a) for a, b in pairwise(sizes)])
        self.norm = nnx.GroupNorm(width, GROUPS, rngs=rngs)
        self.last = Convolution(width, shape[2], jnp.float32, rngs=rngs)

    def __call__(self, x_BxD: Array, t_B: Array, label_B: Array | None = None) -> Array:
        """Return vectors ``[B, D]`` for rows ``[B, D]``, times ``[B]`` and labels ``[B]``."""
        condition_BxD = nnx.silu(self.time_and_label(t_B, label_B))
        image = self.read(x_BxD.reshape(-1, *self.shape))
        kept = []
        for i, block in enumerate(self.down):
            image = block(image if i == 0 else self.halve[i - 1](fold_pixels(image)), condition_BxD)
            kept.append(image)
        image = self.attend(image)
        for i in reversed(range(len(self.up))):
            image = self.up[i](jnp.concatenate([image, kept[i]], -1), condition_BxD)
            image = image if i == 0 else unfold_pixels(self.double[i - 1](image))
        return self.last(nnx.silu(self.norm(image))).reshape(x_BxD.shape)


def fold_pixels(x_BxHxWxC: Array) -> Array:
    """Return images half as high and wide: each square of four pixels becomes one with four times the channels."""
    rows, height, width, channels = x_BxHxWxC.shape
    squares = x_BxHxWxC.reshape(rows, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return squares.reshape(rows, height // 2, width // 2, 4 * channels)


def unfold_pixels(x_BxHxWxC: Array) -> Array:
    """Return the images that ``fold_pixels`` folded."""
    rows, height, width, channels = x_BxHxWxC.shape
    squares = x_BxHxWxC.reshape(rows, height, width, 2, 2, channels // 4).swapaxes(2, 3)
    return squares.reshape(rows, 2 * height, 2 * width, channels // 4)
