"""Self-supervised learning on synthetic images: an encoder is fitted beside the generator and judged on real ones."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import data
from collapse_jax.core import batching
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import one_line, require_choice, require_integer, require_positive
from collapse_jax.core.worlds import count_test_rows, on_host
from collapse_jax.metrics import representations
from collapse_jax.settings.diffusion import diffusion
from collapse_jax.training import augmentation, ssl_objectives
from collapse_jax.training import nets as networks
from collapse_jax.training.sgd import SCHEDULES, AveragedParams, average_params, check_warmup, fit_sgd, make_adamw
from collapse_jax.types import Array, Batch, Extras, Key, Metric, Pretext, RowScoreFn, Setting, Source, Tree, World

if TYPE_CHECKING:
    from collapse_jax.training.nets.encoders import EncoderNetworks

VIEWS = augmentation.AugmentationStrength()  # that encoders are judged by, and the default of training
_CLIP = 1.0  # largest norm of a gradient
_RANDOM = 4  # untrained encoders that the control is the mean of
_SEED = 0x5E1F_5E1F  # of them and of the views that encoders are judged by: far from the small seeds of chains


class ProbeImages(NamedTuple):
    """Real images ``[num, D]`` and their classes ``[num]``, that encoders are judged by.

    Attributes:
      train: images that probes are fitted to.
      train_label: the classes of `train`.
      test: held-out images.
      test_label: the classes of `test`.
    """

    train: Array
    train_label: Array
    test: Array
    test_label: Array


class SelfSupervisedTruth(NamedTuple):
    """What metrics compare with.

    Attributes:
      generator: the generator's truth.
      images: real images that encoders are judged by.
      views: ``[2, M, D]``, two random views of each held-out image.
      controls: ``{what they follow from: {metric: value}}``; the outer key tells worlds apart.
    """

    generator: Tree
    images: ProbeImages
    views: Array
    controls: dict[str, dict[str, Array]]


class SelfSupervisedModel(NamedTuple):
    """What a chain carries from fit to fit.

    Attributes:
      generator: the generator's parameters.
      learner: parameters of the encoder and its heads (``AveragedParams`` where the objective has a target).
      first: the encoder of generation 1, which is the chain's encoder of real images alone.
      age: number of fits so far.
    """

    generator: Tree
    learner: Tree
    first: Tree
    age: Array


class SelfSupervisedTask(NamedTuple):
    """The parts that the functions of a setting share.

    Attributes:
      generator: the setting that makes images.
      source: the source of the images.
      pretext: what the encoder learns.
      nets: the encoder and its heads.
      view: random views of training, ``(key, x) -> x``.
      batch_size: number of images of a step.
      num_probe: number of real images that probes are fitted to.
      num_test: number of held-out images.
      k: number of nearest neighbours that vote.
      rows_at_once: number of images encoded together, which bounds memory.
      recipe: in words, what the controls follow from.
    """

    generator: Setting
    source: Source
    pretext: Pretext
    nets: "EncoderNetworks"
    view: Callable[[Key, Array], Array]
    batch_size: int
    num_probe: int
    num_test: int
    k: int
    rows_at_once: int
    recipe: str

    @property
    def classes(self) -> int:
        """Number of classes of the source."""
        return self.source.classes or 0

    @property
    def pixels(self) -> int:
        """Number of columns of a row that are pixels, D."""
        return self.source.dim - 1


@register_setting
def self_supervised(
    generator: Setting | None = None,
    objective: Pretext | None = None,
    encoder: Literal["mlp", "conv", "vit"] = "mlp",
    features: int = 64,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    patch: int | None = None,
    steps: int = 1000,
    batch_size: int = 128,
    learning_rate: Array | float = 2e-3,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: int = 50,
    start: Literal["init", "previous"] = "init",
    crop: Array | float = VIEWS.crop,
    shift: Array | float = VIEWS.shift,
    turn: Array | float = VIEWS.turn,
    contrast: Array | float = VIEWS.contrast,
    noise: Array | float = VIEWS.noise,
    mask: Array | float = VIEWS.mask,
    num_probe: int = 1000,
    num_test: int | None = None,
    k: int = 5,
    rows_at_once: int = 512,
) -> Setting:
    """Train an encoder of images without labels, beside a generator that makes the next generation's images.

    Each generation fits both to the same training rows, the encoder by `steps` steps of Adam; the generator alone makes
    new rows, and its chain is the one that it has without an encoder. Labels are read by probes only, which are fitted
    to real images and judged on held-out ones. Beside the generator's metrics stand the encoder's, and controls that do
    not change: the same probes on raw pixels (``pixels_``) and on untrained encoders (``random_``). The encoder of real
    images alone is that of generation 1, the encoder of synthetic images alone any later one under ``replace``.

    Args:
      generator: A setting of labelled images that is trained by gradients. The default is ``diffusion`` of the digits.
      objective: What the encoder learns. The default is ``vicreg``.
      encoder: Kind of network: ``mlp``, ``conv`` or ``vit``.
      features: Number of columns of what an image becomes.
      width: Units of a hidden layer (default 256), channels of the first level (32), or columns between blocks (64).
      depth: Number of hidden layers (default 2), levels, each of half the side (2), or blocks (3).
      heads: Number of attention heads of a vit (default 4); other encoders have none.
      patch: Side of a vit's patches, in pixels (default 2); other encoders have none.
      steps: Number of steps of the encoder's training, per fit.
      batch_size: Number of images of a step.
      learning_rate: Learning rate of Adam after the warm-up.
      schedule: Course of the learning rate: ``cosine`` falls to 0 at the last step, ``constant`` stays.
      warmup: Number of steps in which the rate rises linearly; fewer than `steps`.
      start: Where each fit starts: ``init`` takes fresh parameters, ``previous`` the last generation's.
      crop: Largest share of an image's side that a random view of training cuts away. Metrics look at views of the
        defaults, here and below.
      shift: Largest random shift along each axis in training, over the side.
      turn: Largest random angle in training, in radians.
      contrast: Largest random change of contrast in training, as a share of it.
      noise: Standard deviation of the noise that is added to each pixel in training.
      mask: Side of a square that is blacked out in training, over the image's.
      num_probe: Number of real images that probes are fitted to, at most.
      num_test: Number of held-out real images. The default is 300, or all where there are fewer.
      k: Number of nearest neighbours that vote.
      rows_at_once: Number of images that are encoded together, which bounds memory.

    Raises:
      UsageError: a number out of range, sizes that do not divide, arguments that would be ignored, or a generator of
        other rows than labelled images.

    Example:
      >>> [metric.name for metric in self_supervised(width=16, depth=1).metrics][:3]
      ['pretext_loss', 'probe_accuracy', 'logistic_accuracy']
    """
    generator = diffusion(data.digits(pca=None, labels=True), num_test=300) if generator is None else generator
    source, shape = _source(generator)
    pretext = ssl_objectives.vicreg() if objective is None else objective
    if not isinstance(pretext, Pretext):
        raise UsageError(f"objective must be a Pretext, such as objectives.vicreg(), not {one_line(repr(pretext))}")
    num_test = count_test_rows(num_test, source, 300, 2)
    for name, number in (("batch_size", batch_size), ("num_probe", num_probe)):
        require_integer(name, number, 2)
    require_integer("k", k, 1)
    require_integer("rows_at_once", rows_at_once, 1)
    check_warmup(warmup, steps=steps)
    require_positive("learning_rate", learning_rate)
    require_choice("schedule", schedule, SCHEDULES)
    strength = augmentation.AugmentationStrength(crop, shift, turn, contrast, noise, mask)
    augmentation.check_strength(strength)
    sizes = {"width": width, "depth": depth, "heads": heads, "patch": patch}
    nets = networks.encoders.make_encoder(encoder, shape, features, sizes, pretext.heads(features, source.dim - 1))
    recipe = f"{encoder} {features} {sizes} {num_probe} {k}"
    view = partial(augmentation.draw_view, strength, shape)
    task = SelfSupervisedTask(
        generator, source, pretext, nets, view, batch_size, num_probe, num_test, k, rows_at_once, recipe
    )
    plain, momentum = partial(make_adamw, learning_rate, schedule, warmup, 0.0, _CLIP), pretext.momentum
    optimizer = plain if momentum is None else lambda number: average_params(plain(number), momentum)
    fit = fit_sgd(partial(_loss, task), optimizer, init=partial(_fresh, task), steps=steps, batch_size=batch_size,
                  start=start)  # fmt: skip
    return generator._replace(
        name="self_supervised",
        world=partial(_world, task, computed=True),
        sample_real=lambda key, world, num: generator.sample_real(key, _of_generator(world), num),
        fit=partial(_fit, task, fit),
        sample=lambda key, params, num: generator.sample(key, params.generator, num),
        observe=partial(_observe, task),
        metrics=_metrics(task, features),
        init=partial(_init, task),
        statistics=None,  # the encoder reads rows
        extras=_extras(generator.extras),
        info=generator.info._replace(
            call=None,
            differentiable=False,  # the encoder reads rows that are chosen among others
            world_shapes=partial(_world, task, computed=False),
        ),
    )


def _source(generator: Setting) -> tuple[Source, tuple[int, int, int]]:
    """Return the source of a generator that will do, and the shape of its images."""
    if not isinstance(generator, Setting):
        raise UsageError(f"generator must be a Setting, such as settings.diffusion(), not {one_line(repr(generator))}")
    source = generator.info.source
    if not isinstance(source, Source) or source.shape is None:
        raise UsageError(f"generator {generator.name} has no source of images; give it one, such as digits(pca: null)")
    if source.classes is None:
        raise UsageError(f"source {source.name} has no labels, which probes read; give labels: true")
    if generator.label_only is not None:
        raise UsageError(f"generator {generator.name} labels images that are there; give one that makes new ones")
    if generator.init is None:
        raise UsageError(f"generator {generator.name} is not trained by gradients; give one that is, such as diffusion")
    return source, source.shape


def _metrics(task: SelfSupervisedTask, features: int) -> tuple[Metric, ...]:
    shapes = {"spectrum": (("direction", features),), "class_accuracy": (("class", task.classes),)}
    own = tuple(metric._replace(dims=shapes.get(metric.name, ())) for metric in representations.METRICS)
    controls = tuple(
        metric._replace(name=f"{prefix}_{metric.name}", long_name=f"{kind}: {metric.long_name}")
        for prefix, kind in (("pixels", "raw pixels"), ("random", "untrained encoders"))
        for metric in representations.ACCURACIES
    )
    return (*own, *controls, *task.generator.metrics)


def _extras(extras: Extras) -> Extras:
    """Return the generator's extras, made to look at its own world and parameters."""
    summarize, sample_children, rewrite = extras.summarize, extras.sample_children, extras.rewrite

    def score_of(score: RowScoreFn) -> RowScoreFn:
        return lambda world, params, items: score(_of_generator(world), params.generator, items)

    return extras._replace(
        summarize=summarize and (lambda world, train: summarize(_of_generator(world), train)),
        sample_children=sample_children and (lambda key, params, rows: sample_children(key, params.generator, rows)),
        rewrite=rewrite and (lambda key, params, *rest: rewrite(key, params.generator, *rest)),
        row_scores={name: score_of(score) for name, score in extras.row_scores.items()},
        sized_summarize=None,  # generators of images make no sets
    )


