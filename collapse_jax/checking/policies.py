"""The laws of policies, tried on rows that know where they come from."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.checking.problems import Law, find_impurities
from collapse_jax.checking.recorder import Record, make_recorder, record_chain
from collapse_jax.core.chain import make_chain
from collapse_jax.core.random import chain_keys
from collapse_jax.types import Policy

NUM, HORIZON = 5, 4


def laws_of_policies(policy: Policy, seed: int) -> list[Law]:
    """Return the laws of policies, to be tried on `policy`."""
    records: list[Record] = []

    def record() -> Record:
        if not records:
            records.append(record_chain(policy, NUM, HORIZON, seed))
        return records[0]

    return [
        ("a chain runs", lambda: _run(record())),
        ("weights are multiplicities", lambda: _find_weights(record())),
        ("every row was made before its fit", lambda: _find_strangers(record())),
        ("fit 1 sees the real rows", lambda: _find_first(policy, record())),
        ("a chain is a pure function", lambda: _find_impure(policy, seed)),
    ]


def _run(record: Record) -> Iterator[str]:
    if len(record.weight) != HORIZON:
        yield f"{len(record.weight)} of {HORIZON} generations were made"


def _find_weights(record: Record) -> Iterator[str]:
    for generation, weight in enumerate(record.weight, 1):
        if not np.isfinite(weight).all():
            yield f"at generation {generation} a weight is {weight[~np.isfinite(weight)][0]:g}"
        elif (weight < 0).any():
            yield f"at generation {generation} a weight is {weight.min():g}"
        elif not (weight > 0).any():
            yield f"at generation {generation} the fit sees no rows"
        else:
            continue
        return  # the first one tells; later generations follow from it


def _find_strangers(record: Record) -> Iterator[str]:
    unborn = (record.births() < 0) & (record.weight > 0)
    if unborn.any():
        generation = int(np.argmax(unborn.any(1))) + 1
        yield f"at generation {generation} {int(unborn[generation - 1].sum())} rows come from nowhere"


def _find_first(policy: Policy, record: Record) -> Iterator[str]:
    there = record.weight[0] > 0
    if (record.rows.is_real[0][there] != 1).any():
        yield "synthetic rows are among them"
    if len(set(record.rows.tag[0][there].tolist())) > 1:
        yield "they come from several real batches"
    count, weights = int(there.sum()), sorted(set(record.weight[0][there].tolist()))
    if policy.resample is None and (count != NUM or weights != [1.0]):
        yield f"of {NUM} real rows it sees {count}, at weights {weights}"


def _find_impure(policy: Policy, seed: int) -> Iterator[str]:
    setting = make_recorder()
    world, key = setting.world(), chain_keys(seed, 1)[0]
    chain = make_chain(setting, policy, num_samples=NUM, num_generations=HORIZON)
    state = jax.eval_shape(chain.init, key, world)

    def advance(state: object, generation: jax.Array) -> object:
        state, new, _ = chain.emit(world, state, generation)
        return chain.absorb(world, state, new, generation)

    yield from find_impurities("the policy", advance, state, jnp.int32(1))
