"""Autoregressive language models: a small transformer that learns rows of symbols and writes the next generation's."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from collapse_jax import batch as B
from collapse_jax import text_metrics as T
from collapse_jax.check import check_at_least, check_choice, check_not_negative, check_positive
from collapse_jax.data import texts
from collapse_jax.data.tokens import smallest
from collapse_jax.functional import functional
from collapse_jax.gradient import SCHEDULES, adamw, fit_sgd
from collapse_jax.keys import stream
from collapse_jax.nets.decode import Decoding, decode
from collapse_jax.nets.transformer import Size, Transformer, empty_cache, initial, sized
from collapse_jax.types import Array, Batch, Key, Metric, Setting, Text, Tree, World

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
STARTS = ("init", "previous", "base")
_PROMPTS = 1024  # that a chain's generations begin with
_PAIRS = 1024  # symbols above which pairs of them are not counted
_MEMORY = 8 << 30  # bytes that chains side by side may take for their minibatches, on an accelerator

METRICS = (
    Metric("test_loss", "cross-entropy of the fit on held-out real rows", "nats a symbol", "definition", role="risk"),
    Metric("calibration_error", "expected calibration error on held-out real rows, 10 bins", "1", "arXiv 1706.04599"),
    Metric("first_loss", "cross-entropy of generation 1's model on the generated rows", "nats a symbol",
           "arXiv 2305.17493"),
    Metric("unigram_kl", "divergence of the generated rows' symbols from the real text's", "nats", "definition", "log"),
    Metric("bigram_kl", "the same of pairs of symbols", "nats", "definition", "log"),
    Metric("entropy", "of the generated rows' symbols", "nats", "definition"),
    Metric("distinct", "different n-grams of the generated rows, over all", "1", "arXiv 1510.03055"),
    Metric("repetition", "n-grams that came earlier in their own generated row, over all", "1", "arXiv 1908.04319"),
    Metric("vocabulary_alive", "symbols that some generated row holds", "symbols", "definition", role="tail"),
    Metric("zipf_exponent", "minus the slope of log frequency on log rank, generated symbols", "1", "definition"),
    Metric("novel_to_training", "share of generated n-grams absent from the training rows", "1", "definition"),
    Metric("novel_to_real", "share of generated n-grams absent from the real text", "1", "definition"),
    Metric("copied_from_training", "longest run of a generated row all of whose n-grams are in the training rows, mean",
           "symbols", "definition"),
    Metric("copied_from_real", "the same with the real text", "symbols", "definition"),
)  # fmt: skip
_OF_KNOWN = Metric("excess_loss", "test loss above that of the true law on the same rows", "nats a symbol",
                   "definition", role="excess_risk")  # fmt: skip
_OF_TEXT = Metric("bits_per_byte", "test loss in bits a byte of UTF-8", "bits a byte", "definition")


class Real(NamedTuple):
    """What real rows are drawn from, and the base model's parameters, where fits start from them."""

    text: Tree
    base: Tree


class Truth(NamedTuple):
    """What metrics compare with.

    Attributes:
      log_symbols: ``[V]``, log frequencies of the real text, half a count added to each.
      log_pairs: ``[V^2]``, the same of pairs; None for large V.
      grams: hashes of the real text's n-grams, in order.
      loss: of the true law on the test rows, where it is known.
    """

    log_symbols: Array
    log_pairs: Array | None
    grams: Array
    loss: Array | None