def _of_generator(world: World) -> World:
    return world._replace(truth=world.truth.generator)


@on_host
def _world(task: SelfSupervisedTask, computed: bool) -> World:
    """Return the world; with controls that are not `computed`, only their shapes."""
    shapes = task.generator.info.world_shapes
    world = task.generator.world() if computed or shapes is None else shapes()
    train, test = (np.asarray(rows) for rows in (task.source.arrays, task.source.held_out(task.num_test)))

    def pixels(rows: np.ndarray) -> Array:
        return jnp.asarray(rows[:, :-1], float)

    def label(rows: np.ndarray) -> Array:
        return jnp.asarray(rows[:, -1].round(), jnp.int32)

    train = train[: task.num_probe]
    images = ProbeImages(pixels(train), label(train), pixels(test), label(test))
    compute = jax.jit(partial(_controls, task))
    views, controls = compute(images) if computed else jax.eval_shape(compute, images)
    return world._replace(truth=SelfSupervisedTruth(world.truth, images, views, {task.recipe: controls}))


def _controls(task: SelfSupervisedTask, images: ProbeImages) -> tuple[Array, dict[str, Array]]:
    """Return views of held-out images, and accuracies without training."""
    key = jax.random.key(_SEED, impl="threefry2x32")
    draw_view = partial(augmentation.draw_view, VIEWS, task.nets.shape)
    views = jax.vmap(draw_view, (0, None))(jax.random.split(stream(key, "views"), 2), images.test)

    def accuracies(encode: Callable[[Array], Array]) -> dict[str, Array]:
        return representations.measure_accuracies(_encode_probes(task, encode, images, views), task.classes, task.k)[0]

    def untrained_accuracies(key: Key) -> dict[str, Array]:
        return accuracies(partial(task.nets.encode, task.nets.init(key)["encoder"]))

    untrained = jax.lax.map(untrained_accuracies, jax.random.split(stream(key, "random"), _RANDOM))
    by_kind = {"pixels": accuracies(lambda x: x), "random": jax.tree.map(lambda x: x.mean(0), untrained)}
    return views, {f"{prefix}_{name}": value for prefix, metrics in by_kind.items() for name, value in metrics.items()}


