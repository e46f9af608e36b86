"""What generated images (and points of known density) are judged by: a seam that settings of such rows share.

Images are compared by the last hidden layer of a small classifier that is trained once on the real images, so that the
Frechet distance here is **not the published FID**, whose features are those of an Inception network trained on
ImageNet, and is comparable within one source alone. Give ``features`` to use others.
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
from collapse_jax.numerics import nearest_neighbors
from collapse_jax.numerics.frechet import compute_moments, frechet_distance
from collapse_jax.training.nets import classifier
from collapse_jax.types import Array, Metric, Source, Tree

ENOUGH = 0.1  # of a class's real share: less does not keep it alive
RARE = 0.5  # of an equal share: classes of less are the minority
NEAR = 3.0  # standard deviations of a mode, within which a point counts as of its class
TAIL, HALLUCINATED = 0.01, 0.001  # of the real law's mass lies below these quantiles of its density
_SEED = 0x0D1A_6E57  # far from the small seeds that chains are given
_DRAWS = 2**16  # of the real law, that such quantiles are taken of: the mass below is TAIL, give or take 4%
_HIGHEST = jax.lax.Precision.HIGHEST

_OF_ROWS = (
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
_OF_CLASSES = (
    Metric("class_share", "share of each class among the generated rows", "1", "definition"),
    Metric("class_entropy", "entropy of the generated rows' classes", "nats", "definition"),
    Metric("classes_alive", f"classes with at least {ENOUGH:g} of their real share of the generated rows", "classes",
           "definition", role="modes"),
    Metric("class_bias", "total variation of the generated rows' classes from the real ones", "1", "definition"),
    Metric("smallest_class_ratio", "least ratio of a class's generated to its real share", "1", "definition"),
)  # fmt: skip
_OF_MINORITY = (
    Metric("minority_share", f"share of the generated rows in classes that have less than {RARE:g} of an equal share",
           "1", "definition", role="tail"),
    Metric("minority_ratio", "share of the minority classes over the real share: below 1 the bias is amplified", "1",
           "arXiv 2403.07857"),
)  # fmt: skip
_OF_LABELS = (
    Metric("label_agreement", "share of generated rows that are seen to be of the class they were made as", "1",
           "definition"),
)  # fmt: skip
_OF_IMAGES = (
    Metric("copied", "excess of generated images whose nearest real image was trained on, 1 where all are copies", "1",
           "after arXiv 2004.05675"),
    Metric("pixel_variance_ratio", "variance of each pixel over the truth's, NaN where that is 0", "1", "definition"),
    Metric("sample_image", "the first generated images", "1", "definition"),
)  # fmt: skip
_OF_DENSITY = (
    Metric("kl", "divergence of the generated law from the real one, by nearest neighbours", "nats",
           "arXiv cond-mat/0305641", role="excess_risk"),
    Metric("tail_mass", f"share of generated rows outside the real law's {1 - TAIL:.0%} region of density", "1",
           "definition", role="tail"),
    Metric("hallucinated", f"share below the {HALLUCINATED:.1%} quantile of the real law's density", "1", "definition",
           role="hallucination"),
)  # fmt: skip


class ImageJudge(NamedTuple):
    """How a setting judges generated rows.

    Attributes:
      metrics: what ``observe`` returns.
      truth: ``() -> Tree``, on the host, once a run: what metrics compare with.
      outline: ``() -> Tree``, its shapes (``jax.ShapeDtypeStruct``) at no cost: ``truth`` trains a classifier.
      observe: ``(truth, rows [num, D], label [num] or None) -> {metric: value}``, pure. Rows without their labels;
        `label` is the class that each was made as, where there are such.
    """

    metrics: tuple[Metric, ...]
    truth: Callable[[], Tree]
    outline: Callable[[], Tree]
    observe: Callable[..., dict[str, Array]]


class RealClasses(NamedTuple):
    """How classes are told.

    Attributes:
      share: ``[C]``, of the real rows.
      modes: the classes' centres ``[C, D]``, and the squared distance within which a row counts as of one; None where
        the classifier tells.
    """

    share: Array
    modes: tuple[Array, Array] | None


class RealImages(NamedTuple):
    """Images to train on ``[R, D]``, others ``[M, D]``, and the real law's variance of each pixel ``[D]``."""

    train: Array
    held_out: Array
    variance: Array


class RealDensity(NamedTuple):
    """What the source's density reads, and quantiles ``TAIL`` and ``HALLUCINATED`` of its log under the real law."""

    arrays: Tree
    log_quantile: Array


