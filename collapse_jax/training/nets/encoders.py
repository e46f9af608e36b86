"""Networks that turn images into features, and the small perceptrons that training adds on top of them."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.core.validation import require_choice, require_integer
from collapse_jax.training.nets import dit
from collapse_jax.training.nets.convolution import Convolution
from collapse_jax.training.nets.unet import fold_pixels
from collapse_jax.training.nnx_functional import draw_parameters, make_functional
from collapse_jax.types import Array, Key, Tree

ENCODERS = ("mlp", "conv", "vit")
Shape = tuple[int, int, int]


class EncoderSize(NamedTuple):
    """Sizes of an encoder; only a ViT has `heads` and `patch`."""

    width: int
    depth: int
    heads: int
    patch: int


DEFAULTS = {"mlp": EncoderSize(256, 2, 1, 1), "conv": EncoderSize(32, 2, 1, 1), "vit": EncoderSize(64, 3, 4, 2)}


class EncoderNetworks(NamedTuple):
    """An encoder and its heads as pure functions of ``{"encoder": ..., "heads": {name: ...}}``.

    Attributes:
      shape: ``(height, width, channels)`` of the images, which come as flat rows.
      init: ``(key) -> params``.
      encode: ``(params["encoder"], x [B, D]) -> [B, features]``, for pixels in [0, 1].
      head: ``(params, name, h [B, ...]) -> [B, ...]``.
    """

    shape: Shape
    init: Callable[[Key], Tree]
    encode: Callable[[Tree, Array], Array]
    head: Callable[[Tree, str, Array], Array]


class Perceptron(nnx.Module):
    """GELU layers of these sizes, the last one linear; with `norm` the hidden ones are normalised row by row."""

    def __init__(self, sizes: tuple[int, ...], norm: bool = False, *, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairwise(sizes)])
        self.norms = nnx.List([nnx.LayerNorm(size, rngs=rngs) for size in sizes[1:-1]] if norm else [])

    def __call__(self, x_BxI: Array) -> Array:
        """Return the output ``[B, sizes[-1]]``."""
        for i, layer in enumerate(self.layers):
            x_BxI = layer(x_BxI)
            if i + 1 < len(self.layers):
                x_BxI = nnx.gelu(self.norms[i](x_BxI) if self.norms else x_BxI)
        return x_BxI


class ConvNet(nnx.Module):
    """Convolutions (see ``convolution``), each after the first on an image of half the side.

    The last level is read whole, not its mean: small images have few positions, and the place of a stroke matters.
    """

    def __init__(self, shape: Shape, width: int, depth: int, features: int, *, rngs: nnx.Rngs):
        self.shape = shape
        sizes = [width * 2**level for level in range(depth)]
        self.read = Convolution(shape[2], width, jnp.float32, rngs=rngs)
        self.halve = nnx.List([nnx.Linear(4 * a, b, rngs=rngs) for a, b in pairwise(sizes)])
        self.mix = nnx.List([Convolution(size, size, jnp.float32, rngs=rngs) for size in sizes[1:]])
        pixels = (shape[0] >> (depth - 1)) * (shape[1] >> (depth - 1))
        self.write = nnx.Linear(pixels * sizes[-1], features, rngs=rngs)

    def __call__(self, x_BxD: Array) -> Array:
        """Return the features ``[B, features]``."""
        image = nnx.gelu(self.read(x_BxD.reshape(-1, *self.shape)))
        for halve, mix in zip(self.halve, self.mix, strict=True):
            image = halve(fold_pixels(image))
            image = image + nnx.gelu(mix(nnx.gelu(image)))
        return self.write(image.reshape(x_BxD.shape[0], -1))


class ViT(nnx.Module):
    """A transformer of patches (arXiv 2010.11929): blocks of a DiT without condition, and the mean of the tokens."""

    def __init__(self, shape: Shape, size: EncoderSize, features: int, *, rngs: nnx.Rngs):
        self.shape, self.patch = shape, size.patch
        self.read = nnx.Linear(size.patch**2 * shape[2], size.width, rngs=rngs)
        self.blocks = nnx.List(
            [dit.DiTBlock(size.width, size.heads, jnp.float32, rngs=rngs) for _ in range(size.depth)]
        )
        self.norm = nnx.LayerNorm(size.width, rngs=rngs)
        self.write = nnx.Linear(size.width, features, rngs=rngs)

    def __call__(self, x_BxD: Array) -> Array:
        """Return the features ``[B, features]``."""
        stream = self.read(dit.cut_patches(x_BxD, self.shape, self.patch))
        down, across = self.shape[0] // self.patch, self.shape[1] // self.patch
        stream = stream + jnp.asarray(dit.position_waves(down, across, stream.shape[-1]), stream.dtype)[None]
        condition = jnp.zeros((1, 6, stream.shape[-1])).at[:, jnp.asarray([2, 5])].set(1.0)  # open gates, no shift
        for block in self.blocks:
            stream = block(stream, condition)
        return self.write(self.norm(stream).mean(1))


def make_encoder(
    encoder: str, shape: Shape, features: int, given: dict[str, int | None], heads: dict[str, tuple[int, ...]]
) -> EncoderNetworks:
    """Return an encoder with heads.

    Args:
      encoder: ``"mlp"``, ``"conv"`` or ``"vit"``.
      shape: ``(height, width, channels)`` of the images, which come as flat rows.
      features: number of columns of an image's features.
      given: sizes in place of the defaults (None: the default).
      heads: by name, the sizes of a perceptron's layers.

    Raises:
      UsageError: the encoder is unknown, a size is below 1, sizes do not divide, or the encoder has no such size.
    """
    require_choice("encoder", encoder, ENCODERS)
    require_integer("features", features, 1)
    for name in ("heads", "patch"):
        if encoder != "vit" and given.get(name) is not None:
            raise UsageError(f"{name} is for encoder: vit, not for {encoder}; leave it out")
    size = DEFAULTS[encoder]._replace(**{name: value for name, value in given.items() if value is not None})
    for name, value in size._asdict().items():
        require_integer(name, value, 1)
    _check_sizes(encoder, shape, size)
    functions = {"encoder": make_functional(partial(_build_encoder, encoder, shape, size, features))}
    functions |= {name: make_functional(partial(_build_head, sizes)) for name, sizes in heads.items()}
    shapes = {name: jax.eval_shape(init, jax.random.key(0)) for name, (init, _) in functions.items()}

    def init(key: Key) -> Tree:
        def draw(names: Iterable[str], stream_name: str) -> Tree:
            some = {name: shapes[name] for name in names}
            return draw_parameters(stream(key, stream_name), some, _standard_deviation)

        return {**draw(["encoder"], "encoder"), "heads": draw(heads, "heads")}

    return EncoderNetworks(
        shape=shape,
        init=init,
        encode=lambda params, x_BxD: functions["encoder"][1](params, 2 * x_BxD - 1),
        head=lambda params, name, h: functions[name][1](params["heads"][name], h),
    )


def _standard_deviation(names: tuple, shape: tuple[int, ...]) -> float:
    return 0.0 if names[-1] == "bias" else shape[0] ** -0.5


def _build_encoder(encoder: str, shape: Shape, size: EncoderSize, features: int, rngs: nnx.Rngs) -> nnx.Module:
    if encoder == "mlp":
        pixels = shape[0] * shape[1] * shape[2]
        return Perceptron((pixels, *[size.width] * size.depth, features), rngs=rngs)
    if encoder == "conv":
        return ConvNet(shape, size.width, size.depth, features, rngs=rngs)
    return ViT(shape, size, features, rngs=rngs)


def _build_head(sizes: tuple[int, ...], rngs: nnx.Rngs) -> Perceptron:
    return Perceptron(sizes, norm=True, rngs=rngs)


def _check_sizes(encoder: str, shape: Shape, size: EncoderSize) -> None:
    pixels = f"{shape[0]} x {shape[1]} pixels"
    if encoder == "conv":
        halvings = 2 ** (size.depth - 1)
        if shape[0] % halvings or shape[1] % halvings:
            raise UsageError(f"depth must be so small that {pixels} can be halved {size.depth - 1} times, "
                             f"not {size.depth}")  # fmt: skip
    if encoder == "vit":
        if shape[0] % size.patch or shape[1] % size.patch:
            raise UsageError(f"patch must divide the {pixels} of an image, not {size.patch}")
        if size.width % size.heads:
            raise UsageError(f"width must be a multiple of the {size.heads} heads, not {size.width}")
