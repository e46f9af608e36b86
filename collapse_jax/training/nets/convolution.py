"""A 3 x 3 convolution of images with zero padding, by matrix products on a CPU and by XLA's own elsewhere.

Inside a loop, as all training is, XLA's convolution runs at a few percent of a CPU's rate. A convolution is a product
with shifted images; what else it costs on a CPU is writing them. Inputs may be shifted before the product or outputs
after it, along each axis of the image by itself: nine shifted inputs are nine times as many numbers, but three inputs
(along the width) and three outputs (along the height) are three times as many of each.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from collapse_jax.training.nets.linear import Linear
from collapse_jax.types import Array

HEIGHT, WIDTH = 1, 2  # axes of images [B, H, W, C]
STEPS = (-1, 0, 1)


class Convolution(nnx.Module):
    """A 3 x 3 convolution with zero padding, whose weights are one matrix ``[9 before, after]``."""

    def __init__(self, before: int, after: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.dtype = dtype
        self.map = Linear(9 * before, after, dtype=dtype, rngs=rngs)

    def __call__(self, x_BxHxWxC: Array) -> Array:
        """Return images ``[B, H, W, after]``."""
        kernel_3x3xCxK = self.map.kernel[...].astype(self.dtype).reshape(3, 3, x_BxHxWxC.shape[-1], -1)
        assert self.map.bias is not None  # layers have one by default
        convolve = convolve_by_products if jax.default_backend() == "cpu" else convolve_by_xla
        return convolve(x_BxHxWxC.astype(self.dtype), kernel_3x3xCxK) + self.map.bias[...].astype(self.dtype)


def convolve_by_xla(x_BxHxWxC: Array, kernel_3x3xCxK: Array) -> Array:
    """Return the convolution with zero padding, as XLA computes it."""
    return jax.lax.conv_general_dilated(
        x_BxHxWxC, kernel_3x3xCxK, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolve_by_products(x_BxHxWxC: Array, kernel_3x3xCxK: Array) -> Array:
    """Return the convolution with zero padding, as one matrix product of shifted images."""
    *shape, before = x_BxHxWxC.shape
    after = kernel_3x3xCxK.shape[-1]

    def count_written(shifted: tuple[int, ...]) -> int:
        return 3 ** len(shifted) * before + 3 ** (2 - len(shifted)) * after

    inputs = min(((WIDTH,), (HEIGHT, WIDTH), ()), key=count_written)
    outputs = tuple(axis for axis in (HEIGHT, WIDTH) if axis not in inputs)
    for axis in inputs:
        x_BxHxWxC = jnp.concatenate([_shift_images(x_BxHxWxC, step, axis) for step in STEPS], -1)
    order = [axis - 1 for axis in (*reversed(inputs), 3, *outputs, 4)]  # of the kernel, as columns come to lie
    matrix = kernel_3x3xCxK.transpose(order).reshape(x_BxHxWxC.shape[-1], -1)
    product = jnp.matmul(  # sums of shifted outputs are in float32, too
        x_BxHxWxC.reshape(-1, len(matrix)), matrix, preferred_element_type=jnp.promote_types(matrix.dtype, jnp.float32)
    ).reshape(*shape, -1)
    for axis in outputs:
        parts = jnp.split(product, 3, -1)
        first, second, third = (_shift_images(part, step, axis) for part, step in zip(parts, STEPS, strict=True))
        product = first + second + third
    return product.astype(matrix.dtype)


def _shift_images(x_BxHxWxC: Array, step: int, axis: int) -> Array:
    """Return images whose pixel p along an axis is pixel p + step of those given, or 0 beyond the border."""
    if step == 0:
        return x_BxHxWxC
    margins = [(-step, step, 0) if i == axis else (0, 0, 0) for i in range(x_BxHxWxC.ndim)]
    return jax.lax.pad(x_BxHxWxC, jnp.zeros((), x_BxHxWxC.dtype), margins)