class ImageTruth(NamedTuple):
    """What metrics compare with; None where a source has no such thing.

    Attributes:
      net: what features are made by: the classifier of labelled images, principal axes ``[D, F]`` of other images.
      mean: ``[F]``, of the real rows' features.
      root: ``[F, F]``, the symmetric square root of their covariance.
      real: held-out rows' features and radii.
      log_variance: log of the real law's total variance.
      classes: see there.
      pictures: see there.
      law: see there.
    """

    net: classifier.TrainedClassifier | Array | None
    mean: Array
    root: Array
    real: nearest_neighbors.Manifold
    log_variance: Array
    classes: RealClasses | None
    pictures: RealImages | None
    law: RealDensity | None


class JudgeTask(NamedTuple):
    """The parts that the functions of a judge share."""

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
    """The metrics that are known of a source, and how they are computed.

    Of every source: Frechet distance, precision and recall, density and coverage on features; total variance. Of
    labelled images, and of points around modes: classes. Of images: copies of training images. Of points of known
    density: divergence and tails. Features are the classifier's of labelled images, the first 64 principal components
    of other images, and other rows themselves.

    The Frechet distance of N rows of the real law is not 0 in expectation. Of F normal features it is at most
    (F + 5) / 4N of their total variance, to first order, as where all vary alike: compare runs of one N.

    Args:
      source: of the real rows.
      num_test: held-out real rows.
      num_rows: generated rows that are compared with their neighbours, at most; others look at all.
      num_shown: generated images that ``sample_image`` keeps; NaN where there are fewer.
      k: of nearest neighbours.
      features: ``(rows [num, D]) -> [num, F]``, pure, in place of the classifier's (which then still tells classes).
      labelled: whether ``observe`` is given the class that each row was made as.
      rows_at_once: rows whose features, classes and densities are computed together: bounds memory.

    Raises:
      UsageError: a count below 1, or features that are no function.
    """
    counts = {"num_test": num_test, "num_rows": num_rows, "num_shown": num_shown, "k": k, "rows_at_once": rows_at_once}
    for name, count in counts.items():
        require_integer(name, count, 1)
    if features is not None and not callable(features):
        raise UsageError(f"features must be a function of rows, not {one_line(repr(features))}")
    share = _real_share(source)
    has_minority = share is not None and bool(_is_minority(share).any())
    dim = source.dim - (source.classes is not None)
    is_labelled = labelled and share is not None
    task = JudgeTask(source, dim, features, num_test, num_rows, num_shown, k, has_minority, is_labelled, rows_at_once)
    parts = (
        (_OF_DENSITY, source.log_density is not None),
        (_OF_ROWS, True),
        (_OF_CLASSES, share is not None),
        (_OF_MINORITY, has_minority),
        (_OF_LABELS, task.is_labelled),
        (_OF_IMAGES, source.shape is not None),
    )
    known = {metric.name: metric for part, is_known in parts if is_known for metric in part}
    details: dict[str, dict[str, Any]] = {}
    if features is None:  # rows that are all the real mean have the whole trace for a distance
        variance = np.diagonal(np.asarray(source.covariance))[:dim].sum()
        of_image = 1.0 if source.classes is not None else None
        details["frechet_distance"] = {"baseline": float(variance) if source.shape is None else of_image}
    if share is not None:
        details["class_share"] = {"dims": (("class", len(share)),)}
    if source.shape is not None:
        details["sample_image"] = {"dims": _image_dims(source.shape, num_shown)}
        details["pixel_variance_ratio"] = {"dims": _image_dims(source.shape, num_shown)[1:]}
    metrics = tuple(metric._replace(**details.get(name, {})) for name, metric in known.items())
    return ImageJudge(metrics, partial(_make_truth, task), partial(_truth_shapes, task), partial(_observe, task))


def _image_dims(shape: tuple[int, int, int], num: int) -> tuple[tuple[str, int], ...]:
    height, width, channels = shape
    grey = ("sample", num), ("y", height), ("x", width)
    return grey if channels == 1 else (*grey, ("channel", channels))


def _real_share(source: Source) -> np.ndarray | None:
    """``[C]``: how often each class occurs among the real rows, or None where no classes are told."""
    if source.shape is not None and source.classes is not None:
        label = np.asarray(source.arrays)[:, -1].astype(int)
        return np.bincount(label, minlength=source.classes) / len(label)
    return None if source.modes is None else np.full(len(np.asarray(source.modes)), 1 / len(np.asarray(source.modes)))


def _is_minority(share_C: Any) -> Any:
    """Which classes are rare, of shares in NumPy or JAX."""
    return (share_C > 0) & (share_C < RARE / (share_C > 0).sum(dtype=share_C.dtype))