def _encode_probes(
    task: SelfSupervisedTask, encode: Callable[[Array], Array], images: ProbeImages, views: Array
) -> representations.ProbeFeatures:
    """Return features of images, encoded a few at a time."""
    encode_all = partial(batching.map_in_batches, encode, task.rows_at_once)
    train, test, view, other = (encode_all(x_NxD) for x_NxD in (images.train, images.test, views[0], views[1]))
    return representations.ProbeFeatures(train, images.train_label, test, images.test_label, view, other)


def _fresh(task: SelfSupervisedTask, key: Key) -> Tree:
    params = task.nets.init(key)
    return params if task.pretext.momentum is None else AveragedParams(params, params)


def _now(learner: Tree) -> Tree:
    return learner.now if isinstance(learner, AveragedParams) else learner


def _loss(task: SelfSupervisedTask, learner: Tree, key: Key, rows_BxC: Array) -> Array:
    target = learner.average if isinstance(learner, AveragedParams) else None
    return task.pretext.loss(task.nets, _now(learner), target, key, rows_BxC[:, : task.pixels], task.view)


def _init(task: SelfSupervisedTask, key: Key, world: World) -> SelfSupervisedModel:
    assert task.generator.init is not None
    learner = _fresh(task, stream(key, "encoder"))
    of_generator = task.generator.init(key, _of_generator(world))
    return SelfSupervisedModel(of_generator, learner, _now(learner)["encoder"], jnp.int32(0))


