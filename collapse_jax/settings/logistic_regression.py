"""Logistic and multinomial regression by Newton's method, with labels drawn from the fit."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.gradients import refuse_gradient
from collapse_jax.core.random import draw_normals, draw_uniforms, stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_integer, require_positive
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.data.synthetic import HELD_OUT_SEED
from collapse_jax.numerics import logistic_newton
from collapse_jax.types import Array, Batch, Extras, Info, Key, LabelOnly, Metric, Setting, Source, Tree, World

METRICS = (
    Metric("test_nll", "mean negative log likelihood of held-out labels", "nats a row", "arXiv 2410.22812", "log",
           "risk"),
    Metric("accuracy", "share of held-out labels that the likeliest class hits", "1", "arXiv 2410.22812"),
    Metric("forward_kl", "Kullback-Leibler divergence KL(truth | fit) of labels, mean over held-out inputs",
           "nats a row", "arXiv 2410.22812", "log", "excess_risk"),
    Metric("label_entropy", "entropy of a label of the fit, mean over held-out inputs", "nats a label", "definition",
           "log", "diversity"),
    Metric("squared_error_of_coefficients", "squared error of the coefficients, summed", "1", "|w - w*|^2", "log"),
)  # fmt: skip
_TRUTH_STEPS = 100  # Newton steps of the probe of a whole train split; it stops where no logit moves any more


class ClassifiedRows(NamedTuple):
    """Inputs ``[..., d]`` and labels ``[...]``, whole numbers from 0."""

    x: Array
    label: Array


@register_setting
def logistic_regression(
    dim: int | None = None,
    classes: int | None = None,
    ridge: float = 1e-4,
    steps: int = 8,
    reuse_inputs: bool = True,
    num_test: int | None = None,
    source: Source | None = None,
) -> Setting:
    """Fit logistic (or multinomial) regression by Newton's method; synthetic labels are drawn from the fit.

    Without a source, inputs are N(0, I) and the truth is such a model: unit vectors, drawn once. With a labelled one
    (``data.digits(labels=True)``, ``data.table(path, labels=True)``) its columns are frozen features and the fit is a
    linear probe, as in the self-supervised experiments of arXiv 2410.22812; the truth that metrics compare with is then
    the probe of the whole train split, iterated to its optimum. An intercept is fitted, and not penalised. As in
    scikit-learn, two classes share one logit and more have one each.

    A fit takes `steps` Newton steps from 0; one that ends uphill is shortened at the next one's expense. Of more than
    two classes each system is solved by conjugate gradients under the quadratic bound of Boehning (1992). Separable
    data have no maximum without a ridge, and Newton's method raises their logits by about 1 a step: there a fit of few
    steps stops short of the ridge's optimum. A class without rows has none with a ridge either: a fit of s steps gives
    it odds of about e^-s.

    Args:
      dim: Number of inputs, d. The default is the source's number, or 2 without a source.
      classes: Number of classes. The default is the source's number, or 2 without a source.
      ridge: Weight lambda of the penalty lambda |w|^2 / 2 beside the mean negative log likelihood, without the
        intercept.
      steps: Number of Newton steps of a fit.
      reuse_inputs: Whether a chain's inputs are drawn once and used in each batch; otherwise new ones come with each.
      num_test: Number of held-out rows of the metrics. The default is 300, or all where there are fewer.
      source: Labelled rows. The default is a model with unit vectors, drawn once.

    Raises:
      UsageError: a number out of range, or a source without labels, or of other columns or classes.

    Example:
      >>> [metric.name for metric in logistic_regression(dim=2, classes=3).metrics]
      ['test_nll', 'accuracy', 'forward_kl', 'label_entropy', 'squared_error_of_coefficients']
    """
    dim, classes = _size(source, dim, classes)
    require_integer("dim", dim, 1)
    require_integer("classes", classes, 2)
    require_integer("steps", steps, 1)
    num_test = count_test_rows(num_test, source, 300)
    require_positive("ridge", ridge)
    fit, logits = partial(_fit, classes, ridge, steps), 1 if classes == 2 else classes
    fit_truth = partial(_fit, classes, ridge, max(steps, _TRUTH_STEPS))

    def rows(key: Key, params: Array, num: int) -> ClassifiedRows:
        """Draw new inputs, with labels of a fit."""
        key_x = stream(key, "inputs")
        x = draw_normals(key_x, (num, dim)) if source is None else source.draw(key_x, source.arrays, num)[:, :dim]
        return _relabel(key, params, ClassifiedRows(x, jnp.zeros(num, jnp.int32)))

    def sample_real(key: Key, world: World, num: int) -> ClassifiedRows:
        return rows(key, world.real, num) if source is None else _labelled(source.draw(key, world.real, num))

    return Setting(
        name="logistic_regression",
        world=lambda: _world(dim, logits, num_test, rows) if source is None else _world_of(source, num_test, fit_truth),
        sample_real=sample_real,
        fit=fit,
        sample=rows,
        observe=_observe,
        metrics=(METRICS[0]._replace(baseline=float(np.log(classes))), *METRICS[1:]),  # of classes alike
        label_only=LabelOnly(_relabel) if reuse_inputs else None,
        extras=Extras(row_scores=ROW_SCORES),
        info=Info(source=source),
    )


def _size(source: Source | None, dim: int | None, classes: int | None) -> tuple[int, int]:
    """Return the numbers of inputs and of classes: what the caller says, and what a source has."""
    if source is None:
        return 2 if dim is None else dim, 2 if classes is None else classes
    if source.classes is None:
        raise UsageError(f"source {source.name} has no labels: give labels: true, its last column being the class")
    columns, known = source.dim - 1, source.classes
    if dim not in (None, columns) or classes not in (None, known):
        has = f"{columns} features and {known} classes"
        raise UsageError(f"source {source.name} has {has}, not dim {dim} and classes {classes}; leave both out")
    return columns, known


@on_host
def _world(dim: int, logits: int, num_test: int, rows: Callable[[Key, Array, int], ClassifiedRows]) -> World:
    key = jax.random.key(HELD_OUT_SEED, impl="threefry2x32")
    vectors = np.random.default_rng(HELD_OUT_SEED).normal(size=(dim, logits))
    if logits > 1:
        vectors -= vectors.mean(1, keepdims=True)  # what all logits share says nothing, and the ridge takes it away
    vectors /= np.linalg.norm(vectors) / np.sqrt(logits)
    truth = jnp.asarray(np.vstack([vectors, np.zeros(logits)]), float)
    return World(truth, truth, rows(key, truth, num_test))


@on_host
def _world_of(source: Source, num_test: int, fit: Callable[..., Array]) -> World:
    train = jnp.asarray(source.arrays, float)
    truth = jax.jit(fit)(None, batch.make_batch(_labelled(train)), None)
    return World(train, truth, _labelled(jnp.asarray(source.held_out(num_test), float)))


def _labelled(table: Array) -> ClassifiedRows:
    return ClassifiedRows(table[:, :-1], table[:, -1].astype(jnp.int32))


def _relabel(key: Key, params: Array, items: ClassifiedRows) -> ClassifiedRows:
    z = logistic_newton.compute_logits(params, items.x)
    below = (
        logistic_newton.class_probabilities(-z)
        if len(z) == 1
        else jnp.cumsum(logistic_newton.class_probabilities(z), axis=0)[:-1]
    )
    below = refuse_gradient(below, "labels are chosen by their probabilities")
    u = draw_uniforms(key, items.label.shape, z.dtype)
    return ClassifiedRows(items.x, (u[None] > below).sum(0).astype(jnp.int32))


def _log_probability(params: Array, rows: ClassifiedRows) -> Array:
    """Return the log probability of each row's label."""
    log_p = jax.nn.log_softmax(
        logistic_newton.add_reference_logit(logistic_newton.compute_logits(params, rows.x)), axis=0
    )
    return jnp.take_along_axis(log_p, rows.label[None], 0)[0]