class Model(NamedTuple):
    """What a chain carries from fit to fit.

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


class Task(NamedTuple):
    """The parts that the functions of a setting share."""

    text: Text
    size: Size
    dtype: jnp.dtype
    apply: Callable[..., Tree]
    length: int
    prompt: int
    how: Decoding
    num_test: int
    ngram: int
    gram_bits: int
    num_shown: int
    rows_at_once: int


def language_model(
    text: Text | None = None,
    model: Literal["tiny", "nano", "gpt2"] = "tiny",
    length: int = 64,
    steps: int = 800,
    epochs: int | None = None,
    batch_size: int = 32,
    learning_rate: Array | float = 3e-3,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: int = 50,
    weight_decay: Array | float = 0.1,
    clip: Array | float = 1.0,
    start: Literal["init", "previous", "base"] = "init",
    base_steps: int = 2000,
    temperature: Array | float = 1.0,
    top_k: int = 0,
    top_p: Array | float = 1.0,
    min_p: Array | float = 0.0,
    prompt: int = 0,
    num_test: int = 256,
    ngram: int = 8,
    gram_bits: int = 2**22,
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
    rows are drawn symbol by symbol with a KV cache. n-grams of the training rows are kept as a set of hashes, a bit
    each, which metrics correct for chance hits: let `gram_bits` be several times the n-grams of a pool.

    Args:
      text: where real rows come from; default: the embedded plays, by character.
      model: sizes, each of which may be given apart (`width` and those below).
      length: symbols of a row: the context of the model.
      steps: per fit.
      epochs: passes over the pool in place of `steps`; costs then grow with the pool.
      batch_size: rows a step.
      learning_rate: AdamW's, after the warm-up; may be a tracer, as all floats here.
      schedule: ``"cosine"`` falls to 0 at the last step, ``"constant"`` stays.
      warmup: steps in which the rate rises linearly.
      weight_decay: of matrices (not of the scales of norms).
      clip: largest norm of a gradient.
      start: each fit starts ``"init"``: from fresh parameters; ``"previous"``: from the last generation's; ``"base"``:
        from one model trained on real rows for `base_steps`, which all chains share (fine-tuning, arXiv 2410.16713).
        Arguments that change the base cannot be axes of one sweep.
      base_steps: see `start`.
      temperature: of sampling; 0 takes the likeliest symbol. It divides the logits before the cuts that follow.
      top_k: only so many of the likeliest symbols; 0: all.
      top_p: the fewest likeliest symbols that have this probability together (nucleus sampling); 1: all.
      min_p: only symbols at least this times as likely as the likeliest; 0: all.
      prompt: symbols of real text that each generated row begins with, drawn for a chain 1,024 times and for a row
        once. They are part of the row, so that under any policy this share of the data stays real; metrics of what is
        generated look at what follows them.
      num_test: held-out rows; so many generated rows are looked at by ``first_loss``.
      ngram: n of ``distinct``, ``repetition``, novelty and copied runs.
      gram_bits: of the set of n-grams, a power of two.
      num_shown: generated rows that ``sample_text`` keeps, prompts included; NaN where there are fewer.
      dtype: of the arithmetic; parameters, softmax and loss are float32.
      remat: compute activations again in the backward pass instead of keeping them.
      rows_at_once: rows that are sampled or judged together: bounds the memory of the KV cache and of logits.
      width: of the stream between blocks.
      depth: blocks.
      heads: of attention; they divide the width.
      kv_heads: keys and values, shared by groups of heads.
      hidden: width of the feed-forward layer.
      activation: of the feed-forward layer.
      tied: whether symbols are read and written by one matrix.

    Raises:
      ValueError: a number out of range; sizes that do not divide; a text shorter than a row or than a minibatch, or
        with too little held out.
    """
    text = texts.shakespeare() if text is None else text
    given = {"width": width, "depth": depth, "heads": heads, "kv_heads": kv_heads, "hidden": hidden,
             "activation": activation, "tied": tied}  # fmt: skip
    size = sized(model, {k: v for k, v in given.items() if v is not None})
    how = Decoding(temperature, top_k, top_p, min_p)
    how.check()
    check_choice("dtype", dtype, tuple(DTYPES))
    _check_rows(text, length, batch_size, prompt, ngram, gram_bits)
    counts = {"num_test": num_test, "rows_at_once": rows_at_once, "base_steps": base_steps, "num_shown": num_shown}
    for name, number in counts.items():
        check_at_least(name, number, 1)
    by_nnx, apply = functional(lambda rngs: Transformer(text.num_symbols, size, DTYPES[dtype], remat, rngs=rngs))
    shapes = jax.eval_shape(by_nnx, jax.random.key(0))
    net_init = lambda key: initial(key, shapes, size.depth)  # noqa: E731
    task = Task(
        text, size, DTYPES[dtype], apply, length, prompt, how, num_test, ngram, gram_bits, num_shown, rows_at_once
    )
    check_choice("start", start, STARTS)
    check_not_negative("weight_decay", weight_decay)
    check_positive("learning_rate", learning_rate)
    check_positive("clip", clip)
    check_at_least("warmup", warmup, 0)
    check_choice("schedule", schedule, SCHEDULES)
    optimizer = partial(adamw, learning_rate, schedule, warmup, weight_decay, clip)
    train = partial(fit_sgd, partial(_loss, task), optimizer, init=net_init, batch_size=batch_size)
    base = partial(_base, task, train(steps=base_steps), base_steps * batch_size) if start == "base" else None
    fit = train(steps=steps, epochs=epochs, start="init" if start == "init" else "previous")
    return Setting(
        name="language_model",
        world=partial(_world, task, base),
        real=lambda key, world, num: text.draw(key, world.real.text, num, length),
        fit=partial(_fit, fit),
        sample=partial(_sample, task),
        observe=partial(_observe, task),
        metrics=(*_metrics(text), _of_rows(text, num_shown, length)),
        init=partial(_init, task, net_init),
        summarise=lambda world, batch: T.gram_set(batch, ngram, gram_bits),
        block_hint=_side_by_side(size, text.num_symbols, batch_size * length),
    )


