"""Diffusion models: a network that learns to tell rows from noise, and draws the next generation's rows from noise."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax import data
from collapse_jax.core import batching
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import draw_normals
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import (
    is_traced,
    require_choice,
    require_integer,
    require_number,
    require_positive,
    require_share,
)
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.metrics import images, row_scores
from collapse_jax.training import diffusion_objectives, nets, row_transform
from collapse_jax.training.diffusion_objectives import (
    PROBES_PER_ROW,
    DiffusionObjective,
    draw_probes,
    estimate_row_and_noise,
    noise_rows,
)
from collapse_jax.training.diffusion_samplers import SAMPLERS, sample_rows
from collapse_jax.training.row_transform import GenerativeModel, RowTransform
from collapse_jax.training.sgd import SCHEDULES as RATES
from collapse_jax.training.sgd import AveragedParams, average_params, check_warmup, fit_sgd, make_adamw
from collapse_jax.types import Array, Extras, Info, Key, Metric, OffAt, Setting, Source, Tree, World

if TYPE_CHECKING:
    import optax

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_CLIP = 1.0  # largest norm of a gradient, as in arXiv 2006.11239's code
_ROOM = 0.5  # how far expected pixels may leave their range, as a share of it, where signal outweighs noise

_LOSS = Metric("test_loss", "denoising loss on held-out real rows at fixed noises, mean over columns", "1",
               "arXiv 2006.11239", role="risk")  # fmt: skip


class DiffusionTruth(NamedTuple):
    """What metrics compare with.

    Attributes:
      noise: noise added to the held-out rows for the test loss, ``[PROBES_PER_ROW * num_test, dim]``.
      sigma: how strong each noise is, ``[PROBES_PER_ROW * num_test]``.
      judged: what generated rows are compared with.
    """

    noise: Array
    sigma: Array
    judged: Tree


class DiffusionTask(NamedTuple):
    """The parts that the functions of a setting share.

    Attributes:
      frame: how the network sees rows.
      objective: what the network learns.
      apply: the network, ``(params, x, time, label) -> output``.
      drop_label: share of rows whose label training hides.
      guidance: weight of classifier-free guidance.
      draw: ``diffusion_samplers.sample_rows``, all but the estimate, the key and the shape.
      rows_at_once: number of rows that are sampled or judged together.
      judge: the metrics of generated rows.
    """

    frame: RowTransform
    objective: DiffusionObjective
    apply: Callable[..., Array]
    drop_label: Array | float
    guidance: Array | float
    draw: Callable[..., Array]
    rows_at_once: int
    judge: images.ImageJudge


@register_setting
def diffusion(
    source: Source | None = None,
    objective: Literal["ddpm", "edm", "flow"] = "flow",
    noise_schedule: Literal["linear", "cosine"] | None = None,
    net: Literal["mlp", "dit", "unet"] = "mlp",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    patch: int | None = None,
    conditional: bool = False,
    drop_label: Array | float | None = None,
    guidance: Annotated[Array | float, OffAt(1.0)] = 1.0,
    steps: int = 1000,
    batch_size: int = 128,
    learning_rate: Array | float = 3e-3,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: int = 50,
    ema: Array | float = 0.99,
    start: Literal["init", "previous"] = "init",
    sampler: Literal["ancestral", "ddim", "heun", "midpoint"] = "midpoint",
    sampler_steps: int = 32,
    stop: Array | float = 0.0,
    temperature: Array | float = 1.0,
    frame: Literal["unit", "pixels", "raw"] = "unit",
    num_test: int | None = None,
    num_shown: int = 8,
    features: Callable[[Array], Array] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rows_at_once: int | None = None,
) -> Setting:
    """Train a diffusion model of rows or images, conditional on their class or not.

    A fit takes `steps` steps of Adam on minibatches of the pool, whatever its size; what samples is a moving average of
    the network. A conditional model draws labels by their frequencies in its training rows, then rows given labels.
    Where there is more noise than signal, expected pixels of images are kept in [0, 1], where they lie: an error of a
    network that learns noise counts sigma times there. (Kept at every level, as in the code of arXiv 2006.11239, they
    lose contrast: a small flow of the digits then lost a quarter of their variance in one generation, not an eighth.)
    Elsewhere they may be out of it by half: beyond, where a network never was, one image in thousands ran away to 1e7.

    Args:
      source: The law of the real rows. The default is moons. Its label column, if it has one, is dropped unless
        `conditional`.
      objective: What the network learns: ``ddpm`` the noise (arXiv 2006.11239), ``edm`` the preconditioned row
        (2206.00364), ``flow`` the velocity of straight paths (2210.02747).
      noise_schedule: Noise levels of ddpm, ``linear`` (the default) or ``cosine``; other objectives have none.
      net: Kind of network: ``mlp`` takes rows as they are; ``dit``, a transformer of patches, and ``unet`` take images.
      width: Units of a hidden layer (default 256), of the stream between blocks (128), or of the first level (32).
      depth: Number of hidden layers (default 3), blocks (4), or levels (3).
      heads: Number of attention heads of a dit (default 4); other nets have none.
      patch: Side of a dit's patches, in pixels (default 4); other nets have none.
      conditional: Whether rows are learned given their class (the source must have labels).
      drop_label: Share of rows whose label training hides, so that a conditional network learns the law of all
        classes, too. The default is 0.1.
      guidance: Weight w of classifier-free guidance (arXiv 2207.12598): estimates are w times the conditional one plus
        1 - w times the unconditional one. 1 is none; any other number doubles the cost of sampling.
      steps: Number of training steps per fit.
      batch_size: Number of rows of a step.
      learning_rate: Learning rate of Adam after the warm-up.
      schedule: Course of the learning rate: ``cosine`` falls to 0 at the last step, ``constant`` stays.
      warmup: Number of steps in which the rate rises linearly; fewer than `steps`.
      ema: Decay of the moving average that samples; 0 is none.
      start: Where each fit starts: ``init`` takes fresh parameters, ``previous`` the last generation's.
      sampler: How noise becomes rows: ``ancestral`` (published for ddpm, with 1,000 steps), ``ddim``, ``heun``
        (published for edm) or ``midpoint``.
      sampler_steps: Number of steps of `sampler`; heun and midpoint take two evaluations each. Few steps alone are
        a collapse: in 32, with the exact score of a standard normal, ancestral steps lose 21% of the variance at every
        generation (ddpm), ddim 11%, and of a flow 14% and 8%; heun adds 3% (edm). Midpoint: below 0.2% for all.
      stop: Time, of an Ornstein-Uhlenbeck process, at which sampling stops early (see ``ideal_diffusion``): the noise
        that is left then stays in the rows.
      temperature: Factor on all noise that sampling draws.
      frame: How networks see rows. ``unit``: shifted and scaled, by two numbers for all columns, so that the real law
        has mean 0 and variance 1; ``pixels``: images from [0, 1] in [-1, 1]; ``raw``: as they are.
      num_test: Number of held-out real rows of the metrics. The default is 500, or all where there are fewer.
      num_shown: Number of generated images that ``sample_image`` keeps.
      features: What rows are compared by, ``[num, dim] -> [num, F]``. The default suits the source: a classifier's
        features for labelled images, principal axes of other images, or the rows themselves.
      dtype: Type of the arithmetic; parameters and losses are float32.
      rows_at_once: Number of rows that are sampled or judged together, which bounds memory. The default is 2048 for an
        mlp (on two cores 500 take a fifth longer), 512 for other nets.

    Raises:
      UsageError: a number out of range; a conditional model of rows without labels; guidance without conditions;
        arguments that would be ignored.

    Example:
      >>> [metric.name for metric in diffusion(width=16, depth=1).metrics][:2]
      ['test_loss', 'reverse_kl']
    """
    source = data.moons() if source is None else source
    num_test = count_test_rows(num_test, source, 500)
    for name, value, choices in (
        ("objective", objective, diffusion_objectives.OBJECTIVES),
        ("net", net, nets.denoiser.NETS), ("schedule", schedule, RATES), ("dtype", dtype, tuple(DTYPES)),
        ("sampler", sampler, SAMPLERS),
    ):  # fmt: skip
        require_choice(name, value, choices)
    rows_at_once = {"mlp": 2048}.get(net, 512) if rows_at_once is None else rows_at_once
    for name, number in (("sampler_steps", sampler_steps), ("rows_at_once", rows_at_once)):
        require_integer(name, number, 1)
    check_warmup(warmup, steps=steps)
    require_positive("learning_rate", learning_rate)
    require_share("ema", ema)
    levels_by, hidden = _defaults(objective, noise_schedule, conditional, drop_label)
    for name, size in (("stop", stop), ("temperature", temperature), ("guidance", guidance)):
        require_number(name, size, 0)
    if not conditional and (is_traced(guidance) or guidance != 1):
        raise UsageError("guidance needs conditional=True: there is nothing to guide by")
    row_frame = row_transform.make_row_transform(source, conditional, frame)
    learned = diffusion_objectives.make_objective(objective, levels_by, row_frame.deviation)
    sizes = {"width": width, "depth": depth, "heads": heads, "patch": patch}
    init, apply = nets.denoiser.make_denoiser(net, row_frame.dim, source.shape, sizes, row_frame.classes, DTYPES[dtype])
    levels = jnp.asarray(learned.grid(sampler_steps), float)
    draw = partial(sample_rows, path=learned.path, sigma_S=levels, sampler=sampler, stop=stop, temperature=temperature)
    judge = images.image_judge(source, num_test, num_shown=num_shown, features=features, labelled=conditional,
                                rows_at_once=rows_at_once)  # fmt: skip
    task = DiffusionTask(row_frame, learned, apply, hidden, guidance, draw, rows_at_once, judge)

    def init_both(key: Key) -> AveragedParams:
        return AveragedParams(init(key), init(key))

    def optimizer(number: int) -> "optax.GradientTransformation":
        return average_params(make_adamw(learning_rate, schedule, warmup, 0.0, _CLIP, number), ema)

    fit = fit_sgd(partial(_loss, task), optimizer, init=init_both, steps=steps, batch_size=batch_size, start=start)
    return Setting(
        name="diffusion",
        world=partial(_world, task, num_test, judge.truth),
        sample_real=partial(row_transform.draw_real_rows, row_frame),
        fit=partial(row_transform.fit_with_classes, row_frame, fit),
        sample=partial(_sample, task),
        observe=partial(_observe, task),
        metrics=_metrics(task),
        init=lambda key, world: GenerativeModel(
            init_both(key), jnp.ones(row_frame.classes) if row_frame.classes else None
        ),
        extras=Extras(row_scores=row_scores.ROW_SCORES),
        info=Info(
            source=source,
            largest_block=_side_by_side(net),
            # Functions look alike, so what is judged by one has no shapes to be known by.
            world_shapes=partial(_world, task, num_test, judge.truth_shapes) if features is None else None,
        ),
    )


def _side_by_side(net: str) -> int:
    """Return how many chains to run side by side: small nets share a CPU's time well, others take all of it."""
    return {"mlp": 8}.get(net, 1 if jax.default_backend() == "cpu" else 16)


