"""Logistic and multinomial regression by Newton's method, with labels drawn from the fit."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import batch as B
from collapse_jax import moments
from collapse_jax.calls import recorded
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
    Metric("label_entropy", "entropy of a label of the fit, mean over held-out inputs", "nats a label", "definition",
           "log", "spread"),
    Metric("parameter_error", "squared error of the coefficients, summed", "1", "|w - w*|^2", "log"),
)  # fmt: skip
_HIGHEST = jax.lax.Precision.HIGHEST
_DESCENTS = 30  # steps of conjugate gradients, at most; as many as coefficients are exact


class Rows(NamedTuple):
    """Inputs ``[..., d]`` and labels ``[...]``, whole numbers from 0."""

    x: Array
    label: Array


@recorded
def logistic_regression(
    dim: int | None = None,
    classes: int | None = None,
    ridge: float = 1e-4,
    steps: int = 8,
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

    A fit takes `steps` Newton steps from 0; one that ends uphill is shortened at the next one's expense. Of more than
    two classes each system is solved by conjugate gradients under the quadratic bound of Boehning (1992). Separable
    data have no maximum without a ridge, and Newton's method raises their logits by about 1 a step: there a fit of few
    steps stops short of the ridge's optimum.

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
    dim, classes = _size(source, dim, classes)
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
        scores=SCORES,
    )


def _size(source: Source | None, dim: int | None, classes: int | None) -> tuple[int, int]:
    """Numbers of inputs and of classes: what is given, and what a source has."""
    if source is None:
        return 2 if dim is None else dim, 2 if classes is None else classes
    if source.classes is None:
        raise ValueError(f"source {source.name} has no labels: give labels: true, its last column being the class")
    columns, known = source.dim - 1, source.classes
    if dim not in (None, columns) or classes not in (None, known):
        found = f"{columns} features and {known} classes"
        raise ValueError(f"source {source.name} has {found}, not dim {dim} and classes {classes}; leave both out")
    return columns, known


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


def _logits(params: Array, x: Array) -> Array:
    """``[logits, m]``, for coefficients ``[d + 1, logits]`` and inputs ``[m, d]``; the long axis last sums fastest."""
    return jnp.matmul(params[:-1].T, x.T, precision=_HIGHEST) + params[-1][:, None]


def _with_first(logits: Array) -> Array:
    """``[classes, m]``: of two classes the first has log odds 0."""
    return jnp.pad(logits, ((1, 0), (0, 0))) if logits.shape[0] == 1 else logits


def _odds(logits: Array) -> Array:
    """Probabilities of the classes, ``[logits, m]``: of two classes the second's."""
    return jax.nn.sigmoid(logits) if len(logits) == 1 else jax.nn.softmax(logits, axis=0)


def _relabel(key: Key, params: Array, items: Rows) -> Rows:
    z = _logits(params, items.x)
    below = _odds(-z) if len(z) == 1 else jnp.cumsum(_odds(z), axis=0)[:-1]
    uniform = jax.random.uniform(key, items.label.shape, z.dtype)
    return Rows(items.x, (uniform > below).sum(0).astype(jnp.int32))


def _log_probability(params: Array, rows: Rows) -> Array:
    """Of each row's label."""
    log_p = jax.nn.log_softmax(_with_first(_logits(params, rows.x)), axis=0)
    return jnp.take_along_axis(log_p, rows.label[None], 0)[0]


def _is_right(world: World, params: Array, rows: Rows) -> Array:
    """Whether a label is the truth's likeliest."""
    return (_with_first(_logits(world.truth, rows.x)).argmax(0) == rows.label) * 1.0


SCORES = {
    "likelihood": lambda world, params, rows: _log_probability(world.truth, rows),
    "right": _is_right,
    "confidence": lambda world, params, rows: _log_probability(params, rows),  # of the classifier that gave the label
    "value": lambda world, params, rows: rows.label * 1.0,
}


class _Problem(NamedTuple):
    x: Array  # a row a column, [p, m], and 1 last
    hot: Array  # labels [logits, m], one-hot
    share: Array  # of the weight, [m]
    ridge: Array | float


