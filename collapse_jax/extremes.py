"""The largest of some numbers, and rows that lie far apart: without sorts and gathers, which are slow on CPUs."""

import jax
import jax.numpy as jnp

from collapse_jax.types import Array, Tree

# Measured on a CPU (`benchmarks/LOG.md`): stretches of slots, and columns whose squares are summed one by one.
_STRETCHES, _FEW_COLUMNS = 4, 32


def largest(value: Array, num: Array) -> Array:
    """Which of ``[m]`` are the `num` (may be traced, at most m) largest; of equals, the first.

    Not NaN. XLA's sort takes some ten times as long on a CPU.
    """
    bits, size = 8 * value.dtype.itemsize, value.size
    kind = jnp.uint32 if bits == 32 else jnp.uint64
    word, sign = jax.lax.bitcast_convert_type(value, kind), jnp.asarray(1, kind) << (bits - 1)
    order = jnp.where(word >= sign, ~word, word | sign)  # whole numbers in the order of the floats
    least = _border(order, order.min(), order.max(), num)
    place = jnp.where(order == least, size - jnp.arange(size), 0).astype(kind)
    turn = jnp.where(order > least, jnp.asarray(size + 1, kind), place)
    return turn >= _border(turn, jnp.ones((), kind), jnp.asarray(size, kind), num)


def _border(order: Array, low: Array, high: Array, num: Array) -> Array:
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


def farthest(rows: Tree, present: Array, k: int) -> Array:
    """Of each `k` rows the one farthest from all that were chosen before it: 1 where a row is chosen, 0 elsewhere.

    Args:
      rows: leaves ``[m, ...]``, m a multiple of `k`.
      present: ``[m]``, infinite; -inf at rows that are absent, which may hold anything.
      k: rows of which one is chosen.
    """
    num = present.size // k
    leaves = [x.reshape(present.size, -1).T for x in jax.tree.leaves(rows)]  # sums over columns are then fast
    nearest, chosen, step = present, [], -(-num // _STRETCHES)
    for begin in range(0, num, step):  # rows that have had their turn are left out
        here = min(step, num - begin)
        nearest, best = _in_turn(k, here, [x[:, begin * k :] for x in leaves], nearest)
        nearest = nearest[here * k :]
        chosen.append(best.reshape(-1))
    return jnp.concatenate(chosen)


def _in_turn(k: int, num: int, leaves: list[Array], nearest: Array) -> tuple[Array, Array]:
    """The first `num` choices, and what they make of the squared distances from the nearest row chosen ``[m]``."""

    def choose(nearest: Array, scanned: tuple[Array, list[Array]]) -> tuple[Array, Array]:
        slot, rows = scanned
        mine = jax.lax.dynamic_slice(nearest, (slot * k,), (k,))
        is_best = jnp.arange(k) == mine.argmax()
        nothing = jnp.where(mine.max() > -jnp.inf, 0.0, jnp.inf)  # all are absent: none is chosen
        chosen = [jnp.where(is_best, x, 0).sum(1, keepdims=True).astype(x.dtype) for x in rows]  # gathers are slow
        apart = sum((_squares(x, row) for x, row in zip(leaves, chosen, strict=True)), nothing)
        return jnp.where(apart < nearest, apart, nearest), is_best * 1.0  # absent rows may be NaN: no `minimum`

    slots = [jnp.moveaxis(x[:, : num * k].reshape(-1, num, k), 1, 0) for x in leaves]
    return jax.lax.scan(choose, nearest, (jnp.arange(num), slots))


def _squares(x: Array, row: Array) -> Array:
    """Squared distances of all rows ``[columns, m]`` from one: symbols and labels differ by 1 or not at all."""
    squares = lambda a, b: (a - b) ** 2 if jnp.issubdtype(x.dtype, jnp.floating) else (a != b) * 1.0  # noqa: E731
    if x.shape[0] > _FEW_COLUMNS:
        return squares(x, row).sum(0)
    return sum(map(squares, x, row), jnp.zeros(()))  # written out: a reduction is not vectorised