def _defaults(
    objective: str, noise_schedule: str | None, conditional: bool, drop_label: Array | float | None
) -> tuple[str, Array | float]:
    """Return what some models alone have; it is refused where it would be ignored."""
    if noise_schedule is not None:
        require_choice("noise_schedule", noise_schedule, diffusion_objectives.SCHEDULES)
        if objective != "ddpm":
            raise UsageError(f"noise_schedule is for objective: ddpm, not for {objective}; leave it out")
    if drop_label is not None:
        require_share("drop_label", drop_label)
        if not conditional:
            raise UsageError("drop_label needs conditional=True: there is no label to hide")
    return noise_schedule or "linear", 0.1 if drop_label is None else drop_label


def _metrics(task: DiffusionTask) -> tuple[Metric, ...]:
    """Return the metrics, with the trivial baseline of the test loss: a network that says nothing."""
    # EDM's target has the variance 1 at every level.
    silent = 1 + task.frame.deviation**2 if task.objective.name == "flow" else 1.0
    return (_LOSS._replace(baseline=silent), *task.judge.metrics)


@on_host
def _world(task: DiffusionTask, num_test: int, judged: Callable[[], Tree]) -> World:
    """Return the world. What is `judged` by may be shapes alone: all else tells worlds apart."""
    noise, u = draw_probes(num_test, task.frame.dim)
    truth = DiffusionTruth(noise, task.objective.levels(u), judged())
    arrays = jax.tree.map(jnp.asarray, task.frame.source.arrays)
    return World(arrays, truth, row_transform.held_out_rows(task.frame, num_test))


