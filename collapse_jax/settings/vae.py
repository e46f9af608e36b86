"""Variational autoencoders: rows are told by a few normal latents, from which a decoder makes the next ones."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import data
from collapse_jax.core import batching
from collapse_jax.core.random import draw_normals
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_choice, require_integer, require_number, require_positive
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.metrics import images, row_scores
from collapse_jax.training import nets, row_transform
from collapse_jax.training.diffusion_objectives import PROBES_PER_ROW, draw_probes
from collapse_jax.training.row_transform import GenerativeModel, RowTransform
from collapse_jax.training.sgd import SCHEDULES, check_warmup, fit_sgd, make_adamw
from collapse_jax.types import Array, Extras, Info, Key, Metric, Setting, Source, Tree, World

_CLIP = 1.0  # largest norm of a gradient of the loss a column
_ACTIVE = 0.01  # variance above which a latent's posterior mean counts as used, as in arXiv 1509.00519

_LOSS = Metric("test_negative_elbo", "negative evidence lower bound of held-out real rows at fixed noises, beta 1",
               "nats a row", "arXiv 1312.6114", role="risk")  # fmt: skip
_OF_LATENTS = (
    Metric("rate", "divergence of the latents' posterior from the prior, at held-out rows", "nats a row",
           "arXiv 1312.6114"),
    Metric("rate_of_latent", "divergence of each latent's posterior from its prior, at held-out rows", "nats a row",
           "arXiv 1312.6114"),
    Metric("active_units", f"latents whose posterior mean varies by more than {_ACTIVE:g} over held-out rows",
           "latents", "arXiv 1509.00519"),
)  # fmt: skip


class VaeTruth(NamedTuple):
    """What metrics compare with.

    Attributes:
      noise: ``[PROBES_PER_ROW * num_test, latent]``, by which the held-out rows' latents are drawn.
      judged: what generated rows are compared with.
    """

    noise: Array
    judged: Tree


class VaeParams(NamedTuple):
    """The two networks' parameters, and the log of the decoder's deviation where it is learned, in their frame."""

    layers: Tree
    log_deviation: Array | None


class BoundTerms(NamedTuple):
    """For each row, nats that the decoder takes given the latents, ``[B]``, and what each latent costs, ``[B, L]``."""

    distortion: Array
    rate: Array


class VaeTask(NamedTuple):
    """The parts that the functions of a setting share.

    Attributes:
      frame: how the networks see rows.
      latent: number of latents, L.
      apply: the networks, see ``training.nets.vae``.
      beta: weight of the divergence.
      deviation: deviation of a row given its latents, or None where it is learned.
      temperature: factor on the latents that sampling draws.
      noise: factor on the decoder's noise in sampling.
      rows_at_once: number of rows that are sampled or judged together.
      judge: the metrics of generated rows.
    """

    frame: RowTransform
    latent: int
    apply: Callable[..., Tree]
    beta: Array | float
    deviation: Array | float | None
    temperature: Array | float
    noise: Array | float
    rows_at_once: int
    judge: images.ImageJudge


@register_setting
def vae(
    source: Source | None = None,
    latent: int = 8,
    width: int = 256,
    depth: int = 2,
    conditional: bool = False,
    beta: Array | float = 1.0,
    deviation: Array | float | None = None,
    steps: int = 1000,
    batch_size: int = 128,
    learning_rate: Array | float = 3e-3,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: int = 50,
    start: Literal["init", "previous"] = "init",
    temperature: Array | float = 1.0,
    noise: Array | float = 1.0,
    frame: Literal["unit", "pixels", "raw"] = "unit",
    num_test: int | None = None,
    num_shown: int = 8,
    features: Callable[[Array], Array] | None = None,
    rows_at_once: int = 512,
) -> Setting:
    """Train a variational autoencoder of rows (arXiv 1312.6114), conditional on their class or not.

    Latents z are N(0, I), a row given them is N(decoder(z), s^2 I) with one deviation s for all columns, and the
    encoder tells a normal law of z given a row, its covariance diagonal. A fit takes `steps` steps of Adam on
    minibatches of the pool, whatever its size, towards the greatest E log p(x | z) - beta KL(q(z | x) | p(z)). Where
    s is learned it settles at the root mean square of what latents leave unexplained (arXiv 2006.13202). A
    conditional model draws labels by their frequencies in its training rows; both networks see them.

    With ``depth=0`` both networks are linear and the optimum is probabilistic PCA (doi:10.1111/1467-9868.00196,
    arXiv 1911.02469): the decoder keeps the principal directions of variance v > beta s^2, each with variance
    v - beta s^2, at a rate of log(v / beta s^2) / 2; the latents of others sleep. With hidden layers more may sleep.

    Args:
      source: The law of the real rows. The default is moons. Its label column, if it has one, is dropped unless
        `conditional`.
      latent: Number of latents.
      width: Number of units of a hidden layer.
      depth: Number of hidden layers of each network.
      conditional: Whether rows are learned given their class (the source must have labels).
      beta: Weight of the divergence (beta-VAE).
      deviation: Deviation s of a row given its latents, in the units of the rows. The default is to learn it.
      steps: Number of training steps per fit.
      batch_size: Number of rows of a step.
      learning_rate: Learning rate of Adam after the warm-up.
      schedule: Course of the learning rate: ``cosine`` falls to 0 at the last step, ``constant`` stays.
      warmup: Number of steps in which the rate rises linearly; fewer than `steps`.
      start: Where each fit starts: ``init`` takes fresh parameters, ``previous`` the last generation's.
      temperature: Factor on the latents that sampling draws.
      noise: Factor on the decoder's noise in sampling. 1 draws from the model's law; 0 takes its means, which look
        clean and lack the variance s^2 in each column, generation after generation.
      frame: How networks see rows: ``unit``, ``pixels`` or ``raw``, as in ``diffusion``.
      num_test: Number of held-out real rows of the metrics. The default is 500, or all where there are fewer.
      num_shown: Number of generated images that ``sample_image`` keeps.
      features: What rows are compared by, ``[num, dim] -> [num, F]``. The default suits the source: a classifier's
        features for labelled images, principal axes of other images, or the rows themselves.
      rows_at_once: Number of rows that are sampled or judged together, which bounds memory.

    Raises:
      UsageError: a number out of range; a conditional model of rows without labels.

    Example:
      >>> [metric.name for metric in vae(latent=2, width=16).metrics][:4]
      ['test_negative_elbo', 'rate', 'rate_of_latent', 'active_units']
    """
    source = data.moons() if source is None else source
    num_test = count_test_rows(num_test, source, 500)
    row_frame = row_transform.make_row_transform(source, conditional, frame)
    require_choice("schedule", schedule, SCHEDULES)
    require_integer("rows_at_once", rows_at_once, 1)
    check_warmup(warmup, steps=steps)
    for name, size in (("learning_rate", learning_rate), ("deviation", 1.0 if deviation is None else deviation)):
        require_positive(name, size)
    for name, size in (("beta", beta), ("temperature", temperature), ("noise", noise)):
        require_number(name, size, 0)
    init, apply = nets.vae.make_autoencoder(row_frame.dim, latent, width, depth, row_frame.classes)
    judge = images.image_judge(source, num_test, num_shown=num_shown, features=features, labelled=conditional,
                                rows_at_once=rows_at_once)  # fmt: skip
    task = VaeTask(row_frame, latent, apply, beta, deviation, temperature, noise, rows_at_once, judge)
    optimizer = partial(make_adamw, learning_rate, schedule, warmup, 0.0, _CLIP)

    def init_params(key: Key) -> VaeParams:
        return VaeParams(init(key), jnp.zeros(()) if deviation is None else None)

    fit = fit_sgd(partial(_loss, task), optimizer, init=init_params, steps=steps, batch_size=batch_size, start=start)
    return Setting(
        name="vae",
        world=partial(_world, task, num_test, judge.truth),
        sample_real=partial(row_transform.draw_real_rows, row_frame),
        fit=partial(row_transform.fit_with_classes, row_frame, fit),
        sample=partial(_sample, task),
        observe=partial(_observe, task),
        metrics=_metrics(task),
        init=lambda key, world: GenerativeModel(
            init_params(key), jnp.ones(row_frame.classes) if row_frame.classes else None
        ),
        extras=Extras(row_scores=row_scores.ROW_SCORES),
        info=Info(
            source=source,
            largest_block=8,
            # Functions look alike, so what is judged by one has no shapes to be known by.
            world_shapes=partial(_world, task, num_test, judge.truth_shapes) if features is None else None,
        ),
    )


def _metrics(task: VaeTask) -> tuple[Metric, ...]:
    """Return the metrics, with the trivial baseline of the test loss: one isotropic normal law."""
    variance = np.diagonal(np.asarray(task.frame.source.covariance))[: task.frame.dim].mean()
    silent = float(0.5 * task.frame.dim * (1 + np.log(2 * np.pi * variance)))
    rate, of_latent, active = _OF_LATENTS
    of_latent = of_latent._replace(dims=(("latent", task.latent),))
    return (_LOSS._replace(baseline=silent), rate, of_latent, active, *task.judge.metrics)


@on_host
def _world(task: VaeTask, num_test: int, judged: Callable[[], Tree]) -> World:
    """Return the world. What is `judged` by may be shapes alone: all else tells worlds apart."""
    noise, _ = draw_probes(num_test, task.latent)
    arrays = jax.tree.map(jnp.asarray, task.frame.source.arrays)
    return World(arrays, VaeTruth(noise, judged()), row_transform.held_out_rows(task.frame, num_test))


def _log_deviation(task: VaeTask, net: VaeParams) -> Array:
    """Return the log of the decoder's deviation, in the networks' frame."""
    if net.log_deviation is not None:
        return net.log_deviation
    return jnp.log(jnp.asarray(task.deviation) / task.frame.scale)


def _terms(
    task: VaeTask, net: VaeParams, x_BxD: Array, label_B: Array | None, noise_BxL: Array
) -> tuple[BoundTerms, Array]:
    """Return the two parts of the bound at latents drawn by `noise`, in the networks' frame; the means ``[B, L]``."""
    mean_BxL, log_variance_BxL = task.apply(net.layers, x_BxD, label_B, method="encode")
    z_BxL = mean_BxL + jnp.exp(0.5 * log_variance_BxL) * noise_BxL
    log_s = _log_deviation(task, net)
    error_BxD = (x_BxD - task.apply(net.layers, z_BxL, label_B, method="decode")) * jnp.exp(-log_s)
    distortion_B = 0.5 * (error_BxD**2).sum(1) + x_BxD.shape[1] * (log_s + 0.5 * jnp.log(2 * jnp.pi))
    rate_BxL = 0.5 * (mean_BxL**2 + jnp.expm1(log_variance_BxL) - log_variance_BxL)
    return BoundTerms(distortion_B, rate_BxL), mean_BxL


