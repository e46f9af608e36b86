"""The best weights of a policy, or sizes of its batches, by gradients of the final risk through all generations.

At a fixed key a chain of a differentiable setting is one smooth function of its policy's floats, so the mean risk of
fit T over chains has an exact gradient, by reverse differentiation through the scan. Where rows or symbols are chosen
among others (KDE, counts, classes, text) a chain is piecewise constant in its fits, and its gradient would miss what
matters: these settings are refused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from collapse_jax.core.chain import make_chain
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import chain_keys
from collapse_jax.core.validation import require_integer, require_positive
from collapse_jax.types import Array, Key, PartlyReal, Policy, Setting, Tree


class Tuned(NamedTuple):
    """What a search found.

    Attributes:
      value: the best float, or ``[T - 1]``: one for what joins the data after each fit but the last; or ``[T]`` parts
        of a budget.
      risk: ``[steps]``, the mean risk of fit T before each step, on the chains that were searched on.
    """

    value: Array
    risk: Array


def final_risk(
    setting: Setting,
    policy: Callable[[Array], Policy],
    *,
    metric: str,
    num_samples: int | None,
    num_generations: int,
    num_chains: int,
    seed: int = 0,
) -> Callable[[Array], Array]:
    """The mean of a metric at fit T over chains, as a function that ``jax.grad`` and ``jax.jit`` take.

    Args:
      setting: what is fitted.
      policy: from a float (traced) to a policy; the float must weigh rows, not count them. Of rows (`num_samples` None)
        it is given those of a batch, and most policies have no use for them: ``lambda rows: policies.replace()``.
      metric: of the setting, smooth in the fit.
      num_samples: n; None: the value is itself the rows of each batch, the first real one's and those that join the
        data after fits 1 .. T - 1 (real and synthetic ones, as many of each). Rows are then counted by the law of their
        statistics, where any number > 0 will do.
      num_generations: T, at least 2.
      num_chains: whose mean is taken; the same random numbers at every call.
      seed: of these.

    Returns:
      ``(value) -> scalar``; the value is a float for all generations, or ``[T - 1]``, one after the other; of rows
      ``[T]``.

    Raises:
      UsageError: a setting that is not differentiable, a policy whose float counts rows, another metric, or a number
        out of range; of rows: a setting whose statistics have no law for any number of them.
    """
    require_integer("num_generations", num_generations, 2)
    require_integer("num_chains", num_chains, 1)
    if not setting.info.differentiable:
        raise UsageError(
            f"setting {setting.name} chooses rows or symbols among others, so the risk has no gradient through its "
            "generations; gaussian and linear_regression have one"
        )
    if metric not in (known := [m.name for m in setting.metrics]):
        raise UsageError(f"metric: setting {setting.name} has no {metric!r}; one of {', '.join(known)}")
    statistics = setting.statistics if setting.label_only is None else None
    if num_samples is None and (statistics is None or statistics.sample_real is None):
        raise UsageError(f"setting {setting.name} draws rows, of which there are whole numbers; give num_samples")
    world, keys = setting.world(), chain_keys(seed, num_chains)

    def chain_at(value: Array) -> Tree:
        made = policy(value)
        if isinstance(made.batches, PartlyReal):
            raise UsageError(f"policy {made.name} counts rows, in which no risk is smooth; weighted_fresh weighs them")
        rows: Any = value if num_samples is None else num_samples
        return make_chain(setting, made, num_samples=rows, num_generations=num_generations)

    def last(schedule: Array, key: Key) -> Array:
        def step(state: Tree, scanned: tuple[Array, Array]) -> tuple[Tree, None]:
            generation, value = scanned
            chain = chain_at(value)
            state, new, _ = chain.emit(world, state, generation)
            return chain.absorb(world, state, new, generation), None

        chain = chain_at(schedule[0])
        scanned = jnp.arange(1, num_generations), schedule[1 - num_generations :]
        state = jax.lax.scan(step, chain.init(key, world), scanned)[0]
        return chain.emit(world, state, jnp.asarray(num_generations))[2][metric]

    length = num_generations - 1 if num_samples is not None else num_generations

    def risk(value: Array) -> Array:
        if jnp.shape(value) not in ((), (length,)):
            raise UsageError(f"value must be a number or {length} of them, not of shape {jnp.shape(value)}")
        schedule = jnp.broadcast_to(jnp.asarray(value, jnp.result_type(float)), length)
        return jax.vmap(last, (None, 0))(schedule, keys).mean()

    return jax.jit(risk)  # so that numbers of rows are traced


def tune(
    risk: Callable[[Array], Array],
    start: Array | float = 0.5,
    steps: int = 100,
    learning_rate: float = 0.1,
    budget: float | None = None,
) -> Tuned:
    """The share or weight in (0, 1) of least risk: Adam on its log odds. Or the division of a budget: on logarithms.

    A minimum of the risk on the chains at hand: judge it on others (another seed), above all a schedule, whose many
    floats can fit their noise.

    Args:
      risk: what ``final_risk`` gives.
      start: a number in (0, 1), or ``[T - 1]`` of them: a schedule. Of a budget: the shares that it is first divided
        by, ``[T]``.
      steps: gradients taken; one compiled program runs them all.
      learning_rate: Adam's, in log odds.
      budget: what the values that `risk` takes must sum to (rows of all batches, say); None: nothing.

    Raises:
      UsageError: a start outside (0, 1), no steps, or a rate or budget that is not above 0.
    """
    require_integer("steps", steps, 1)
    require_positive("learning_rate", learning_rate)
    first = jnp.asarray(start, jnp.result_type(float))
    if not bool(((first > 0) & (first < 1)).all()):
        raise UsageError(f"start must lie between 0 and 1, not be {start}")
    if budget is None:
        odds, value_of = jnp.log(first) - jnp.log1p(-first), jax.nn.sigmoid
    else:
        require_positive("budget", budget)
        if first.ndim != 1:
            raise UsageError("start: a budget is divided by shares, one a batch, such as jnp.full(T, 1 / T)")
        odds, value_of = jnp.log(first), lambda x: budget * jax.nn.softmax(x)
    adam, gradient = optax.adam(learning_rate), jax.value_and_grad(lambda x: risk(value_of(x)))

    def step(carry: Tree, _: None) -> tuple[Tree, Array]:
        x, state = carry
        value, slope = gradient(x)
        change, state = adam.update(slope, state)
        return (x + change, state), value

    (odds, _), path = jax.jit(lambda x: jax.lax.scan(step, (x, adam.init(x)), length=steps))(odds)
    return Tuned(value_of(odds), path)
