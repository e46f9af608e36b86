"""Many rows, a few at a time, so that memory has room for what is done with them; and lanes side by side."""

from collections.abc import Callable

import jax

from collapse_jax.types import Array, Key, Tree


def map_in_batches(function: Callable[..., Tree], at_once: int, *rows: Tree) -> Tree:
    """``function(*rows)``, leaves ``[N, ...]`` in and out, `at_once` rows at a time: each row's answer is its own."""

    def one(row: tuple[Tree, ...]) -> Tree:
        return jax.tree.map(lambda x: x[0], function(*jax.tree.map(lambda x: x[None], row)))

    return jax.lax.map(one, rows, batch_size=min(at_once, jax.tree.leaves(rows)[0].shape[0]))


def draw_in_batches(some: Callable[[Key, int], Array], key: Key, num: int, at_once: int) -> Array:
    """`num` rows, ``some(key, rows) -> [rows, ...]`` each: in as few parts as `at_once` allows, all of one size."""
    parts = -(-num // at_once)
    rows = -(-num // parts)
    drawn = jax.lax.map(lambda key: some(key, rows), jax.random.split(key, parts))
    return drawn.reshape(-1, *drawn.shape[2:])[:num]


def vmap_unless_single(of_lane: Callable[..., Tree], *lanes: Tree) -> Tree:
    """``jax.vmap``. One lane goes without: a CPU takes a fifth longer for a network's step with batches of one."""
    if jax.tree.leaves(lanes)[0].shape[0] > 1:
        return jax.vmap(of_lane)(*lanes)
    return jax.tree.map(lambda x: x[None], of_lane(*jax.tree.map(lambda x: x[0], lanes)))
