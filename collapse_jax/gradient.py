"""Fits by stochastic gradients, at a cost that does not depend on how much data a pool has gathered."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from collapse_jax import batch as B
from collapse_jax.check import check_at_least, check_choice
from collapse_jax.keys import stream
from collapse_jax.spread import over_data, over_model
from collapse_jax.types import Array, Batch, Key, Tree

STARTS = ("init", "previous")
SCHEDULES = ("cosine", "constant")


def fit_sgd(
    loss: Callable[[Tree, Key, Tree], Array],
    optimizer: optax.GradientTransformation | Callable[[Array | int], optax.GradientTransformation],
    *,
    init: Callable[[Key], Tree],
    steps: int,
    batch_size: int,
    start: str = "init",
    epochs: int | None = None,
) -> Callable[[Key, Batch, Tree], Tree]:
    """A ``Setting.fit`` that takes `steps` steps of `optimizer` on minibatches of the pool.

    **Steps are held fixed, not epochs**, unless `epochs` says otherwise: a pool that accumulates is seen fewer times a
    row as it grows, and a generation costs ``steps * batch_size`` rows under every policy. The papers mix both; more
    epochs on less data overfit, so the two can order policies differently.

    A minibatch is `batch_size` independent rows in proportion to weight (with replacement): its gradient is unbiased
    for the weighted mean of the loss over the pool, and a row of weight 0 is never read.

    Args:
      loss: ``(params, key, items) -> scalar``, items with leaves ``[batch_size, ...]``: a mean over rows. Its value is
        taken in float32, whatever the parameters are.
      optimizer: its state starts anew at each fit, and with it its schedule. Or ``(steps) -> optimizer``, for schedules
        that know their end; the number of steps is traced where epochs are fixed.
      init: ``(key) -> params``.
      steps: of the optimizer, per fit.
      batch_size: rows a step.
      start: ``"init"`` fits fresh parameters each generation; ``"previous"`` goes on from the last fit's.
      epochs: passes over the pool in place of `steps`: as many rows are drawn as its weights add up to, so many times
        over, in whole minibatches. A generation's cost then grows with the pool.

    Raises:
      ValueError: `steps`, `batch_size` or `epochs` below 1, or another `start`.
    """
    check_at_least("steps", steps, 1)
    check_at_least("batch_size", batch_size, 1)
    check_choice("start", start, STARTS)
    if epochs is not None:
        check_at_least("epochs", epochs, 1)

    def fit(key: Key, train: Batch, previous: Tree) -> Tree:
        items, weight = B.rows(train)
        most = steps if epochs is None else -(-epochs * weight.size // batch_size)
        row_SxB = _row_numbers(stream(key, "minibatch"), train, most, batch_size)
        number = most if epochs is None else _steps_of(epochs * B.total(train) / batch_size, most)
        made = optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(number)

        def step(carry: tuple[Tree, Tree], scanned: tuple[Key, Array]) -> tuple[tuple[Tree, Tree], None]:
            params, state = carry
            key_step, row_B = scanned
            minibatch = over_data(B.take(items, row_B))
            value = lambda p: loss(p, key_step, minibatch).astype(jnp.float32)  # noqa: E731
            updates, state = made.update(jax.grad(value)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = previous if start == "previous" else over_model(init(stream(key, "init")))
        scanned = jax.random.split(stream(key, "loss"), most), row_SxB
        first = params, made.init(params)
        if epochs is None:
            return jax.lax.scan(step, first, scanned)[0][0]
        at = lambda i: jax.tree.map(lambda x: x[i], scanned)  # noqa: E731
        return jax.lax.fori_loop(0, number, lambda i, carry: step(carry, at(i))[0], first)[0]

    return fit


def adamw(
    rate: Array | float, schedule: str, warmup: int, decay: Array | float, clip: Array | float, steps: Array | int
) -> optax.GradientTransformation:
    """AdamW on gradients of a norm of at most `clip`; every number but `warmup` may be a tracer.

    The rate rises linearly over `warmup` steps to `rate`, and then stays (``"constant"``) or falls to 0 at step `steps`
    along a cosine. (optax's own schedules want numbers that are known.) Only what has two dimensions or more decays.
    """

    def rate_at(step: Array) -> Array:
        rise = jnp.minimum((step + 1) / max(warmup, 1), 1.0)
        if schedule == "constant":
            return rate * rise
        done = jnp.clip((step - warmup) / jnp.maximum(steps - warmup, 1), 0.0, 1.0)
        return rate * rise * 0.5 * (1 + jnp.cos(jnp.pi * done))

    matrices = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
    inner = optax.adamw(rate_at, b2=0.99, weight_decay=decay, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(clip), inner)


def _steps_of(minibatches: Array, most: int) -> Array:
    """Whole minibatches, at least one; the slack is for sums of weights that rounded up."""
    return jnp.clip(jnp.ceil(minibatches - 1e-4), 1, most).astype(jnp.int32)


def _row_numbers(key: Key, train: Batch, steps: int, batch_size: int) -> Array:
    """Row numbers of all minibatches, ``[steps, batch_size]``: the pool's weights are summed once a fit, not a step."""
    blocks, block_rows = train.weight.shape[0], B.num_rows(train)
    numbered = train._replace(items=jnp.arange(blocks * block_rows).reshape(blocks, block_rows))
    return B.choose(key, numbered, steps * batch_size).reshape(steps, batch_size)
