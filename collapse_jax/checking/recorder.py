"""A setting whose fit is what it was shown: it tells which rows a policy keeps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.chain import make_chain
from collapse_jax.core.random import chain_keys
from collapse_jax.types import Array, Batch, Key, Policy, Setting, Tree, World


class TaggedRow(NamedTuple):
    """Rows that know where they come from.

    Attributes:
      tag: of the batch that a row was made in; 0 where there is no row.
      number: of the row in its batch.
      is_real: 1 for real rows, 0 for synthetic ones.
    """

    tag: Array
    number: Array
    is_real: Array


class Record(NamedTuple):
    """What the fits of one chain were shown.

    Attributes:
      rows: leaves ``[T, m]``.
      weight: ``[T, m]``.
      new_tag: ``[T]``, the tag of the batch that each fit generated.
    """

    rows: TaggedRow
    weight: np.ndarray
    new_tag: np.ndarray

    def births(self) -> np.ndarray:
        """Return the generation that made each row ``[T, m]``: 0 for real ones, -1 where no earlier fit made it."""
        birth = np.where(self.rows.is_real == 1, 0, -1)
        for generation in range(1, len(self.new_tag)):
            birth[generation:][self.rows.tag[generation:] == self.new_tag[generation - 1]] = generation
        return birth


def make_recorder() -> Setting:
    """Return the setting; ``observe`` returns the training batch and the tag of the new rows."""

    def tag_rows(is_real: int, key: Key, num: int) -> TaggedRow:
        tag = jax.random.randint(key, (), 1, 2**31 - 1)
        return TaggedRow(jnp.full(num, tag), jnp.arange(num), jnp.full(num, is_real))

    def observe(key: Key, world: World, train: Batch, summary: Tree, generated: TaggedRow) -> dict[str, Tree]:
        items, weight = batch.weighted_rows(train)
        return {"rows": items, "weight": weight, "new": generated.tag[0]}

    return Setting(
        name="recorder",
        world=lambda: World((), (), None),
        sample_real=lambda key, world, num: tag_rows(1, key, num),
        fit=lambda key, train, start: train,
        sample=lambda key, params, num: tag_rows(0, key, num),
        observe=observe,
        metrics=(),
    )


def record_chain(policy: Policy, num_samples: int, num_generations: int, seed: int = 0) -> Record:
    """Return what the fits of one chain under `policy` were shown."""
    setting = make_recorder()
    chain = make_chain(setting, policy, num_samples=num_samples, num_generations=num_generations)
    world, seen = setting.world(), []
    state = chain.init(chain_keys(seed, 1)[0], world)
    for generation in range(1, num_generations + 1):
        state, new, observations = chain.emit(world, state, jnp.int32(generation))
        state = chain.absorb(world, state, new, jnp.int32(generation))
        seen.append(jax.device_get(observations))
    stacked = jax.tree.map(lambda *x: np.stack(x), *seen)
    return Record(stacked["rows"], stacked["weight"], stacked["new"])