def _loss(task: VaeTask, params: VaeParams, key: Key, rows_BxC: Array) -> Array:
    """Return nats a column, so that the rate of learning does not depend on their number."""
    inside_BxD, label_B = row_transform.transform_rows(task.frame, rows_BxC)
    terms, _ = _terms(task, params, inside_BxD, label_B, draw_normals(key, (len(rows_BxC), task.latent)))
    return (terms.distortion + task.beta * terms.rate.sum(1)).mean() / task.frame.dim


def _sample(task: VaeTask, key: Key, params: GenerativeModel, num: int) -> Array:
    def some(key: Key, label_N: Array | None, rows: int) -> Array:
        key_latent, key_noise = jax.random.split(key)
        z_NxL = task.temperature * draw_normals(key_latent, (rows, task.latent))
        mean_NxD = task.apply(params.net.layers, z_NxL, label_N, method="decode")
        deviation = task.noise * jnp.exp(_log_deviation(task, params.net))
        return mean_NxD + deviation * draw_normals(key_noise, mean_NxD.shape)

    return row_transform.draw_rows(task.frame, some, key, params.classes, num, task.rows_at_once)


def _observe(
    task: VaeTask, key: Key, world: World, params: GenerativeModel, summary: None, generated_NxC: Array
) -> dict[str, Array]:
    label_N = generated_NxC[:, -1] if task.frame.classes else None
    judged = task.judge.observe(world.truth.judged, generated_NxC[:, : task.frame.dim], label_N)
    return _of_held_out(task, params.net, world) | judged


def _of_held_out(task: VaeTask, net: VaeParams, world: World) -> dict[str, Array]:
    """Return the metrics of held-out rows at the noises of the truth, a few rows at a time."""
    inside = row_transform.transform_rows(task.frame, world.test)
    repeated = jax.tree.map(lambda x: jnp.tile(x, (PROBES_PER_ROW, *[1] * (x.ndim - 1))), inside)

    def some(row: tuple[Array, Array | None], noise: Array) -> tuple[BoundTerms, Array]:
        return _terms(task, net, row[0], row[1], noise)

    terms, mean_RxL = batching.map_in_batches(some, task.rows_at_once, repeated, world.truth.noise)
    rate_L = terms.rate.mean(0)
    outside = task.frame.dim * np.log(task.frame.scale)  # nats that the frame's scale takes
    return {
        "test_negative_elbo": terms.distortion.mean() + rate_L.sum() + outside,
        "rate": rate_L.sum(),
        "rate_of_latent": rate_L,
        "active_units": (mean_RxL.var(0) > _ACTIVE).sum().astype(rate_L.dtype),
    }
