"""Work on many rows a batch at a time, so that memory suffices, and on several chains side by side."""

from collections.abc import Callable

import jax

from collapse_jax.types import Array, Key, Tree


def map_in_batches(function: Callable[..., Tree], batch_size: int, *rows: Tree) -> Tree:
    """Return ``function(*rows)`` computed for `batch_size` rows at a time; each row's result depends on that row alone.

    Leaves are ``[N, ...]`` in and out.
    """

    def one(row: tuple[Tree, ...]) -> Tree:
        return jax.tree.map(lambda x: x[0], function(*jax.tree.map(lambda x: x[None], row)))

    return jax.lax.map(one, rows, batch_size=min(batch_size, jax.tree.leaves(rows)[0].shape[0]))


def draw_in_batches(draw_batch: Callable[[Key, int], Array], key: Key, num: int, batch_size: int) -> Array:
    """Draw `num` rows in as few batches of equal size as `batch_size` allows.

    `draw_batch` is ``(key, rows) -> [rows, ...]``.
    """
    num_batches = -(-num // batch_size)
    rows = -(-num // num_batches)
    drawn = jax.lax.map(lambda key: draw_batch(key, rows), jax.random.split(key, num_batches))
    return drawn.reshape(-1, *drawn.shape[2:])[:num]


def vmap_unless_single(function: Callable[..., Tree], *args: Tree) -> Tree:
    """Return ``jax.vmap(function)(*args)``, without the vmap where the leading axis has length 1.

    A CPU takes a fifth longer for a network's step with a batch axis of length 1.
    """
    if jax.tree.leaves(args)[0].shape[0] > 1:
        return jax.vmap(function)(*args)
    return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], args)))
