"""What is measured of a language model: its metrics, and what they compare with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.validation import is_traced
from collapse_jax.metrics import text as text_metrics
from collapse_jax.types import Array, LogProbabilityFn, Metric, Text

MAX_CHANCE_SHARE = 0.01  # of the length of copied runs that chance hits may make up
_MAX_KNOWN_SYMBOLS = 256  # symbols up to which a law is asked for the probabilities of all pairs
_MAX_COUNTED = 2**22  # symbols of a text that its simple models are estimated from
MAX_PAIRED_SYMBOLS = 1024  # symbols above which pairs of them are not counted

METRICS = (
    Metric("test_nll_per_symbol", "mean negative log likelihood of held-out real rows", "nats a symbol", "definition",
           role="risk"),
    Metric("calibration_error", "expected calibration error on held-out real rows, 10 bins", "1", "arXiv 1706.04599"),
    Metric("first_model_nll_per_symbol",
           "mean negative log likelihood of the generated rows under generation 1's model", "nats a symbol",
           "arXiv 2305.17493"),
    Metric("unigram_kl", "divergence of the generated rows' symbols from the real text's", "nats", "definition", "log"),
    Metric("bigram_kl", "divergence of the generated rows' pairs of symbols from the real text's", "nats", "definition",
           "log"),
    Metric("unigram_entropy", "entropy of the generated rows' symbols", "nats", "definition"),
    Metric("distinct", "different n-grams of the generated rows, over all", "1", "arXiv 1510.03055"),
    Metric("repetition", "n-grams that came earlier in their own generated row, over all", "1", "arXiv 1908.04319"),
    Metric("generated_symbols_alive", "symbols that some generated row holds", "symbols", "definition", role="tail"),
    Metric("zipf_exponent", "minus the slope of log frequency on log rank, generated symbols", "1", "definition"),
    Metric("novel_to_training", "share of generated n-grams absent from the training rows", "1", "definition"),
    Metric("chance_hit", "probability that an n-gram absent from the training rows seems to be there", "1",
           "doi:10.1145/362686.362692"),
    Metric("novel_to_real", "share of generated n-grams absent from the real text", "1", "definition"),
    Metric("copied_from_training", "longest run of a generated row all of whose n-grams are in the training rows, mean "
           "(NaN: more than 1% of it is chance)", "symbols", "definition"),
    Metric("copied_from_real", "longest run of a generated row all of whose n-grams are in the real text, mean",
           "symbols", "definition"),
)  # fmt: skip
_OF_SETS = ("novel_to_training", "chance_hit", "copied_from_training")
_OF_KNOWN = (
    Metric("forward_kl_per_symbol", "Kullback-Leibler divergence KL(truth | fit), its mean over held-out real rows",
           "nats a symbol", "definition", "log", "excess_risk"),
    Metric("forward_kl_per_symbol_error", "standard error of forward_kl_per_symbol over held-out rows", "nats a symbol",
           "definition"),
)  # fmt: skip
_OF_TEXT = Metric(
    "bits_per_byte", "test_nll_per_symbol in bits a byte of UTF-8 of the held-out rows", "bits a byte", "definition"
)


class LanguageTruth(NamedTuple):
    """What metrics compare with.

    Attributes:
      log_symbols: log frequencies of the real text's symbols, half a count added to each, ``[V]``.
      log_pairs: log frequencies of its pairs of symbols, ``[V^2]``; None for large V.
      grams: the real text's n-grams, in order.
      loss: loss of the true law a symbol of each test row, ``[num_test]``, or None where it is not known.
      bytes_per_symbol: bytes of UTF-8 a symbol of the test rows, or None where symbols are no text.
    """

    log_symbols: Array
    log_pairs: Array | None
    grams: text_metrics.Grams
    loss: Array | None
    bytes_per_symbol: Array | None


def simple_losses(text: Text, num_test: int, length: int) -> dict[str, float]:
    """Return the losses a symbol of models that learn little, by name, on the held-out rows of a test loss.

    ``uniform`` is log V. A finite text has those of its frequencies, half a count added to each: ``unigram`` of single
    symbols and, where there are few, ``bigram`` of a symbol after the one before it. A stationary law of few symbols
    has ``unigram`` alone, its expectation: pairs may be the whole law, and no model is better than that.

    Raises:
      UsageError: too little text is held out.
    """
    size = text.num_symbols
    losses = {"uniform": float(np.log(size))}
    if (
        text.log_prob is not None
        and size <= _MAX_KNOWN_SYMBOLS
        and not any(map(is_traced, jax.tree.leaves(text.arrays)))
    ):
        return losses | _losses_of_law(text.log_prob, size)
    if text.size is None or np.ndim(text.arrays) != 1:
        return losses
    train = np.asarray(text.arrays)[:_MAX_COUNTED].astype(np.int64)
    test = np.asarray(text.held_out(num_test, length)).astype(np.int64)
    count = np.bincount(train, minlength=size) + 0.5
    log_symbol = np.log(count / count.sum())[test]
    losses["unigram"] = -float(log_symbol.mean())
    if size <= MAX_PAIRED_SYMBOLS:
        pairs = (np.bincount(train[:-1] * size + train[1:], minlength=size**2) + 0.5).reshape(size, size)
        log_next = np.log(pairs / pairs.sum(1, keepdims=True))[test[:, :-1], test[:, 1:]]
        losses["bigram"] = -float(log_symbol[:, 0].sum() + log_next.sum()) / test.size
    return losses


def _losses_of_law(log_prob: LogProbabilityFn, size: int) -> dict[str, float]:
    """Return the expected loss of a law's own frequencies; none where these change along a row."""
    first = np.exp(log_prob(np.arange(size)[:, None]))
    pairs = np.exp(log_prob(np.indices((size, size)).reshape(2, -1).T)).reshape(size, size)
    if not np.allclose(pairs.sum(0), first, atol=1e-9):
        return {}
    return {"unigram": -float((first[first > 0] * np.log(first[first > 0])).sum())}


