"""Metrics of generated images, and of points of known density, which several settings share.

Images are compared by the last hidden layer of a small classifier that is trained once on the real images. The Frechet
distance here is therefore **not the published FID**, whose features are those of an Inception network trained on
ImageNet, and it is comparable within one source alone. Pass ``features`` to use others.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.batching import map_in_batches
from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import one_line, require_integer
from collapse_jax.metrics.class_balance import (
    CLASS_METRICS,
    LABEL_METRICS,
    MINORITY_METRICS,
    RealClasses,
    classify_rows,
    find_class_modes,
    find_real_share,
    is_minority,
    measure_classes,
    measure_label_agreement,
)
from collapse_jax.numerics import nearest_neighbors
from collapse_jax.numerics.exact_distances import Lattice, find_lattice
from collapse_jax.numerics.frechet import compute_moments, frechet_distance
from collapse_jax.training import nets
from collapse_jax.types import Array, Metric, Source, Tree

TAIL, HALLUCINATED = 0.01, 0.001  # shares of the real law's mass that lie below two quantiles of its density
_SEED = 0x0D1A_6E57  # far from the small seeds that chains are given
_DRAWS = 2**16  # draws of the real law for these quantiles: the mass below the first is TAIL, give or take 4%
_HIGHEST = jax.lax.Precision.HIGHEST

_ROW_METRICS = (
    Metric("frechet_distance", "Frechet distance of generated from real rows' features", "features^2",
           "arXiv 1706.08500", role="excess_risk"),
    Metric("precision", "share of generated rows within a real row's k-th neighbour", "1", "arXiv 1904.06991"),
    Metric("recall", "share of real rows within a generated row's k-th neighbour", "1", "arXiv 1904.06991"),
    Metric("density", "real balls around a generated row, over k", "1", "arXiv 2002.09797"),
    Metric("coverage", "share of real balls that hold a generated row", "1", "arXiv 2002.09797"),
    Metric("trace_ratio", "total variance of generated rows over the truth's", "1", "tr S / tr Sigma, S over n - 1",
           "log"),
    Metric("log_trace_ratio", "logarithm of the trace ratio", "nats", "definition", role="log_variance"),
)  # fmt: skip
_IMAGE_METRICS = (
    Metric("copied", "excess of generated images whose nearest real image was trained on, 1 where all are copies", "1",
           "after arXiv 2004.05675"),
    Metric("pixel_variance_ratio", "variance of each pixel over the truth's, NaN where that is 0", "1", "definition"),
    Metric("sample_image", "the first generated images", "1", "definition"),
)  # fmt: skip
_DENSITY_METRICS = (
    Metric("reverse_kl", "Kullback-Leibler divergence KL(generated | truth), by nearest neighbours", "nats a row",
           "arXiv cond-mat/0305641", "log", "excess_risk"),
    Metric("low_density_mass", f"generated mass where the true density is below its {TAIL:.0%} quantile", "1",
           "definition", "log", "tail"),
    Metric("hallucinated_mass", f"generated mass where the true density is below its {HALLUCINATED:.1%} quantile", "1",
           "definition", "log", "hallucination"),
)  # fmt: skip


class ImageJudge(NamedTuple):
    """The metrics of generated rows, and the functions that compute them.

    Attributes:
      metrics: the metrics that ``observe`` returns.
      truth: ``() -> Tree``, on the host, once a run: what metrics compare with.
      truth_shapes: ``() -> Tree``, its shapes (``jax.ShapeDtypeStruct``) at no cost: ``truth`` trains a classifier.
      observe: ``(truth, rows [num, D], label [num] or None) -> {metric: value}``, pure. The rows come without their
        labels; `label` is the class that each was generated with, if any.
    """

    metrics: tuple[Metric, ...]
    truth: Callable[[], Tree]
    truth_shapes: Callable[[], Tree]
    observe: Callable[..., dict[str, Array]]


class RealImages(NamedTuple):
    """Images to train on ``[R, D]``, others ``[M, D]``, the lattice of both, and the variance of each pixel ``[D]``."""

    train: Array
    held_out: Array
    lattice: Lattice
    variance: Array


class RealDensity(NamedTuple):
    """The arrays that the source's density reads, and the logs of its ``TAIL`` and ``HALLUCINATED`` quantiles."""

    arrays: Tree
    log_quantile: Array


