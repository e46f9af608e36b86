"""Linear regression by least squares, with labels drawn from the fit."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.random import draw_normals, stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import is_traced, require_integer, require_number, require_positive
from collapse_jax.core.worlds import on_host
from collapse_jax.data.synthetic import HELD_OUT_SEED
from collapse_jax.numerics import gaussian_moments, least_squares
from collapse_jax.types import (
    Array,
    Batch,
    Extras,
    Info,
    Key,
    LabelOnly,
    LabelStatistics,
    Metric,
    OffAt,
    Setting,
    SufficientStatistics,
    Tree,
    World,
)

METRICS = (
    Metric("excess_mse", "mean squared error of noise-free labels, over the law of the inputs", "label units^2",
           "arXiv 2404.01413", "log", "excess_risk"),
    Metric("log_excess_mse", "logarithm of the excess mean squared error", "nats", "arXiv 2404.01413"),
    Metric("test_mse", "mean squared error of the noise-free labels of held-out inputs", "label units^2",
           "arXiv 2410.16713", "log", "excess_risk"),
)  # fmt: skip
TOLERANCE = 2.0  # standard deviations of real noise within which a label is right

_HIGHEST = jax.lax.Precision.HIGHEST


class RegressionRows(NamedTuple):
    """Inputs ``[..., d]`` and labels ``[...]``."""

    x: Array
    y: Array


class RegressionStatistics(NamedTuple):
    """What least squares needs of rows of mean weight 1: of X / sqrt(n) = Q R, the triangle R and Q'y / sqrt(n).

    Attributes:
      root: R, ``[..., d, d]``; R'R is the second moment of the inputs.
      target: Q'y / sqrt(n), ``[..., d]``.
    """

    root: Array
    target: Array


class RegressionInputs(NamedTuple):
    """What a label-only chain keeps of its inputs.

    Attributes:
      gain: ``[d, k]``, from the noise of the labels to that of the coefficients: k is n, or, by the law, d.
      shrinkage: ``[d, d]``, what the ridge takes off coefficients that labels were drawn from; None without a ridge.
    """

    gain: Array
    shrinkage: Array | None


@register_setting
def linear_regression(
    dim: int = 2,
    noise_variance: float = 1.0,
    reuse_inputs: bool = True,
    ridge: Annotated[float, OffAt(0.0)] = 0.0,
    num_test: int = 1000,
) -> Setting:
    """Fit linear regression by least squares; synthetic labels are drawn from the fit.

    Labels are y = x.w + noise, x ~ N(0, I); synthetic ones have the fit's coefficients for w. Of several solutions
    (n < d) the one of least norm is taken, as in arXiv 2410.16713. The true coefficients are all 1: the law of the
    excess risk depends on w through |w|^2 alone (where n >= d and there is no ridge, not at all), and its mean
    linearly, so that means are those over the published w ~ N(0, I). Where n is d - 1, d or d + 1 the excess risk has
    no mean: look at quantiles.

    With `reuse_inputs` least squares is linear in the labels, and the coefficients of each batch are sufficient: one
    factorisation serves a chain. Policies that bring fresh real rows bring their inputs, too, and factorise anew.

    Args:
      dim: Number of inputs, d.
      noise_variance: Variance of the noise of real and of synthetic labels, sigma^2.
      reuse_inputs: Whether a chain's inputs are drawn once and used in each batch (arXiv 2404.01413, 2410.16713);
        otherwise new ones come with each synthetic batch.
      ridge: Weight lambda of the penalty lambda |w|^2 beside the mean squared error of the rows.
      num_test: Number of held-out inputs that ``test_mse`` averages over.

    Raises:
      UsageError: a number out of range.

    Example:
      >>> from collapse_jax import policies, run
      >>> runs = run(linear_regression(dim=2), policies.replace(), num_samples=50, num_generations=3, num_chains=2)
      >>> sorted(runs.data_vars)
      ['excess_mse', 'log_excess_mse', 'test_mse']
    """
    require_integer("dim", dim, 1)
    require_integer("num_test", num_test, 1)
    require_positive("noise_variance", noise_variance)
    require_number("ridge", ridge, 0)
    penalty = ridge if is_traced(ridge) or ridge > 0 else None
    noise = jnp.sqrt(jnp.asarray(noise_variance, jnp.result_type(float)))
    rows, statistics = partial(_rows, dim, noise), partial(_statistics, noise)
    return Setting(
        name="linear_regression",
        world=partial(_world, dim, num_test),
        sample_real=lambda key, world, num: rows(key, world.real, num),
        fit=partial(_fit, penalty),
        sample=rows,
        observe=_observe,
        metrics=tuple(m._replace(baseline=float(dim)) if m.role else m for m in METRICS),  # of no coefficients: |w|^2
        statistics=SufficientStatistics(
            compress=_compress,
            sample=partial(_sample_statistics, rows, statistics),
            # Of new inputs fixed_real asks for the law of a part of a batch, given the whole, which is not known here.
            sample_real=partial(_sample_real_statistics, statistics) if reuse_inputs else None,
        ),
        label_only=_label_only(noise, penalty) if reuse_inputs else None,
        extras=Extras(
            row_scores={
                "likelihood": lambda world, params, rows: -0.5 * _standard(noise, world, rows) ** 2,
                "right": lambda world, params, rows: (jnp.abs(_standard(noise, world, rows)) <= TOLERANCE) * 1.0,
                "value": lambda world, params, rows: rows.y,
            }
        ),
        info=Info(differentiable=True),
    )


def _label_only(noise: Array, ridge: Array | float | None) -> LabelOnly:
    """Return how labels are given to a chain's inputs."""
    of_labels = LabelStatistics(partial(_prepare_inputs, ridge), partial(_relabel_statistics, noise))
    return LabelOnly(partial(_relabel, noise), of_labels)