def _is_right(world: World, params: Array, rows: ClassifiedRows) -> Array:
    """Return 1 where a label is the truth's likeliest, else 0."""
    return (
        logistic_newton.add_reference_logit(logistic_newton.compute_logits(world.truth, rows.x)).argmax(0) == rows.label
    ) * 1.0


def _fit(classes: int, ridge: Array | float, steps: int, key: Key, train: Batch, start: Tree) -> Array:
    items, weight = batch.weighted_rows(train)
    return logistic_newton.fit_coefficients(items.x, items.label, weight, classes, ridge, steps)


ROW_SCORES = {
    "likelihood": lambda world, params, rows: _log_probability(world.truth, rows),
    "right": _is_right,
    "confidence": lambda world, params, rows: _log_probability(params, rows),  # of the classifier that gave the label
    "value": lambda world, params, rows: rows.label * 1.0,
}


def _observe(key: Key, world: World, params: Array, summary: Tree, generated: Tree) -> dict[str, Array]:
    x, label = world.test
    log_p, log_q = (
        jax.nn.log_softmax(logistic_newton.add_reference_logit(logistic_newton.compute_logits(w, x)), axis=0)
        for w in (world.truth, params)
    )
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(0).mean()
    return {
        "test_nll": -jnp.take_along_axis(log_q, label[None], 0).mean(),
        "accuracy": (log_q.argmax(0) == label).mean(),
        "forward_kl": jnp.maximum(divergence, 0.0),
        "label_entropy": jax.scipy.special.entr(jnp.exp(log_q)).sum(0).mean(),
        "squared_error_of_coefficients": ((params - world.truth) ** 2).sum(),
    }