class ImageTruth(NamedTuple):
    """What metrics compare with; a field is None where a source has no such thing.

    Attributes:
      net: computes features: the classifier for labelled images, principal axes ``[D, F]`` for other images of more
        pixels than F.
      mean: ``[F]``, of the real rows' features.
      root: ``[F, F]``, the symmetric square root of their covariance.
      real: held-out rows' features and radii.
      log_variance: log of the real law's total variance.
      classes: the classes of the real rows.
      pictures: the real images.
      law: the density of the real law.
    """

    net: "nets.classifier.TrainedClassifier | Array | None"
    mean: Array
    root: Array
    real: nearest_neighbors.Manifold
    log_variance: Array
    classes: RealClasses | None
    pictures: RealImages | None
    law: RealDensity | None


class JudgeTask(NamedTuple):
    """The options that the functions of a judge share."""

    source: Source
    dim: int
    features: Callable[[Array], Array] | None
    num_test: int
    num_rows: int
    num_shown: int
    k: int
    has_minority: bool
    is_labelled: bool
    rows_at_once: int


def image_judge(
    source: Source,
    num_test: int = 500,
    num_rows: int = 1000,
    num_shown: int = 8,
    k: int = 5,
    features: Callable[[Array], Array] | None = None,
    labelled: bool = False,
    rows_at_once: int = 512,
) -> ImageJudge:
    """Return the metrics that are known for a source, and the functions that compute them.

    Every source has the Frechet distance, precision and recall, density and coverage, computed on features, and total
    variance. Labelled images, and points around modes, have metrics of classes. Images have a metric of copies of
    training images. Points of known density have divergence and tails. Features are the classifier's for labelled
    images, the first 64 principal components for other images, and the rows themselves otherwise.

    The Frechet distance of N rows of the real law is not 0 in expectation. For F normal features it is at most (F + 5)
    / 4N of their total variance, to first order, where all vary alike: compare runs of one N.

    Args:
      source: the source of the real rows.
      num_test: number of held-out real rows.
      num_rows: at most so many generated rows are compared with their neighbours; other metrics use all rows.
      num_shown: number of generated images that ``sample_image`` keeps; NaN where there are fewer.
      k: number of nearest neighbours.
      features: ``(rows [num, D]) -> [num, F]``, pure, in place of the classifier's (which then still tells classes).
      labelled: whether ``observe`` is given the class that each row was generated with.
      rows_at_once: number of rows whose features, classes and densities are computed together; it bounds memory.

    Raises:
      UsageError: a count is below 1, or `features` is no function.
    """
    counts = {"num_test": num_test, "num_rows": num_rows, "num_shown": num_shown, "k": k, "rows_at_once": rows_at_once}
    for name, count in counts.items():
        require_integer(name, count, 1)
    if features is not None and not callable(features):
        raise UsageError(f"features must be a function of rows, not {one_line(repr(features))}")
    share = find_real_share(source)
    has_minority = share is not None and bool(is_minority(share).any())
    dim = source.dim - (source.classes is not None)
    is_labelled = labelled and share is not None
    task = JudgeTask(source, dim, features, num_test, num_rows, num_shown, k, has_minority, is_labelled, rows_at_once)
    groups = (
        (_DENSITY_METRICS, source.log_density is not None),
        (_ROW_METRICS, True),
        (CLASS_METRICS, share is not None),
        (MINORITY_METRICS, has_minority),
        (LABEL_METRICS, task.is_labelled),
        (_IMAGE_METRICS, source.shape is not None),
    )
    known = {metric.name: metric for group, is_known in groups if is_known for metric in group}
    details: dict[str, dict[str, Any]] = {}
    if features is None:  # the distance is the whole trace if all rows are the real mean
        variance = np.diagonal(np.asarray(source.covariance))[:dim].sum()
        image_baseline = 1.0 if source.classes is not None else None
        details["frechet_distance"] = {"baseline": float(variance) if source.shape is None else image_baseline}
    if share is not None:
        details["class_share"] = {"dims": (("class", len(share)),)}
    if source.shape is not None:
        details["sample_image"] = {"dims": _image_dims(source.shape, num_shown)}
        details["pixel_variance_ratio"] = {"dims": _image_dims(source.shape, num_shown)[1:]}
    metrics = tuple(metric._replace(**details.get(name, {})) for name, metric in known.items())
    return ImageJudge(metrics, partial(_make_truth, task), partial(_truth_shapes, task), partial(_observe_rows, task))


