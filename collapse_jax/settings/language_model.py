"""Autoregressive language models: a small transformer that learns rows of symbols and writes the next generation's."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_choice, require_flag, require_integer, require_number, require_positive
from collapse_jax.core.worlds import on_host
from collapse_jax.data import texts
from collapse_jax.data.tokens import smallest_unsigned_type
from collapse_jax.metrics import text as text_metrics
from collapse_jax.settings.language_metrics import metrics_of_text, observe_rows, simple_losses, truth_of_text
from collapse_jax.training import nets
from collapse_jax.training.nnx_functional import make_functional
from collapse_jax.training.sgd import SCHEDULES, check_warmup, fit_sgd, make_adamw
from collapse_jax.types import Array, Batch, Extras, Info, Key, OffAt, Setting, Text, Tree, World

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
STARTS = ("init", "previous", "base")
_PROMPTS = 1024  # that a chain's generations begin with


class LanguageReal(NamedTuple):
    """What real rows are drawn from, and the base model, where fits start from one.

    Attributes:
      text: the text's arrays.
      base: parameters of the base model, or None.
      recipe: ``{all else it was trained by: [rate, decay, clip]}``, or None; points share a base where theirs agree.
    """

    text: Tree
    base: Tree
    recipe: dict[str, Array] | None


class LanguageModelParams(NamedTuple):
    """What a chain carries from fit to fit: two or three times a network's parameters.

    Attributes:
      net: the network's parameters.
      first: the parameters of generation 1.
      age: number of fits so far.
      base: what fits start from; None: the last fit's parameters, or fresh ones.
      prompts: real symbols that generated rows begin with, ``[1024, P]``, or None.
    """

    net: Tree
    first: Tree
    age: Array
    base: Tree
    prompts: Array | None


class BaseModel(NamedTuple):
    """How a base model is made.

    Attributes:
      fit: its training.
      rows: number of rows that it sees.
      rates: its learning rate, weight decay and clip.
      other: all else that it follows from.
    """

    fit: Callable[..., Tree]
    rows: int
    rates: tuple[Array | float, ...]
    other: "tuple[int | str | nets.transformer.TransformerSize, ...]"


class LanguageTask(NamedTuple):
    """The parts that the functions of a setting share.

    Attributes:
      text: where real rows come from.
      network: the model.
      prompt: number of real symbols that a generated row begins with.
      decoding: how symbols are drawn.
      num_test: number of held-out rows.
      ngram: length of n-grams.
      gram_bits: bits of the set of n-grams; 0: no set; None: as a pool needs.
      num_shown: number of generated rows that are kept.
    """

    text: Text
    network: "nets.sequence_model.SequenceModel"
    prompt: int
    decoding: "nets.sampling.Decoding"
    num_test: int
    ngram: int
    gram_bits: int | None
    num_shown: int


@register_setting
def language_model(
    text: Text | None = None,
    model: Literal["tiny", "nano", "decoder_124m"] = "tiny",
    length: int = 64,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    learning_rate: Array | float = 3e-3,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: int = 50,
    weight_decay: Array | float = 0.1,
    clip: Array | float = 1.0,
    start: Literal["init", "previous", "base"] = "init",
    base_steps: int | None = None,
    temperature: Annotated[Array | float, OffAt(0.0)] = 1.0,
    top_k: int = 0,
    top_p: Annotated[Array | float, OffAt(1.0)] = 1.0,
    min_p: Annotated[Array | float, OffAt(0.0)] = 0.0,
    prompt: int = 0,
    num_test: int = 256,
    ngram: int = 8,
    gram_bits: int | None = None,
    num_shown: int = 4,
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
    rows_at_once: int = 64,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    hidden: int | None = None,
    activation: Literal["swiglu", "gelu"] | None = None,
    tied: bool | None = None,
) -> Setting:
    """Train a transformer that reads and writes rows of symbols, each row begun by a start symbol.

    A fit takes `steps` steps of AdamW on minibatches of the pool, whatever its size (or `epochs` passes over it). New
    rows are drawn symbol by symbol with a KV cache.

    n-grams of the training rows are kept as a Bloom filter, six bits each. One that is not there seems to be with
    probability ``chance_hit``, which ``novel_to_training`` and ``copied_from_training`` are corrected for; the latter
    is NaN where more than 1% of it (or of a symbol, if it is shorter) would be chance. With 16 bits for each different
    n-gram of a pool ``chance_hit`` stays below 0.001; so many for one batch are required.

    The baseline of ``test_nll_per_symbol`` is the least of log V and, for a finite text, the losses of its unigram and
    bigram frequencies; all of them are attributes (``baseline_unigram``).

    Args:
      text: Where real rows come from. The default is the bundled plays of Shakespeare, by character.
      model: A preset of sizes, which `width` and the arguments after it change one by one. ``tiny`` has 2 layers of
        width 64 and 0.1 million parameters without the embedding, ``nano`` 6 layers of width 384 and 10.6 million,
        ``decoder_124m`` 12 layers of width 768 and 85.0 million (124 million with 50,257 symbols).
      length: Number of symbols of a row: the context of the model.
      steps: Number of training steps per fit. The default is 800.
      epochs: Number of passes over the pool (of as many rows, drawn with replacement) in place of `steps`; costs then
        grow with the pool.
      batch_size: Number of rows of a step.
      learning_rate: Learning rate of AdamW after the warm-up.
      schedule: Course of the learning rate: ``cosine`` falls to 0 at the last step, ``constant`` stays.
      warmup: Number of steps in which the rate rises linearly; fewer than `steps` (with `epochs`, a fit of no more
        steps than these never reaches the rate).
      weight_decay: Decay of matrices (not of the scales of norms).
      clip: Largest norm of a gradient.
      start: Where each fit starts: ``init`` takes fresh parameters; ``previous`` the last generation's; ``base`` those
        of one model trained on real rows for `base_steps`, once for all chains and grid points that train it alike
        (fine-tuning, arXiv 2410.16713). Floats that change the base (rate, decay, clip) cannot be axes of one sweep.
      base_steps: Number of training steps of the base model. The default is 2000.
      temperature: Divisor of the logits in sampling, before the cuts that follow; 0 takes the likeliest symbol.
      top_k: Number of the likeliest symbols that are kept in sampling; 0 keeps all.
      top_p: Share of the probability of those that is kept, by the fewest likeliest (nucleus sampling); 1 keeps all.
      min_p: Least probability of a symbol that is kept, over that of the likeliest; 0 keeps all.
      prompt: Number of symbols of real text that each generated row begins with, drawn for a chain 1,024 times and for
        a row once. They are part of the row, so that under any policy this share of the data stays real; metrics of
        what is generated look at what follows them.
      num_test: Number of held-out rows; so many generated rows are looked at by ``first_model_nll_per_symbol``.
      ngram: Length of the n-grams of ``distinct``, ``repetition``, novelty and copied runs.
      gram_bits: Bits of the set of n-grams, a power of two; 0 keeps no set, and no metric that needs one. The default
        is what keeps chance below 0.005 symbols of ``copied_from_training`` if all n-grams of the largest pool of the
        run differ: 37 to 74 for each n-gram at the default length, in all at most 2^30 (128 MiB a chain).
      num_shown: Number of generated rows that ``sample_text`` keeps, prompts included; NaN where there are fewer.
      dtype: Type of the arithmetic; parameters, softmax and loss are float32.
      remat: Whether activations are computed again in the backward pass instead of kept.
      rows_at_once: Number of rows that are sampled or judged together, which bounds the memory of the KV cache.
      width: Width of the stream between blocks.
      depth: Number of blocks.
      heads: Number of attention heads; they divide the width.
      kv_heads: Number of keys and values, shared by groups of heads.
      hidden: Width of the feed-forward layer.
      activation: Activation of the feed-forward layer.
      tied: Whether symbols are read and written by one matrix.

    Raises:
      UsageError: a number out of range; sizes that do not divide; a text shorter than a row or than a minibatch, or
        with too little held out; arguments of which one would be ignored; a set that a batch would overfill.

    Example:
      >>> [metric.name for metric in language_model(length=16).metrics][:3]
      ['test_nll_per_symbol', 'bits_per_byte', 'calibration_error']
    """
    text = texts.shakespeare() if text is None else text
    if not isinstance(text, Text):
        raise UsageError(f"text must be a Text, such as data.texts.shakespeare(), not {text!r}")
    given = {"width": width, "depth": depth, "heads": heads, "kv_heads": kv_heads, "hidden": hidden,
             "activation": activation, "tied": tied}  # fmt: skip
    size = nets.transformer.resolve_size(model, {k: v for k, v in given.items() if v is not None})
    decoding = nets.sampling.Decoding(temperature, top_k, top_p, min_p)
    decoding.check()
    require_choice("dtype", dtype, tuple(DTYPES))
    require_flag("language_model: remat", remat)
    _check_rows(text, length, batch_size, prompt, ngram, gram_bits)
    for name, number in (("num_test", num_test), ("rows_at_once", rows_at_once), ("num_shown", num_shown)):
        require_integer(name, number, 1)
    steps = 800 if steps is None and epochs is None else steps
    base_steps = _check_training(start, base_steps, steps, warmup)
    by_nnx, apply = make_functional(
        lambda rngs: nets.transformer.Transformer(text.num_symbols, size, DTYPES[dtype], remat, rngs=rngs)
    )
    shapes = jax.eval_shape(by_nnx, jax.random.key(0))

    def net_init(key: Key) -> Tree:
        return nets.transformer.draw_initial_parameters(key, shapes, size.depth)

    network = nets.sequence_model.SequenceModel(apply, text.num_symbols, size, DTYPES[dtype], length, rows_at_once)
    task = LanguageTask(text, network, prompt, decoding, num_test, ngram, gram_bits, num_shown)
    require_number("weight_decay", weight_decay, 0)
    require_positive("learning_rate", learning_rate)
    require_positive("clip", clip)
    require_choice("schedule", schedule, SCHEDULES)
    losses = simple_losses(text, num_test, length)
    optimizer = partial(make_adamw, learning_rate, schedule, warmup, weight_decay, clip)
    train = partial(
        fit_sgd, partial(nets.sequence_model.sequence_loss, network), optimizer, init=net_init, batch_size=batch_size
    )
    fit = train(steps=steps, epochs=epochs, start="init" if start == "init" else "previous")
    base = None
    if start == "base":
        other = (text.name, length, size, dtype, base_steps, batch_size, schedule, warmup)
        base = BaseModel(train(steps=base_steps), base_steps * batch_size, (learning_rate, weight_decay, clip), other)
    return Setting(
        name="language_model",
        world=partial(_world, task, base, trained=True),
        sample_real=lambda key, world, num: text.draw(key, world.real.text, num, length),
        fit=partial(_fit, fit),
        sample=partial(_sample, task),
        observe=partial(_observe, task),
        metrics=(
            *metrics_of_text(text, gram_bits != 0, losses),
            text_metrics.sample_text_metric(text, num_shown, length),
        ),
        init=partial(_init, task, net_init),
        extras=Extras(
            summarize=None if gram_bits == 0 else partial(_summarize, task, 0),
            rewrite=lambda key, params, rows, part: nets.sequence_model.rewrite_rows(
                network, params.net, key, rows, part, decoding, prompt
            ),
            row_scores=text_metrics.SCORES,
            sized_summarize=partial(partial, _summarize, task) if gram_bits is None else None,
        ),
        info=Info(
            largest_block=1 if jax.default_backend() == "cpu" else None,  # of a CPU, blocks share the cores
            world_shapes=None if base is None else partial(_world, task, base, trained=False),
        ),
    )


def _check_training(start: str, base_steps: int | None, steps: int | None, warmup: int) -> int:
    """Return how many steps a base model takes."""
    require_choice("start", start, STARTS)
    if base_steps is not None and start != "base":
        raise UsageError(f"base_steps is for start: base, not for {start}; leave it out")
    base_steps = 2000 if base_steps is None else base_steps
    require_integer("base_steps", base_steps, 1)
    check_warmup(warmup, steps=steps, base_steps=base_steps if start == "base" else None)
    return base_steps


def _check_rows(text: Text, length: int, batch_size: int, prompt: int, ngram: int, gram_bits: int | None) -> None:
    require_integer("length", length, 2)
    require_integer("batch_size", batch_size, 1)
    require_integer("ngram", ngram, 1, length)
    require_integer("prompt", prompt, 0, length - ngram)
    if gram_bits is not None:
        require_integer("gram_bits", gram_bits, text_metrics.WORD_BITS if gram_bits else 0, text_metrics.MAX_BITS)
        if gram_bits & (gram_bits - 1):
            raise UsageError(f"gram_bits must be a power of two, not {gram_bits}")
    if text.size is not None and text.size < length:
        raise UsageError(f"length must be at most the {text.size} symbols of {text.name} to train on, not {length}")
    if text.size is not None and text.size < batch_size * length:
        raise UsageError(
            f"{text.name}: {text.size} symbols to train on are less than one minibatch of {batch_size} rows of "
            f"{length}; lower batch_size or length, or give more text"
        )


def _trained(task: LanguageTask, base: BaseModel) -> Tree:
    """Return the parameters that fine-tuning starts from."""

    @jax.jit
    def train(key: Key, arrays: Tree) -> Tree:
        real = task.text.draw(stream(key, "real"), arrays, base.rows, task.network.length)
        return base.fit(stream(key, "fit"), batch.make_batch(real), None)

    return train(jax.random.key(0, impl="threefry2x32"), jax.tree.map(jnp.asarray, task.text.arrays))


@on_host
def _world(task: LanguageTask, base: BaseModel | None, trained: bool) -> World:
    """Return the world; with a base model that is not `trained`, only its shapes."""
    text = task.text
    test = text.held_out(task.num_test, task.network.length)
    truth = truth_of_text(text, test, task.ngram)
    arrays = jax.tree.map(jnp.asarray, text.arrays)
    if base is None:
        return World(LanguageReal(arrays, None, None), truth, jnp.asarray(test))
    net = _trained(task, base) if trained else jax.eval_shape(partial(_trained, task, base))
    recipe = {str(base.other): jnp.asarray(base.rates)}  # a key, since a leaf must be an array
    return World(LanguageReal(arrays, net, recipe), truth, jnp.asarray(test))


def _init(task: LanguageTask, net_init: Callable[[Key], Tree], key: Key, world: World) -> LanguageModelParams:
    net = net_init(key)
    prompts = None
    if task.prompt:
        rows = task.text.draw(stream(key, "prompts"), world.real.text, _PROMPTS, task.network.length)
        prompts = rows[:, : task.prompt]
    return LanguageModelParams(net, net, jnp.int32(0), world.real.base, prompts)


def _fit(fit: Callable[..., Tree], key: Key, train: Batch, before: LanguageModelParams) -> LanguageModelParams:
    net = fit(key, train, before.net if before.base is None else before.base)
    first = jax.tree.map(lambda new, old: jnp.where(before.age == 0, new, old), net, before.first)
    return before._replace(net=net, first=first, age=before.age + 1)


def _summarize(task: LanguageTask, num_rows: int, world: World, train: Batch) -> Batch:
    """Return the set of the n-grams of some rows, or of sets, with room for those of `num_rows` rows or more."""
    if isinstance(train.items, text_metrics.GramSet):
        return text_metrics.build_gram_set(train, task.ngram, train.items.words.shape[-1] * text_metrics.WORD_BITS)
    rows, grams = train.weight.shape[0] * batch.num_rows(train), task.network.length - task.ngram + 1
    if task.gram_bits is None:
        bits = text_metrics.fit_gram_bits(max(rows, num_rows), grams, task.ngram)
        return text_metrics.build_gram_set(train, task.ngram, bits)
    text_metrics.check_gram_room(rows * grams, task.gram_bits)
    return text_metrics.build_gram_set(train, task.ngram, task.gram_bits)


def _sample(task: LanguageTask, key: Key, params: LanguageModelParams, num: int) -> Array:
    rows = nets.sequence_model.draw_rows(task.network, params.net, key, num, task.decoding, params.prompts)
    return rows.astype(smallest_unsigned_type(task.text.num_symbols))


def _observe(
    task: LanguageTask,
    key: Key,
    world: World,
    params: LanguageModelParams,
    known: text_metrics.GramSet | None,
    generated_NxL: Array,
) -> dict[str, Array]:
    truth, text = world.truth, task.text
    loss_NxL, confidence, is_right = nets.sequence_model.judge_symbols(task.network, params.net, world.test)
    first_NxL, _, _ = nets.sequence_model.judge_symbols(task.network, params.first, generated_NxL[: task.num_test])
    metrics = {
        "test_nll_per_symbol": loss_NxL.mean(),
        "calibration_error": text_metrics.calibration_error(confidence, is_right),
        "first_model_nll_per_symbol": first_NxL[:, task.prompt :].mean(),
        "sample_text": text_metrics.first_rows(generated_NxL, task.num_shown),
        **observe_rows(text, truth, known, generated_NxL[:, task.prompt :], task.ngram),
    }
    if truth.loss is not None:
        excess_N = loss_NxL.mean(1) - truth.loss
        metrics["forward_kl_per_symbol"] = excess_N.mean()
        metrics["forward_kl_per_symbol_error"] = excess_N.std() / max(excess_N.size - 1, 1) ** 0.5
    if truth.bytes_per_symbol is not None:
        metrics["bits_per_byte"] = metrics["test_nll_per_symbol"] / (np.log(2) * truth.bytes_per_symbol)
    return metrics
