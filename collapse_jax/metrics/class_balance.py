"""Metrics of how generated rows are divided among the classes of the real rows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.training import nets
from collapse_jax.types import Array, Metric, Source, Tree

ENOUGH = 0.1  # a class is alive if it has at least this much of its real share
RARE = 0.5  # classes of less than this much of an equal share are the minority
NEAR = 3.0  # a point belongs to a class if it lies within so many standard deviations of the class's mode

CLASS_METRICS = (
    Metric("class_share", "share of each class among the generated rows", "1", "definition"),
    Metric("class_entropy", "entropy of the generated rows' classes", "nats", "definition"),
    Metric("classes_alive", f"classes with at least {ENOUGH:g} of their real share of the generated rows", "classes",
           "definition", role="modes"),
    Metric("class_total_variation", "total variation of the generated rows' classes from the real ones", "1",
           "definition"),
    Metric("smallest_class_ratio", "least ratio of a class's generated to its real share", "1", "definition"),
)  # fmt: skip
MINORITY_METRICS = (
    Metric("minority_share", f"share of the generated rows in classes that have less than {RARE:g} of an equal share",
           "1", "definition", role="tail"),
    Metric("minority_ratio", "share of the minority classes over the real share: below 1 the bias is amplified", "1",
           "arXiv 2403.07857"),
)  # fmt: skip
LABEL_METRICS = (
    Metric("label_agreement", "share of generated rows whose class is the label that they were generated with", "1",
           "definition"),
)  # fmt: skip


class RealClasses(NamedTuple):
    """The classes of the real rows.

    Attributes:
      share: ``[C]``, the share of each class among the real rows.
      modes: the classes' centres ``[C, D]``, and the squared distance within which a row belongs to a class; None where
        a classifier decides.
    """

    share: Array
    modes: tuple[Array, Array] | None


def find_real_share(source: Source) -> np.ndarray | None:
    """Return the share of each class among the real rows, ``[C]``, or None where the source has no classes."""
    if source.shape is not None and source.classes is not None:
        label = np.asarray(source.arrays)[:, -1].astype(int)
        return np.bincount(label, minlength=source.classes) / len(label)
    if source.modes is None:
        return None
    num_modes = len(np.asarray(source.modes))
    return np.full(num_modes, 1 / num_modes)


def is_minority(share_C: Any) -> Any:
    """Return which classes are rare, given their shares as an array of NumPy or JAX."""
    return (share_C > 0) & (share_C < RARE / (share_C > 0).sum(dtype=share_C.dtype))


def find_class_modes(source: Source) -> tuple[Array, Array] | None:
    """Return the centres of the source's modes, and the squared distance of ``NEAR`` standard deviations within one."""
    if source.modes is None:
        return None
    centre = np.asarray(source.modes)
    variance = (np.trace(np.asarray(source.covariance)) - centre.var(0).sum()) / source.dim
    return jnp.asarray(centre, float), jnp.asarray(NEAR**2 * variance, float)


def classify_rows(net: Tree, classes: RealClasses, rows_NxD: Array) -> Array:
    """Return the rows' classes as one-hot rows ``[N, C]``; a row that belongs to no class is 0.

    The class is that of the nearest mode or, where there are no modes, the one that the classifier `net` finds.
    """
    num_classes = classes.share.shape[0]
    if classes.modes is None:
        return jax.nn.one_hot(nets.classifier.apply_classifier(net, rows_NxD)[1].argmax(1), num_classes)
    centre_CxD, near = classes.modes
    squared_NxC = jnp.sum((rows_NxD[:, None] - centre_CxD[None]) ** 2, axis=2)
    is_near_N = squared_NxC.min(1) <= near
    hot_NxC = jax.nn.one_hot(squared_NxC.argmin(1), num_classes)
    return hot_NxC * is_near_N.astype(hot_NxC.dtype)[:, None]


def measure_classes(classes: RealClasses, class_NxC: Array, has_minority: bool) -> dict[str, Array]:
    """Return ``CLASS_METRICS`` and, if some class is rare, ``MINORITY_METRICS`` of rows of classes `class_NxC`."""
    count_C, real_C = class_NxC.sum(0), classes.share
    share_C = count_C / class_NxC.shape[0]
    ratio_C = jnp.where(real_C > 0, share_C / jnp.where(real_C > 0, real_C, 1.0), jnp.inf)
    values = {
        "class_share": share_C,
        "class_entropy": jax.scipy.special.entr(count_C / jnp.maximum(count_C.sum(), 1.0)).sum(),
        "classes_alive": ((real_C > 0) & (ratio_C >= ENOUGH)).sum().astype(share_C.dtype),
        "class_total_variation": 0.5 * (jnp.abs(share_C - real_C).sum() + 1 - share_C.sum()),
        "smallest_class_ratio": ratio_C.min(),
    }
    if has_minority:
        is_rare_C = is_minority(real_C)
        rare, real = (jnp.where(is_rare_C, x, 0.0).sum() for x in (share_C, real_C))
        values |= {"minority_share": rare, "minority_ratio": rare / real}
    return values


def measure_label_agreement(class_NxC: Array, label_N: Array) -> Array:
    """Return the share of rows whose class is the label that they were generated with."""
    return jnp.take_along_axis(class_NxC, label_N.astype(int)[:, None], 1).mean()
