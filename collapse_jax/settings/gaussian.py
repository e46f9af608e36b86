"""Multivariate Gaussians fitted by sample mean and covariance."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from collapse_jax import data
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import draw_normals, stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_integer, require_positive
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.metrics import row_scores
from collapse_jax.numerics import gaussian_moments, ldl, polar
from collapse_jax.numerics.gaussian_moments import Moments
from collapse_jax.types import (
    Array,
    Batch,
    Extras,
    Info,
    Key,
    Metric,
    Setting,
    Source,
    SufficientStatistics,
    Tree,
    World,
)

METRICS = (
    Metric("wasserstein2_squared", "squared Wasserstein-2 distance of the two normal laws", "data units^2",
           "Dowson and Landau 1982", "log", "excess_risk"),
    Metric("squared_error_of_mean", "squared error of the mean, summed over coordinates", "data units^2",
           "arXiv 2410.16713", "log", "excess_risk"),
    Metric("trace_ratio", "total variance of the fit over the truth's", "1", "arXiv 2410.16713", "log"),
    Metric("log_trace_ratio", "logarithm of the trace ratio", "nats", "arXiv 2410.16713", role="log_variance"),
    Metric("log_det_ratio", "logarithm of the determinant ratio", "nats", "arXiv 2410.16713"),
    Metric("effective_rank", "participation ratio (tr S)^2 / tr S^2", "1", "definition"),
    Metric("test_nll", "mean negative log likelihood of held-out rows", "nats a row", "definition", "log", "risk"),
    Metric("tail_mass", "twice the lesser of the fitted masses beyond the truth's 0.5% and 99.5% quantiles", "1",
           "arXiv 2503.03150", "log", "tail"),
    Metric("hallucinated_mass", "fitted mass where the true density is below its 0.1% quantile", "1",
           "arXiv 2503.03150", "log", "hallucination"),
)  # fmt: skip


_COLUMNS = 8  # up to which rows are multiplied column by column: products so thin are slow on a CPU
_WIDEST = 64  # columns up to which the Wasserstein distance is a default: beyond, it costs many generations
_TAIL, _UNLIKELY = 2.5758293, 3.2905267  # standard deviations that 1% and 0.1% of a normal law lie beyond


class GaussianReal(NamedTuple):
    """What real rows follow.

    Attributes:
      arrays: what the source draws rows from.
      law: the moments of the real law.
    """

    arrays: Tree
    law: Moments


class GaussianTruth(NamedTuple):
    """What metrics compare with.

    Attributes:
      law: the moments of the real law.
      test: the moments of the held-out rows.
    """

    law: Moments
    test: Moments


@register_setting
def gaussian(
    dim: int | None = None,
    ddof: int = 0,
    num_test: int | None = None,
    source: Source | None = None,
    temperature: float = 1.0,
) -> Setting:
    """Fit a multivariate Gaussian by the sample mean and covariance.

    The covariance is divided by N - ddof. Fits of n <= dim rows are singular and sample from their support. The
    statistics have a known law (Bartlett's), so a generation's cost need not depend on n. Covariances are kept in
    logarithms: under ``replace`` every direction is followed to any generation; a pool of several batches resolves a
    direction down to float precision of its largest one, and then takes it for empty.

    ``tail_mass`` and ``hallucinated_mass`` are means over coordinates, and compare with the normal law of the truth's
    moments, whatever the source. Tails count by the lesser: a narrow law in the wrong place covers but one. Where the
    real law itself is singular, ``log_det_ratio`` is NaN. Above 64 columns ``wasserstein2_squared``, which costs many
    generations there, is computed where it is asked for.

    Args:
      dim: Number of columns. The default is the source's number, or 1 without a source.
      ddof: What is subtracted from N: 0 for maximum likelihood (the published protocol of arXiv 2410.16713), 1 for the
        unbiased covariance.
      num_test: Number of held-out rows that ``test_nll`` averages over. The default is 500, or all where there
        are fewer.
      source: The law of the real rows. The default is the standard normal law.
      temperature: Factor on the fitted covariance in sampling (the biased sampling of arXiv 2307.01850); below 1 the
        variance dies geometrically.

    Raises:
      UsageError: a number out of range, or a source of another dimension.

    Example:
      >>> from collapse_jax import policies, run
      >>> runs = run(gaussian(dim=2), policies.replace(), num_samples=50, num_generations=3, num_chains=2)
      >>> dict(runs.trace_ratio.sizes)
      {'chain': 2, 'generation': 3}
    """
    require_integer("ddof", ddof, 0)
    require_positive("temperature", temperature)
    if dim is not None:
        require_integer("dim", dim, 1)
    source = data.normal(dim or 1) if source is None else source
    num_test = count_test_rows(num_test, source, 500, 2)
    if dim is not None and dim != source.dim:
        raise UsageError(f"dim is {dim}, but source {source.name} has {source.dim} columns")
    return Setting(
        name="gaussian",
        world=partial(_world, source, num_test),
        sample_real=lambda key, world, num: source.draw(key, world.real.arrays, num),
        fit=partial(_fit, ddof),
        sample=lambda key, params, num: _sample(key, _heated(temperature, params), num),
        observe=_observe,
        metrics=_metrics(source),
        statistics=SufficientStatistics(
            compress=gaussian_moments.compress_rows,
            sample=lambda key, params, *rest: _sample_statistics(key, _heated(temperature, params), *rest),
            sample_real=_sample_real_statistics if source.is_normal else None,
        ),
        extras=Extras(row_scores=ROW_SCORES),
        info=Info(source=source, min_samples=ddof + 1, differentiable=True),
    )


def _standard(world: World, rows_nxd: Array) -> Array:
    """Return rows in coordinates where the real law has mean 0 and covariance I; 0 in directions without spread."""
    law = world.truth.law
    inverse = ldl.solve_unit_lower(law.factor, jnp.eye(law.mean.size))  # of all chains: then one product does
    from_mean = rows_nxd - law.mean[None]
    if law.mean.size <= _COLUMNS:
        z_nxd = sum(from_mean[:, j, None] * inverse[None, :, j] for j in range(law.mean.size))
    else:
        z_nxd = jnp.matmul(from_mean, inverse.T, precision=jax.lax.Precision.HIGHEST)
    alive = jnp.isfinite(law.log_scale)[None]
    return jnp.where(alive, z_nxd * jnp.exp(-jnp.where(alive, law.log_scale[None], 0.0)), 0.0)


def _likelihood(world: World, params: Tree, rows_nxd: Array) -> Array:
    """Return log densities under the normal law of the truth's moments, up to a constant."""
    return -0.5 * (_standard(world, rows_nxd) ** 2).sum(1)


def _is_plausible(world: World, params: Tree, rows_nxd: Array) -> Array:
    """Return 1 for a row that lies within the truth's 99.9% interval in every direction, else 0."""
    return (jnp.abs(_standard(world, rows_nxd)) <= _UNLIKELY).all(1).astype(float)


ROW_SCORES = {"likelihood": _likelihood, "right": _is_plausible, "value": row_scores.score_first_column}


def _metrics(source: Source) -> tuple[Metric, ...]:
    """Return the metrics, with a trivial baseline of both errors.

    A model that always says the mean has it, and a mean that is one real row.
    """
    trace = float(np.trace(np.asarray(source.covariance)))
    baselines = [trace if m.role == "excess_risk" else None for m in METRICS]
    defaults = [m.name != "wasserstein2_squared" or source.dim <= _WIDEST for m in METRICS]
    return tuple(m._replace(baseline=b, default=d) for m, b, d in zip(METRICS, baselines, defaults, strict=True))


@on_host
def _world(source: Source, num_test: int) -> World:
    law = gaussian_moments.moments_from_covariance(source.mean, source.covariance)
    held_out = gaussian_moments.moments_from_rows(source.held_out(num_test))
    return World(GaussianReal(jax.tree.map(jnp.asarray, source.arrays), law), GaussianTruth(law, held_out), None)


def _fit(ddof: int, key: Key, train: Batch, start: Tree) -> Moments:
    merged = gaussian_moments.compress_rows(train)
    mass = merged.weight[0, 0]
    fit = jax.tree.map(lambda x: x[0, 0], merged.items)
    if ddof == 0:
        return fit
    widen = jnp.log(mass / jnp.maximum(mass - ddof, jnp.finfo(mass.dtype).tiny))
    return fit._replace(log_scale=fit.log_scale + 0.5 * widen)


def _heated(temperature: Array | float, params: Moments) -> Moments:
    """Return the law that is sampled from."""
    return params._replace(log_scale=params.log_scale + 0.5 * jnp.log(temperature))


def _sample(key: Key, params: Moments, num: int) -> Array:
    z_nxd = draw_normals(key, (num, params.mean.shape[0]))
    return params.mean[None] + jnp.matmul(
        z_nxd, gaussian_moments.cholesky_factor(params).T, precision=jax.lax.Precision.HIGHEST
    )


def _sample_statistics(key: Key, params: Moments, num: int, count: Array | int, exact: bool) -> Moments:
    dim = params.mean.shape[0]
    white = (
        gaussian_moments.draw_normal_moments(key, dim, count)
        if exact
        else gaussian_moments.moments_of_normal_rows(key, dim, num, count)
    )
    return jax.tree.map(lambda x: x[None], gaussian_moments.compose_moments(params, white))


def _sample_real_statistics(key: Key, world: World, num: Array | int, count: Array | int | None = None) -> Moments:
    dim = world.real.law.mean.shape[0]
    if isinstance(num, int) and num <= dim:  # so few rows are singular, and cheap to draw
        white = gaussian_moments.moments_of_normal_rows(key, dim, max(num, 1), num if count is None else count)
    else:
        white = gaussian_moments.draw_normal_moments(key, dim, num)
        if count is not None:
            white = gaussian_moments.compose_moments(
                white, gaussian_moments.draw_part_moments(stream(key, "part"), dim, num, count)
            )
    return jax.tree.map(lambda x: x[None], gaussian_moments.compose_moments(world.real.law, white))


def _observe(key: Key, world: World, params: Moments, summary: Tree, generated: Tree) -> dict[str, Array]:
    truth = world.truth.law
    error = params.mean - truth.mean
    squared_error = (error**2).sum()
    log_trace_ratio = gaussian_moments.log_trace(params) - gaussian_moments.log_trace(truth)
    return {
        "squared_error_of_mean": squared_error,
        "trace_ratio": jnp.exp(log_trace_ratio),
        "log_trace_ratio": log_trace_ratio,
        "log_det_ratio": gaussian_moments.log_det(params) - gaussian_moments.log_det(truth),
        "wasserstein2_squared": squared_error
        + polar.covariance_distance(*(gaussian_moments.cholesky_factor(m) for m in (params, truth))),
        "effective_rank": _effective_rank(params),
        "test_nll": _nll(params, world.truth.test),
        "tail_mass": 2 * _mass_beyond(_TAIL, params, truth, jnp.minimum),
        "hallucinated_mass": _mass_beyond(_UNLIKELY, params, truth, jnp.add),
    }


def _mass_beyond(z: float, params: Moments, truth: Moments, both: Callable[[Array, Array], Array]) -> Array:
    """Return the fitted mass over `z` true deviations from the true mean, to `both` sides; mean over coordinates."""
    scale_d, fitted_d = (jnp.sqrt((gaussian_moments.cholesky_factor(m) ** 2).sum(1)) for m in (truth, params))
    fitted_d = jnp.maximum(fitted_d, jnp.finfo(fitted_d.dtype).tiny)
    error_d, edge_d = params.mean - truth.mean, z * scale_d
    mass_d = both(ndtr((error_d - edge_d) / fitted_d), ndtr((-error_d - edge_d) / fitted_d))
    return jnp.where(scale_d > 0, mass_d, 0.0).sum() / jnp.maximum((scale_d > 0).sum(dtype=mass_d.dtype), 1)


def _effective_rank(params: Moments) -> Array:
    lower = gaussian_moments.cholesky_factor(params, gaussian_moments.log_unit(params))
    trace, squares = (lower**2).sum(), (polar.either_gram(lower) ** 2).sum()
    return jnp.where(squares > 0, trace**2 / jnp.where(squares > 0, squares, 1.0), 0.0)


def _nll(params: Moments, test: Moments) -> Array:
    """Return the mean negative log likelihood of rows with moments `test`; inf for singular fits.

    It is log det / 2 + d log(2 pi) / 2 + tr(S^-1 (C + e e^T)) / 2.
    """
    error = (test.mean - params.mean)[:, None]
    columns = jnp.concatenate([gaussian_moments.cholesky_factor(test), error], axis=1)
    solved = ldl.solve_unit_lower(params.factor, columns)
    log_quadratic = jnp.log((solved**2).sum(1)) - 2 * params.log_scale
    quadratic = jnp.where(jnp.isneginf(params.log_scale), jnp.inf, jnp.exp(log_quadratic)).sum()
    singular = jnp.isneginf(params.log_scale).any()
    finite = 0.5 * (gaussian_moments.log_det(params) + params.mean.shape[0] * jnp.log(2 * jnp.pi) + quadratic)
    return jnp.where(singular, jnp.inf, finite)