def _fit(
    task: SelfSupervisedTask, fit: Callable[..., Tree], key: Key, train: Batch, before: SelfSupervisedModel
) -> SelfSupervisedModel:
    """Fit both; the generator's key is the one it has alone."""
    of_generator = task.generator.fit(key, train, before.generator)
    learner = fit(stream(key, "encoder"), train, before.learner)
    is_first = before.age == 0
    first = jax.tree.map(lambda new, old: jnp.where(is_first, new, old), _now(learner)["encoder"], before.first)
    return SelfSupervisedModel(of_generator, learner, first, before.age + 1)


def _observe(
    task: SelfSupervisedTask, key: Key, world: World, params: SelfSupervisedModel, summary: Tree, generated_NxC: Array
) -> dict[str, Array]:
    truth, encoder = world.truth, _now(params.learner)["encoder"]
    images, (controls,) = truth.images, truth.controls.values()
    features = _encode_probes(task, partial(task.nets.encode, encoder), images, truth.views)
    first = batching.map_in_batches(partial(task.nets.encode, params.first), task.rows_at_once, images.test)
    accuracies, by_class = representations.measure_accuracies(features, task.classes, task.k)
    of_generator = task.generator.observe(key, _of_generator(world), params.generator, summary, generated_NxC)
    return {
        "pretext_loss": _pretext_loss(task, params.learner, images.test),
        **accuracies,
        "class_accuracy": by_class,
        "rankme": representations.effective_rank(features.test),
        "spectrum": representations.covariance_spectrum(features.test),
        "alignment": representations.view_alignment(features.view, features.other_view),
        "uniformity": representations.feature_uniformity(features.test),
        "cka_to_first": representations.linear_cka(features.test, first),
        **controls,
        **of_generator,
    }


def _pretext_loss(task: SelfSupervisedTask, learner: Tree, test_MxD: Array) -> Array:
    """Return the loss of minibatches of held-out images as large as in training, at fixed views."""
    size = min(task.batch_size, test_MxD.shape[0])
    batches = test_MxD[: test_MxD.shape[0] // size * size].reshape(-1, size, task.pixels)
    keys = jax.random.split(jax.random.key(_SEED, impl="threefry2x32"), batches.shape[0])
    return jax.lax.map(lambda both: _loss(task, learner, *both), (keys, batches)).mean()
