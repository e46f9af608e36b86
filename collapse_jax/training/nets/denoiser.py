"""Networks that denoise rows; all are ``(params, x [B, D], time [B], label [B]) -> [B, D]``."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import require_integer
from collapse_jax.training.nets import dit, unet
from collapse_jax.training.nets.mlp import TimedMLP
from collapse_jax.training.nnx_functional import draw_parameters, make_functional
from collapse_jax.types import Array, Key, Tree

NETS = ("mlp", "dit", "unet")


class DenoiserSize(NamedTuple):
    """Sizes of a network; only a DiT has `heads` and `patch`."""

    width: int
    depth: int
    heads: int
    patch: int


DEFAULTS = {"mlp": DenoiserSize(256, 3, 1, 1), "dit": DenoiserSize(128, 4, 4, 4), "unet": DenoiserSize(32, 3, 1, 1)}


def make_denoiser(
    net: str, dim: int, shape: tuple[int, int, int] | None, given: dict[str, int | None], classes: int, dtype: jnp.dtype
) -> tuple[Callable[[Key], Tree], Callable[..., Array]]:
    """Return the functions ``(init, apply)`` of a network.

    Args:
      net: ``"mlp"``, ``"dit"`` or ``"unet"``.
      dim: number of columns of a row.
      shape: ``(height, width, channels)`` of the images that rows are, or None for other rows.
      given: sizes in place of the defaults (None: the default).
      classes: number of classes of labels; 0: none.
      dtype: dtype of the arithmetic.

    Raises:
      UsageError: a size is below 1, rows are no images, sizes do not divide, or the network has no such size.
    """
    for name in ("heads", "patch"):
        if net != "dit" and given.get(name) is not None:
            raise UsageError(f"{name} is for net: dit, not for {net}; leave it out")
    size = DEFAULTS[net]._replace(**{name: value for name, value in given.items() if value is not None})
    for name, value in size._asdict().items():
        require_integer(name, value, 1)
    if net == "mlp":
        return make_functional(partial(_build_mlp, dim, size, classes, dtype))
    if shape is None:
        raise UsageError(f"net {net} needs images, and the source's rows are none; use net mlp")
    check_sizes = {"dit": _check_dit, "unet": _check_unet}[net]
    check_sizes(shape, size)
    by_nnx, apply = make_functional(partial({"dit": _build_dit, "unet": _build_unet}[net], shape, size, classes, dtype))
    shapes, zero = jax.eval_shape(by_nnx, jax.random.key(0)), {"dit": dit.ZERO, "unet": unet.ZERO}[net]

    def deviation(names: tuple, shape: tuple[int, ...]) -> float:
        if names[-1] == "bias" or not set(zero).isdisjoint(names):
            return 0.0
        return 0.02 if names[-1] == "embedding" else shape[0] ** -0.5

    return lambda key: draw_parameters(key, shapes, deviation), apply


def _build_mlp(dim: int, size: DenoiserSize, classes: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> TimedMLP:
    return TimedMLP(dim, size.width, size.depth, classes=classes, dtype=dtype, rngs=rngs)


def _build_dit(
    shape: tuple[int, int, int], size: DenoiserSize, classes: int, dtype: jnp.dtype, rngs: nnx.Rngs
) -> dit.DiT:
    return dit.DiT(shape, size.patch, size.width, size.depth, size.heads, classes, dtype, rngs=rngs)


def _build_unet(
    shape: tuple[int, int, int], size: DenoiserSize, classes: int, dtype: jnp.dtype, rngs: nnx.Rngs
) -> unet.UNet:
    return unet.UNet(shape, size.width, size.depth, classes, dtype, rngs=rngs)


def _check_dit(shape: tuple[int, int, int], size: DenoiserSize) -> None:
    if shape[0] % size.patch or shape[1] % size.patch:
        raise UsageError(f"patch must divide the {shape[0]} x {shape[1]} pixels of an image, not {size.patch}")
    if size.width % size.heads:
        raise UsageError(f"width must be a multiple of the {size.heads} heads, not {size.width}")


def _check_unet(shape: tuple[int, int, int], size: DenoiserSize) -> None:
    if size.width % unet.GROUPS:
        raise UsageError(f"width must be a multiple of {unet.GROUPS} for a unet, not {size.width}")
    halvings = 2 ** (size.depth - 1)
    if shape[0] % halvings or shape[1] % halvings:
        raise UsageError(f"depth must be so small that {shape[0]} x {shape[1]} pixels can be halved before each level "
                         f"but the first, not {size.depth}")  # fmt: skip
