"""Mixtures of Gaussians fitted by expectation and maximisation."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax import data
from collapse_jax.core import batch
from collapse_jax.core.random import draw_normals
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_choice, require_integer, require_positive
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.metrics import row_scores
from collapse_jax.numerics import ldl
from collapse_jax.training.sgd import STARTS
from collapse_jax.types import Array, Batch, Extras, Info, Key, Metric, Setting, Source, World

NEAR = 3.0  # standard deviations of a real mode, within which a component counts as its own
ENOUGH = 0.1  # of a real mode's probability: less does not keep it alive

_OF_MODES = (
    Metric("modes_alive", f"real modes with at least {ENOUGH:g} of their probability in components that have no nearer "
           f"mode and lie within {NEAR:g} standard deviations", "modes", "definition", role="modes"),
)  # fmt: skip
METRICS = (
    Metric("test_nll", "mean negative log likelihood of held-out rows", "nats a row", "definition", "log", "risk"),
    Metric("squared_error_of_mean", "squared error of the mean, summed over coordinates", "data units^2",
           "definition", "log", "excess_risk"),
    Metric("trace_ratio", "total variance of the fit over the truth's", "1", "definition", "log"),
    Metric("log_trace_ratio", "logarithm of the trace ratio", "nats", "definition", role="log_variance"),
    Metric("responsibility_entropy", "entropy of a held-out row's responsibilities, mean over rows", "nats a row",
           "definition"),
    Metric("separation", "least distance of two components' means over their root mean square standard deviation",
           "1", "definition", "log"),
    Metric("log_smallest_weight", "logarithm of the smallest component's weight", "nats", "definition"),
)  # fmt: skip

_OF_DENSITY = (
    Metric("forward_kl", "Kullback-Leibler divergence KL(truth | fit), its mean over held-out real rows", "nats a row",
           "definition", "log", "excess_risk"),
)  # fmt: skip

COVARIANCES = ("full", "diagonal", "spherical")
_HIGHEST = jax.lax.Precision.HIGHEST


class Mixture(NamedTuple):
    """A mixture of K Gaussians in d columns, each covariance as M diag(exp(2 s)) M^T (see ``moments``).

    Attributes:
      log_weight: ``[K]``; -inf marks a component that no row belongs to.
      mean: ``[K, d]``.
      log_scale: ``[K, d]``, s.
      factor: ``[K, d, d]``, the unit lower-triangular M, or None where covariances are diagonal.
    """

    log_weight: Array
    mean: Array
    log_scale: Array
    factor: Array | None


class MixtureModes(NamedTuple):
    """The real law's modes: centres ``[modes, d]``, and the standard deviation of a column within one."""

    centre: Array
    deviation: Array


class MixtureTruth(NamedTuple):
    """What is known of the real law.

    Attributes:
      mean: its mean, ``[d]``.
      trace: the trace of its covariance.
      modes: its modes, or None where they are not known.
      log_density: mean log density of the held-out rows, or None where it is not known.
    """

    mean: Array
    trace: Array
    modes: MixtureModes | None
    log_density: Array | None = None


