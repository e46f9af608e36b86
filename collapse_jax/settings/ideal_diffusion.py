"""Diffusion models without a network: the score of the training rows' law is known, so only sampling errs.

Rows are carried towards N(0, I) by an Ornstein-Uhlenbeck process, dX = -X dt + sqrt(2) dW: after time t a row is
exp(-t) x + sqrt(1 - exp(-2 t)) z. The score of that law is a mixture's, one Gaussian a training row.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax import data
from collapse_jax.core import batch
from collapse_jax.core.lineage import with_ancestors
from collapse_jax.core.random import draw_normals
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_integer, require_positive
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.metrics import row_scores
from collapse_jax.settings.kde import log_mean_kernel
from collapse_jax.types import Array, Batch, Extras, Info, Key, Metric, Setting, Source, Tree, World

FAR = 8.0  # time at which the ODE starts from noise alone: exp(-8) of a row is left there


class Ideal(NamedTuple):
    """The law of the training rows after time delta."""

    train: Batch
    delta: Array


@register_setting
def ideal_diffusion(
    delta: Array | float = 0.1,
    degree: int = 4,
    solver_steps: int = 0,
    num_test: int | None = None,
    source: Source | None = None,
    lineage: bool = False,
) -> Setting:
    """Sample from the ideal diffusion model: exact score, stopped early at time `delta`, where scores would blow up.

    What it generates is the law of its training rows after time delta. So with c_k = E h_k(x), the coefficients of a
    law in normalised Hermite polynomials h_k, a generation that trains on a share alpha of fresh real rows obeys

        c_k(p_{g+1}) = exp(-k delta) [alpha c_k(p_0) + (1 - alpha) c_k(p_g)]

    exactly, in expectation and for any number of rows; c_k converges to alpha exp(-k delta) / (1 - (1 - alpha)
    exp(-k delta)) times the truth's (arXiv 2606.13796): a test of whole chains that needs no network. Rows should have
    a mean near 0 and a variance near 1, those of the noise.

    Args:
      delta: Time at which sampling stops, above 0.
      degree: Number of Hermite coefficients that are metrics.
      solver_steps: Number of midpoint steps of the probability-flow ODE with the exact score, each of which costs rows
        times training rows; 0 samples exactly (a training row, shrunk, plus noise).
      num_test: Number of held-out rows that ``test_nll`` averages over. The default is 500, or all where there
        are fewer.
      source: The law of the real rows. The default is two blobs in one dimension. Of several columns, coefficients are
        those of the columns' own laws, averaged.
      lineage: Whether rows know their real ancestors, which the metric ``ancestors_alive`` counts. Only exact samples
        (`solver_steps` = 0) each come from one training row.

    Raises:
      UsageError: a number out of range, or `lineage` of rows that an ODE makes.

    Example:
      >>> [metric.name for metric in ideal_diffusion(degree=2).metrics]
      ['hermite_1', 'hermite_2', 'fitted_variance', 'test_nll']
    """
    require_positive("delta", delta)
    require_integer("degree", degree, 1)
    require_integer("solver_steps", solver_steps, 0)
    source = data.blobs(num_centers=2, dim=1, std=0.5, box=1.5) if source is None else source
    num_test = count_test_rows(num_test, source, 500)
    setting = Setting(
        name="ideal_diffusion",
        world=partial(_world, source, num_test),
        sample_real=lambda key, world, num: source.draw(key, world.real, num),
        fit=lambda key, train, start: Ideal(train, jnp.asarray(delta, jnp.result_type(float))),
        sample=partial(_integrate, solver_steps) if solver_steps else _sample,
        observe=partial(_observe, degree),
        metrics=_metrics(degree),
        extras=Extras(sample_children=None if solver_steps else _sample_children, row_scores=row_scores.ROW_SCORES),
        info=Info(source=source, largest_block=32),
    )
    return with_ancestors(setting) if lineage else setting


@on_host
def _world(source: Source, num_test: int) -> World:
    return World(jax.tree.map(jnp.asarray, source.arrays), None, jnp.asarray(source.held_out(num_test)))


def _metrics(degree: int) -> tuple[Metric, ...]:
    return (
        *(Metric(f"hermite_{k}", f"Hermite coefficient {k} of the fitted law", "1", "arXiv 2606.13796")
          for k in range(1, degree + 1)),
        Metric("fitted_variance", "variance of the fit, mean over coordinates", "data units^2", "definition", "log",
               "diversity"),
        Metric("test_nll", "mean negative log likelihood of held-out rows", "nats a row", "definition", "log", "risk"),
    )  # fmt: skip


def _sample(key: Key, params: Ideal, num: int) -> Array:
    key_row, key_noise = jax.random.split(key)
    return _sample_children(key_noise, params, batch.draw_rows(key_row, params.train, num))


def _sample_children(key: Key, params: Ideal, rows_nxd: Array) -> Array:
    return jnp.exp(-params.delta) * rows_nxd + _noise(params.delta) * draw_normals(key, rows_nxd.shape)


def _noise(time: Array | float) -> Array:
    """Return the standard deviation of what has been added after `time`."""
    return jnp.sqrt(-jnp.expm1(-2 * time))


def _integrate(steps: int, key: Key, params: Ideal, num: int) -> Array:
    """Integrate the probability-flow ODE from noise at time ``FAR`` down to delta.

    With y = exp(t) x and s = exp(t) times the noise's standard deviation it reads dy / d log s = y - E[row | y, s]. A
    step holds the expected row fixed (exact where there is one row), as seen from the middle of the step.
    """
    x_mxd, weight = batch.weighted_rows(params.train)
    x_mxd = jnp.where(weight[:, None] > 0, x_mxd, 0.0)
    last, first = (jnp.log(_noise(t)) + t for t in (params.delta, FAR))
    log_s = first + (last - first) * jnp.linspace(0, 1, steps + 1)

    def move(y: Array, row: Array, by: Array) -> Array:
        return row + jnp.exp(by) * (y - row)

    def step(y: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        now, then = ends
        middle = move(y, _expected_row(x_mxd, weight, y, now), 0.5 * (then - now))
        return move(y, _expected_row(x_mxd, weight, middle, 0.5 * (now + then)), then - now), None

    y = jnp.exp(first) * draw_normals(key, (num, x_mxd.shape[1]))
    return jnp.exp(-params.delta) * jax.lax.scan(step, y, (log_s[:-1], log_s[1:]))[0]


def _expected_row(x_mxd: Array, weight: Array, y_nxd: Array, log_s: Array) -> Array:
    """Return E[row | y = row + s noise] ``[n, d]``; the score of y's law is its distance from y over s^2."""
    squares = ((y_nxd[:, None] - x_mxd[None]) ** 2).sum(2)
    share = jax.nn.softmax(-0.5 * jnp.exp(-2 * log_s) * squares, axis=1, where=weight[None] > 0) * weight[None]
    return jnp.matmul(share, x_mxd, precision=jax.lax.Precision.HIGHEST) / share.sum(1, keepdims=True)