def _said(task: DiffusionTask, net: Tree, x_BxD: Array, sigma_B: Array, label_B: Array | None) -> Array:
    into_B, time_B = task.objective.scalings(sigma_B)
    return task.apply(net, into_B[:, None] * x_BxD, time_B, label_B)


def _errors(
    task: DiffusionTask, net: Tree, rows_BxD: Array, noise: Array, sigma_B: Array, label_B: Array | None
) -> Array:
    """Return squared errors of what the network says, mean over columns, ``[B]``."""
    x_BxD, target_BxD = noise_rows(task.objective, rows_BxD, noise, sigma_B)
    return jnp.mean((_said(task, net, x_BxD, sigma_B, label_B) - target_BxD) ** 2, axis=1)


def _loss(task: DiffusionTask, params: AveragedParams, key: Key, rows_BxC: Array) -> Array:
    key_level, key_noise, key_label = jax.random.split(key, 3)
    inside_BxD, label_B = row_transform.transform_rows(task.frame, rows_BxC)
    u_B = jax.random.uniform(key_level, inside_BxD.shape[:1])
    noise_BxD = draw_normals(key_noise, inside_BxD.shape)
    if label_B is not None:
        hidden_B = jax.random.uniform(key_label, label_B.shape) < task.drop_label
        label_B = jnp.where(hidden_B, task.frame.classes, label_B)
    return _errors(task, params.now, inside_BxD, noise_BxD, task.objective.levels(u_B), label_B).mean()


