"""Autoregressive language models: a small transformer that learns rows of symbols and writes the next generation's."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch as B
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_choice, require_flag, require_integer, require_number, require_positive
from collapse_jax.data import texts
from collapse_jax.data.tokens import smallest_unsigned_type
from collapse_jax.metrics import text as T
from collapse_jax.training.nets.sampling import Decoding
from collapse_jax.training.nets.sequence_model import (
    SequenceModel,
    draw_rows,
    judge_symbols,
    rewrite_rows,
    sequence_loss,
)
from collapse_jax.training.nets.transformer import Transformer, TransformerSize, draw_initial_parameters, resolve_size
from collapse_jax.training.nnx_functional import make_functional
from collapse_jax.training.sgd import SCHEDULES, check_warmup, fit_sgd, make_adamw
from collapse_jax.types import Array, Batch, Extras, Info, Key, Metric, Setting, Text, Tree, World

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
STARTS = ("init", "previous", "base")
_PROMPTS = 1024  # that a chain's generations begin with
_PAIRS = 1024  # symbols above which pairs of them are not counted

METRICS = (
    Metric("test_loss", "cross-entropy of the fit on held-out real rows", "nats a symbol", "definition", role="risk"),
    Metric("calibration_error", "expected calibration error on held-out real rows, 10 bins", "1", "arXiv 1706.04599"),
    Metric("first_loss", "cross-entropy of generation 1's model on the generated rows", "nats a symbol",
           "arXiv 2305.17493"),
    Metric("unigram_kl", "divergence of the generated rows' symbols from the real text's", "nats", "definition", "log"),
    Metric("bigram_kl", "divergence of the generated rows' pairs of symbols from the real text's", "nats", "definition",
           "log"),
    Metric("entropy", "entropy of the generated rows' symbols", "nats", "definition"),
    Metric("distinct", "different n-grams of the generated rows, over all", "1", "arXiv 1510.03055"),
    Metric("repetition", "n-grams that came earlier in their own generated row, over all", "1", "arXiv 1908.04319"),
    Metric("vocabulary_alive", "symbols that some generated row holds", "symbols", "definition", role="tail"),
    Metric("zipf_exponent", "minus the slope of log frequency on log rank, generated symbols", "1", "definition"),
    Metric("novel_to_training", "share of generated n-grams absent from the training rows", "1", "definition"),
    Metric("chance_hit", "probability that an n-gram absent from the training rows seems to be there", "1",
           "doi:10.1145/362686.362692"),
    Metric("novel_to_real", "share of generated n-grams absent from the real text", "1", "definition"),
    Metric("copied_from_training", "longest run of a generated row all of whose n-grams are in the training rows, mean",
           "symbols", "definition"),
    Metric("copied_from_real", "longest run of a generated row all of whose n-grams are in the real text, mean",
           "symbols",
           "definition"),
)  # fmt: skip
_OF_SETS = ("novel_to_training", "chance_hit", "copied_from_training")
_OF_KNOWN = (
    Metric("excess_loss", "test loss above that of the true law on the same rows", "nats a symbol", "definition",
           role="excess_risk"),
    Metric("excess_loss_error", "standard error of the excess loss over test rows", "nats a symbol", "definition"),
)  # fmt: skip
_OF_TEXT = Metric("bits_per_byte", "test loss in bits a byte of UTF-8", "bits a byte", "definition")


class LanguageReal(NamedTuple):
    """What real rows are drawn from, and the base model, where fits start from one.

    Attributes:
      text: the text's arrays.
      base: parameters, or None.
      recipe: ``{all else it was trained by: [rate, decay, clip]}``, or None; points share a base where theirs agree.
    """

    text: Tree
    base: Tree
    recipe: dict[str, Array] | None


class LanguageTruth(NamedTuple):
    """What metrics compare with.

    Attributes:
      log_symbols: ``[V]``, log frequencies of the real text, half a count added to each.
      log_pairs: ``[V^2]``, the same of pairs; None for large V.
      grams: the real text's n-grams, in order.
      loss: ``[num_test]``, of the true law a symbol of each test row, where it is known.
    """

    log_symbols: Array
    log_pairs: Array | None
    grams: T.Grams
    loss: Array | None


class LanguageModelParams(NamedTuple):
    """What a chain carries from fit to fit: two or three times a network's parameters.

    Attributes:
      net: the network's parameters.
      first: generation 1's.
      age: fits so far.
      base: what fits start from, or None: the last fit's, or fresh ones.
      prompts: ``[1024, P]``, real symbols that generated rows begin with, or None.
    """

    net: Tree
    first: Tree
    age: Array
    base: Tree
    prompts: Array | None


class BaseModel(NamedTuple):
    """How a base model is made: its fit, how many rows that sees, its rate, decay and clip, and all else."""

    fit: Callable[..., Tree]
    rows: int
    rates: tuple[Array | float, ...]
    other: tuple[int | str | TransformerSize, ...]


class LanguageTask(NamedTuple):
    """The parts that the functions of a setting share."""

    text: Text
    network: SequenceModel
    prompt: int
    how: Decoding
    num_test: int
    ngram: int
    gram_bits: int
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
    temperature: Array | float = 1.0,
    top_k: int = 0,
    top_p: Array | float = 1.0,
    min_p: Array | float = 0.0,
    prompt: int = 0,
    num_test: int = 256,
    ngram: int = 8,
    gram_bits: int = 2**24,
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
    """Transformer that reads and writes rows of `length` symbols, each row begun by a start symbol.

    A fit takes `steps` steps of AdamW on minibatches of the pool, whatever its size (or `epochs` passes over it). New
    rows are drawn symbol by symbol with a KV cache.

    n-grams of the training rows are kept as a Bloom filter, six bits each. One that is not there seems to be with
    probability ``chance_hit``, which ``novel_to_training`` is corrected for, and ``copied_from_training`` is not: a row
    of G n-grams that copied nothing counts as a copy of one with probability ``G * chance_hit``. Let `gram_bits` be 16
    times the different n-grams of a pool and that stays below 0.001; so many for one batch are required.

    Args:
      text: where real rows come from; default: the embedded plays, by character.
      model: a preset of sizes, which `width` and the arguments after it change one by one. "tiny" has 2 layers of width
        64 and 0.1 million parameters without the embedding, "nano" 6 layers of width 384 and 10.6 million,
        "decoder_124m" 12 layers of width 768 and 85.0 million (124 million with 50,257 symbols).
      length: symbols of a row: the context of the model.
      steps: per fit; default 800.
      epochs: passes over the pool (of as many rows, drawn with replacement) in place of `steps`; costs then grow with
        the pool.
      batch_size: rows a step.
      learning_rate: AdamW's, after the warm-up; may be a tracer, as all floats here.
      schedule: ``"cosine"`` falls to 0 at the last step, ``"constant"`` stays.
      warmup: steps in which the rate rises linearly: fewer than `steps` (with `epochs`, a fit of no more steps than
        these never reaches the rate).
      weight_decay: of matrices (not of the scales of norms).
      clip: largest norm of a gradient.
      start: each fit starts ``"init"``: from fresh parameters; ``"previous"``: from the last generation's; ``"base"``:
        from one model trained on real rows for `base_steps`, once for all chains and grid points that train it alike
        (fine-tuning, arXiv 2410.16713). Floats that change the base (rate, decay, clip) cannot be axes of one sweep.
      base_steps: see `start`; default 2000.
      temperature: of sampling; 0 takes the likeliest symbol. It divides the logits before the cuts that follow.
      top_k: only so many of the likeliest symbols; 0: all.
      top_p: of those, the fewest likeliest that have this share of their probability (nucleus sampling); 1: all.
      min_p: of those, the ones at least this times as likely as the likeliest; 0: all.
      prompt: symbols of real text that each generated row begins with, drawn for a chain 1,024 times and for a row
        once. They are part of the row, so that under any policy this share of the data stays real; metrics of what is
        generated look at what follows them.
      num_test: held-out rows; so many generated rows are looked at by ``first_loss``.
      ngram: n of ``distinct``, ``repetition``, novelty and copied runs.
      gram_bits: of the set of n-grams, a power of two; 0: no set, and no metric that needs one.
      num_shown: generated rows that ``sample_text`` keeps, prompts included; NaN where there are fewer.
      dtype: of the arithmetic; parameters, softmax and loss are float32.
      remat: compute activations again in the backward pass instead of keeping them.
      rows_at_once: rows that are sampled or judged together: bounds the memory of the KV cache.
      width: of the stream between blocks.
      depth: blocks.
      heads: of attention; they divide the width.
      kv_heads: keys and values, shared by groups of heads.
      hidden: width of the feed-forward layer.
      activation: of the feed-forward layer.
      tied: whether symbols are read and written by one matrix.

    Raises:
      UsageError: a number out of range; sizes that do not divide; a text shorter than a row or than a minibatch, or
        with too little held out; arguments of which one would be ignored; a set that a batch would overfill.
    """
    text = texts.shakespeare() if text is None else text
    if not isinstance(text, Text):
        raise UsageError(f"text must be a Text, such as data.texts.shakespeare(), not {text!r}")
    given = {"width": width, "depth": depth, "heads": heads, "kv_heads": kv_heads, "hidden": hidden,
             "activation": activation, "tied": tied}  # fmt: skip
    size = resolve_size(model, {k: v for k, v in given.items() if v is not None})
    how = Decoding(temperature, top_k, top_p, min_p)
    how.check()
    require_choice("dtype", dtype, tuple(DTYPES))
    require_flag("language_model: remat", remat)
    _check_rows(text, length, batch_size, prompt, ngram, gram_bits)
    for name, number in (("num_test", num_test), ("rows_at_once", rows_at_once), ("num_shown", num_shown)):
        require_integer(name, number, 1)
    steps = 800 if steps is None and epochs is None else steps
    base_steps = _check_training(start, base_steps, steps, warmup)
    by_nnx, apply = make_functional(lambda rngs: Transformer(text.num_symbols, size, DTYPES[dtype], remat, rngs=rngs))
    shapes = jax.eval_shape(by_nnx, jax.random.key(0))
    net_init = lambda key: draw_initial_parameters(key, shapes, size.depth)  # noqa: E731
    network = SequenceModel(apply, text.num_symbols, size, DTYPES[dtype], length, rows_at_once)
    task = LanguageTask(text, network, prompt, how, num_test, ngram, gram_bits, num_shown)
    require_number("weight_decay", weight_decay, 0)
    require_positive("learning_rate", learning_rate)
    require_positive("clip", clip)
    require_choice("schedule", schedule, SCHEDULES)
    optimizer = partial(make_adamw, learning_rate, schedule, warmup, weight_decay, clip)
    train = partial(fit_sgd, partial(sequence_loss, network), optimizer, init=net_init, batch_size=batch_size)
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
        metrics=(*_metrics(text, gram_bits), T.sample_text_metric(text, num_shown, length)),
        init=partial(_init, task, net_init),
        extras=Extras(
            summarize=partial(_summarize, task) if gram_bits else None,
            rewrite=lambda key, params, rows, part: rewrite_rows(network, params.net, key, rows, part, how, prompt),
            row_scores=T.SCORES,
        ),
        info=Info(
            largest_block=1 if jax.default_backend() == "cpu" else None,  # of a CPU, blocks share the cores
            world_shapes=None if base is None else partial(_world, task, base, trained=False),
        ),
    )


def _check_training(start: str, base_steps: int | None, steps: int | None, warmup: int) -> int:
    """How many steps a base model takes."""
    require_choice("start", start, STARTS)
    if base_steps is not None and start != "base":
        raise UsageError(f"base_steps is for start: base, not for {start}; leave it out")
    base_steps = 2000 if base_steps is None else base_steps
    require_integer("base_steps", base_steps, 1)
    check_warmup(warmup, steps=steps, base_steps=base_steps if start == "base" else None)
    return base_steps


def _check_rows(text: Text, length: int, batch_size: int, prompt: int, ngram: int, gram_bits: int) -> None:
    require_integer("length", length, 2)
    require_integer("batch_size", batch_size, 1)
    require_integer("ngram", ngram, 1, length)
    require_integer("prompt", prompt, 0, length - ngram)
    require_integer("gram_bits", gram_bits, T.WORD_BITS if gram_bits else 0, 2**30)
    if gram_bits & (gram_bits - 1):
        raise UsageError(f"gram_bits must be a power of two, not {gram_bits}")
    if text.size is not None and text.size < length:
        raise UsageError(f"length must be at most the {text.size} symbols of {text.name} to train on, not {length}")
    if text.size is not None and text.size < batch_size * length:
        raise UsageError(
            f"{text.name}: {text.size} symbols to train on are less than one minibatch of {batch_size} rows of "
            f"{length}; lower batch_size or length, or give more text"
        )


def _metrics(text: Text, gram_bits: int) -> tuple[Metric, ...]:
    """With the baseline of the test loss: all symbols equally likely."""
    chosen = [m for m in METRICS if m.name != "bigram_kl" or text.num_symbols <= _PAIRS]
    chosen = [m for m in chosen if gram_bits or m.name not in _OF_SETS]
    chosen[0] = chosen[0]._replace(baseline=float(np.log(text.num_symbols)))
    known = () if text.log_prob is None else _OF_KNOWN
    in_bytes = () if text.bytes_per_symbol is None else (_OF_TEXT,)
    return (*chosen[:1], *known, *in_bytes, *chosen[1:])


def _trained(task: LanguageTask, base: BaseModel) -> Tree:
    """The parameters that fine-tuning starts from."""

    @jax.jit
    def train(key: Key, arrays: Tree) -> Tree:
        real = task.text.draw(stream(key, "real"), arrays, base.rows, task.network.length)
        return base.fit(stream(key, "fit"), B.unit(real), None)

    return train(jax.random.key(0, impl="threefry2x32"), jax.tree.map(jnp.asarray, task.text.arrays))


def _world(task: LanguageTask, base: BaseModel | None, trained: bool) -> World:
    """With a base model that is not `trained`, only its shapes."""
    text, size = task.text, task.text.num_symbols
    test = text.held_out(task.num_test, task.network.length)
    real = text.real_rows(task.network.length)
    frequencies = jax.jit(T.count_symbols, static_argnums=(1, 2))

    def log_share(order: int) -> Array:
        count = np.asarray(frequencies(real, size, order)) + 0.5
        return jnp.asarray(np.log(count) - np.log(count.sum()), float)

    of_law = None if text.log_prob is None else jnp.asarray(-text.log_prob(test) / task.network.length, float)
    log_pairs = None if size > _PAIRS else log_share(1)
    truth = LanguageTruth(log_share(0), log_pairs, T.order_grams(real, task.ngram), of_law)
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


def _summarize(task: LanguageTask, world: World, batch: Batch) -> Batch:
    if not isinstance(batch.items, T.GramSet):
        rows = batch.weight.shape[0] * B.num_rows(batch)
        T.check_gram_room(rows * (task.network.length - task.ngram + 1), task.gram_bits)
    return T.build_gram_set(batch, task.ngram, task.gram_bits)


def _sample(task: LanguageTask, key: Key, params: LanguageModelParams, num: int) -> Array:
    rows = draw_rows(task.network, params.net, key, num, task.how, params.prompts)
    return rows.astype(smallest_unsigned_type(task.text.num_symbols))


def _observe(
    task: LanguageTask,
    key: Key,
    world: World,
    params: LanguageModelParams,
    known: T.GramSet | None,
    generated_NxL: Array,
) -> dict[str, Array]:
    truth, n = world.truth, task.ngram
    loss_NxL, confidence, is_right = judge_symbols(task.network, params.net, world.test)
    new_NxL = generated_NxL[:, task.prompt :]
    count = T.count_symbols(new_NxL, task.text.num_symbols)
    grams = T.hash_grams(new_NxL, n)
    in_real = T.is_among(grams, truth.grams)
    seen = {
        "test_loss": loss_NxL.mean(),
        "calibration_error": T.calibration_error(confidence, is_right),
        "first_loss": judge_symbols(task.network, params.first, generated_NxL[: task.num_test])[0][
            :, task.prompt :
        ].mean(),
        "unigram_kl": T.kl_divergence(count, truth.log_symbols),
        "entropy": jax.scipy.special.entr(count / count.sum()).sum(),
        "distinct": T.distinct_share(grams),
        "repetition": T.repeated_share(grams),
        "vocabulary_alive": (count > 0).sum().astype(float),
        "zipf_exponent": T.zipf_exponent(count),
        "novel_to_real": T.novel_share(in_real),
        "copied_from_real": T.copied_run_length(in_real, n),
        "sample_text": T.first_rows(generated_NxL, task.num_shown),
    }
    if known is not None:
        in_training, seen["chance_hit"] = T.is_in_set(grams, known), T.chance_hit_probability(known)
        seen["novel_to_training"] = T.novel_share(in_training, seen["chance_hit"])
        seen["copied_from_training"] = T.copied_run_length(in_training, n)
    if truth.log_pairs is not None:
        seen["bigram_kl"] = T.kl_divergence(T.count_symbols(new_NxL, task.text.num_symbols, 1), truth.log_pairs)
    if truth.loss is not None:
        excess_N = loss_NxL.mean(1) - truth.loss
        seen["excess_loss"] = excess_N.mean()
        seen["excess_loss_error"] = excess_N.std() / max(excess_N.size - 1, 1) ** 0.5
    if task.text.bytes_per_symbol is not None:
        seen["bits_per_byte"] = seen["test_loss"] / (np.log(2) * task.text.bytes_per_symbol)
    return seen
