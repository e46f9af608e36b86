"""Kernel density estimates with an isotropic Gaussian kernel."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import data
from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.lineage import with_ancestors
from collapse_jax.core.random import draw_normals
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_choice, require_integer, require_positive
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.metrics import row_scores
from collapse_jax.numerics.kernel_interpolation import interpolate_log_kernel, interpolation_nodes
from collapse_jax.types import Array, Batch, DrawOwnFn, Extras, Info, Key, Metric, Setting, Source, Tree, World

METRICS = (
    Metric("test_nll", "mean negative log likelihood of held-out rows", "nats a row", "arXiv 2410.16713", "log",
           "risk"),
    Metric("training_variance", "variance of the training rows, mean over coordinates", "data units^2",
           "arXiv 2410.16713 (protocol)", "log"),
    Metric("log_training_variance_ratio", "logarithm of the training rows' total variance over the truth's", "nats",
           "definition", role="log_variance"),
)  # fmt: skip
_ERROR = Metric("certified_error", "bound on test_nll less what all kernels give, rounding apart", "nats a row",
                "derived here (collapse_jax/numerics/kernel_interpolation.py)", "log")  # fmt: skip

_CHUNK = 40  # rows evaluated at once, at most: enough to fill the loops, few enough to stay in cache (measured)
_FAR = 1e30  # squared distance of what is not there

RULES = ("scott", "silverman", "scott_scaled", "silverman_scaled")


class Estimate(NamedTuple):
    """A kernel density estimate: the rows it was fitted on, and its bandwidth."""

    train: Batch
    bandwidth: Array


class Summary(NamedTuple):
    """Additive evaluations of a batch of rows.

    Attributes:
      log_kernel: ``[num_test]``, log of the mean kernel exp(-|x - t|^2 / 2 h^2) over rows, at each test row t;
        ``[nodes, num_test]`` where h depends on the pool and its range is known; None where nothing can be evaluated at
        birth.
      mean: mean of the rows, ``[d]``.
      variance: variance of the rows, divided by their number, ``[d]``.
    """

    log_kernel: Array | None
    mean: Array
    variance: Array


@register_setting
def kde(
    bandwidth: float | Literal["scott", "silverman", "scott_scaled", "silverman_scaled"] = 0.5,
    num_test: int | None = None,
    source: Source | None = None,
    lineage: bool = False,
    pool_rows: Sequence[int] | None = None,
) -> Setting:
    """Fit a kernel density estimate with a Gaussian kernel.

    A sample is a training row plus bandwidth times normal noise. At a fixed bandwidth every batch is evaluated once, at
    its birth, so a generation costs the same at any age of the pool. The rules make the bandwidth depend on the number
    of rows N (their total weight), which costs an evaluation of the whole pool each generation. With `pool_rows`
    batches are evaluated at their birth under rules, too, at some twenty bandwidths of the range that N has;
    ``test_nll`` then lies above its exact value by at most ``certified_error``, a metric of the same run (as a rule
    1e-4 nats; infinite where N left its range).

    Args:
      bandwidth: A number above 0; or a rule: ``scott`` N^(-1/(d+4)) or ``silverman`` (N (d+2)/4)^(-1/(d+4)), which like
        scikit-learn's do not look at the data's spread; or either with ``_scaled``: times the square root of the rows'
        unbiased variance, averaged over coordinates.
      num_test: Number of held-out rows that ``test_nll`` averages over. The default is 500, or all where there
        are fewer.
      source: The law of the real rows. The default is moons.
      lineage: Whether rows know their real ancestors, which the metric ``ancestors_alive`` counts.
      pool_rows: Least and largest number of rows that a pool will have, for the rules that look at nothing else: under
        ``accumulate`` n and n T. Pools that do not grow are cheaper without it.

    Raises:
      UsageError: a bandwidth that is neither a number > 0 nor a rule, too few held-out rows, or `pool_rows` that are
        not two such numbers or that go with another bandwidth.

    Example:
      >>> [metric.name for metric in kde("scott").metrics]
      ['test_nll', 'training_variance', 'log_training_variance_ratio']
    """
    if isinstance(bandwidth, str):
        require_choice("bandwidth", bandwidth, RULES)
    else:
        require_positive("bandwidth", bandwidth)
    source = data.moons() if source is None else source
    num_test = count_test_rows(num_test, source, 500)
    nodes = None if pool_rows is None else _nodes(bandwidth, pool_rows, source.dim)
    setting = Setting(
        name="kde",
        world=partial(_world, source, num_test),
        sample_real=lambda key, world, num: source.draw(key, world.real, num),
        fit=partial(_fit, bandwidth),
        sample=_sample,
        observe=partial(_observe, nodes),
        metrics=METRICS if nodes is None else (*METRICS, _ERROR),
        extras=Extras(
            summarize=partial(_summarize, _at_birth(bandwidth, nodes)),
            sample_children=_sample_children,
            row_scores=row_scores.ROW_SCORES,
            chain_world=None if source.draw_own is None else partial(_chain_world, source.draw_own, num_test),
        ),
        info=Info(source=source, min_samples=2 if str(bandwidth).endswith("_scaled") else 1, largest_block=8),
    )
    return with_ancestors(setting) if lineage else setting


@on_host
def _world(source: Source, num_test: int) -> World:
    """Return the world, whose truth is the real law's variance, mean over coordinates."""
    variance = jnp.diagonal(jnp.asarray(source.covariance)).mean()
    return World(jax.tree.map(jnp.asarray, source.arrays), variance, jnp.asarray(source.held_out(num_test)))


