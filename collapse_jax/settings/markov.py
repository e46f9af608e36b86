"""Language models that count: each symbol's frequencies after the few that precede it (n-grams)."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_choice, require_integer, require_number
from collapse_jax.core.worlds import on_host
from collapse_jax.data import markov_texts
from collapse_jax.data.markov_texts import Language
from collapse_jax.metrics import row_scores, text
from collapse_jax.types import (
    Array,
    Batch,
    Extras,
    Info,
    Key,
    Metric,
    Setting,
    SufficientStatistics,
    Symbols,
    Tree,
    World,
)

METRICS = (
    Metric("test_nll_per_symbol",
           "mean negative log likelihood of real sequences: of the table's law, or of held-out text", "nats a symbol",
           "definition", role="risk"),
    Metric("entropy_rate", "entropy of the fit's next symbol, averaged over the contexts of the training rows",
           "nats a symbol", "definition", "log", "diversity"),
    Metric("training_symbols_alive", "symbols that some training row holds after a context", "symbols", "definition",
           "log", "tail"),
    Metric("gini_simpson", "probability that two symbols of the training rows, each after a context, differ", "1",
           "1 - sum p^2", "log"),
    Metric("transitions_alive", "pairs of a context and its next symbol in the training rows", "transitions",
           "definition", "log"),
    Metric("forced_share", "share of the training rows' contexts that only one symbol ever follows: text that an "
           "unsmoothed fit repeats word for word", "1", "definition"),
)  # fmt: skip
_OF_TABLES = Metric(
    "forward_kl_per_symbol",
    "Kullback-Leibler divergence KL(truth | fit)",
    "nats a symbol",
    "definition",
    "log",
    "excess_risk",
)
_OF_TEXTS = Metric(
    "copied_from_real", "longest run of a generated row all of whose n-grams are in the text that real rows are drawn "
    "from (of the plays the first nine tenths), mean over 8 rows; n is 8, or order + 2 if larger, and at most the "
    "row's length",
    "symbols", "definition",
)  # fmt: skip

LANGUAGES = {"sparse": markov_texts.sparse_language, "shakespeare": markov_texts.shakespeare_language}
_LARGEST = 2**24  # entries of a table of counts
_GRAM = 8  # symbols of the shortest copy that is told from chance
_NEW = 8  # rows that are looked at for copies


class Counts(NamedTuple):
    """What one row holds on average: ``[V^order, V]``, how often each symbol (column) follows each context (row)."""

    mean: Array


class MarkovModel(NamedTuple):
    """Counts of all training rows ``[V^order, V]``, and what is added to each."""

    counts: Array
    smoothing: Array


class MarkovTruth(NamedTuple):
    """What is known of real sequences.

    Attributes:
      grams: ``[V^order, V]``, shares of all places.
      log_next: ``[V^order, V]``, log probabilities of the next symbol, or None where nobody knows them.
      copies: the n-grams of the text that rows are drawn from, in order, or None where there is no text.
    """

    grams: Array
    log_next: Array | None
    copies: text.Grams | None


@register_setting
def markov(
    order: int = 1,
    smoothing: Array | float = 0.01,
    length: int = 64,
    language: Language | Literal["sparse", "shakespeare"] = "sparse",
) -> Setting:
    """Fit a Markov chain of some order by counting; a row is a sequence of symbols.

    A sampled row starts in a context drawn as often as it occurs in the training rows, and goes on from there. A
    context that was never seen to go on (it ends a row) is followed by any symbol: as often as that occurs, or with
    smoothing all alike. Counts are sufficient: pools fold into one table, of V^(order + 1) floats, whatever their age.

    Args:
      order: Number of symbols of context; 0 forgets all.
      smoothing: Number added to every count. 0 is maximum likelihood, under which what once died out stays dead, and
        ``test_nll_per_symbol`` and ``forward_kl_per_symbol`` are infinite as soon as a real transition is lost. A
        smoothing above 0 adds as much again in every generation, and so drifts to uniform symbols.
      length: Number of symbols of a row.
      language: The real law: ``shakespeare``, ``sparse`` (a random table of 8 symbols with 3 successors each), or in
        Python one of ``data.markov_texts``. ``forward_kl_per_symbol`` exists for tables, and is exact for orders of 1
        and more; ``copied_from_real`` for texts (an upper bound of what is copied word for word: n-grams may come from
        different places).

    Raises:
      UsageError: a number out of range, another language, or a table of counts above 2^24 entries.

    Example:
      >>> from collapse_jax import policies, run
      >>> runs = run(markov(length=8), policies.replace(), num_samples=20, num_generations=3, num_chains=2)
      >>> bool((runs.training_symbols_alive <= 8).all())
      True
    """
    require_integer("order", order, 0)
    require_integer("length", length, order + 1)
    require_number("smoothing", smoothing, 0)
    if isinstance(language, str):
        require_choice("language", language, tuple(LANGUAGES))
        language = LANGUAGES[language]()
    elif not isinstance(language, Language):
        raise UsageError(f"language must be one of {', '.join(LANGUAGES)} or a Language, not {language!r}")
    size = language.num_symbols
    if size ** (order + 1) > _LARGEST:
        raise UsageError(f"order must be lower: {size}^{order + 1} counts are more than {_LARGEST}")
    compress, sample = partial(_compress, order, size), partial(_sample, order, length)
    gram = min(max(_GRAM, order + 2), length)
    # Rows of a single gram are symbols of a larger alphabet, whose law a table tells.
    single = length == order + 1 and language.table is not None
    return Setting(
        name="markov",
        world=partial(_world, language, order, gram),
        sample_real=lambda key, world, num: language.draw(key, world.real, num, length),
        fit=partial(_fit, compress, smoothing),
        sample=sample,
        observe=partial(_observe, sample, gram),
        metrics=_metrics(language, order),
        statistics=SufficientStatistics(compress, partial(_sample_statistics, compress, sample)),
        extras=Extras(
            rewrite=partial(_rewrite, order),
            row_scores={"likelihood": partial(_likelihood, order, size), "value": row_scores.score_mean_symbol},
        ),
        info=Info(source=Symbols(language.name, language.grams(order).reshape(-1)) if single else None),
    )


def _metrics(language: Language, order: int) -> tuple[Metric, ...]:
    """Return the metrics, with the trivial baseline of a risk: all symbols alike."""
    alike = float(np.log(language.num_symbols))
    return (
        *([] if language.table is None or order == 0 else [_OF_TABLES]),
        *(m._replace(baseline=alike) if m.role == "risk" else m for m in METRICS),
        *([] if language.text is None else [_OF_TEXTS]),
    )


@on_host
def _world(language: Language, order: int, gram: int) -> World:
    log_next = None
    if language.table is not None and order > 0:
        with np.errstate(divide="ignore"):
            log_next = jnp.asarray(np.log(np.tile(language.table, (language.num_symbols ** (order - 1), 1))))
    copies = None
    if language.text is not None:
        copies = text.order_grams(np.asarray(language.text)[None], gram)
    truth = MarkovTruth(jnp.asarray(language.grams(order), float), log_next, copies)
    return World(jax.tree.map(jnp.asarray, language.arrays), truth, None)


def _compress(order: int, num_symbols: int, train: Batch) -> Batch:
    items, weight = batch.weighted_rows(train)
    mass = weight.sum()
    if not isinstance(items, Counts):
        mean = markov_texts.count_grams(items, weight, order, num_symbols) / jnp.where(mass > 0, mass, 1.0)
    elif weight.size == 1:
        mean = items.mean[0]
    else:
        share = (weight / jnp.where(mass > 0, mass, 1.0))[:, None, None]
        mean = jnp.where(share > 0, share * items.mean, 0.0).sum(0)
    return batch.make_batch(Counts(mean[None]), mass)


def _fit(compress: Tree, smoothing: Array | float, key: Key, train: Batch, start: Tree) -> MarkovModel:
    merged = compress(train)
    return MarkovModel(merged.weight[0, 0] * merged.items.mean[0, 0], jnp.asarray(smoothing, merged.weight.dtype))


def _weights(params: MarkovModel) -> Array:
    """Return weights of the next symbol after each context, not normalised."""
    weight = params.counts + params.smoothing
    return jnp.where(weight.sum(1, keepdims=True) > 0, weight, params.counts.sum(0))


def _sample(order: int, length: int, key: Key, params: MarkovModel, num: int) -> Array:
    key_context, key_walk = jax.random.split(key)
    num_symbols = params.counts.shape[1]
    context = markov_texts.draw_weighted(key_context, (params.counts + params.smoothing).sum(1), num)
    digits = [context // num_symbols**i % num_symbols for i in reversed(range(order))]
    rest = markov_texts.walk_chain(key_walk, markov_texts.cumulate_rows(_weights(params)), context, length - order)
    return jnp.concatenate([digit.astype(rest.dtype)[:, None] for digit in digits] + [rest], 1)


def _rewrite(order: int, key: Key, params: MarkovModel, rows_nxl: Array, fraction: Array | float) -> Array:
    """Draw a `fraction` of the symbols after the first `order` anew, each after the context that stands before it."""
    context = markov_texts.encode_contexts(rows_nxl[:, : order + 1], order, params.counts.shape[1])[:, 0]
    cumulative_cxv = markov_texts.cumulate_rows(_weights(params))
    rest = markov_texts.rewalk_chain(key, cumulative_cxv, context, rows_nxl[:, order:], fraction)
    return jnp.concatenate([rows_nxl[:, :order], rest.astype(rows_nxl.dtype)], 1)


def _likelihood(order: int, num_symbols: int, world: World, params: MarkovModel, rows_nxl: Array) -> Array:
    """Return the mean log probability of a row's symbols after their contexts in real sequences.

    What is never there counts as 1e-6.
    """
    grams = world.truth.grams
    share = grams / jnp.maximum(grams.sum(1, keepdims=True), jnp.finfo(grams.dtype).tiny)
    log_next = jnp.log(jnp.maximum(share, 1e-6))
    context_nxl = markov_texts.encode_contexts(rows_nxl, order, num_symbols)
    return log_next[context_nxl, rows_nxl[:, order:].astype(int)].mean(1)


def _sample_statistics(
    compress: Tree, sample: Tree, key: Key, params: MarkovModel, num: int, count: Array | int, exact: bool
) -> Counts:
    """Return the counts of rows, which are drawn either way: no law of counts is cheaper to draw."""
    rows = batch.make_batch(sample(key, params, num), jnp.arange(num) < count)
    return jax.tree.map(lambda x: x[0], compress(rows).items)


def _observe(
    sample: Callable[[Key, MarkovModel, int], Array],
    gram: int,
    key: Key,
    world: World,
    params: MarkovModel,
    summary: None,
    generated: Tree,
) -> dict[str, Array]:
    truth, weight, alive = world.truth, _weights(params), params.counts > 0
    log_next = jnp.log(weight) - jnp.log(weight.sum(1, keepdims=True))

    def mean_of(value: Array) -> Array:
        return jnp.where(truth.grams == 0, 0.0, truth.grams * value).sum()

    context, symbol = (params.counts.sum(i) / params.counts.sum() for i in (1, 0))
    metrics = {
        "test_nll_per_symbol": -mean_of(log_next),
        "entropy_rate": (context * jax.scipy.special.entr(jnp.exp(log_next)).sum(1)).sum(),
        "gini_simpson": (symbol * (1 - symbol)).sum(),
        "training_symbols_alive": alive.any(0).sum().astype(context.dtype),
        "transitions_alive": alive.sum().astype(context.dtype),
        "forced_share": jnp.where(alive.sum(1) == 1, context, 0.0).sum(),
    }
    if truth.log_next is not None:
        metrics["forward_kl_per_symbol"] = mean_of(truth.log_next - log_next)
    if truth.copies is not None:  # of rows of its own: where counts are kept, nobody sees the new ones
        grams = text.hash_grams(sample(key, params, _NEW), gram)
        metrics["copied_from_real"] = text.copied_run_length(text.is_among(grams, truth.copies), gram)
    return metrics
