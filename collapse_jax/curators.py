"""What is done to a synthetic batch before it joins the data: rows are chosen, dropped, weighed or changed.

Real rows are never curated, so generation 1 is the same under every curator. `by` names the score of the setting
(``Extras.row_scores``) that rows are judged by. Every curator costs information or diversity: look at a metric of it
(``role`` ``log_variance``, ``diversity``, ``modes`` or ``tail``) beside the risk, as ``compare`` does.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.gradients import refuse_gradient
from collapse_jax.core.lineage import strip_roots
from collapse_jax.core.random import draw_uniforms, stream
from collapse_jax.core.registry import Call, register_curator
from collapse_jax.core.validation import is_traced, require_integer, require_number, require_share
from collapse_jax.numerics import order_selection
from collapse_jax.types import Array, Batch, Curator, Key, Setting, Tree, World

_CHOSEN = "a curator chooses rows"
_COUNTED = "a share of rows is counted"


@register_curator
def verify(keep_right: Array | float = 0.9, keep_wrong: Array | float = 0.1, k: int = 1, by: str = "right") -> Curator:
    """Keep rows that are right with one probability, wrong ones with another (arXiv 2406.07515).

    Of `k` candidates the first that passes is kept; where none does, the row is dropped. A batch of which nothing at
    all passes is kept whole. Right labels gain log(keep_right / keep_wrong) in log odds a generation, so that most of
    what is kept is right from an accuracy of keep_wrong / (keep_right + keep_wrong) on, and nearly all of it soon.
    Backfires below that accuracy: then errors are what is kept; and a verifier that keeps the likeliest labels alone
    takes the noise out of them, and with it their calibration: watch ``label_entropy``.

    Args:
      keep_right: Probability that a right row, of score above 1/2, passes.
      keep_wrong: Probability that a wrong row passes.
      k: Number of candidates for a row.
      by: Name of the score that says whether a row is right (1) or not (0).

    Raises:
      UsageError: a probability outside [0, 1], or k below 1.

    Example:
      >>> verify(k=3).oversample
      3
    """
    require_share("keep_right", keep_right)
    require_share("keep_wrong", keep_wrong)
    require_integer("k", k, 1)

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        candidates = refuse_gradient(candidates, _CHOSEN)
        right = score_of(setting, by, world, params, candidates) > 0.5
        share = refuse_gradient(jnp.where(right, keep_right, keep_wrong), _COUNTED)
        passes = draw_uniforms(key, right.shape) < share
        passes = passes & (_weight(candidates) > 0)
        chosen = _pick(candidates, num, passes.astype(float))
        there = passes.reshape(num, k).any(1)[None]
        weight = batch.full_weight(chosen)
        return chosen._replace(weight=weight * (there | ~there.any()).astype(weight.dtype))

    return Curator("verify", k, apply)


@register_curator
def best_of(k: int = 2, by: str | None = None) -> Curator:
    """Keep the best of `k` candidates: the limit of ``curate`` at a large strength (cf. arXiv 2407.09499).

    Of one normal column judged by its value, two leave 1 - 1/pi of the variance (``theory.selection``). Backfires:
    every choice narrows the law, whatever it is narrowed towards (selection without mutation); variance falls
    geometrically even where rows are unlimited: watch ``log_trace_ratio``, or the entropy of labels and symbols.

    Args:
      k: Number of candidates for a row; 1 changes nothing.
      by: Name of the score. The default is the setting's first.

    Raises:
      UsageError: k below 1.

    Example:
      >>> best_of(2, by="value").oversample
      2
    """
    require_integer("k", k, 1)

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        return _pick(candidates, num, score_of(setting, by, world, params, candidates))

    return Curator("best_of", k, apply)


@register_curator
def verifier(
    noise: Array | float = 1.0, bias: Array | float = 0.0, k: int = 2, by: str | None = None, towards: str = "value"
) -> Curator:
    """Keep the best of `k` candidates in the eyes of an imperfect judge.

    The judge sees score + bias * another score + noise * N(0, 1).

    Backfires: without noise it is ``best_of``, and as narrow; a biased judge leads every generation to where the two
    scores balance, however good it is at first (arXiv 2510.16657). Watch ``log_trace_ratio`` and the error of the mean.

    Args:
      noise: Standard deviation of the judge's error, in units of the score; a large one chooses at random.
      bias: How much the judge likes the score `towards`.
      k: Number of candidates for a row.
      by: Name of the score. The default is the setting's first.
      towards: Name of the score that a biased judge likes.

    Raises:
      UsageError: a noise below 0, a bias that is no number, or k below 1.

    Example:
      >>> verifier(noise=0.5, k=4).oversample
      4
    """
    require_number("noise", noise, 0)
    if not is_traced(bias):
        require_number("verifier: bias", bias)
    require_integer("k", k, 1)

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        judged = score_of(setting, by, world, params, candidates)
        liked = score_of(setting, towards, world, params, candidates)
        return _pick(candidates, num, judged + bias * liked + noise * jax.random.normal(key, judged.shape))

    return Curator("verifier", k, apply)


@register_curator
def curate(strength: Array | float = 1.0, k: int = 2, by: str | Sequence[str] | None = None) -> Curator:
    """Keep one of `k` candidates, chosen with probability in proportion to exp(strength * score): Bradley-Terry.

    These are users' choices among the outputs of a model (arXiv 2407.09499). For many candidates the law of generation
    T is that of generation 1 times exp((T - 1) strength * score). Of several scores each row is chosen by one, drawn at
    random: users who differ. Backfires: the expected reward grows while its variance dies; what no user likes dies
    first: watch ``log_trace_ratio`` and the modes alive. Only real rows that come with the batch hold it off.

    Args:
      strength: Strength of the preference: 0 chooses at random, a large one the best.
      k: Number of candidates for a row; 1 changes nothing.
      by: Name of the score, or names of several. The default is the setting's first.

    Raises:
      UsageError: a negative strength, k below 1, or no name in a list.

    Example:
      >>> curate(strength=2.0, k=4).oversample
      4
    """
    require_number("strength", strength, 0)
    require_integer("k", k, 1)
    names = [by] if by is None or isinstance(by, str) else list(by)
    if not names:
        raise UsageError("by must name at least one score, not []")

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        value = jnp.stack([score_of(setting, name, world, params, candidates) for name in names])
        user = jax.random.randint(stream(key, "user"), (num,), 0, len(names))
        liked = jnp.take_along_axis(value, jnp.repeat(user, k)[None], 0)[0]
        return _pick(candidates, num, strength * liked + jax.random.gumbel(key, liked.shape))

    return Curator("curate", k, apply)


@register_curator
def top_fraction(fraction: Array | float = 0.5, by: str | None = None) -> Curator:
    """Keep the best rows of a batch, a share of it; the others are dropped, so that fits see fewer rows.

    Backfires: truncation narrows the law faster than ``best_of`` does (a normal column keeps 0.36 of its variance when
    its upper half is kept; of n rows see ``theory.selection``), and what is left is small as well as narrow: watch
    ``log_trace_ratio``.

    Args:
      fraction: Share of the batch that is kept, rounded up, one row at least; 1 changes nothing.
      by: Name of the score. The default is the setting's first.

    Raises:
      UsageError: a fraction outside [0, 1].

    Example:
      >>> top_fraction(0.3).name
      'top_fraction'
    """
    require_share("fraction", fraction)

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        candidates = refuse_gradient(candidates, _CHOSEN)
        value = _of_present(candidates, score_of(setting, by, world, params, candidates))
        present = (_weight(candidates) > 0).sum(dtype=float)
        share = refuse_gradient(fraction * present, _COUNTED)
        kept = jnp.maximum(jnp.ceil(share - 1e-4), 1)  # slack: no float is 0.7 exactly
        is_kept = order_selection.select_largest(value, kept)
        return batch.scale_weights(candidates._replace(weight=batch.full_weight(candidates)), is_kept)

    return Curator("top_fraction", 1, apply)


@register_curator
def detect(accuracy: Array | float = 0.8, power: Array | float = 1.0) -> Curator:
    """Weigh rows by what a detector of synthetic rows believes of them, to some power (arXiv 2502.15654).

    The detector is right about a row with probability `accuracy`, and says so: a row is real with probability
    `accuracy` or 1 - `accuracy`. A training row's weight is that probability to the given power, over the mean of what
    real rows get, which therefore keep weight 1 (that some of them are flagged costs real rows in truth, and not here).
    Backfires: beside no real rows it only throws rows away; and a weight of 0 on all that is synthetic gives up what
    accumulated rows are worth. It is blind to what rows are, so diversity is lost as from fewer rows: watch
    ``log_trace_ratio``.

    Args:
      accuracy: Accuracy of the detector, above 0 and below 1; 1/2 tells nothing, and changes nothing.
      power: Power of its belief; 0 changes nothing.

    Raises:
      UsageError: an accuracy or a power out of range.

    Example:
      >>> detect(accuracy=0.9).oversample
      1
    """
    if not is_traced(accuracy):
        require_number("detect: accuracy", accuracy, above=0, below=1)
    require_number("power", power, 0)

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        flags = draw_uniforms(key, (1, num)) < refuse_gradient(accuracy, _COUNTED)
        passed, flagged = jnp.asarray(accuracy, float) ** power, jnp.asarray(1 - accuracy, float) ** power
        of_real = accuracy * passed + (1 - accuracy) * flagged
        return candidates._replace(weight=batch.full_weight(candidates) * jnp.where(flags, flagged, passed) / of_real)

    return Curator("detect", 1, apply)


@register_curator
def self_correct(strength: Array | float = 1.0) -> Curator:
    """Correct a batch ideally: its law becomes (fit + strength * real) / (1 + strength) (arXiv 2402.07087).

    Each row is replaced by a real one with probability strength / (1 + strength). Backfires: never, being ideal; what
    a correction by an expert gains at most. ``log_trace_ratio`` stays where the real rows are enough.

    Args:
      strength: Strength gamma of the correction, at least 0; 0 changes nothing.

    Raises:
      UsageError: a negative strength.

    Example:
      >>> self_correct(1.0).real_rows
      0.5
    """
    require_number("strength", strength, 0)

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        share = refuse_gradient(strength, _COUNTED)
        corrected = draw_uniforms(stream(key, "choice"), (num,)) * (1 + share) < share
        return _with_real(setting, key, world, candidates, corrected)

    return Curator("self_correct", 1, apply, strength / (1 + strength))


@register_curator
def edit(fraction: Array | float = 0.5) -> Curator:
    """Replace the batch by new real rows in which the fit draws a share of the symbols anew (arXiv 2412.14689).

    This is semi-synthetic text. Each symbol is drawn given the real ones before it; what every row is given to begin
    with stays. The synthetic rows themselves are not used, so errors do not add up over a row. Backfires: it needs as
    many real rows as it gives; a real symbol after a new one does not follow from it, so a Markov chain's entropy
    doubles at fraction 1/2 (configs/strategies/markov.yaml); and at fraction 1 each symbol still follows a real
    context, which no model's own text does. Watch ``entropy_rate``, which here may grow.

    Args:
      fraction: Probability that a symbol is drawn anew; 0 leaves real rows.

    Raises:
      UsageError: a fraction outside [0, 1], or (when used) a setting whose rows are no sequences.

    Example:
      >>> edit(0.2).real_rows
      1.0
    """
    require_share("fraction", fraction)

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        if setting.extras.rewrite is None:
            raise UsageError(f"curator edit: rows of setting {setting.name} are no sequences that a fit can rewrite")
        real = setting.sample_real(stream(key, "real"), world, num)
        rows = setting.extras.rewrite(stream(key, "rewrite"), params, real, refuse_gradient(fraction, _COUNTED))
        return candidates._replace(items=rows.astype(candidates.items.dtype)[None])

    return Curator("edit", 1, apply, 1.0)


@register_curator
def diverse(k: int = 2) -> Curator:
    """Keep the one of `k` candidates farthest from all rows already chosen, row after row (cf. arXiv 2511.12742).

    Distances are Euclidean where rows are numbers, and count differing symbols or labels; a row's ancestor does not
    count. A batch of n rows costs n comparisons of each of its n k candidates whose turn is to come: in large batches
    a row costs more. Backfires: outliers are far from everything, so errors of the fit are preferred, and variance
    grows from generation to generation: watch ``log_trace_ratio``, whose sign is the other one here.

    Args:
      k: Number of candidates for a row; 1 changes nothing.

    Raises:
      UsageError: k below 1.

    Example:
      >>> diverse(k=3).oversample
      3
    """
    require_integer("k", k, 1)

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        present = _of_present(candidates, jnp.full(num * k, jnp.inf))
        return _pick(
            candidates,
            num,
            order_selection.select_farthest(batch.weighted_rows(strip_roots(candidates))[0], present, k),
        )

    return Curator("diverse", k, apply)


def then(*curators: Curator) -> Curator:
    """Apply one curator after another: what the first keeps are the candidates of the next; factors multiply.

    Raises:
      UsageError: none are given.

    Example:
      >>> both = then(best_of(2), diverse(3))
      >>> both.name, both.oversample
      ('best_of then diverse', 6)
    """
    if not curators:
        raise UsageError("then needs at least one curator")

    def apply(setting: Setting, key: Key, world: World, params: Tree, candidates: Batch, num: int) -> Batch:
        for i, (curator, left) in enumerate(zip(curators, kept, strict=True)):
            candidates = curator.apply(setting, jax.random.fold_in(key, i), world, params, candidates, left * num)
        return candidates

    kept = [math.prod(c.oversample for c in curators[i + 1 :]) for i in range(len(curators))]
    real = sum(c.real_rows * left for c, left in zip(curators, kept, strict=True))
    made = Curator(" then ".join(c.name for c in curators), kept[0] * curators[0].oversample, apply, real)
    return made._replace(call=Call("curator", "then", {"curators": curators}, then, made))


def score_of(setting: Setting, by: str | None, world: World, params: Tree, candidates: Batch) -> Array:
    """Return what the setting thinks of each candidate, ``[m]``.

    Raises:
      UsageError: the setting has no such score, or none at all.
    """
    if not setting.extras.row_scores or (by is not None and by not in setting.extras.row_scores):
        known = f"one of {', '.join(setting.extras.row_scores)}" if setting.extras.row_scores else "it has none"
        raise UsageError(f"by: setting {setting.name} has no score {by or 'to judge rows by'!r}; {known}")
    name = next(iter(setting.extras.row_scores)) if by is None else by
    return setting.extras.row_scores[name](world, params, batch.weighted_rows(candidates)[0])


def _weight(candidates: Batch) -> Array:
    return batch.full_weight(candidates)[0]


def _of_present(candidates: Batch, value: Array) -> Array:
    """Return `value`, but -inf at rows of weight 0 and finite at others, so that any row is better than none."""
    finite = jnp.nan_to_num(value, nan=jnp.finfo(value.dtype).min)
    return jnp.where(_weight(candidates) > 0, finite, -jnp.inf)


def _pick(candidates: Batch, num: int, value: Array) -> Batch:
    """Return, of the candidates for each of `num` rows, the one of greatest value."""
    k = value.shape[0] // num
    if k == 1:
        return candidates
    candidates, value = refuse_gradient((candidates, value), _CHOSEN)
    best = _of_present(candidates, value).reshape(num, k).argmax(1) + k * jnp.arange(num)
    items = batch.take_rows(batch.weighted_rows(candidates)[0], best)
    weight = candidates.weight if candidates.weight.shape[1] == 1 else candidates.weight[:, best]
    return Batch(jax.tree.map(lambda x: x[None], items), weight)


def _with_real(setting: Setting, key: Key, world: World, candidates: Batch, where: Array) -> Batch:
    """Return the candidates, but with new real rows of weight 1 at the places `where`."""
    real = setting.sample_real(stream(key, "real"), world, where.size)

    def put(row: Array, real_row: Array) -> Array:
        return jnp.where(where.reshape(1, -1, *[1] * (row.ndim - 2)), real_row[None].astype(row.dtype), row)

    return Batch(jax.tree.map(put, candidates.items, real), jnp.where(where, 1.0, batch.full_weight(candidates)))


__all__ = ["best_of", "curate", "detect", "diverse", "edit", "score_of", "self_correct", "then", "top_fraction",
           "verifier", "verify"]  # fmt: skip
