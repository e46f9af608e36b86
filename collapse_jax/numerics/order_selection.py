"""The largest of some numbers, and rows that lie far apart: without sorts and gathers, which are slow on CPUs."""

import jax
import jax.numpy as jnp

from collapse_jax.types import Array, Tree

# Measured on a CPU (`benchmarks/LOG.md`): stretches of slots, choices between two passes over rows of so few columns,
# columns whose squares are summed one by one, and those whose symbols are compared so (at most 255: bytes).
_STRETCHES, _TILE, _NARROW, _FEW_COLUMNS, _FEW_SYMBOLS = 3, 4, 16, 32, 64


def select_largest(value: Array, num: Array) -> Array:
    """Which of ``[m]`` are the `num` (may be traced, at most m) largest; of equals, the first.

    Not NaN. XLA's sort takes some ten times as long on a CPU.
    """
    bits, size = 8 * value.dtype.itemsize, value.size
    kind = jnp.uint32 if bits == 32 else jnp.uint64
    word, sign = jax.lax.bitcast_convert_type(value, kind), jnp.asarray(1, kind) << (bits - 1)
    order = jnp.where(word >= sign, ~word, word | sign)  # whole numbers in the order of the floats
    least = _find_border(order, order.min(), order.max(), num)
    place = jnp.where(order == least, size - jnp.arange(size), 0).astype(kind)
    turn = jnp.where(order > least, jnp.asarray(size + 1, kind), place)
    return turn >= _find_border(turn, jnp.ones((), kind), jnp.asarray(size, kind), num)


def _find_border(order: Array, low: Array, high: Array, num: Array) -> Array:
    """A number that just `num` of the whole numbers `order` reach: where there is none, the greatest that more reach.

    By bisection in [low, high]; at least `num` must reach `low`.
    """

    def halve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, reached = state
        middle = high - (high - low) // 2
        here = (order >= middle).sum()
        enough = here >= num
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1), jnp.where(enough, here, reached)

    goes_on = lambda state: (state[0] < state[1]) & (state[2] != num)  # noqa: E731
    return jax.lax.while_loop(goes_on, halve, (low, high, (order >= low).sum()))[0]


def select_farthest(rows: Tree, present: Array, k: int) -> Array:
    """Of each `k` rows the one farthest from all that were chosen before it: 1 where a row is chosen, 0 elsewhere.

    Args:
      rows: leaves ``[m, ...]``, m a multiple of `k`.
      present: ``[m]``, infinite; -inf at rows that are absent, which may hold anything.
      k: rows of which one is chosen.
    """
    num = present.size // k
    leaves = [x.reshape(present.size, -1).T for x in jax.tree.leaves(rows)]  # sums over columns are then fast
    tile = _TILE if sum(x.shape[0] for x in leaves) <= _NARROW else 1
    absent = -num % tile * k
    nearest = jnp.pad(present, (0, absent), constant_values=-jnp.inf)
    leaves = [jnp.pad(x, ((0, 0), (0, absent))) for x in leaves]
    chosen, step = [], -(-num // (_STRETCHES * tile)) * tile * k
    for begin in range(0, num * k, step):  # rows that have had their turn are left out
        here = min(step, nearest.size)
        nearest, best = _choose_in_turn(k, tile, here, [x[:, begin:] for x in leaves], nearest)
        nearest = nearest[here:]
        chosen.append(best.reshape(-1))
    return jnp.concatenate(chosen)[: present.size]


def _choose_in_turn(k: int, tile: int, num: int, leaves: list[Array], nearest: Array) -> tuple[Array, Array]:
    """Chooses among the first `num` rows, `tile` times before memory is passed over.

    Returns 1 for those chosen, and what they make of the squared distances from the nearest row chosen ``[m]``.
    """
    size = tile * k

    def choose(nearest: Array, scanned: tuple[Array, list[Array]]) -> tuple[Array, Array]:
        begin, rows = scanned
        mine, best = jax.lax.dynamic_slice(nearest, (begin,), (size,)), []
        for i in range(0, size, k):
            is_best = jnp.arange(k) == mine[i : i + k].argmax()
            nothing = jnp.where(mine[i : i + k].max() > -jnp.inf, 0.0, jnp.inf)  # all are absent: none is chosen
            # Gathers are slow.
            chosen = [jnp.where(is_best, x[:, i : i + k], 0).sum(1, keepdims=True).astype(x.dtype) for x in rows]
            mine, nearest = (
                _update_nearest(mine, rows, chosen, nothing),
                _update_nearest(nearest, leaves, chosen, nothing),
            )
            best.append(is_best * 1.0)
        return nearest, jnp.stack(best)

    tiles = [jnp.moveaxis(x[:, :num].reshape(-1, num // size, size), 1, 0) for x in leaves]
    return jax.lax.scan(choose, nearest, (jnp.arange(0, num, size), tiles))


def _update_nearest(nearest: Array, leaves: list[Array], row: list[Array], nothing: Array) -> Array:
    """Squared distances from the nearest row chosen, once `row` is, too. Absent rows may be NaN: no `minimum`."""
    apart = sum(map(_squared_differences, leaves, row), nothing)
    return jnp.where(apart < nearest, apart, nearest)


def _squared_differences(x: Array, row: Array) -> Array:
    """Squared distances of all rows ``[columns, m]`` from one: symbols and labels differ by 1 or not at all."""
    # Sums are written out, for a reduction is not vectorised; those of symbols in bytes, 32 at a time.
    if jnp.issubdtype(x.dtype, jnp.floating):
        squares = lambda a, b: (a - b) ** 2  # noqa: E731
        return squares(x, row).sum(0) if x.shape[0] > _FEW_COLUMNS else sum(map(squares, x, row), jnp.zeros(()))
    if x.shape[0] > _FEW_SYMBOLS:
        return (x != row).sum(0, dtype=float)
    differ = ((a != b).astype(jnp.uint8) for a, b in zip(x, row, strict=True))
    return sum(differ, jnp.zeros((), jnp.uint8)).astype(float)