def _check_rows(text: Text, length: int, batch_size: int, prompt: int, ngram: int, gram_bits: int) -> None:
    check_at_least("length", length, 2)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("ngram", ngram, 1, length)
    check_at_least("prompt", prompt, 0, length - ngram)
    check_at_least("gram_bits", gram_bits, T.WORD, 2**30)
    if gram_bits & (gram_bits - 1):
        raise ValueError(f"gram_bits must be a power of two, not {gram_bits}")
    if text.size is not None and text.size < length:
        raise ValueError(f"length must be at most the {text.size} symbols of {text.name} to train on, not {length}")
    if text.size is not None and text.size < batch_size * length:
        raise ValueError(
            f"{text.name}: {text.size} symbols to train on are less than one minibatch of {batch_size} rows of "
            f"{length}; lower batch_size or length, or give more text"
        )


def _side_by_side(size: Size, num_symbols: int, tokens: int) -> int:
    """Chains to run side by side: one on a CPU (blocks share its cores), as many as memory allows elsewhere."""
    if jax.default_backend() == "cpu":
        return 1
    stream_columns = size.depth * (12 * size.width + 3 * size.hidden) + 3 * num_symbols
    weights = size.depth * size.width * (4 * size.width + 3 * size.hidden) + num_symbols * size.width
    return max(1, _MEMORY // (4 * (tokens * stream_columns + 6 * weights)))


def _metrics(text: Text) -> tuple[Metric, ...]:
    """With the baseline of the test loss: all symbols equally likely."""
    chosen = [m for m in METRICS if m.name != "bigram_kl" or text.num_symbols <= _PAIRS]
    chosen[0] = chosen[0]._replace(baseline=float(np.log(text.num_symbols)))
    known = [] if text.log_prob is None else [_OF_KNOWN]
    in_bytes = [] if text.bytes_per_symbol is None else [_OF_TEXT]
    return tuple(chosen[:1] + known + in_bytes + chosen[1:])


def _of_rows(text: Text, num_shown: int, length: int) -> Metric:
    """Rows, with what ``variables.texts_of`` reads them by."""
    symbols = [piece.decode("latin-1") for piece in text.pieces]
    dims = (("sample", num_shown), ("symbol", length))
    return Metric("sample_text", "the first generated rows", "symbols", "definition", dims=dims,
                  attrs={"symbols": symbols})  # fmt: skip


def _logits(task: Task, net: Tree, rows_NxL: Array) -> Array:
    """Of each symbol of each row from those before it, ``[N, L, V]``."""
    start_Nx1 = jnp.full((rows_NxL.shape[0], 1), task.text.num_symbols)
    return task.apply(net, jnp.concatenate([start_Nx1, rows_NxL[:, :-1].astype(int)], 1))[0]


def _loss(task: Task, net: Tree, key: Key, rows_NxL: Array) -> Array:
    logits = _logits(task, net, rows_NxL)
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows_NxL.astype(int)).mean()


def _base(task: Task, fit: Callable[..., Tree], rows: int) -> Tree:
    """The parameters that fine-tuning starts from."""

    @jax.jit
    def train(key: Key, arrays: Tree) -> Tree:
        real = task.text.draw(stream(key, "real"), arrays, rows, task.length)
        return fit(stream(key, "fit"), B.unit(real), None)

    return train(jax.random.key(0, impl="threefry2x32"), jax.tree.map(jnp.asarray, task.text.arrays))


def _world(task: Task, base: Callable[[], Tree] | None) -> World:
    text, size = task.text, task.text.num_symbols
    test = text.held_out(task.num_test, task.length)
    real = jnp.asarray(text.real_rows(task.length))
    log_of = lambda count: np.log(count + 0.5) - np.log((count + 0.5).sum())  # noqa: E731
    frequencies = jax.jit(T.frequencies, static_argnums=(1, 2))
    pairs = None if size > _PAIRS else jnp.asarray(log_of(np.asarray(frequencies(real, size, 1), float)), float)
    loss = None if text.log_prob is None else jnp.asarray(-text.log_prob(test).sum() / test.size, float)
    truth = Truth(
        jnp.asarray(log_of(np.asarray(frequencies(real, size, 0), float)), float),
        pairs,
        jnp.asarray(np.unique(np.asarray(T.hashes(real, task.ngram)))),
        loss,
    )
    arrays = jax.tree.map(jnp.asarray, text.arrays)
    return World(Real(arrays, None if base is None else base()), truth, jnp.asarray(test))


