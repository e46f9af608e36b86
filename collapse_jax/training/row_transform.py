"""The transform between rows and what networks see of them, with or without a class in the last column."""

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
    """How rows are shifted and scaled for a network.

    Attributes:
      source: the source of the real rows.
      dim: number of columns that are learned: all but a label.
      classes: number of classes that are learned; 0: none.
      center: subtracted from rows before they are divided by `scale`.
      scale: divides rows.
      deviation: root mean square of the transformed real rows.
    """

    source: Source
    dim: int
    classes: int
    center: float
    scale: float
    deviation: float


class GenerativeModel(NamedTuple):
    """The parameters that a chain carries from fit to fit.

    Attributes:
      net: the parameters that are fitted by gradients.
      classes: ``[classes]``, weight of each in the training rows, or None where labels are not learned.
    """

    net: Tree
    classes: Array | None


def make_row_transform(source: Source, conditional: bool, frame: str) -> RowTransform:
    """Return the transform called `frame`.

    Args:
      source: of the real rows; its label column, if it has one, is dropped unless `conditional`.
      conditional: whether labels are learned.
      frame: ``"unit"`` shifts and scales, by two numbers for all columns, so that the real law has mean 0 and variance
        1; ``"pixels"`` maps images from [0, 1] to [-1, 1]; ``"raw"`` changes nothing.

    Raises:
      UsageError: `source` is no source, `frame` is unknown, or the source has no labels or images where they are
        needed.
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
    deviation = float(np.sqrt(((mean_D - center) ** 2 + variance_D).mean()))
    if scale is None:
        return RowTransform(source, dim, classes or 0, center, deviation, 1.0)
    return RowTransform(source, dim, classes or 0, center, scale, deviation / scale)


def draw_real_rows(transform: RowTransform, key: Key, world: World, num: int) -> Array:
    """Draw real rows, as a setting's ``sample_real``; labels stay where they are learned."""
    return _drop_unlearned_label(transform, transform.source.draw(key, world.real, num))


def held_out_rows(transform: RowTransform, num: int) -> Array:
    """Return test rows; labels stay where they are learned."""
    return _drop_unlearned_label(transform, jnp.asarray(transform.source.held_out(num)))


def _drop_unlearned_label(transform: RowTransform, rows_NxC: Array) -> Array:
    return rows_NxC if transform.classes else rows_NxC[:, : transform.dim]


def transform_rows(transform: RowTransform, rows_NxC: Array) -> tuple[Array, Array | None]:
    """Return rows as the network sees them, ``[N, dim]``, and labels ``[N]`` of int32 where they are learned."""
    transformed_NxD = (rows_NxC[:, : transform.dim] - transform.center) / transform.scale
    return transformed_NxD, jnp.round(rows_NxC[:, -1]).astype(jnp.int32) if transform.classes else None


def fit_with_classes(
    transform: RowTransform,
    fit_net: Callable[[Key, Batch, Tree], Tree],
    key: Key,
    train: Batch,
    before: GenerativeModel | None,
) -> GenerativeModel:
    """Fit the network, and count how often each class occurs; the ``fit`` of a setting."""
    net = fit_net(key, train, None if before is None else before.net)
    if not transform.classes:
        return GenerativeModel(net, None)
    rows, weight = batch.weighted_rows(train)
    is_class_NxK = jnp.round(rows[:, -1:]) == jnp.arange(transform.classes, dtype=rows.dtype)[None]
    return GenerativeModel(net, (jnp.where(is_class_NxK, weight[:, None], 0.0)).sum(0))


def draw_rows(
    transform: RowTransform,
    draw_batch: Callable[[Key, Array | None, int], Array],
    key: Key,
    classes: Array | None,
    num: int,
    rows_at_once: int,
) -> Array:
    """Draw `num` rows, at most `rows_at_once` together: labels as often as `classes` says, and rows given labels.

    `draw_batch` is ``(key, label [rows] or None, rows) -> [rows, dim]``, in the network's coordinates.
    """

    def draw_labelled(key: Key, rows: int) -> Array:
        label_N = None
        if classes is not None:
            weighted = Batch(jnp.arange(transform.classes)[None], classes[None])
            label_N = batch.draw_rows(stream(key, "labels"), weighted, rows)
        rows_NxD = transform.center + transform.scale * draw_batch(stream(key, "rows"), label_N, rows)
        return rows_NxD if label_N is None else jnp.hstack([rows_NxD, label_N[:, None].astype(rows_NxD.dtype)])

    return batching.draw_in_batches(draw_labelled, key, num, rows_at_once)