def _chain_world(draw_own: DrawOwnFn, num_test: int, key: Key, world: World) -> World:
    """Return the world of a chain that has data of its own."""
    own = draw_own(key, num_test)
    return World(own.arrays, jnp.diagonal(own.covariance).mean(), own.test)


def _nodes(bandwidth: Array | float | str, pool_rows: Sequence[int], dim: int) -> np.ndarray:
    """Return values of 1 / 2 h^2 for pools of so many rows."""
    if not isinstance(bandwidth, str) or bandwidth.endswith("_scaled"):
        raise UsageError(f"pool_rows: bandwidth must be scott or silverman, not {bandwidth!r}")
    if isinstance(pool_rows, str) or not isinstance(pool_rows, Iterable) or len(tuple(pool_rows)) != 2:
        raise UsageError(f"pool_rows must be two numbers, the least and the largest, not {pool_rows!r}")
    require_integer("pool_rows[0]", pool_rows[0], 1)
    require_integer("pool_rows[1]", pool_rows[1], pool_rows[0])
    smallest, largest = (float(_rule(bandwidth, rows, dim)) ** -2 / 2 for rows in pool_rows)
    return interpolation_nodes(smallest, largest)


def _rule(bandwidth: str, num: Array | int, dim: int) -> Array | float:
    """Return the bandwidth by the number of rows."""
    count = num if bandwidth.startswith("scott") else num * (dim + 2) / 4
    return count ** (-1 / (dim + 4))


def _at_birth(bandwidth: Array | float | str, nodes: np.ndarray | None) -> Callable[[Batch, Array], Array] | None:
    """Return what is evaluated of a batch, ``(rows, test) -> [..., num_test]``, or None."""
    if not isinstance(bandwidth, str):
        return lambda rows, test: log_mean_kernel(rows, test, jnp.asarray(bandwidth))
    if nodes is None:
        return None
    bandwidths = np.sqrt(0.5 / nodes)
    # One after the other: side by side they would not fit into a cache (twice as slow).
    return lambda rows, test: jax.lax.map(partial(log_mean_kernel, rows, test), jnp.asarray(bandwidths))


def _fit(bandwidth: Array | float | str, key: Key, train: Batch, start: Tree) -> Estimate:
    if not isinstance(bandwidth, str):
        return Estimate(train, jnp.asarray(bandwidth, jnp.result_type(float)))
    items, weight = batch.weighted_rows(train)
    num = weight.sum()
    h = jnp.asarray(_rule(bandwidth, num, items.shape[1]))
    if bandwidth.endswith("_scaled"):
        _, variance = _moments(items, weight)
        h = h * jnp.sqrt(variance.mean() * num / (num - 1))
    return Estimate(train, h)


def _sample(key: Key, params: Estimate, num: int) -> Array:
    key_row, key_noise = jax.random.split(key)
    return _sample_children(key_noise, params, batch.draw_rows(key_row, params.train, num))


def _sample_children(key: Key, params: Estimate, rows_nxd: Array) -> Array:
    return rows_nxd + params.bandwidth * draw_normals(key, rows_nxd.shape)


