"""Selection of the largest numbers, and of rows that lie far apart, without sorts and gathers (slow on CPUs)."""

import jax
import jax.numpy as jnp

from collapse_jax.types import Array, Tree

# These sizes are measured on a CPU (`benchmarks/LOG.md`).
_SECTIONS = 3  # sections that the slots are divided into
_TILE, _TILE_COLUMNS = 4, 16  # choices between two passes over memory, for rows of at most so many columns
_SUMMED_COLUMNS, _SUMMED_SYMBOLS = 32, 64  # up to so many columns, sums are written out (symbols: below 255, bytes)


def select_largest(value: Array, num: Array) -> Array:
    """Return which of the values ``[m]`` are the `num` largest; of equal values, the first are taken.

    `num` may be traced and is at most m. No value may be NaN. XLA's sort takes some ten times as long on a CPU.
    """
    bits, size, num = 8 * value.dtype.itemsize, value.size, jnp.asarray(num).astype(int)
    kind = jnp.uint32 if bits == 32 else jnp.uint64
    word, sign = jax.lax.bitcast_convert_type(value, kind), jnp.asarray(1, kind) << (bits - 1)
    order = jnp.where(word >= sign, ~word, word | sign)  # whole numbers in the order of the floats
    border = _find_border(order, order.min(), order.max(), num)
    place = jnp.where(order == border, size - jnp.arange(size), 0).astype(kind)
    turn = jnp.where(order > border, jnp.asarray(size + 1, kind), place)
    return turn >= _find_border(turn, jnp.ones((), kind), jnp.asarray(size, kind), num)


def _find_border(order: Array, low: Array, high: Array, num: Array) -> Array:
    """Return a number that exactly `num` of the whole numbers `order` reach, by bisection in [low, high].

    Where there is no such number, return the greatest that more of them reach. At least `num` must reach `low`.
    """

    def halve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, reached = state
        middle = high - (high - low) // 2
        count = (order >= middle).sum()
        enough = count >= num
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1), jnp.where(enough, count, reached)

    def is_unfinished(state: tuple[Array, Array, Array]) -> Array:
        low, high, reached = state
        return (low < high) & (reached != num)

    return jax.lax.while_loop(is_unfinished, halve, (low, high, (order >= low).sum()))[0]


def select_farthest(rows: Tree, present: Array, k: int) -> Array:
    """Choose from every `k` rows the row farthest from all rows chosen before it: 1 where a row is chosen, 0 elsewhere.

    Args:
      rows: leaves ``[m, ...]``, m a multiple of `k`.
      present: ``[m]``: infinity, or -inf at absent rows, which may hold anything.
      k: the number of rows of which one is chosen.
    """
    num = present.size // k
    leaves = [x.reshape(present.size, -1).T for x in jax.tree.leaves(rows)]  # sums over columns are then fast
    tile = _TILE if sum(x.shape[0] for x in leaves) <= _TILE_COLUMNS else 1
    absent = -num % tile * k
    nearest = jnp.pad(present, (0, absent), constant_values=-jnp.inf)
    leaves = [jnp.pad(x, ((0, 0), (0, absent))) for x in leaves]
    chosen, step = [], -(-num // (_SECTIONS * tile)) * tile * k
    for begin in range(0, num * k, step):  # later sections leave out the rows that have had their turn
        size = min(step, nearest.size)
        nearest, best = _choose_in_turn(k, tile, size, [x[:, begin:] for x in leaves], nearest)
        nearest = nearest[size:]
        chosen.append(best.reshape(-1))
    return jnp.concatenate(chosen)[: present.size]


def _choose_in_turn(k: int, tile: int, num: int, leaves: list[Array], nearest: Array) -> tuple[Array, Array]:
    """Choose among the first `num` rows, `tile` times before memory is passed over.

    Returns:
      1 for each chosen row, and the updated squared distances ``[m]`` from the nearest chosen row.
    """
    size = tile * k

    def choose(nearest: Array, scanned: tuple[Array, list[Array]]) -> tuple[Array, Array]:
        begin, rows = scanned
        own, best = jax.lax.dynamic_slice(nearest, (begin,), (size,)), []
        for i in range(0, size, k):
            is_best = jnp.arange(k) == own[i : i + k].argmax()
            offset = jnp.where(own[i : i + k].max() > -jnp.inf, 0.0, jnp.inf)  # if all are absent, none is chosen
            # A masked sum reads the chosen row faster than a gather.
            chosen = [jnp.where(is_best, x[:, i : i + k], 0).sum(1, keepdims=True).astype(x.dtype) for x in rows]
            own = _update_nearest(own, rows, chosen, offset)
            nearest = _update_nearest(nearest, leaves, chosen, offset)
            best.append(is_best.astype(float))
        return nearest, jnp.stack(best)

    tiles = [jnp.moveaxis(x[:, :num].reshape(-1, num // size, size), 1, 0) for x in leaves]
    return jax.lax.scan(choose, nearest, (jnp.arange(0, num, size), tiles))


def _update_nearest(nearest: Array, leaves: list[Array], row: list[Array], offset: Array) -> Array:
    """Return the squared distances from the nearest chosen row once `row` is chosen, too."""
    squared = sum(map(_squared_differences, leaves, row), offset)
    return jnp.where(squared < nearest, squared, nearest)  # absent rows may be NaN, so no `minimum`


def _squared_differences(x: Array, row: Array) -> Array:
    """Return squared distances of all rows ``[columns, m]`` from one; symbols and labels differ by 1 or not at all."""
    # Sums are written out, because a reduction is not vectorised; sums of bytes are, 32 at a time.
    if jnp.issubdtype(x.dtype, jnp.floating):
        if x.shape[0] > _SUMMED_COLUMNS:
            return ((x - row) ** 2).sum(0)
        return sum(((a - b) ** 2 for a, b in zip(x, row, strict=True)), jnp.zeros(()))
    if x.shape[0] > _SUMMED_SYMBOLS:
        return (x != row).sum(0, dtype=float)
    differ = ((a != b).astype(jnp.uint8) for a, b in zip(x, row, strict=True))
    return sum(differ, jnp.zeros((), jnp.uint8)).astype(float)