def metrics_of_text(text: Text, has_set: bool, losses: dict[str, float]) -> tuple[Metric, ...]:
    """Return the metrics that a text has, with or without those of a set of n-grams.

    The baseline of the test loss is the least of the `losses` of simple models, which are attributes each.
    """
    chosen = [m for m in METRICS if m.name != "bigram_kl" or text.num_symbols <= MAX_PAIRED_SYMBOLS]
    chosen = [m for m in chosen if has_set or m.name not in _OF_SETS]
    attrs = {f"baseline_{name}": loss for name, loss in losses.items()}
    chosen[0] = chosen[0]._replace(baseline=min(losses.values()), attrs=attrs)
    known = () if text.log_prob is None else _OF_KNOWN
    in_bytes = () if text.bytes_per_symbol is None else (_OF_TEXT,)
    return (*chosen[:1], *known, *in_bytes, *chosen[1:])


def truth_of_text(text: Text, test_NxL: np.ndarray, ngram: int) -> LanguageTruth:
    """Return what metrics compare with, for held-out rows `test_NxL`."""
    length, size = test_NxL.shape[1], text.num_symbols
    real = text.real_rows(length)
    frequencies = jax.jit(text_metrics.count_symbols, static_argnums=(1, 2))

    def log_share(order: int) -> Array:
        count = np.asarray(frequencies(real, size, order)) + 0.5
        return jnp.asarray(np.log(count) - np.log(count.sum()), float)

    loss = None if text.log_prob is None else jnp.asarray(-text.log_prob(test_NxL) / length, float)
    log_pairs = None if size > MAX_PAIRED_SYMBOLS else log_share(1)
    in_bytes = None
    if text.bytes_per_symbol is not None:
        in_bytes = jnp.asarray(np.array([len(piece) for piece in text.pieces])[test_NxL].mean(), float)
    return LanguageTruth(log_share(0), log_pairs, text_metrics.order_grams(real, ngram), loss, in_bytes)


def observe_rows(
    text: Text, truth: LanguageTruth, known: text_metrics.GramSet | None, new_NxL: Array, ngram: int
) -> dict[str, Array]:
    """Return the metrics of generated rows; `known` is the set of the training rows' n-grams, or None."""
    count = text_metrics.count_symbols(new_NxL, text.num_symbols)
    grams = text_metrics.hash_grams(new_NxL, ngram)
    in_real = text_metrics.is_among(grams, truth.grams)
    metrics = {
        "unigram_kl": text_metrics.kl_divergence(count, truth.log_symbols),
        "unigram_entropy": jax.scipy.special.entr(count / count.sum()).sum(),
        "distinct": text_metrics.distinct_share(grams),
        "repetition": text_metrics.repeated_share(grams),
        "generated_symbols_alive": (count > 0).sum().astype(float),
        "zipf_exponent": text_metrics.zipf_exponent(count),
        "novel_to_real": text_metrics.novel_share(in_real),
        "copied_from_real": text_metrics.copied_run_length(in_real, ngram),
    }
    if known is not None:
        in_training = text_metrics.is_in_set(grams, known)
        metrics["chance_hit"] = text_metrics.chance_hit_probability(known)
        metrics["novel_to_training"] = text_metrics.novel_share(in_training, metrics["chance_hit"])
        length = text_metrics.copied_run_length(in_training, ngram)
        by_chance = text_metrics.chance_run_length(in_training, ngram, metrics["chance_hit"])
        # Beyond first order nothing is corrected; of rows that copy less than a symbol, the limit is in symbols.
        is_known = by_chance <= MAX_CHANCE_SHARE * jnp.maximum(length, 1.0)
        metrics["copied_from_training"] = jnp.where(is_known, length - by_chance, jnp.nan)
    if truth.log_pairs is not None:
        pairs = text_metrics.count_symbols(new_NxL, text.num_symbols, 1)
        metrics["bigram_kl"] = text_metrics.kl_divergence(pairs, truth.log_pairs)
    return metrics
