"""Real ancestors: which of the real rows the rows of a later generation descend from.

For settings whose new rows each come from one training row (``Setting.mutate``): neutral genealogies, where lines die
out by chance alone. Off unless a setting is made with ``lineage=True``; then rows are drawn and carry two numbers each.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core import batch as B
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.types import Array, Batch, Key, Metric, Setting, Tree, World

METRIC = Metric(
    "ancestors_alive", "different real ancestors of the training rows, over n", "1", "definition", "log", "ancestors"
)


class Descendant(NamedTuple):
    """Rows and their origin.

    Attributes:
      row: leaves ``[num, ...]``, as the setting has them.
      root: ``[num, 2]`` uint32, of the real ancestor: its batch's random number, and its place there.
    """

    row: Tree
    root: Array


class Fitted(NamedTuple):
    """A fit, and the rows that it saw."""

    params: Tree
    train: Batch


def with_ancestors(setting: Setting) -> Setting:
    """`setting` with rows that know their ancestors, and with the metric ``ancestors_alive``.

    The share of n that are different real rows from which the rows a fit saw descend: 1 at generation 1, above 1 where
    new real rows keep coming. Two batches of real rows share a number in one of 2^32 cases. Parents are drawn row by
    row, so no statistics are kept; the other metrics keep their laws.

    Raises:
      UsageError: new rows of `setting` have no parents.
    """
    mutate = setting.mutate
    if mutate is None:
        raise UsageError(f"setting {setting.name} has no lineage: its new rows do not each come from one training row")

    def real(key: Key, world: World, num: int) -> Descendant:
        batch = jnp.broadcast_to(jax.random.bits(stream(key, "root"), (), jnp.uint32), (num,))
        return Descendant(setting.real(key, world, num), jnp.stack([batch, jnp.arange(num, dtype=jnp.uint32)], 1))

    def sample(key: Key, fitted: Fitted, num: int) -> Descendant:
        key_row, key_change = jax.random.split(key)
        parents = B.choose(key_row, fitted.train, num)
        return parents._replace(row=mutate(key_change, fitted.params, parents.row))

    def observe(key: Key, world: World, fitted: Fitted, summary: Tree, generated: Descendant) -> dict[str, Array]:
        seen = setting.observe(key, world, fitted.params, summary, generated.row)
        return seen | {"ancestors_alive": num_roots(fitted.train) / generated.root.shape[0]}

    summarise = setting.summarise
    return setting._replace(
        real=real,
        fit=lambda key, train, start: Fitted(setting.fit(key, bare(train), start), train),
        sample=sample,
        observe=observe,
        metrics=(*setting.metrics, METRIC),
        compress=None,
        sample_compressed=None,
        real_compressed=None,
        summarise=None if summarise is None else lambda world, batch: summarise(world, bare(batch)),
        mutate=None,
        scores={name: partial(_of_rows, score) for name, score in setting.scores.items()},
    )


def _of_rows(score: Callable[[World, Tree, Tree], Array], world: World, fitted: Fitted, items: Descendant) -> Array:
    return score(world, fitted.params, items.row)


def num_roots(train: Batch) -> Array:
    """How many different roots the rows of positive weight have."""
    items, weight = B.rows(train)
    last = jnp.uint32(2**32 - 1)  # no row's place: absent rows are sorted to the end
    batch, place = jax.lax.sort(tuple(jnp.where(weight > 0, items.root[:, i], last) for i in (0, 1)), num_keys=2)
    differs = (batch[1:] != batch[:-1]) | (place[1:] != place[:-1])
    return (place < last)[:1].sum() + (differs & (place[1:] < last)).sum()


def bare(batch: Batch) -> Batch:
    """Rows without their roots, where they have some; rows of evaluations have none."""
    return batch._replace(items=batch.items.row) if isinstance(batch.items, Descendant) else batch
