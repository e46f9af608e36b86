"""Logistic and multinomial regression by Newton's method, with labels drawn from the fit."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import batch as B
from collapse_jax import moments
from collapse_jax.check import check_at_least, check_positive
from collapse_jax.data.toy import HELD_OUT_SEED
from collapse_jax.keys import normal, stream
from collapse_jax.types import Array, Batch, Key, Metric, Setting, Source, Tree, World

METRICS = (
    Metric("cross_entropy", "mean negative log likelihood of held-out labels", "nats a label", "arXiv 2410.22812",
           role="risk"),
    Metric("accuracy", "share of held-out labels that the likeliest class hits", "1", "arXiv 2410.22812"),
    Metric("excess_risk", "mean divergence of the fit's labels from the truth's at held-out inputs, KL(truth | fit)",
           "nats a label", "arXiv 2410.22812", "log", "excess_risk"),
    Metric("parameter_error", "squared error of the coefficients, summed", "1", "|w - w*|^2", "log"),
)  # fmt: skip
_HIGHEST = jax.lax.Precision.HIGHEST
_DESCENTS = 30  # steps of conjugate gradients, at most; as many as coefficients are exact
_HALVINGS = 6  # step lengths 1, 1/2, ... that a Newton step chooses from


class Rows(NamedTuple):
    """Inputs ``[..., d]`` and labels ``[...]``, whole numbers from 0."""

    x: Array
    label: Array


def logistic_regression(
    dim: int | None = None,
    classes: int | None = None,
    ridge: float = 1e-4,
    steps: int = 10,
    reuse_inputs: bool = True,
    num_test: int = 300,
    source: Source | None = None,
) -> Setting:
    """Logistic regression (of more than two classes: multinomial), with labels drawn from the fit.

    Without a source, inputs are N(0, I) and the truth is such a model: unit vectors, drawn once. With a labelled one
    (``data.digits(labels=True)``, ``data.table(path, labels=True)``) its columns are frozen features and the fit is a
    linear probe, as in the self-supervised experiments of arXiv 2410.22812; the truth that metrics compare with is then
    the probe of the whole train split. An intercept is fitted. As in scikit-learn, two classes share one logit and more
    have one each.

    A fit takes `steps` Newton steps from 0, each system solved by conjugate gradients under the quadratic bound of
    Boehning (1992), and the best of six step lengths. Separable data have no maximum without a ridge, and Newton's
    method raises their logits by about 1 a step: there a fit of few steps stops short of the ridge's optimum.

    Args:
      dim: d, number of inputs; default the source's, or 2 without one.
      classes: number of classes; default the source's, or 2 without one.
      ridge: lambda of the penalty lambda |w|^2 / 2 beside the *mean* negative log likelihood; the intercept is
        penalised, too. May be a tracer.
      steps: Newton steps a fit.
      reuse_inputs: draw a chain's inputs once and use them in each batch; otherwise new ones come with each.
      num_test: held-out rows of the metrics.
      source: labelled rows.

    Raises:
      ValueError: a number out of range, or a source without labels, or of other columns or classes.
    """
    if source is not None and source.classes is None:
        raise ValueError(f"source {source.name} has no labels: give labels: true, its last column being the class")
    if source is not None:
        columns, known = source.dim - 1, source.classes
        if dim not in (None, columns) or classes not in (None, known):
            found = f"{columns} features and {known} classes"
            raise ValueError(f"source {source.name} has {found}, not dim {dim} and classes {classes}; leave both out")
        dim, classes = columns, known
    dim, classes = 2 if dim is None else dim, 2 if classes is None else classes
    check_at_least("dim", dim, 1)
    check_at_least("classes", classes, 2)
    check_at_least("steps", steps, 1)
    check_at_least("num_test", num_test, 1)
    check_positive("ridge", ridge)
    fit, logits = partial(_fit, classes, ridge, steps), 1 if classes == 2 else classes

    def rows(key: Key, params: Array, num: int) -> Rows:
        """New inputs, with labels of a fit."""
        key_x = stream(key, "inputs")
        x = normal(key_x, (num, dim)) if source is None else source.draw(key_x, source.arrays, num)[:, :dim]
        return _relabel(key, params, Rows(x, jnp.zeros(num, jnp.int32)))

    def real(key: Key, world: World, num: int) -> Rows:
        return rows(key, world.real, num) if source is None else _labelled(source.draw(key, world.real, num))

    return Setting(
        name="logistic_regression",
        world=lambda: _world(dim, logits, num_test, rows) if source is None else _world_of(source, num_test, fit),
        real=real,
        fit=fit,
        sample=rows,
        observe=_observe,
        metrics=(METRICS[0]._replace(baseline=float(np.log(classes))), *METRICS[1:]),  # of classes alike
        relabel=_relabel if reuse_inputs else None,
    )


def _world(dim: int, logits: int, num_test: int, rows: Callable[[Key, Array, int], Rows]) -> World:
    key = jax.random.key(HELD_OUT_SEED, impl="threefry2x32")
    vectors = np.random.default_rng(HELD_OUT_SEED).normal(size=(dim, logits))
    if logits > 1:
        vectors -= vectors.mean(1, keepdims=True)  # what all logits share says nothing, and the ridge takes it away
    vectors /= np.linalg.norm(vectors) / np.sqrt(logits)
    truth = jnp.asarray(np.vstack([vectors, np.zeros(logits)]), float)
    return World(truth, truth, rows(key, truth, num_test))


def _world_of(source: Source, num_test: int, fit: Callable[..., Array]) -> World:
    train = jnp.asarray(source.arrays, float)
    truth = jax.jit(fit)(None, B.unit(_labelled(train)), None)
    return World(train, truth, _labelled(jnp.asarray(source.held_out(num_test), float)))


def _labelled(table: Array) -> Rows:
    return Rows(table[:, :-1], table[:, -1].astype(jnp.int32))


def _log_odds(x: Array, coefficients: Array) -> Array:
    """``[m, classes]``, for ``[m, p]`` and ``[p, logits]``; of two classes the first has log odds 0."""
    logits = jnp.matmul(x, coefficients, precision=_HIGHEST)
    return jnp.pad(logits, ((0, 0), (1, 0))) if coefficients.shape[1] == 1 else logits


def _with_one(x: Array) -> Array:
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], 1)


def _relabel(key: Key, params: Array, items: Rows) -> Rows:
    cumulative = jnp.cumsum(jax.nn.softmax(_log_odds(_with_one(items.x), params)), axis=1)
    uniform = jax.random.uniform(key, items.label.shape, cumulative.dtype)
    return Rows(items.x, (uniform[:, None] > cumulative[:, :-1]).sum(1).astype(jnp.int32))


class _Problem(NamedTuple):
    x: Array  # rows [m, p], the last column 1
    hot: Array  # labels [m, classes], one-hot
    share: Array  # of the weight, [m, 1]
    ridge: Array | float


def _fit(classes: int, ridge: Array | float, steps: int, key: Key, train: Batch, start: Tree) -> Array:
    """Coefficients ``[d + 1, logits]``, the intercept last."""
    items, weight = B.rows(train)
    share = (weight / weight.sum())[:, None]
    x = jnp.where(share > 0, items.x, 0.0)  # a row of weight 0 may hold anything, NaN too
    problem = _Problem(_with_one(x), jax.nn.one_hot(items.label, classes, dtype=x.dtype), share, ridge)
    solve_bound = _bound(problem)
    num = 1 if classes == 2 else classes

    def newton(_: Array, w: Array) -> Array:
        step = _newton_step(problem, solve_bound, w)
        lengths = 0.5 ** jnp.arange(_HALVINGS, dtype=w.dtype)
        return w + lengths[jnp.argmin(jnp.stack([_objective(problem, w + length * step) for length in lengths]))] * step

    return jax.lax.fori_loop(0, steps, newton, jnp.zeros((x.shape[1] + 1, num), x.dtype))


def _objective(problem: _Problem, w: Array) -> Array:
    log_likelihood = (problem.hot * jax.nn.log_softmax(_log_odds(problem.x, w))).sum(1, keepdims=True)
    return 0.5 * problem.ridge * (w**2).sum() - (problem.share * log_likelihood).sum()


def _bound(problem: _Problem) -> Callable[[Array], Array]:
    """Solves systems of a matrix that no Hessian exceeds: a half (of two classes: a quarter) of the second moments."""
    x, share, most = problem.x, problem.share, 0.25 if problem.hot.shape[1] == 2 else 0.5
    gram = most * jnp.matmul(x.T, share * x, precision=_HIGHEST)
    unit, log_scale = moments.factorise(gram + problem.ridge * jnp.eye(x.shape[1], dtype=x.dtype))

    def solve(v: Array) -> Array:
        down = moments.solve_unit_lower(unit, v) * jnp.exp(-2 * log_scale)[:, None]
        return moments.solve_unit_lower(unit.T[::-1, ::-1], down[::-1])[::-1]

    return solve


def _newton_step(problem: _Problem, solve_bound: Callable[[Array], Array], w: Array) -> Array:
    """Minus the inverse Hessian times the gradient, by preconditioned conjugate gradients."""
    x, share, num = problem.x, problem.share, w.shape[1]
    p = jax.nn.softmax(_log_odds(x, w))[:, -num:]
    gradient = jnp.matmul(x.T, share * (p - problem.hot[:, -num:]), precision=_HIGHEST) + problem.ridge * w

    def hessian(v: Array) -> Array:
        z = jnp.matmul(x, v, precision=_HIGHEST)
        curved = share * p * (z - (p * z).sum(1, keepdims=True))
        return jnp.matmul(x.T, curved, precision=_HIGHEST) + problem.ridge * v

    def descend(_: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        step, residual, direction, size = carry
        bent = hessian(direction)
        curvature = (direction * bent).sum()
        length = jnp.where(curvature > 0, size / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        residual = residual - length * bent
        solved = solve_bound(residual)
        new_size = (residual * solved).sum()
        turn = jnp.where(size > 0, new_size / jnp.where(size > 0, size, 1.0), 0.0)
        return step + length * direction, residual, solved + turn * direction, new_size

    first = solve_bound(-gradient)
    start = jnp.zeros_like(w), -gradient, first, -(gradient * first).sum()
    return jax.lax.fori_loop(0, min(w.size, _DESCENTS), descend, start)[0]


def _observe(key: Key, world: World, params: Array, summary: Tree, generated: Tree) -> dict[str, Array]:
    x, label = _with_one(world.test.x), world.test.label[:, None]
    log_p, log_q = (jax.nn.log_softmax(_log_odds(x, w)) for w in (world.truth, params))
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(1).mean()
    return {
        "cross_entropy": -jnp.take_along_axis(log_q, label, 1).mean(),
        "accuracy": (log_q.argmax(1) == label[:, 0]).mean(),
        "excess_risk": jnp.maximum(divergence, 0.0),
        "parameter_error": ((params - world.truth) ** 2).sum(),
    }