def _init(task: Task, net_init: Callable[[Key], Tree], key: Key, world: World) -> Model:
    net = net_init(key)
    prompts = None
    if task.prompt:
        prompts = task.text.draw(stream(key, "prompts"), world.real.text, _PROMPTS, task.length)[:, : task.prompt]
    return Model(net, net, jnp.int32(0), world.real.base, prompts)


def _fit(fit: Callable[..., Tree], key: Key, train: Batch, before: Model) -> Model:
    net = fit(key, train, before.net if before.base is None else before.base)
    first = jax.tree.map(lambda new, old: jnp.where(before.age == 0, new, old), net, before.first)
    return before._replace(net=net, first=first, age=before.age + 1)


def _sample(task: Task, key: Key, params: Model, num: int) -> Array:
    at_once = min(num, task.rows_at_once)
    cache = empty_cache(task.size, at_once, task.length, task.dtype)

    def some(key: Key) -> Array:
        prompt = jnp.zeros((at_once, 0), jnp.int32)
        if params.prompts is not None:
            drawn = jax.random.randint(stream(key, "prompt"), (at_once,), 0, _PROMPTS)
            prompt = params.prompts[drawn].astype(jnp.int32)
        start = task.text.num_symbols
        return decode(task.apply, params.net, stream(key, "symbols"), cache, start, prompt, task.length, task.how)

    rows = jax.lax.map(some, jax.random.split(key, -(-num // at_once)))
    return rows.reshape(-1, task.length)[:num].astype(smallest(task.text.num_symbols))


def _observe(
    task: Task, key: Key, world: World, params: Model, grams: T.GramSet, generated_NxL: Array
) -> dict[str, Array]:
    truth, n = world.truth, task.ngram
    loss, confidence, is_right = _judge(task, params.net, world.test)
    new_NxL = generated_NxL[:, task.prompt :]
    count = T.frequencies(new_NxL, task.text.num_symbols)
    value = T.hashes(new_NxL, n)
    in_training, in_real = T.is_in_set(value, grams), T.is_among(value, truth.grams)
    seen = {
        "test_loss": loss.mean(),
        "calibration_error": T.calibration_error(confidence, is_right),
        "first_loss": _judge(task, params.first, generated_NxL[: task.num_test])[0][:, task.prompt :].mean(),
        "unigram_kl": T.divergence(count, truth.log_symbols),
        "entropy": jax.scipy.special.entr(count / count.sum()).sum(),
        "distinct": T.distinct(value),
        "repetition": T.repetition(value),
        "vocabulary_alive": (count > 0).sum().astype(count.dtype),
        "zipf_exponent": T.zipf_exponent(count),
        "novel_to_training": T.novelty(in_training, T.filled(grams)),
        "novel_to_real": T.novelty(in_real),
        "copied_from_training": T.copied_run(in_training, n),
        "copied_from_real": T.copied_run(in_real, n),
        "sample_text": T.first(generated_NxL, task.num_shown),
    }
    if truth.log_pairs is not None:
        seen["bigram_kl"] = T.divergence(T.frequencies(new_NxL, task.text.num_symbols, 1), truth.log_pairs)
    if truth.loss is not None:
        seen["excess_loss"] = seen["test_loss"] - truth.loss
    if task.text.bytes_per_symbol is not None:
        seen["bits_per_byte"] = seen["test_loss"] / (np.log(2) * task.text.bytes_per_symbol)
    return seen


def _judge(task: Task, net: Tree, rows_NxL: Array) -> tuple[Array, Array, Array]:
    """Loss of each symbol, probability of the one thought likeliest, and whether it was right: ``[N, L]`` each."""

    def one(row_L: Array) -> tuple[Array, Array, Array]:
        log_LxV = jax.nn.log_softmax(_logits(task, net, row_L[None])[0])
        label_L = row_L.astype(int)
        loss_L = -jnp.take_along_axis(log_LxV, label_L[:, None], -1)[:, 0]
        return loss_L, jnp.exp(log_LxV.max(-1)), log_LxV.argmax(-1) == label_L

    return jax.lax.map(one, rows_NxL, batch_size=min(task.rows_at_once, rows_NxL.shape[0]))