def _sample(task: DiffusionTask, key: Key, params: GenerativeModel, num: int) -> Array:
    def some(key: Key, label_N: Array | None, rows: int) -> Array:
        estimate = partial(_estimate, task, params.net.average, label_N)
        return task.draw(estimate, key=key, shape=(rows, task.frame.dim))

    return row_transform.draw_rows(task.frame, some, key, params.classes, num, task.rows_at_once)


def _estimate(task: DiffusionTask, net: Tree, label_N: Array | None, x_NxD: Array, sigma: Array) -> tuple[Array, Array]:
    """Return expected rows and noises, guided: what is said with a label and without one is mixed."""
    sigma_N = jnp.full(x_NxD.shape[:1], sigma)
    if label_N is None or (not is_traced(task.guidance) and task.guidance == 1):
        said_NxD = _said(task, net, x_NxD, sigma_N, label_N)
    else:
        twice = jnp.concatenate([label_N, jnp.full_like(label_N, task.frame.classes)])
        both = _said(task, net, jnp.tile(x_NxD, (2, 1)), jnp.tile(sigma_N, 2), twice)
        given_NxD, free_NxD = jnp.split(both, 2)
        said_NxD = free_NxD + task.guidance * (given_NxD - free_NxD)
    row_NxD, noise_NxD = estimate_row_and_noise(task.objective, x_NxD, said_NxD, sigma_N)
    if task.frame.source.shape is None:
        return row_NxD, noise_NxD
    center, scale = task.frame.center, task.frame.scale
    room = jnp.where(sigma > 1, 0.0, _ROOM)
    kept_NxD = jnp.clip(row_NxD, (-room - center) / scale, (1 + room - center) / scale)
    return kept_NxD, noise_NxD + (row_NxD - kept_NxD) / sigma  # x is still what both make


def _observe(
    task: DiffusionTask, key: Key, world: World, params: GenerativeModel, summary: None, generated_NxC: Array
) -> dict[str, Array]:
    label_N = generated_NxC[:, -1] if task.frame.classes else None
    judged = task.judge.observe(world.truth.judged, generated_NxC[:, : task.frame.dim], label_N)
    return {"test_loss": _test_loss(task, params.net.average, world)} | judged


def _test_loss(task: DiffusionTask, net: Tree, world: World) -> Array:
    """Return the loss at the noises of the truth, a few rows at a time."""
    inside_NxD, label_N = row_transform.transform_rows(task.frame, world.test)
    repeated = jax.tree.map(lambda x: jnp.tile(x, (PROBES_PER_ROW, *[1] * (x.ndim - 1))), (inside_NxD, label_N))

    def errors(row: tuple[Array, Array | None], noise: Array, sigma: Array) -> Array:
        return _errors(task, net, row[0], noise, sigma, row[1])

    return batching.map_in_batches(errors, task.rows_at_once, repeated, world.truth.noise, world.truth.sigma).mean()
