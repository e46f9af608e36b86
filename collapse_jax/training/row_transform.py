"""Rows as networks see them, with or without the class in their last column: what generative settings share."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch, batching
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.core.validation import one_line, require_choice
from collapse_jax.types import Array, Batch, Key, Source, Tree, World

FRAMES = ("unit", "pixels", "raw")


class RowTransform(NamedTuple):
    """Where a network sees rows.

    Attributes:
      source: of the real rows.
      dim: columns that are learned: all but a label.
      classes: learned; 0: none.
      center: subtracted from rows, which are then divided by `scale`, before a network sees them.
      scale: see there.
      spread: root mean square of the real rows, seen so.
    """

    source: Source
    dim: int
    classes: int
    center: float
    scale: float
    spread: float


class GenerativeModel(NamedTuple):
    """What a chain carries from fit to fit.

    Attributes:
      net: what is fitted by gradients.
      classes: ``[classes]``, weight of each in the training rows, or None where labels are not learned.
    """

    net: Tree
    classes: Array | None


def make_row_transform(source: Source, conditional: bool, frame: str) -> RowTransform:
    """The frame called `frame`.

    Args:
      source: of the real rows; its label column, if it has one, is dropped unless `conditional`.
      conditional: whether labels are learned.
      frame: ``"unit"``: shifted and scaled, by two numbers for all columns, so that the real law has mean 0 and
        variance 1; ``"pixels"``: images from [0, 1] in [-1, 1]; ``"raw"``: as they are.

    Raises:
      UsageError: what is no source or no frame, labels or images that the source does not have.
    """
    if not isinstance(source, Source):
        raise UsageError(f"source must be a Source, such as data.moons(), not {one_line(repr(source))}")
    require_choice("frame", frame, FRAMES)
    if conditional and source.classes is None:
        raise UsageError(f"conditional=True needs labels, and source {source.name} has none (perhaps labels=True?)")
    if frame == "pixels" and source.shape is None:
        raise UsageError(f"frame pixels needs images, and the rows of source {source.name} are none; use unit or raw")
    dim, classes = source.dim - (source.classes is not None), source.classes if conditional else None
    mean_D, variance_D = np.asarray(source.mean)[:dim], np.diagonal(source.covariance)[:dim]
    center, scale = {"unit": (float(mean_D.mean()), None), "pixels": (0.5, 0.5), "raw": (0.0, 1.0)}[frame]
    spread = float(np.sqrt(((mean_D - center) ** 2 + variance_D).mean()))
    if scale is None:
        return RowTransform(source, dim, classes or 0, center, spread, 1.0)
    return RowTransform(source, dim, classes or 0, center, scale, spread / scale)


def draw_real_rows(frame: RowTransform, key: Key, world: World, num: int) -> Array:
    """A ``Setting.sample_real``; labels stay where they are learned."""
    return _drop_unlearned_label(frame, frame.source.draw(key, world.real, num))


def held_out_rows(frame: RowTransform, num: int) -> Array:
    """Test rows, likewise."""
    return _drop_unlearned_label(frame, jnp.asarray(frame.source.held_out(num)))


def _drop_unlearned_label(frame: RowTransform, rows_NxC: Array) -> Array:
    return rows_NxC if frame.classes else rows_NxC[:, : frame.dim]


def transform_rows(frame: RowTransform, rows_NxC: Array) -> tuple[Array, Array | None]:
    """Rows in the network's frame, ``[N, dim]``, and labels ``[N]`` of int32 where they are learned."""
    inside_NxD = (rows_NxC[:, : frame.dim] - frame.center) / frame.scale
    return inside_NxD, jnp.round(rows_NxC[:, -1]).astype(jnp.int32) if frame.classes else None


def fit_with_classes(
    frame: RowTransform,
    fit_net: Callable[[Key, Batch, Tree], Tree],
    key: Key,
    train: Batch,
    before: GenerativeModel | None,
) -> GenerativeModel:
    """A ``Setting.fit``: the network's, and how often each class occurs."""
    net = fit_net(key, train, None if before is None else before.net)
    if not frame.classes:
        return GenerativeModel(net, None)
    rows, weight = batch.rows(train)
    is_class_NxK = jnp.round(rows[:, -1:]) == jnp.arange(frame.classes, dtype=rows.dtype)[None]
    return GenerativeModel(net, (jnp.where(is_class_NxK, weight[:, None], 0.0)).sum(0))


def draw_rows(
    frame: RowTransform,
    some: Callable[[Key, Array | None, int], Array],
    key: Key,
    classes: Array | None,
    num: int,
    at_once: int,
) -> Array:
    """`num` rows, at most `at_once` together: labels as often as `classes` says, and rows given labels.

    `some` is ``(key, label [rows] or None, rows) -> [rows, dim]``, in the network's frame.
    """

    def part(key: Key, rows: int) -> Array:
        label_N = None
        if classes is not None:
            numbered = Batch(jnp.arange(frame.classes)[None], classes[None])
            label_N = batch.choose(stream(key, "labels"), numbered, rows)
        rows_NxD = frame.center + frame.scale * some(stream(key, "rows"), label_N, rows)
        return rows_NxD if label_N is None else jnp.hstack([rows_NxD, label_N[:, None].astype(rows_NxD.dtype)])

    return batching.draw_in_batches(part, key, num, at_once)