@register_setting
def gaussian_mixture(
    components: int = 3,
    steps: int = 30,
    covariance: Literal["full", "diagonal", "spherical"] = "full",
    floor: Array | float = 1e-6,
    start: Literal["init", "previous"] = "init",
    num_test: int | None = None,
    source: Source | None = None,
) -> Setting:
    """Fit a mixture of Gaussians by a fixed number of EM steps (Dempster, Laird and Rubin 1977), with no stopping rule.

    A fit starts from `components` rows far apart (the row farthest from the mean, then each time the row farthest from
    those taken: Gonzalez, doi:10.1016/0304-3975(85)90224-5), every row belonging to the nearest. That is deterministic
    and finds separated modes, but an outlier may take a component. Where there are fewer distinct rows than
    components, the others stay empty. Whatever the start and the number of steps, a fit has the mean of its rows and
    the trace of their covariance, plus the floor in each column.

    Args:
      components: Number of components, at least 2 (one is ``gaussian``).
      steps: Number of EM steps of a fit.
      covariance: Form of a component's covariance: ``full``, ``diagonal``, or ``spherical`` (one variance for all
        columns).
      floor: Number added to each column's variance, in squared data units, as scikit-learn's ``reg_covar``: without it
        the likelihood has no maximum, since a component may close on one row. So no variance falls below it: a
        component of m rows that loses 1/m of its variance a generation settles at about m times the floor.
      start: Where each fit starts: ``init`` takes rows far apart, ``previous`` the last generation's components.
      num_test: Number of held-out rows that metrics average over. The default is 500, or all where there are fewer.
      source: The law of the real rows. The default is blobs. ``modes_alive`` exists where it knows its modes, and
        ``forward_kl`` where it knows its density: then the risk of verdicts and comparisons, since it sees lost modes
        and lost spread. It is an estimate, which may fall below 0 near the truth.

    Raises:
      UsageError: a number out of range, or another word than those above.

    Example:
      >>> gaussian_mixture(components=2).metrics[0].name
      'modes_alive'
    """
    require_integer("components", components, 2)
    require_integer("steps", steps, 1)
    require_choice("covariance", covariance, COVARIANCES)
    require_positive("floor", floor)
    require_choice("start", start, STARTS)
    source = data.blobs() if source is None else source
    num_test = count_test_rows(num_test, source, 500)
    empty = _empty(components, source.dim, covariance)
    return Setting(
        name="gaussian_mixture",
        world=partial(_world, source, num_test),
        sample_real=lambda key, world, num: source.draw(key, world.real, num),
        fit=partial(_fit, components, steps, covariance, floor),
        sample=_sample,
        observe=_observe,
        metrics=(
            *(() if source.modes is None else _OF_MODES),
            *(() if source.log_density is None else _OF_DENSITY),
            *METRICS,
        ),
        init=(lambda key, world: empty) if start == "previous" else None,
        extras=Extras(row_scores=row_scores.ROW_SCORES if source.modes is None else ROW_SCORES),
        info=Info(source=source),
    )


@on_host
def _world(source: Source, num_test: int) -> World:
    modes = None if source.modes is None else _modes(source)
    real, test = jax.tree.map(jnp.asarray, source.arrays), jnp.asarray(source.held_out(num_test))
    log_density = None if source.log_density is None else source.log_density(real, test).mean()
    truth = MixtureTruth(jnp.asarray(source.mean), jnp.trace(jnp.asarray(source.covariance)), modes, log_density)
    return World(real, truth, test)


def _modes(source: Source) -> MixtureModes:
    """Return the real law's modes.

    What is left of the trace when the centres' own is taken off is the modes' variance, in each of d columns.
    """
    centre = jnp.asarray(source.modes)
    within = jnp.trace(jnp.asarray(source.covariance)) - centre.var(0).sum()
    return MixtureModes(centre, jnp.sqrt(within / source.dim))


def _squares(world: World, rows_nxd: Array) -> Array:
    """Return squared standard deviations between each row and each real mode, ``[n, modes]``."""
    modes = world.truth.modes
    return (((rows_nxd[:, None] - modes.centre) / modes.deviation) ** 2).sum(2)


def _likelihood(world: World, params: Mixture, rows_nxd: Array) -> Array:
    """Return log densities of the real law, up to a constant: its modes are equally likely and alike."""
    return jax.nn.logsumexp(-0.5 * _squares(world, rows_nxd), axis=1)


def _is_near(world: World, params: Mixture, rows_nxd: Array) -> Array:
    """Whether a row belongs to a real mode."""
    return (_squares(world, rows_nxd).min(1) <= NEAR**2) * 1.0


ROW_SCORES = {"likelihood": _likelihood, "right": _is_near, **row_scores.ROW_SCORES}


def _empty(components: int, dim: int, covariance: str) -> Mixture:
    """Return what stands for no fit at all: the first one of a chain starts from its rows."""
    nothing = jnp.zeros((components, dim))
    factor = jnp.zeros((components, dim, dim)) if covariance == "full" else None
    return Mixture(jnp.full(components, -jnp.inf), nothing, nothing, factor)