def _observe(degree: int, key: Key, world: World, params: Ideal, summary: None, generated: Tree) -> dict[str, Array]:
    x_mxd, weight = batch.weighted_rows(params.train)
    share = (weight / weight.sum())[:, None]

    def mean_of(values: Array) -> Array:
        return jnp.where(share > 0, share * values, 0.0).sum(0)

    shrink, noise, dim = jnp.exp(-params.delta), _noise(params.delta), x_mxd.shape[1]
    coefficients = [shrink**k * mean_of(h).mean() for k, h in enumerate(hermite(x_mxd, degree), 1)]
    variance = mean_of((x_mxd - mean_of(x_mxd)[None]) ** 2).mean()
    shrunk = params.train._replace(items=shrink * params.train.items)
    log_norm = dim * (jnp.log(noise) + 0.5 * jnp.log(2 * jnp.pi))
    return {f"hermite_{k}": c for k, c in enumerate(coefficients, 1)} | {
        "fitted_variance": shrink**2 * variance + noise**2,
        "test_nll": log_norm - log_mean_kernel(shrunk, world.test, noise).mean(),
    }


def hermite(x: Array, degree: int) -> list[Array]:
    """Return polynomials h_1 .. h_degree, orthonormal under N(0, 1).

    By the recursion h_{k+1} = (x h_k - sqrt(k) h_{k-1}) / sqrt(k + 1).
    """
    before, now = jnp.ones_like(x), x
    polynomials = [now]
    for k in range(1, degree):
        before, now = now, (x * now - k**0.5 * before) / (k + 1) ** 0.5
        polynomials.append(now)
    return polynomials