def _fit(classes: int, ridge: Array | float, steps: int, key: Key, train: Batch, start: Tree) -> Array:
    """Coefficients ``[d + 1, logits]``, the intercept last."""
    items, weight = B.rows(train)
    share = weight / weight.sum()
    x = jnp.concatenate([items.x.T, jnp.ones_like(items.x.T[:1])])
    x = jnp.where(share > 0, x, 0.0)  # a row of weight 0 may hold anything, NaN too
    hot = (items.label == jnp.arange(1 if classes == 2 else 0, classes)[:, None]).astype(x.dtype)
    problem = _Problem(x, hot, share, ridge)
    newton_step = _one_logit(problem) if classes == 2 else _many_logits(problem)

    def newton(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        w, z, doubtful = carry
        gradient, step = newton_step(w, z)
        too_far = (gradient * doubtful).sum() > 0
        step = jnp.where(too_far, -doubtful, step)
        change = _times(step.T, x)
        # Along a step the third derivative is at most `reach` times the second. So a whole one goes downhill up to the
        # root 1.79 of e^r - 1 - r = r^2, and log1p(r) / r of one always. What is beyond that stays in doubt until the
        # next gradient: a convex function that still falls there has fallen all the way.
        reach = (jnp.abs(change) if classes == 2 else jnp.ptp(change, axis=0)).max()
        safe = jnp.where(too_far | (reach < 1.79), 1.0, jnp.log1p(reach) / jnp.maximum(reach, 1.79))
        return w + step, z + change, (1 - safe) * step

    none = jnp.zeros((len(x), len(hot)), x.dtype)
    w, _, doubtful = jax.lax.fori_loop(0, steps, newton, (none, jnp.zeros_like(hot), none))
    return w - doubtful


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _solver(gram: Array, ridge: Array | float) -> Callable[[Array], Array]:
    """Solves systems of `gram` and the ridge."""
    unit, log_scale = moments.factorise(gram + ridge * jnp.eye(len(gram), dtype=gram.dtype))
    alive = jnp.isfinite(log_scale)  # a direction that rounding swallows is left alone
    over = jnp.where(alive, jnp.exp(-2 * jnp.where(alive, log_scale, 0.0)), 0.0)[:, None]

    def solve(v: Array) -> Array:
        down = moments.solve_unit_lower(unit, v) * over
        return moments.solve_unit_lower(unit.T[::-1, ::-1], down[::-1])[::-1]

    return solve


def _one_logit(problem: _Problem) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Gradient and Newton step, of coefficients and their logits at the rows."""
    x, hot, share, ridge = problem

    def step(w: Array, z: Array) -> tuple[Array, Array]:
        p = _odds(z)
        both = _times(x, jnp.concatenate([x * (share * p * (1 - p)), share * (p - hot)]).T)
        gradient = both[:, -1:] + ridge * w
        return gradient, _solver(both[:, :-1], ridge)(-gradient)

    return step


def _many_logits(problem: _Problem) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The same by conjugate gradients."""
    x, hot, share, ridge = problem
    solve_bound = _solver(0.5 * _times(x * share, x.T), ridge)

    def step(w: Array, z: Array) -> tuple[Array, Array]:
        p = _odds(z)
        gradient = _times(x, (share * (p - hot)).T) + ridge * w

        def hessian(v: Array) -> Array:
            z = _times(v.T, x)
            return _times(x, (share * p * (z - (p * z).sum(0))).T) + ridge * v

        return gradient, _conjugate_gradients(hessian, solve_bound, -gradient)

    return step


def _conjugate_gradients(hessian: Callable[[Array], Array], solve_bound: Callable[[Array], Array], v: Array) -> Array:
    """Solves hessian(step) = v, preconditioned by the solver of a bound of it."""

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

    first = solve_bound(v)
    start = jnp.zeros_like(v), v, first, (v * first).sum()
    return jax.lax.fori_loop(0, min(v.size, _DESCENTS), descend, start)[0]


def _observe(key: Key, world: World, params: Array, summary: Tree, generated: Tree) -> dict[str, Array]:
    x, label = world.test
    log_p, log_q = (jax.nn.log_softmax(_with_first(_logits(w, x)), axis=0) for w in (world.truth, params))
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(0).mean()
    return {
        "cross_entropy": -jnp.take_along_axis(log_q, label[None], 0).mean(),
        "accuracy": (log_q.argmax(0) == label).mean(),
        "excess_risk": jnp.maximum(divergence, 0.0),
        "label_entropy": jax.scipy.special.entr(jnp.exp(log_q)).sum(0).mean(),
        "parameter_error": ((params - world.truth) ** 2).sum(),
    }