def _image_dims(shape: tuple[int, int, int], num: int) -> tuple[tuple[str, int], ...]:
    height, width, channels = shape
    grey = ("sample", num), ("y", height), ("x", width)
    return grey if channels == 1 else (*grey, ("channel", channels))


def _make_truth(task: JudgeTask) -> ImageTruth:
    source, dim = task.source, task.dim
    is_table = source.classes is not None or source.shape is not None
    key = jax.random.key(_SEED, impl="threefry2x32")
    rows = np.asarray(source.arrays if is_table else source.draw(key, source.arrays, _DRAWS))
    train, test = rows[:, :dim], jnp.asarray(np.asarray(source.held_out(task.num_test))[:, :dim], float)
    net, to_features = _make_net(source, train, rows[:, -1]), jax.jit(partial(_compute_features, task.features))
    chunks = [np.asarray(to_features(net, jnp.asarray(some, float))) for some in _split_rows(train)]
    mean, root = compute_moments(chunks)
    share, variance = find_real_share(source), np.diagonal(np.asarray(source.covariance))[:dim]
    return ImageTruth(
        net,
        jnp.asarray(mean, float),
        jnp.asarray(root, float),
        jax.jit(nearest_neighbors.build_manifold, static_argnums=1)(to_features(net, test), task.k),
        jnp.asarray(np.log(variance.sum()), float),
        None if share is None else RealClasses(jnp.asarray(share, float), find_class_modes(source)),
        None if source.shape is None else _make_real_images(jnp.asarray(train, float), test, variance),
        None if source.log_density is None else _measure_density(source.log_density, source.arrays, train),
    )


def _truth_shapes(task: JudgeTask) -> ImageTruth:
    """Return the shapes of ``_make_truth``, and the values of what is quickly computed."""
    source, dim, share = task.source, task.dim, find_real_share(task.source)

    def struct(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.result_type(float))

    test = struct(task.num_test, dim)
    unit: Any = jax.ShapeDtypeStruct((), jnp.int32)
    is_projected = source.shape is not None and dim > nets.classifier.FEATURES
    net: Any = struct(dim, nets.classifier.FEATURES) if is_projected else None
    if source.shape is not None and source.classes is not None:
        net = nets.classifier.classifier_shapes(dim, source.classes)
    features = jax.eval_shape(partial(_compute_features, task.features), net, test)
    width = features.shape[1]
    return ImageTruth(
        net,
        struct(width),
        struct(width, width),
        nearest_neighbors.Manifold(features, struct(task.num_test), unit),
        struct(),
        None if share is None else RealClasses(jnp.asarray(share, float), find_class_modes(source)),
        None
        if source.shape is None
        else jax.eval_shape(_make_real_images, struct(len(source.arrays), dim), test, struct(dim)),
        None if source.log_density is None else RealDensity(jax.tree.map(jnp.asarray, source.arrays), struct(2)),
    )


def _make_real_images(train: Array, held_out: Array, variance: Array | np.ndarray) -> RealImages:
    lattice = jax.jit(partial(find_lattice, finest=True))(train, held_out)
    return RealImages(train, held_out, lattice, jnp.asarray(variance, float))


def _make_net(
    source: Source, train: np.ndarray, label: np.ndarray
) -> "nets.classifier.TrainedClassifier | Array | None":
    """Return the network of ``ImageTruth``; None where rows are features themselves."""
    if source.shape is None:
        return None
    if source.classes is not None:
        return nets.classifier.train_classifier(train, label, source.classes)
    if train.shape[1] <= nets.classifier.FEATURES:  # all components are a rotation, which rounds ties of pixels away
        return None
    axes = np.linalg.eigh(np.asarray(source.covariance))[1]
    return jnp.asarray(axes[:, -nets.classifier.FEATURES :], float)