def _fit(
    components: int, steps: int, covariance: str, floor: Array | float, key: Key, train: Batch, previous: Mixture | None
) -> Mixture:
    x_mxd, weight = batch.weighted_rows(train)
    x_dxm = jnp.where(weight[None] > 0, x_mxd.T, 0.0)  # a row of weight 0 may hold anything, NaN too
    log_row = jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1.0)), -jnp.inf)
    centre, nearest = _far_apart(x_dxm, weight, components)
    scale = jnp.full(centre.shape, 0.5 * jnp.log(floor))
    factor = jnp.broadcast_to(jnp.eye(centre.shape[1]), (*centre.shape, centre.shape[1]))
    bare = Mixture(jnp.zeros(components), centre, scale, factor if covariance == "full" else None)
    update = partial(_maximise, covariance, floor, x_dxm, log_row)
    first = update(bare, jnp.where(jnp.arange(components)[:, None] == nearest[None], 0.0, -jnp.inf))
    if previous is not None:
        known = jnp.isfinite(previous.log_weight).any()
        first = jax.tree.map(lambda a, b: jnp.where(known, a, b), previous, first)

    def step(mixture: Mixture, _: None) -> tuple[Mixture, None]:
        return update(mixture, _expect(mixture, x_dxm)[0]), None

    return jax.lax.scan(step, first, length=steps)[0]


def _far_apart(x_dxm: Array, weight: Array, num: int) -> tuple[Array, Array]:
    """Return `num` rows far apart ``[num, d]``, and the number of the nearest for each row ``[m]``."""

    def squared(centre: Array) -> Array:
        return jnp.where(weight > 0, ((x_dxm - centre[:, None]) ** 2).sum(0), -1.0)

    distance = squared((x_dxm * weight[None]).sum(1) / weight.sum())
    nearest, centres = jnp.zeros(distance.shape, int), []
    for k in range(num):
        centre = x_dxm[:, jnp.argmax(distance)]
        there = squared(centre)
        nearest = nearest if k == 0 else jnp.where(there < distance, k, nearest)
        distance = there if k == 0 else jnp.minimum(distance, there)
        centres.append(centre)
    return jnp.stack(centres), nearest


def _expect(mixture: Mixture, x_dxm: Array) -> tuple[Array, Array]:
    """Return log responsibilities ``[K, m]`` and log densities ``[m]`` of rows."""
    centred = x_dxm[None] - mixture.mean[:, :, None]
    if mixture.factor is not None:
        inverse = jax.vmap(ldl.solve_unit_lower, (0, None))(mixture.factor, jnp.eye(x_dxm.shape[0]))
        centred = jnp.matmul(inverse, centred, precision=_HIGHEST)
    squares = ((centred * jnp.exp(-mixture.log_scale)[:, :, None]) ** 2).sum(1)
    constant = mixture.log_weight - mixture.log_scale.sum(1) - 0.5 * x_dxm.shape[0] * jnp.log(2 * jnp.pi)
    log_joint = constant[:, None] - 0.5 * squares
    log_density = jax.nn.logsumexp(log_joint, 0)
    return log_joint - log_density[None], log_density


