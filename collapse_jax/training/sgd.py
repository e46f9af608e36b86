"""Fits by stochastic gradients, at a cost that does not depend on how much data a pool has gathered."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import stream
from collapse_jax.core.sharding import shard_params, shard_rows
from collapse_jax.core.validation import require_choice, require_integer
from collapse_jax.types import Array, Batch, Key, Tree

if TYPE_CHECKING:  # functions import it, since it takes as long to import as JAX
    import optax

STARTS = ("init", "previous")
SCHEDULES = ("cosine", "constant")


def fit_sgd(
    loss: Callable[[Tree, Key, Tree], Array],
    optimizer: "optax.GradientTransformation | Callable[[Array | int], optax.GradientTransformation]",
    *,
    init: Callable[[Key], Tree],
    batch_size: int,
    steps: int | None = None,
    epochs: int | None = None,
    start: str = "init",
) -> Callable[[Key, Batch, Tree], Tree]:
    """Return a setting's ``fit`` that takes `steps` steps of `optimizer` on minibatches of the pool.

    **Steps are held fixed, not epochs**, unless `epochs` says otherwise: as a pool that accumulates grows, each of its
    rows is used fewer times, and a generation costs ``steps * batch_size`` rows under every policy. The papers mix
    both; more epochs on less data overfit, so the two can order policies differently.

    A minibatch is `batch_size` independent rows in proportion to weight (with replacement): its gradient is unbiased
    for the weighted mean of the loss over the pool, and a row of weight 0 is never read.

    Args:
      loss: ``(params, key, items) -> scalar``, items with leaves ``[batch_size, ...]``: a mean over rows. Its value is
        taken in float32, whatever the parameters are.
      optimizer: an optax optimizer, whose state and schedule start anew at each fit; or ``(steps) -> optimizer``, for
        schedules that know their end. The number of steps is traced where epochs are fixed.
      init: ``(key) -> params``.
      batch_size: rows a step.
      steps: steps of the optimizer, per fit.
      epochs: in place of `steps`: as many rows are drawn as the pool's weights add up to, so many times over, in whole
        minibatches. A generation's cost then grows with the pool. Rows are drawn with replacement here, too: an epoch
        over a large pool misses a row of weight 1 with probability 0.37.
      start: ``"init"`` fits fresh parameters each generation; ``"previous"`` continues from the last fit's.

    Raises:
      UsageError: `steps`, `batch_size` or `epochs` is below 1, both or neither of steps and epochs are given, or
        `start` is unknown.
    """
    if (steps is None) == (epochs is None):
        raise UsageError("give either steps or epochs" + (", not both" if epochs is not None else ""))
    for name, number in (("steps", steps), ("epochs", epochs), ("batch_size", batch_size)):
        if number is not None:
            require_integer(name, number, 1)
    require_choice("start", start, STARTS)
    import optax

    def fit(key: Key, train: Batch, previous: Tree) -> Tree:
        items, _ = batch.weighted_rows(train)
        draw = batch.row_sampler(train)
        key_rows, key_loss = stream(key, "minibatch"), stream(key, "loss")
        num_steps: Any = steps if epochs is None else _count_steps(epochs, train, batch_size)
        transformation = optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(num_steps)

        def step(carry: tuple[Tree, Tree], scanned: tuple[Key, Array]) -> tuple[tuple[Tree, Tree], None]:
            params, state = carry
            key_step, row_B = scanned
            minibatch = shard_rows(batch.take_rows(items, row_B))
            gradient = jax.grad(lambda p: loss(p, key_step, minibatch).astype(jnp.float32))(params)
            with jax.numpy_dtype_promotion("standard"):  # optax promotes its counts of steps
                updates, state = transformation.update(gradient, state, params)
                return (optax.apply_updates(params, updates), state), None

        params = previous if start == "previous" else shard_params(init(stream(key, "init")))
        first = params, transformation.init(params)
        if epochs is None:
            row_SxB = draw(key_rows, num_steps * batch_size).reshape(num_steps, batch_size)
            return jax.lax.scan(step, first, (jax.random.split(key_loss, num_steps), row_SxB))[0][0]

        def numbered_step(i: Array, carry: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            row_B = draw(jax.random.fold_in(key_rows, i), batch_size)
            return step(carry, (jax.random.fold_in(key_loss, i), row_B))[0]

        return jax.lax.fori_loop(0, num_steps, numbered_step, first)[0]

    return fit


def make_adamw(
    rate: Array | float, schedule: str, warmup: int, decay: Array | float, clip: Array | float, steps: Array | int
) -> "optax.GradientTransformation":
    """Return AdamW on gradients whose norm is clipped at `clip`; every number but `warmup` may be traced.

    The rate rises linearly over `warmup` steps to `rate`, and then stays (``"constant"``) or falls to 0 at step `steps`
    along a cosine. (optax's own schedules need numbers that are known.) Only parameters of two or more dimensions
    decay.
    """
    import optax

    def rate_at(step: Array) -> Array:
        rise = jnp.minimum((step + 1) / max(warmup, 1), 1.0)
        if schedule == "constant":
            return rate * rise
        done = jnp.clip((step - warmup) / jnp.maximum(steps - warmup, 1), 0.0, 1.0)
        return rate * rise * 0.5 * (1 + jnp.cos(jnp.pi * done))

    def find_matrices(params: Tree) -> Tree:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    inner = optax.adamw(rate_at, b2=0.99, weight_decay=decay, mask=find_matrices)
    return optax.chain(optax.clip_by_global_norm(clip), inner)


def check_warmup(warmup: int, **steps: int | None) -> None:
    """Refuse a warm-up that keeps a fit of one of these numbers of `steps` (None: not known) from reaching its rate.

    Raises:
      UsageError: a number of steps is below 1, or the warm-up is below 0 or as long as the fit.
    """
    require_integer("warmup", warmup, 0)
    for name, number in steps.items():
        if number is not None:
            require_integer(name, number, 1)
            if warmup >= number:
                raise UsageError(f"warmup must be below {name} ({number}), not {warmup}: no fit would reach its rate")


class AveragedParams(NamedTuple):
    """Parameters, and the moving average of their earlier values."""

    now: Tree
    average: Tree


def average_params(inner: "optax.GradientTransformation", decay: Array | float) -> "optax.GradientTransformation":
    """Return `inner` applied to the ``now`` of an ``AveragedParams``, whose ``average`` follows it.

    The average becomes decay * average + (1 - decay) * now. In step t the decay is at most (1 + t) / (10 + t), so that
    the start is soon forgotten; 0 keeps no average. The decay may be traced.
    """
    import optax

    def init(params: AveragedParams) -> tuple[Tree, Array]:
        return inner.init(params.now), jnp.int32(0)

    def update(
        grads: AveragedParams, state: tuple[Tree, Array], params: AveragedParams
    ) -> tuple[AveragedParams, tuple[Tree, Array]]:
        updates, state_inner = inner.update(grads.now, state[0], params.now)
        step = state[1] + 1
        pace = 1 - jnp.minimum(decay, (1 + step) / (10 + step))

        def follow(now: Array, update: Array, average: Array) -> Array:
            return (pace * (now + update - average)).astype(average.dtype)

        followed = jax.tree.map(follow, params.now, updates, params.average)
        return AveragedParams(updates, followed), (state_inner, step)

    return optax.GradientTransformation(init, update)


def _count_steps(epochs: int, train: Batch, batch_size: int) -> Array:
    """Return the number of whole minibatches, at least one, that hold `epochs` times the total weight of rows.

    The total is the last of cumulative sums, which are added as a tree; a plain float32 sum of a million weights may be
    off by a percent. The factor 1 - 1e-5 is for sums that still round up.
    """
    per_row = 1 if train.weight.shape[1] > 1 else batch.num_rows(train)
    total = jnp.cumsum(train.weight.reshape(-1))[-1] * per_row
    return jnp.maximum(jnp.ceil((1 - 1e-5) * epochs * total / batch_size), 1).astype(jnp.int32)
