"""Metrics of the features of images: probes that read classes from them, their spectrum, and how they changed.

All take features of real rows. Probes see features standardised column by column, as after a batch normalisation
without parameters: they ask what can be read, not how large it is. No function calls LAPACK.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.numerics import logistic_newton, nearest_neighbors
from collapse_jax.numerics.nearest_neighbors import normalise_rows
from collapse_jax.types import Array, Metric

RIDGE = 1e-3  # penalty of both linear probes, beside the mean loss over rows; intercepts have none
_NEWTON_STEPS = 50  # at most; the logistic probe stops where no logit moves by more than _TOLERANCE
_TOLERANCE = 1e-2
_SWEEPS = 12  # sweeps over all pairs of columns; Jacobi's method converges quadratically
_HIGHEST = jax.lax.Precision.HIGHEST


class ProbeFeatures(NamedTuple):
    """Features of real rows.

    Attributes:
      train: ``[N, F]``, which probes are fitted to.
      train_label: ``[N]``, whole numbers.
      test: ``[M, F]``, of held-out rows.
      test_label: ``[M]``.
      view: ``[M, F]``, of one random view of each held-out row.
      other_view: ``[M, F]``, of another view.
    """

    train: Array
    train_label: Array
    test: Array
    test_label: Array
    view: Array
    other_view: Array


ACCURACIES = (
    Metric("probe_accuracy", "share of held-out images whose class a ridge regression on features tells", "1",
           "definition"),
    Metric("logistic_accuracy", "share of held-out images whose class multinomial logistic regression tells", "1",
           "arXiv 2002.05709"),
    Metric("knn_accuracy", "share of held-out images whose class the nearest training images tell, by cosine", "1",
           "arXiv 1805.01978"),
    Metric("knn_accuracy_views", "share of random views whose class the nearest training images tell", "1",
           "definition"),
)  # fmt: skip
METRICS = (
    Metric("pretext_loss", "what the encoder minimises, on held-out images at fixed views", "1", "definition",
           role="risk"),
    *ACCURACIES,
    Metric("class_accuracy", "probe accuracy by class", "1", "definition"),
    Metric("rankme", "exp of the entropy of the features' singular values", "1", "arXiv 2210.02885"),
    Metric("spectrum", "eigenvalues of the features' covariance over their sum, falling", "1", "arXiv 2110.09348"),
    Metric("alignment", "squared distance of two views' features, at length 1", "1", "arXiv 2005.10242"),
    Metric("uniformity", "log mean Gaussian potential of features, at length 1", "nats", "arXiv 2005.10242"),
    Metric("cka_to_first", "linear alignment (CKA) with the features of generation 1's encoder", "1",
           "arXiv 1905.00414"),
)  # fmt: skip


def measure_accuracies(features: ProbeFeatures, classes: int, k: int) -> tuple[dict[str, Array], Array]:
    """Return ``ACCURACIES``, and the first by class ``[classes]`` (NaN where no row of the class is held out)."""
    train, test = standardise_features(features.train, features.test)
    is_right_M = fit_ridge_probe(train, features.train_label, test, classes).argmax(1) == features.test_label
    of_class_MxC = features.test_label[:, None] == jnp.arange(classes)[None]
    count_C = of_class_MxC.sum(0)
    right_C = (is_right_M[:, None] & of_class_MxC).sum(0, dtype=float)
    by_class = right_C / jnp.where(count_C > 0, count_C.astype(float), jnp.nan)
    is_right = {
        "probe_accuracy": is_right_M,
        "logistic_accuracy": fit_logistic_probe(train, features.train_label, test, classes).argmax(1)
        == features.test_label,
        "knn_accuracy": classify_by_neighbors(features.train, features.train_label, features.test, classes, k)
        == features.test_label,
        "knn_accuracy_views": classify_by_neighbors(features.train, features.train_label, features.view, classes, k)
        == features.test_label,
    }
    return {name: right.mean() for name, right in is_right.items()}, by_class


def standardise_features(train_NxF: Array, test_MxF: Array) -> tuple[Array, Array]:
    """Return both in units of the training rows' columns; a constant column becomes 0."""
    mean, deviation = train_NxF.mean(0, keepdims=True), train_NxF.std(0, keepdims=True)
    alive = deviation > 1e-6 * jnp.abs(train_NxF).max(0, keepdims=True)  # a smaller deviation is rounding
    scale = jnp.where(alive, 1 / jnp.where(alive, deviation, 1.0), 0.0)
    return (train_NxF - mean) * scale, (test_MxF - mean) * scale


def fit_ridge_probe(train_NxF: Array, label_N: Array, test_MxF: Array, classes: int) -> Array:
    """Return scores ``[M, classes]`` by ridge regression on one-hot labels, in closed form.

    It minimises the mean squared error plus ``RIDGE |w|^2``, without the intercept. The columns of `train` have mean 0.
    """
    hot_NxC = jax.nn.one_hot(label_N, classes, dtype=train_NxF.dtype)
    mean_1xC = hot_NxC.mean(0, keepdims=True)
    product = partial(jnp.matmul, precision=_HIGHEST)
    gram, across = (product(train_NxF.T, x) / train_NxF.shape[0] for x in (train_NxF, hot_NxC - mean_1xC))
    return mean_1xC + product(test_MxF, logistic_newton.solve_ridge(gram, RIDGE, across))


