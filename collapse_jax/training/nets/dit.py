"""A transformer of image patches, conditioned on the noise level by scales and shifts (DiT, arXiv 2212.09748)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from collapse_jax.training.nets.attention import weigh_values
from collapse_jax.training.nets.linear import Linear
from collapse_jax.training.nets.time_embedding import TimeAndLabel
from collapse_jax.types import Array

ZERO = ("modulate", "write")  # linear maps that start at 0: at first, blocks add nothing and the output is 0


class DiTBlock(nnx.Module):
    """A block of attention and a feed-forward layer on a stream that is normalised, scaled and shifted (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)
        self.up, self.down = linear(width, 4 * width), linear(4 * width, width)

    def __call__(self, x_BxLxD: Array, condition_Bx6xD: Array) -> Array:
        """Return the stream after this block."""
        shift, scale, gate, shift_feed, scale_feed, gate_feed = jnp.split(condition_Bx6xD, 6, axis=1)
        rows, length, _ = x_BxLxD.shape
        heads = self.qkv(modulate_tokens(x_BxLxD, scale, shift)).reshape(rows, length, 3, self.heads, -1)
        x_BxLxD = x_BxLxD + gate * self.out(attend_heads(heads).reshape(rows, length, -1))
        return x_BxLxD + gate_feed * self.down(logistic_gelu(self.up(modulate_tokens(x_BxLxD, scale_feed, shift_feed))))


class DiT(nnx.Module):
    """A network that maps images of `shape`, as flat rows, to vectors of the same size.

    Args:
      shape: ``(height, width, channels)`` of the images; `patch` divides height and width.
      patch: side of a patch in pixels; each patch is a token.
      width: number of columns of the stream between blocks, a multiple of `heads`.
      depth: number of blocks.
      heads: number of attention heads.
      classes: number of classes of labels; 0: none.
      dtype: dtype of matrix arithmetic; parameters, norms and the output are float32.
      rngs: nnx's generators; parameters come from ``denoiser.make_denoiser``.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        classes: int = 0,
        dtype: jnp.dtype = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        self.shape, self.patch, self.depth = shape, patch, depth
        pixels = patch * patch * shape[2]
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.read, self.write = linear(pixels, width), Linear(width, pixels, rngs=rngs)
        self.time_and_label = TimeAndLabel(width, classes, dtype, rngs=rngs)
        self.modulate = linear(width, (6 * depth + 2) * width)
        self.blocks = nnx.List([DiTBlock(width, heads, dtype, rngs=rngs) for _ in range(depth)])

    def __call__(self, x_BxD: Array, t_B: Array, label_B: Array | None = None) -> Array:
        """Return vectors ``[B, D]`` for rows ``[B, D]``, times ``[B]`` and labels ``[B]``."""
        height, width, channels = self.shape
        side, rows = self.patch, x_BxD.shape[0]
        down, across = height // side, width // side
        stream = self.read(cut_patches(x_BxD, self.shape, side))
        stream = stream + jnp.asarray(position_waves(down, across, stream.shape[-1]), stream.dtype)[None]
        condition = self.modulate(nnx.silu(self.time_and_label(t_B, label_B))).reshape(rows, 6 * self.depth + 2, -1)
        for i, block in enumerate(self.blocks):
            stream = block(stream, condition[:, 6 * i : 6 * i + 6])
        output = self.write(modulate_tokens(stream, condition[:, -1:], condition[:, -2:-1]))
        return output.reshape(rows, down, across, side, side, channels).swapaxes(2, 3).reshape(x_BxD.shape)


def cut_patches(x_BxD: Array, shape: tuple[int, int, int], side: int) -> Array:
    """Return the patches of images ``[B, D]``, row by row: ``[B, patches, side * side * channels]``."""
    height, width, channels = shape
    grid = x_BxD.reshape(x_BxD.shape[0], height // side, side, width // side, side, channels).swapaxes(2, 3)
    return grid.reshape(x_BxD.shape[0], -1, side * side * channels)


def attend_heads(heads_BxLx3xHxK: Array) -> Array:
    """Return each token's attention over all tokens, ``[B, L, H, K]``, from queries, keys and values.

    Heads come first in the products, which is faster on a CPU than the order of ``jax.nn.dot_product_attention``.
    """
    query, key, value = heads_BxLx3xHxK.transpose(2, 0, 3, 1, 4)
    score = jnp.einsum("bhlk,bhmk->bhlm", query, key, preferred_element_type=jnp.float32) / query.shape[-1] ** 0.5
    return weigh_values(score, value).swapaxes(1, 2)


def modulate_tokens(x_BxLxD: Array, scale_Bx1xD: Array, shift_Bx1xD: Array) -> Array:
    """Return each token at mean 0 and variance 1, times 1 + scale, plus shift; computed in float32."""
    x = x_BxLxD.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return (x * (1 + scale_Bx1xD) + shift_Bx1xD).astype(x_BxLxD.dtype)


def logistic_gelu(x: Array) -> Array:
    """Return the same function as ``nnx.gelu``, by a sigmoid in place of tanh, which takes a CPU longer."""
    return x * jax.nn.sigmoid(x * (2 * (2 / jnp.pi) ** 0.5) * (1 + 0.044715 * x * x))


def position_waves(down: int, across: int, width: int) -> np.ndarray:
    """Return waves of a patch's row number beside those of its column number, ``[down * across, width]``."""
    half = -(-width // 4)
    rate = 100.0 ** (-np.arange(half) / half)

    def waves(n: int) -> np.ndarray:
        return np.concatenate([f(np.arange(n)[:, None] * rate) for f in (np.sin, np.cos)], 1)

    rows, columns = np.repeat(waves(down), across, 0), np.tile(waves(across), (down, 1))
    return np.concatenate([rows, columns], 1)[:, :width]