def _standard(noise: Array, world: World, rows: RegressionRows) -> Array:
    """Return labels less the true ones, in standard deviations of real noise."""
    return (rows.y - jnp.matmul(rows.x, world.truth, precision=_HIGHEST)) / noise


@on_host
def _world(dim: int, num_test: int) -> World:
    test_nxd = np.random.default_rng(HELD_OUT_SEED).normal(size=(num_test, dim))
    root = np.linalg.qr(test_nxd / np.sqrt(num_test), mode="r")  # mean (x.e)^2 = |root e|^2
    truth = jnp.ones(dim)
    return World(truth, truth, jnp.asarray(root))


def _rows(dim: int, noise: Array, key: Key, coefficients: Array, num: int) -> RegressionRows:
    x = draw_normals(stream(key, "inputs"), (num, dim))
    return _relabel(noise, key, coefficients, RegressionRows(x, x[:, 0]))


def _relabel(noise: Array, key: Key, params: Array, items: RegressionRows) -> RegressionRows:
    clean = jnp.matmul(items.x, params, precision=_HIGHEST)
    return RegressionRows(items.x, clean + noise * draw_normals(key, clean.shape))


def _statistics(noise: Array, key: Key, coefficients: Array, count: Array | int) -> RegressionStatistics:
    """Draw the statistics of `count` rows by their law, leaves ``[1, ...]``.

    Q'noise is normal, whatever the triangle (Bartlett's).
    """
    # Of count + 1 rows the scatter about the mean is that of count rows about 0, and the mean is independent of it.
    white = gaussian_moments.draw_normal_moments(key, coefficients.shape[0], count + 1)
    size = jnp.sqrt((count + 1) / jnp.maximum(jnp.asarray(count, noise.dtype), 1))
    root = size * gaussian_moments.cholesky_factor(white).T
    target = jnp.matmul(root, coefficients, precision=_HIGHEST) + noise * size * white.mean
    return RegressionStatistics(root[None], jnp.where(jnp.diagonal(root) != 0, target, 0.0)[None])


def _sample_statistics(
    rows: Callable[[Key, Array, int], RegressionRows],
    statistics: Callable[[Key, Array, Array | int], RegressionStatistics],
    key: Key,
    params: Array,
    num: int,
    count: Array | int,
    exact: bool,
) -> RegressionStatistics:
    """Draw the statistics of `count` rows with new inputs."""
    if exact:
        return statistics(key, params, count)
    drawn = batch.make_batch(rows(key, params, num), jnp.arange(num) < count)
    return jax.tree.map(lambda x: x[0], _compress(drawn).items)


def _sample_real_statistics(
    statistics: Callable[[Key, Array, Array | int], RegressionStatistics],
    key: Key,
    world: World,
    num: Array | int,
    count: Array | int | None = None,
) -> RegressionStatistics:
    assert count is None  # a loop that shares its inputs has no law beside counted real rows
    return statistics(key, world.real, num)