def fit_logistic_probe(train_NxF: Array, label_N: Array, test_MxF: Array, classes: int) -> Array:
    """Return logits ``[M, classes]`` by ``logistic_newton.fit_coefficients``, iterated to the optimum."""
    params = logistic_newton.fit_coefficients(
        train_NxF, label_N, jnp.ones_like(train_NxF[:, 0]), classes, RIDGE, _NEWTON_STEPS, _TOLERANCE
    )
    return logistic_newton.add_reference_logit(logistic_newton.compute_logits(params, test_MxF)).T


def classify_by_neighbors(train_NxF: Array, label_N: Array, test_MxF: Array, classes: int, k: int) -> Array:
    """Return the class ``[M]`` of most of the `k` training rows of largest cosine; in a tie, the first class."""
    squared_MxN = nearest_neighbors.squared_distances(normalise_rows(test_MxF), normalise_rows(train_NxF))
    nearest_Mxk = jax.lax.top_k(-squared_MxN, min(k, train_NxF.shape[0]))[1]
    return jax.nn.one_hot(label_N[nearest_Mxk], classes).sum(1).argmax(1)


def view_alignment(a_MxF: Array, b_MxF: Array) -> Array:
    """Return the mean squared distance of two views' features at length 1 (arXiv 2005.10242, eq. 3; alpha = 2)."""
    return jnp.sum((normalise_rows(a_MxF) - normalise_rows(b_MxF)) ** 2, 1).mean()


def feature_uniformity(x_MxF: Array) -> Array:
    """Return the log of the mean of ``exp(-2 |x - y|^2)`` over pairs of rows at length 1 (arXiv 2005.10242, eq. 4).

    It is 0 where all rows are alike, and near -4 where they are uniform on a sphere of many dimensions.
    """
    unit_MxF, rows = normalise_rows(x_MxF), x_MxF.shape[0]
    log_MxM = -2 * nearest_neighbors.squared_distances(unit_MxF, unit_MxF)
    others = jnp.where(jnp.eye(rows, dtype=bool), -jnp.inf, log_MxM)
    return jax.nn.logsumexp(others) - jnp.log(rows * (rows - 1.0))


def linear_cka(a_MxF: Array, b_MxG: Array) -> Array:
    """Return the linear centred kernel alignment (arXiv 1905.00414): 1 up to a rotation and a scale."""
    a, b = a_MxF - a_MxF.mean(0, keepdims=True), b_MxG - b_MxG.mean(0, keepdims=True)

    def cross_norm(x: Array, y: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.matmul(x.T, y, precision=_HIGHEST) ** 2))

    norms = cross_norm(a, a) * cross_norm(b, b)
    return jnp.where(norms > 0, cross_norm(a, b) ** 2 / jnp.where(norms > 0, norms, 1.0), 0.0)


def effective_rank(x_MxF: Array) -> Array:
    """Return exp of the entropy of the singular values over their sum (RankMe, arXiv 2210.02885, eq. 1): 1 to F."""
    value_F = singular_values(x_MxF)
    share_F = value_F / jnp.maximum(value_F.sum(), jnp.finfo(value_F.dtype).tiny)
    return jnp.exp(jax.scipy.special.entr(share_F).sum())


def covariance_spectrum(x_MxF: Array) -> Array:
    """Return the covariance's eigenvalues over their sum ``[F]``, falling; 0 where all rows are alike."""
    value_F = singular_values(x_MxF - x_MxF.mean(0, keepdims=True)) ** 2
    return value_F / jnp.maximum(value_F.sum(), jnp.finfo(value_F.dtype).tiny)


def singular_values(x_MxF: Array) -> Array:
    """Return the singular values ``[F]``, falling, by one-sided Jacobi (Hestenes 1958).

    Pairs of columns are rotated until all are orthogonal. In each round of a tournament every column meets another, the
    one opposite; then all but the first move on.
    """
    columns = x_MxF.shape[1]
    x = jnp.pad(x_MxF, ((0, 0), (0, columns % 2)))
    half = x.shape[1] // 2

    def rotate_pairs(_: Array, x: Array) -> Array:
        a, b = x[:, :half], x[:, half:][:, ::-1]
        across, excess = (a * b).sum(0), (b * b).sum(0) - (a * a).sum(0)
        # The smaller of two angles that make them orthogonal has tan(2 angle) = 2 across / excess.
        below = excess + jnp.where(excess < 0, -1.0, 1.0) * jnp.hypot(excess, 2 * across)
        tangent = 2 * across / jnp.where(across == 0, 1.0, below)
        cosine = jax.lax.rsqrt(1 + tangent**2)
        sine = cosine * tangent
        cosine, sine = cosine[None], sine[None]
        x = jnp.concatenate([cosine * a - sine * b, (sine * a + cosine * b)[:, ::-1]], 1)
        return jnp.concatenate([x[:, :1], jnp.roll(x[:, 1:], 1, axis=1)], 1)

    scale = jnp.abs(x).max()
    x = jax.lax.fori_loop(0, _SWEEPS * (2 * half - 1), rotate_pairs, x / jnp.where(scale > 0, scale, 1.0))
    return scale * jnp.sort(jnp.sqrt((x**2).sum(0)))[::-1][:columns]
