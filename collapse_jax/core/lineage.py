"""Real ancestors: which of the real rows the rows of a later generation descend from.

For settings whose new rows each come from one training row (``Extras.sample_children``): neutral genealogies, where
lines die out by chance alone. Off unless a setting is made with ``lineage=True``; then rows are drawn and carry two
numbers each.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.types import (
    Array,
    Batch,
    Key,
    Metric,
    RewriteFn,
    RowScoreFn,
    Setting,
    SummarizeFn,
    Tree,
    World,
)

METRIC = Metric(
    "ancestors_alive", "different real ancestors of the training rows, over n", "1", "definition", "log", "ancestors"
)


class Descendant(NamedTuple):
    """Rows and their origin.

    Attributes:
      row: the rows as the setting has them, leaves ``[num, ...]``.
      root: the real ancestor of each, ``[num, 2]`` uint32: its batch's random number, and its place there.
    """

    row: Tree
    root: Array


class Fitted(NamedTuple):
    """A fit, and the rows that it saw."""

    params: Tree
    train: Batch


def with_ancestors(setting: Setting) -> Setting:
    """Return `setting` with rows that know their ancestors, and with the metric ``ancestors_alive``.

    It is the share of n that are different real rows from which the rows a fit saw descend: 1 at generation 1, above 1
    where new real rows keep coming. Two batches of real rows share a number in one of 2^32 cases. Parents are drawn row
    by row, so no statistics are kept; the other metrics keep their laws.

    Raises:
      UsageError: new rows of `setting` have no parents.
    """
    sample_children, extras, sized = setting.extras.sample_children, setting.extras, setting.extras.sized_summarize
    if sample_children is None or setting.label_only is not None:
        raise UsageError(f"setting {setting.name} has no lineage: its new rows do not each come from one training row")

    def sample_real(key: Key, world: World, num: int) -> Descendant:
        origin = jnp.broadcast_to(jax.random.bits(stream(key, "root"), (), jnp.uint32), (num,))
        root = jnp.stack([origin, jnp.arange(num, dtype=jnp.uint32)], 1)
        return Descendant(setting.sample_real(key, world, num), root)

    def fit(key: Key, train: Batch, start: Tree) -> Fitted:
        return Fitted(setting.fit(key, strip_roots(train), start.params if isinstance(start, Fitted) else start), train)

    def sample(key: Key, fitted: Fitted, num: int) -> Descendant:
        key_row, key_change = jax.random.split(key)
        parents = batch.draw_rows(key_row, fitted.train, num)
        return parents._replace(row=sample_children(key_change, fitted.params, parents.row))

    def observe(key: Key, world: World, fitted: Fitted, summary: Tree, generated: Descendant) -> dict[str, Array]:
        metrics = setting.observe(key, world, fitted.params, summary, generated.row)
        return metrics | {METRIC.name: num_roots(fitted.train) / generated.root.shape[0]}

    return setting._replace(
        sample_real=sample_real,
        fit=fit,
        sample=sample,
        observe=observe,
        metrics=(*setting.metrics, METRIC),
        statistics=None,
        extras=extras._replace(
            summarize=None if extras.summarize is None else partial(_summarize_rows, extras.summarize),
            sample_children=None,
            rewrite=None if extras.rewrite is None else partial(_rewrite_rows, extras.rewrite),
            row_scores={name: partial(_score_rows, score) for name, score in extras.row_scores.items()},
            sized_summarize=None if sized is None else lambda num: partial(_summarize_rows, sized(num)),
        ),
    )


def _summarize_rows(summarize: SummarizeFn, world: World, train: Batch) -> Batch:
    return summarize(world, strip_roots(train))


def _rewrite_rows(
    rewrite: RewriteFn, key: Key, fitted: Fitted, items: Descendant, fraction: Array | float
) -> Descendant:
    return items._replace(row=rewrite(key, fitted.params, items.row, fraction))


def _score_rows(score: RowScoreFn, world: World, fitted: Fitted, items: Descendant) -> Array:
    return score(world, fitted.params, items.row)


def num_roots(train: Batch) -> Array:
    """Return how many different roots the rows of positive weight have."""
    items, weight = batch.weighted_rows(train)
    last = jnp.uint32(2**32 - 1)  # no row's place: absent rows are sorted to the end
    origin, place = jax.lax.sort(tuple(jnp.where(weight > 0, items.root[:, i], last) for i in (0, 1)), num_keys=2)
    differs = (origin[1:] != origin[:-1]) | (place[1:] != place[:-1])
    return (place < last)[:1].sum() + (differs & (place[1:] < last)).sum()


def strip_roots(rows: Batch) -> Batch:
    """Return the rows without their roots, where they have some; rows of evaluations have none."""
    return rows._replace(items=rows.items.row) if isinstance(rows.items, Descendant) else rows
