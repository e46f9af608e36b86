"""Flow matching on points: a small network learns the velocity that carries N(0, I) to the data.

Straight paths ``x_t = (1 - t) x_0 + t x_1``, target ``x_1 - x_0`` (arXiv 2210.02747, 2209.03003).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import data
from collapse_jax.core.random import draw_normals
from collapse_jax.core.registry import register_setting
from collapse_jax.core.sharding import shard_rows
from collapse_jax.core.validation import require_integer, require_positive
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.metrics import row_scores
from collapse_jax.training import nets
from collapse_jax.training.diffusion_objectives import PROBES_PER_ROW, draw_probes
from collapse_jax.training.nnx_functional import make_functional
from collapse_jax.training.sgd import fit_sgd
from collapse_jax.types import Array, Extras, Info, Key, Metric, Setting, Source, Tree, World

Velocity = Callable[[Tree, Array, Array], Array]  # (params, x [B, D], t [B]) -> [B, D]

METRICS = (
    Metric("test_loss", "flow-matching loss on held-out real rows", "data units^2", "arXiv 2210.02747", role="risk"),
    Metric(
        "energy_distance",
        "energy distance, generated to held-out rows",
        "data units",
        "doi:10.1002/wics.1375",
        role="excess_risk",
    ),
    Metric(
        "trace_ratio", "total variance of generated rows over the truth's", "1", "tr S / tr Sigma, S over n - 1", "log"
    ),
    Metric("log_trace_ratio", "logarithm of the trace ratio", "nats", "definition", role="log_variance"),
    Metric(
        "squared_error_of_generated_mean",
        "squared error of the generated rows' mean, summed over coordinates",
        "data units^2",
        "|m - mu|^2",
        "log",
    ),
)


class FlowTruth(NamedTuple):
    """What metrics compare with.

    Attributes:
      mean: mean of the real law, ``[dim]``.
      covariance: covariance of the real law, ``[dim, dim]``.
      noise: ``[PROBES_PER_ROW * num_test, dim]``, where the paths of the test loss start.
      time: ``[PROBES_PER_ROW * num_test]``, where they are looked at.
    """

    mean: Array
    covariance: Array
    noise: Array
    time: Array


@register_setting
def flow_matching(
    source: Source | None = None,
    width: int = 64,
    depth: int = 3,
    steps: int = 1000,
    batch_size: int = 128,
    learning_rate: Array | float = 1e-2,
    sampler_steps: int = 32,
    num_test: int | None = None,
    start: Literal["init", "previous"] = "init",
) -> Setting:
    """Train flow matching with an MLP, for points in a few dimensions.

    Rows are taken as they are: the noise is N(0, I), so a source far from mean 0 and variance 1 should be
    standardised first. Steps are held fixed, not epochs (see ``training.sgd.fit_sgd``).

    Args:
      source: The law of the real rows. The default is moons.
      width: Number of units of a hidden layer.
      depth: Number of hidden layers.
      steps: Number of steps of Adam per fit, its rate falling to 0 along a cosine.
      batch_size: Number of rows of a step.
      learning_rate: First learning rate of Adam.
      sampler_steps: Number of midpoint steps of the ODE, of two evaluations each. (At 32 steps Euler's rule shrinks the
        variance of a standard normal by 8% at every generation: a collapse of the sampler's making. Midpoint: by 1e-5.)
      num_test: Number of held-out real rows of the metrics. The default is 500, or all where there are fewer.
      start: Where each fit starts: ``init`` trains a fresh network each generation, ``previous`` goes on from the last
        one.

    Raises:
      UsageError: a count below 1, or a learning rate that is not above 0.

    Example:
      >>> [metric.name for metric in flow_matching(width=8).metrics][:2]
      ['test_loss', 'energy_distance']
    """
    counts = {"width": width, "depth": depth, "sampler_steps": sampler_steps}
    for name, value in counts.items():
        require_integer(name, value, 1)
    require_positive("learning_rate", learning_rate)
    source = data.moons() if source is None else source
    num_test = count_test_rows(num_test, source, 500)
    import optax  # takes as long to import as JAX

    init, velocity = make_functional(lambda rngs: nets.mlp.TimedMLP(source.dim, width, depth, rngs=rngs))
    loss, adam = partial(_loss, velocity), optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    return Setting(
        name="flow_matching",
        world=partial(_world, source, num_test),
        sample_real=lambda key, world, num: source.draw(key, world.real, num),
        fit=fit_sgd(loss, adam, init=init, steps=steps, batch_size=batch_size, start=start),
        sample=partial(_sample, velocity, source.dim, sampler_steps),
        observe=partial(_observe, velocity),
        metrics=_metrics(source),
        init=lambda key, world: init(key),
        extras=Extras(row_scores=row_scores.ROW_SCORES),
        info=Info(source=source, largest_block=8),
    )


def _metrics(source: Source) -> tuple[Metric, ...]:
    """Return the metrics, with the trivial baseline of the test loss.

    Without any velocity, rows stay the noise they began as.
    """
    still = float(np.trace(np.asarray(source.covariance)) + np.square(source.mean).sum() + source.dim)
    return tuple(m._replace(baseline=still) if m.role == "risk" else m for m in METRICS)


@on_host
def _world(source: Source, num_test: int) -> World:
    test_NxD = jnp.asarray(source.held_out(num_test))
    truth = FlowTruth(jnp.asarray(source.mean), jnp.asarray(source.covariance), *draw_probes(num_test, source.dim))
    return World(jax.tree.map(jnp.asarray, source.arrays), truth, test_NxD)


def _loss(velocity: Velocity, params: Tree, key: Key, x1_BxD: Array) -> Array:
    key_time, key_noise = jax.random.split(key)
    t_B = jax.random.uniform(key_time, x1_BxD.shape[:1], x1_BxD.dtype)
    return matching_loss(velocity, params, x1_BxD, jax.random.normal(key_noise, x1_BxD.shape, x1_BxD.dtype), t_B)


def _sample(velocity: Velocity, dim: int, steps: int, key: Key, params: Tree, num: int) -> Array:
    return integrate(partial(velocity, params), shard_rows(draw_normals(key, (num, dim))), steps)


def _observe(
    velocity: Velocity, key: Key, world: World, params: Tree, summary: None, generated_NxD: Array
) -> dict[str, Array]:
    truth, mean_D = world.truth, generated_NxD.mean(0)
    test_RxD = jnp.tile(world.test, (PROBES_PER_ROW, 1))
    # Over n - 1 and by pairs of different rows: both judge the model, not the number of rows it was asked for.
    variance = jnp.sum((generated_NxD - mean_D[None]) ** 2) / max(generated_NxD.shape[0] - 1, 1)
    return {
        "test_loss": matching_loss(velocity, params, test_RxD, truth.noise, truth.time),
        "energy_distance": energy_distance(generated_NxD, world.test),
        "trace_ratio": variance / jnp.trace(truth.covariance),
        "log_trace_ratio": jnp.log(variance) - jnp.log(jnp.trace(truth.covariance)),
        "squared_error_of_generated_mean": jnp.sum((mean_D - truth.mean) ** 2),
    }


def matching_loss(velocity: Velocity, params: Tree, x1_BxD: Array, x0_BxD: Array, t_B: Array) -> Array:
    """Return ``E |v(x_t, t) - (x_1 - x_0)|^2``, summed over coordinates.

    Its least value is not 0: paths cross.
    """
    x_BxD = x0_BxD + t_B[:, None] * (x1_BxD - x0_BxD)
    return jnp.mean(jnp.sum((velocity(params, x_BxD, t_B) - (x1_BxD - x0_BxD)) ** 2, axis=1))


def integrate(field: Callable[[Array, Array], Array], x_NxD: Array, steps: int) -> Array:
    """Solve ``dx/dt = field(x, t)`` from t = 0 to 1 by the midpoint rule."""
    size = 1.0 / steps

    def step(x_NxD: Array, time: Array) -> tuple[Array, None]:
        t_N = jnp.full(x_NxD.shape[:1], time, x_NxD.dtype)
        half_NxD = x_NxD + 0.5 * size * field(x_NxD, t_N)
        return x_NxD + size * field(half_NxD, t_N + 0.5 * size), None

    return jax.lax.scan(step, x_NxD, jnp.arange(steps, dtype=float) * size)[0]


def energy_distance(x_NxD: Array, y_MxD: Array) -> Array:
    """Return ``2 E|X - Y| - E|X - X'| - E|Y - Y'|``, unbiased (means over pairs of different rows).

    It is 0 in expectation where the laws are the same, so it may come out below 0; SciPy's ``energy_distance`` is the
    root of the biased form, in one dimension. A sample of one row counts as if it had no spread. Time O((N + M)^2),
    which passes a default fit's at some 5,000 rows; memory O(N + M). Rizzo and Szekely, doi:10.1002/wics.1375.
    """
    n, m = x_NxD.shape[0], y_MxD.shape[0]
    across = _sum_of_distances(x_NxD, y_MxD) / (n * m)
    within_x = _sum_of_distances(x_NxD, x_NxD) / max(n * (n - 1), 1)
    within_y = _sum_of_distances(y_MxD, y_MxD) / max(m * (m - 1), 1)
    return 2 * across - within_x - within_y


def _sum_of_distances(x_NxD: Array, y_MxD: Array) -> Array:
    """Return the sum of ``|x_i - y_j|`` over all pairs.

    It takes differences: a product's cancellation would drown collapsed rows.
    """

    def from_one(x_D: Array) -> Array:
        squared_M = jnp.sum((x_D[None] - y_MxD) ** 2, axis=1)
        apart_M = squared_M > 0  # the root has no derivative at 0, where a row meets itself
        return jnp.sum(jnp.where(apart_M, jnp.sqrt(jnp.where(apart_M, squared_M, 1.0)), 0.0))

    return jnp.sum(jax.lax.map(from_one, x_NxD, batch_size=min(256, x_NxD.shape[0])))