def _make_truth(task: JudgeTask) -> ImageTruth:
    source, dim = task.source, task.dim
    is_table = source.classes is not None or source.shape is not None
    key = jax.random.key(_SEED, impl="threefry2x32")
    rows = np.asarray(source.arrays if is_table else source.draw(key, source.arrays, _DRAWS))
    train, test = rows[:, :dim], jnp.asarray(np.asarray(source.held_out(task.num_test))[:, :dim], float)
    net, to_features = _make_net(source, train, rows[:, -1]), jax.jit(partial(_compute_features, task.features))
    mean, root = compute_moments(
        [np.asarray(to_features(net, jnp.asarray(part, float))) for part in _split_rows(train)]
    )
    share, variance = _real_share(source), np.diagonal(np.asarray(source.covariance))[:dim]
    return ImageTruth(
        net,
        jnp.asarray(mean, float),
        jnp.asarray(root, float),
        jax.jit(nearest_neighbors.build_manifold, static_argnums=1)(to_features(net, test), task.k),
        jnp.asarray(np.log(variance.sum()), float),
        None if share is None else RealClasses(jnp.asarray(share, float), _class_modes(source)),
        None if source.shape is None else RealImages(jnp.asarray(train, float), test, jnp.asarray(variance, float)),
        None if source.log_density is None else _measure_density(source.log_density, source.arrays, train),
    )


def _truth_shapes(task: JudgeTask) -> ImageTruth:
    """The shapes of ``_make_truth``; of what is quickly made, itself."""
    source, dim, share = task.source, task.dim, _real_share(task.source)
    of: Callable[..., Any] = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.result_type(float))  # noqa: E731
    test = of(task.num_test, dim)
    net = None if source.shape is None else of(dim, min(classifier.FEATURES, dim))
    if source.shape is not None and source.classes is not None:
        net = classifier.classifier_shapes(dim, source.classes)
    features = jax.eval_shape(partial(_compute_features, task.features), net, test)
    width = features.shape[1]
    return ImageTruth(
        net,
        of(width),
        of(width, width),
        nearest_neighbors.Manifold(features, of(task.num_test)),
        of(),
        None if share is None else RealClasses(jnp.asarray(share, float), _class_modes(source)),
        None if source.shape is None else RealImages(of(len(source.arrays), dim), test, of(dim)),
        None if source.log_density is None else RealDensity(jax.tree.map(jnp.asarray, source.arrays), of(2)),
    )


def _make_net(source: Source, train: np.ndarray, label: np.ndarray) -> classifier.TrainedClassifier | Array | None:
    """See ``ImageTruth``; None where rows are features themselves."""
    if source.shape is None:
        return None
    if source.classes is not None:
        return classifier.train_classifier(train, label, source.classes)
    axes = np.linalg.eigh(np.asarray(source.covariance))[1]
    return jnp.asarray(axes[:, -classifier.FEATURES :], float)


def _measure_density(log_density: Callable[[Tree, Array], Array], arrays: Tree, train: np.ndarray) -> RealDensity:
    on_device, of_rows = jax.tree.map(jnp.asarray, arrays), jax.jit(log_density)
    logs = np.concatenate([np.asarray(of_rows(on_device, jnp.asarray(part, float))) for part in _split_rows(train)])
    return RealDensity(on_device, jnp.asarray(np.quantile(logs, [TAIL, HALLUCINATED]), float))


def _class_modes(source: Source) -> tuple[Array, Array] | None:
    """Centres, and the squared distance of ``NEAR`` standard deviations within a mode."""
    if source.modes is None:
        return None
    centre = np.asarray(source.modes)
    within = (np.trace(np.asarray(source.covariance)) - centre.var(0).sum()) / source.dim
    return jnp.asarray(centre, float), jnp.asarray(NEAR**2 * within, float)


def _split_rows(rows: np.ndarray, at_once: int = 4096) -> list[np.ndarray]:
    return [rows[i : i + at_once] for i in range(0, len(rows), at_once)]


def _compute_features(
    given: Callable[[Array], Array] | None, net: classifier.TrainedClassifier | Array | None, x_NxD: Array
) -> Array:
    if given is not None:
        return given(x_NxD)
    if isinstance(net, classifier.TrainedClassifier):
        return classifier.apply_classifier(net, x_NxD)[0]
    return x_NxD if net is None else jnp.matmul(x_NxD, net, precision=_HIGHEST)