def _compress(train: Batch) -> Batch:
    """Return one row of statistics of rows, or of statistics; of coefficients on the same inputs, their mean."""
    items, weight = batch.weighted_rows(train)
    if weight.shape[0] == 1 and not isinstance(items, RegressionRows):
        return Batch(jax.tree.map(lambda x: x[:, None], items), train.weight)
    mass = weight.sum()
    share = weight / jnp.where(mass > 0, mass, 1.0)
    if not isinstance(items, RegressionRows | RegressionStatistics):
        mean = jnp.where(share[:, None] > 0, share[:, None] * items, 0.0).sum(0)
        return batch.make_batch(mean[None], mass)
    if isinstance(items, RegressionRows):
        columns = [items.x, items.y[:, None]]
    else:
        columns = [items.root, items.target[..., None]]
    lines = jnp.concatenate(columns, -1)
    by_row = share.reshape(-1, *[1] * (lines.ndim - 1))
    lines = jnp.where(by_row > 0, jnp.sqrt(by_row) * lines, 0.0)  # a row of weight 0 may hold anything, NaN too
    dim = lines.shape[-1] - 1
    reduced = least_squares.reduce_to_triangle(lines.reshape(-1, dim + 1), dim)
    return batch.make_batch(RegressionStatistics(reduced[None, :, :dim], reduced[None, :, dim]), mass)


def _fit(ridge: Array | float | None, key: Key, train: Batch, start: Tree) -> Array:
    fit = jax.tree.map(lambda x: x[0, 0], _compress(train).items)
    if not isinstance(fit, RegressionStatistics):
        return fit
    return _solved(ridge, fit.root, fit.target[:, None])[:, 0]


def _solved(ridge: Array | float | None, root: Array, targets: Array) -> Array:
    """Return the coefficients ``[d, k]`` of least squares for each column of `targets` ``[d, k]``."""
    if ridge is None:
        return least_squares.solve_triangle(root, targets)
    dim = root.shape[0]
    lines = jnp.block([[root, targets], [jnp.sqrt(ridge) * jnp.eye(dim), jnp.zeros_like(targets)]])
    reduced = least_squares.reduce_to_triangle(lines, dim)
    return least_squares.solve_triangle(reduced[:, :dim], reduced[:, dim:])


def _prepare_inputs(ridge: Array | float | None, first: Batch) -> tuple[RegressionInputs, Batch]:
    """Return what a chain keeps of its first batch, and the coefficients that its labels give."""
    root, target = jax.tree.map(lambda x: x[0, 0], _compress(first).items)
    count, eye = batch.total_weight(first), jnp.eye(root.shape[0])
    gain = _solved(ridge, root, eye)  # coefficients = gain Q'y / sqrt(n)
    shrinkage = None if ridge is None else eye - jnp.matmul(gain, root, precision=_HIGHEST)
    coefficients = jnp.matmul(gain, target, precision=_HIGHEST)
    if isinstance(first.items, RegressionRows):
        inverse = gain if ridge is None else least_squares.solve_triangle(root, eye)
        orthogonal = jnp.matmul(first.items.x[0], inverse, precision=_HIGHEST) / jnp.sqrt(count)
        gain = jnp.matmul(gain, orthogonal.T, precision=_HIGHEST)
    return RegressionInputs(gain / jnp.sqrt(count), shrinkage), batch.make_batch(coefficients[None], count)


def _relabel_statistics(noise: Array, key: Key, params: Array, inputs: RegressionInputs) -> Array:
    """Return the coefficients of labels drawn from a fit that lies in the span of the inputs."""
    new = params + noise * jnp.matmul(inputs.gain, draw_normals(key, inputs.gain.shape[1:]), precision=_HIGHEST)
    if inputs.shrinkage is not None:
        new = new - jnp.matmul(inputs.shrinkage, params, precision=_HIGHEST)
    return new[None]


def _observe(key: Key, world: World, params: Array, summary: Tree, generated: Tree) -> dict[str, Array]:
    error = params - world.truth
    risk = (error**2).sum()
    return {
        "excess_mse": risk,
        "log_excess_mse": jnp.log(risk),
        "test_mse": (jnp.matmul(world.test, error, precision=_HIGHEST) ** 2).sum(),
    }