def _observe(
    nodes: np.ndarray | None, key: Key, world: World, params: Estimate, summary: Summary, generated: Tree
) -> dict[str, Array]:
    dim = summary.mean.shape[0]
    log_kernel, certified = summary.log_kernel, {}
    if log_kernel is None:
        log_kernel = log_mean_kernel(params.train, world.test, params.bandwidth)
    elif nodes is not None:
        log_kernel, error = interpolate_log_kernel(log_kernel, nodes, 0.5 / params.bandwidth**2)
        certified = {_ERROR.name: error.mean()}
    log_norm = dim * (jnp.log(params.bandwidth) + 0.5 * jnp.log(2 * jnp.pi))
    variance = summary.variance.mean()
    return {
        "test_nll": log_norm - log_kernel.mean(),
        "training_variance": variance,
        "log_training_variance_ratio": jnp.log(variance) - jnp.log(world.truth),
        **certified,
    }


def _summarize(evaluate: Callable[[Batch, Array], Array] | None, world: World, train: Batch) -> Batch:
    """Return one row of evaluations, of rows of data and of rows of evaluations alike."""
    items, weight = batch.weighted_rows(train)
    mass = weight.sum()
    if not isinstance(items, Summary):
        log_kernel = None if evaluate is None else evaluate(train, world.test)
        summary = Summary(log_kernel, *_moments(items, weight))
    elif weight.shape[0] == 1:
        summary = jax.tree.map(lambda x: x[0], items)
    else:
        share = weight / mass
        mean, between = _moments(items.mean, weight)
        variance = between + jnp.where(share[:, None] > 0, share[:, None] * items.variance, 0.0).sum(0)
        log_kernel = None if items.log_kernel is None else _log_mix(share, items.log_kernel)
        summary = Summary(log_kernel, mean, variance)
    return batch.make_batch(jax.tree.map(lambda x: x[None], summary), mass)


def _moments(x_mxd: Array, weight: Array) -> tuple[Array, Array]:
    """Return the weighted mean and variance (divided by the total weight) of each column.

    Absent rows may hold anything.
    """
    share = (weight / weight.sum())[:, None]
    mean = jnp.where(share > 0, share * x_mxd, 0.0).sum(0)
    centred = jnp.where(share > 0, x_mxd - mean[None], 0.0)
    correction = (share * centred).sum(0)  # what rounding left in a mean far from 0
    return mean + correction, (share * (centred - correction[None]) ** 2).sum(0)


def _log_mix(share: Array, log_kernel: Array) -> Array:
    """Return log sum_b share_b exp(log_kernel_b), for ``[b]`` and ``[b, ..., num_test]``."""
    share = share.reshape(-1, *[1] * (log_kernel.ndim - 1))
    present = share > 0
    log_share = jnp.where(present, jnp.log(jnp.where(present, share, 1.0)), -jnp.inf)
    return jax.nn.logsumexp(log_share + jnp.where(present, log_kernel, 0.0), axis=0)


def log_mean_kernel(train: Batch, test: Array, bandwidth: Array) -> Array:
    """Return the log of the mean of exp(-|x - t|^2 / 2 h^2) over the rows x of `train`, at each row t of `test`.

    This takes one pass over chunks of rows with a running nearest distance, so that densities far below the smallest
    float keep their logarithm and nothing of size rows x tests is stored.
    """
    x_mxd, weight = batch.weighted_rows(train)
    m, dim = x_mxd.shape
    count = -(-m // _CHUNK)
    rows = -(-m // count)
    unit = jnp.sqrt(0.5) / bandwidth
    # A weight is a distance, w exp(-q) = exp(-(q - log w)): nothing is multiplied or selected for each pair.
    cost = jnp.where(weight > 0, -jnp.log(jnp.where(weight > 0, weight, 1.0)), _FAR)
    x = jnp.where(weight[:, None] > 0, (x_mxd - test[:1]) * unit, 0.0)  # differences first: rows may lie far from 0
    padding = (0, count * rows - m)
    chunks = (
        jnp.pad(x, (padding, (0, 0))).reshape(count, rows, dim),
        jnp.pad(cost, padding, constant_values=_FAR).reshape(count, rows),
    )
    t = (test - test[:1]) * unit

    def add(carry: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        nearest, mass = carry
        x, distance = chunk[0], chunk[1][:, None]
        # Column by column, tests last: XLA fuses this into loops that fill the vector registers.
        for j in range(dim):
            distance = distance + (x[:, None, j] - t[None, :, j]) ** 2
        nearer = jnp.minimum(nearest, distance.min(0))
        mass = mass * jnp.exp(nearer - nearest) + jnp.exp(nearer[None] - distance).sum(0)
        return (nearer, mass), None

    start = (jnp.full(t.shape[0], _FAR, t.dtype), jnp.zeros(t.shape[0], t.dtype))
    (nearest, mass), _ = jax.lax.scan(add, start, chunks)
    return jnp.log(mass) - nearest - jnp.log(weight.sum())