def _observe(task: JudgeTask, truth: ImageTruth, rows_NxD: Array, label_N: Array | None = None) -> dict[str, Array]:
    some_NxD = rows_NxD[: task.num_rows]
    features_NxF, is_of_NxC, log_density_N = map_in_batches(
        partial(_judge_rows, task, truth), task.rows_at_once, rows_NxD
    )
    seen = nearest_neighbors.measure_overlap(truth.real, features_NxF[: task.num_rows], task.k)._asdict()
    seen["frechet_distance"] = frechet_distance(features_NxF, truth.mean, truth.root)
    # Over n - 1: it judges the model, not the number of rows it was asked for.
    variance_D = jnp.sum((rows_NxD - rows_NxD.mean(0, keepdims=True)) ** 2, 0) / max(rows_NxD.shape[0] - 1, 1)
    seen["log_trace_ratio"] = jnp.log(variance_D.sum()) - truth.log_variance
    seen["trace_ratio"] = jnp.exp(seen["log_trace_ratio"])
    if truth.classes is not None:
        seen |= _observe_classes(task, truth.classes, is_of_NxC, label_N)
    if truth.pictures is not None:
        seen["copied"] = nearest_neighbors.copied_share(some_NxD, truth.pictures.train, truth.pictures.held_out)
    if truth.pictures is not None and task.source.shape is not None:
        shape = [length for _, length in _image_dims(task.source.shape, task.num_shown)]
        real_D = truth.pictures.variance
        seen["pixel_variance_ratio"] = (variance_D / jnp.where(real_D > 0, real_D, jnp.nan)).reshape(shape[1:])
        shown_KxD = jnp.full((task.num_shown, task.dim), jnp.nan).at[: len(rows_NxD)].set(rows_NxD[: task.num_shown])
        seen["sample_image"] = shown_KxD.reshape(shape)
    if truth.law is not None:
        seen["tail_mass"], seen["hallucinated"] = ((log_density_N < q).mean() for q in truth.law.log_quantile)
        seen["kl"] = -nearest_neighbors.differential_entropy(some_NxD, task.k) - log_density_N[: task.num_rows].mean()
    return seen


def _judge_rows(task: JudgeTask, truth: ImageTruth, rows_NxD: Array) -> tuple[Array, Array | None, Array | None]:
    """Features ``[N, F]``, classes ``[N, C]`` and log densities ``[N]`` of rows; None where there are none."""
    told_NxC = None if truth.classes is None else _tell_classes(truth.net, truth.classes, rows_NxD)
    log_density_N = None
    if truth.law is not None and task.source.log_density is not None:
        log_density_N = task.source.log_density(truth.law.arrays, rows_NxD)
    return _compute_features(task.features, truth.net, rows_NxD), told_NxC, log_density_N


def _tell_classes(net: Tree, classes: RealClasses, rows_NxD: Array) -> Array:
    """``[N, C]``: 1 in the place of a row's class, by the classifier or by the nearest mode; 0 where it is of none."""
    num_classes = classes.share.shape[0]
    if classes.modes is None:
        return jax.nn.one_hot(classifier.apply_classifier(net, rows_NxD)[1].argmax(1), num_classes)
    centre_CxD, near = classes.modes
    squared_NxC = jnp.sum((rows_NxD[:, None] - centre_CxD) ** 2, axis=2)
    return jax.nn.one_hot(squared_NxC.argmin(1), num_classes) * (squared_NxC.min(1) <= near)[:, None]


def _observe_classes(
    task: JudgeTask, classes: RealClasses, is_of_NxC: Array, label_N: Array | None
) -> dict[str, Array]:
    count_C, real_C = is_of_NxC.sum(0), classes.share
    share_C = count_C / is_of_NxC.shape[0]
    ratio_C = jnp.where(real_C > 0, share_C / jnp.where(real_C > 0, real_C, 1.0), jnp.inf)
    seen = {
        "class_share": share_C,
        "class_entropy": jax.scipy.special.entr(count_C / jnp.maximum(count_C.sum(), 1.0)).sum(),
        "classes_alive": ((real_C > 0) & (ratio_C >= ENOUGH)).sum().astype(share_C.dtype),
        "class_bias": 0.5 * (jnp.abs(share_C - real_C).sum() + 1 - share_C.sum()),
        "smallest_class_ratio": ratio_C.min(),
    }
    if task.has_minority:
        is_rare_C = _is_minority(real_C)
        rare, really = (jnp.where(is_rare_C, x, 0.0).sum() for x in (share_C, real_C))
        seen |= {"minority_share": rare, "minority_ratio": rare / really}
    if task.is_labelled and label_N is not None:
        seen["label_agreement"] = jnp.take_along_axis(is_of_NxC, label_N.astype(int)[:, None], 1).mean()
    return seen
