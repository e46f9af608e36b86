"""Batches that fits are tried on, made by NumPy: single operations of JAX would be a program each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Batch, Tree

Fill = Callable[[Any], np.ndarray]

BLOCKS = 3  # of the batches that fits are compared on, some of whose rows are absent


def lay_out(num: int, items: Tree, weight: Any, fill: Fill) -> Batch:
    """Return rows at weights ``[num]`` to ``[num + BLOCKS]`` in blocks; `fill` says what lies in empty slots."""
    slots = num + BLOCKS
    padded: Any = np.pad(np.asarray(weight, np.float32), (0, slots - len(weight)))
    index = np.minimum(np.arange(slots), jax.tree.leaves(items)[0].shape[0] - 1)

    def lay(x: Any) -> np.ndarray:
        there = padded.reshape(-1, *[1] * (x.ndim - 1)) > 0
        return np.where(there, np.asarray(x)[index], fill(x)).reshape(BLOCKS, -1, *x.shape[1:])

    return Batch(jax.tree.map(lay, items), padded.reshape(BLOCKS, -1))


def fill_with_nan(x: Any) -> np.ndarray:
    """Return NaN of the dtype of `x`, or 0 where there is none."""
    return np.full((), np.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)


def fill_with_seven(x: Any) -> np.ndarray:
    """Return 7 of the dtype of `x`."""
    return np.full((), 7, x.dtype)


def stack_blocks(*batches: Batch) -> Batch:
    """Return the batches as further blocks of one; they must have as many rows and weights a block."""
    return jax.tree.map(lambda *x: np.concatenate(x), *batches)


def weigh_rows(items: Tree, weight: float) -> Batch:
    """Return one block of rows, each there `weight` times."""
    weights: Any = np.full((1, 1), weight, np.float32)
    return Batch(jax.tree.map(lambda x: np.asarray(x)[None], items), weights)


FILLS = (fill_with_nan, fill_with_seven)


def take_rows(items: Tree, index: Any) -> Tree:
    """Return rows `index` of leaves ``[m, ...]``."""
    return jax.tree.map(lambda x: np.asarray(x)[np.asarray(index)], items)