def _maximise(
    covariance: str, floor: Array | float, x_dxm: Array, log_row: Array, before: Mixture, log_belongs: Array
) -> Mixture:
    """Return the mixture of greatest likelihood given log responsibilities; an empty component stays as `before`.

    In logarithms: a component that lost its last row by underflow could never win one back.
    """
    log_joint = log_belongs + log_row[None]
    log_mass = jax.nn.logsumexp(log_joint, 1)
    alive = jnp.isfinite(log_mass)
    share = jnp.exp(log_joint - jnp.where(alive, log_mass, 0.0)[:, None])
    mean = jnp.matmul(share, x_dxm.T, precision=_HIGHEST)
    centred = x_dxm[None] - mean[:, :, None]
    factor = None
    if covariance == "full":
        square = jnp.matmul(share[:, None] * centred, centred.transpose(0, 2, 1), precision=_HIGHEST)
        factor, log_scale = jax.vmap(ldl.factorise_covariance)(square + floor * jnp.eye(x_dxm.shape[0])[None])
        # No pivot lies below the least eigenvalue, whatever rounding says.
        log_scale = jnp.maximum(log_scale, 0.5 * jnp.log(floor))
    else:
        variance = (share[:, None] * centred**2).sum(2)
        if covariance == "spherical":
            variance = jnp.broadcast_to(variance.mean(1, keepdims=True), variance.shape)
        log_scale = 0.5 * jnp.log(variance + floor)
    new = Mixture(log_mass - jax.nn.logsumexp(log_mass), mean, log_scale, factor)

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(alive.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(keep, new, before)._replace(log_weight=new.log_weight)


def _sample(key: Key, params: Mixture, num: int) -> Array:
    key_component, key_noise = jax.random.split(key)
    parts = Batch((params.mean, params.log_scale, params.factor), jnp.exp(params.log_weight))
    mean, log_scale, factor = batch.draw_rows(key_component, jax.tree.map(lambda x: x[None], parts), num)
    noise = jnp.exp(log_scale) * draw_normals(key_noise, mean.shape)
    return mean + (noise if factor is None else (factor * noise[:, None]).sum(2))


def _observe(key: Key, world: World, params: Mixture, summary: None, generated: Array) -> dict[str, Array]:
    log_belongs, log_density = _expect(params, world.test.T)
    mean, trace = _moments(params)
    log_trace_ratio = jnp.log(trace) - jnp.log(world.truth.trace)
    metrics = {
        "test_nll": -log_density.mean(),
        "squared_error_of_mean": ((mean - world.truth.mean) ** 2).sum(),
        "trace_ratio": jnp.exp(log_trace_ratio),
        "log_trace_ratio": log_trace_ratio,
        "responsibility_entropy": jax.scipy.special.entr(jnp.exp(log_belongs)).sum(0).mean(),
        "separation": _separation(params),
        "log_smallest_weight": params.log_weight.min(),
    }
    if world.truth.log_density is not None:
        metrics["forward_kl"] = world.truth.log_density - log_density.mean()
    modes = world.truth.modes
    return metrics if modes is None else {"modes_alive": _modes_alive(modes, params), **metrics}


def _moments(params: Mixture) -> tuple[Array, Array]:
    """Return the mixture's mean ``[d]``, and the trace of its covariance."""
    share = jnp.exp(params.log_weight)
    mean = jnp.matmul(share, params.mean, precision=_HIGHEST)
    return mean, share @ (_traces(params) + ((params.mean - mean[None]) ** 2).sum(1))


def _traces(params: Mixture) -> Array:
    """Return the traces of the components' covariances, ``[K]``."""
    factor = jnp.eye(params.mean.shape[1])[None] if params.factor is None else params.factor
    return ((factor * jnp.exp(params.log_scale)[:, None]) ** 2).sum((1, 2))


def _modes_alive(modes: MixtureModes, params: Mixture) -> Array:
    distance = jnp.sqrt(((params.mean[:, None] - modes.centre[None]) ** 2).sum(2))
    number = jnp.arange(modes.centre.shape[0])
    own = (distance.argmin(1)[:, None] == number[None]) & (distance <= NEAR * modes.deviation)
    mass = jnp.where(own, jnp.exp(params.log_weight)[:, None], 0.0).sum(0)
    return (mass >= ENOUGH / number.size).sum().astype(mass.dtype)


def _separation(params: Mixture) -> Array:
    """Return the least distance of two components that are not empty; inf where one alone is left."""
    alive = jnp.isfinite(params.log_weight)
    variance = _traces(params) / params.mean.shape[1]
    squared = ((params.mean[:, None] - params.mean[None]) ** 2).sum(2) / (0.5 * (variance[:, None] + variance[None]))
    pairs = alive[:, None] & alive[None] & ~jnp.eye(alive.size, dtype=bool)
    return jnp.sqrt(jnp.where(pairs, squared, jnp.inf).min())