def _measure_density(log_density: Callable[[Tree, Array], Array], arrays: Tree, train: np.ndarray) -> RealDensity:
    on_device, density = jax.tree.map(jnp.asarray, arrays), jax.jit(log_density)
    logs = np.concatenate([np.asarray(density(on_device, jnp.asarray(some, float))) for some in _split_rows(train)])
    return RealDensity(on_device, jnp.asarray(np.quantile(logs, [TAIL, HALLUCINATED]), float))


def _split_rows(rows: np.ndarray, at_once: int = 4096) -> list[np.ndarray]:
    return [rows[i : i + at_once] for i in range(0, len(rows), at_once)]


def _compute_features(
    given: Callable[[Array], Array] | None, net: "nets.classifier.TrainedClassifier | Array | None", x_NxD: Array
) -> Array:
    if given is not None:
        return given(x_NxD)
    if isinstance(net, nets.classifier.TrainedClassifier):
        return nets.classifier.apply_classifier(net, x_NxD)[0]
    return x_NxD if net is None else jnp.matmul(x_NxD, net, precision=_HIGHEST)


def _observe_rows(
    task: JudgeTask, truth: ImageTruth, rows_NxD: Array, label_N: Array | None = None
) -> dict[str, Array]:
    some_NxD = rows_NxD[: task.num_rows]
    features_NxF, class_NxC, log_density_N = map_in_batches(
        partial(_judge_rows, task, truth), task.rows_at_once, rows_NxD
    )
    values = nearest_neighbors.measure_overlap(truth.real, features_NxF[: task.num_rows], task.k)._asdict()
    values["frechet_distance"] = frechet_distance(features_NxF, truth.mean, truth.root)
    # The sum is divided by n - 1, so that it does not depend on the number of rows.
    variance_D = jnp.sum((rows_NxD - rows_NxD.mean(0, keepdims=True)) ** 2, 0) / max(rows_NxD.shape[0] - 1, 1)
    values["log_trace_ratio"] = jnp.log(variance_D.sum()) - truth.log_variance
    values["trace_ratio"] = jnp.exp(values["log_trace_ratio"])
    if truth.classes is not None:
        values |= measure_classes(truth.classes, class_NxC, task.has_minority)
        if task.is_labelled and label_N is not None:
            values["label_agreement"] = measure_label_agreement(class_NxC, label_N)
    if truth.pictures is not None:
        train, held_out, lattice, _ = truth.pictures
        values["copied"] = nearest_neighbors.copied_share(some_NxD, train, held_out, lattice)
    if truth.pictures is not None and task.source.shape is not None:
        shape = [length for _, length in _image_dims(task.source.shape, task.num_shown)]
        real_D = truth.pictures.variance
        values["pixel_variance_ratio"] = (variance_D / jnp.where(real_D > 0, real_D, jnp.nan)).reshape(shape[1:])
        shown_KxD = jnp.full((task.num_shown, task.dim), jnp.nan).at[: len(rows_NxD)].set(rows_NxD[: task.num_shown])
        values["sample_image"] = shown_KxD.reshape(shape)
    if truth.law is not None:
        values["low_density_mass"], values["hallucinated_mass"] = (
            (log_density_N < q).mean() for q in truth.law.log_quantile
        )
        values["reverse_kl"] = (
            -nearest_neighbors.differential_entropy(some_NxD, task.k) - log_density_N[: task.num_rows].mean()
        )
    return values


def _judge_rows(task: JudgeTask, truth: ImageTruth, rows_NxD: Array) -> tuple[Array, Array | None, Array | None]:
    """Return features ``[N, F]``, classes ``[N, C]`` and log densities ``[N]`` of rows; None where there are none."""
    class_NxC = None if truth.classes is None else classify_rows(truth.net, truth.classes, rows_NxD)
    log_density_N = None
    if truth.law is not None and task.source.log_density is not None:
        log_density_N = task.source.log_density(truth.law.arrays, rows_NxD)
    return _compute_features(task.features, truth.net, rows_NxD), class_NxC, log_density_N
