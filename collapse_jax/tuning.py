"""The best weight of real rows, a schedule of weights, or the division of a budget, by gradients of the final risk.

At a fixed key a chain of a differentiable setting is a smooth function of the numbers by which its policy weighs rows,
so the mean risk of fit T over chains has an exact gradient, by reverse differentiation through all generations. Where
rows or symbols are chosen among others, or rows are counted, the risk is a step function of them, and its derivative is
0 or misses what matters: these pairs of setting and policy are refused.
"""

import inspect
import typing
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from collapse_jax.core.chain import make_chain
from collapse_jax.core.errors import UsageError
from collapse_jax.core.gradients import require_gradient
from collapse_jax.core.random import chain_keys
from collapse_jax.core.registry import factories
from collapse_jax.core.validation import is_traced, reject, require_choice, require_integer, require_positive
from collapse_jax.types import Array, JoinCounts, Key, PartlyReal, Policy, Setting, Tree

_WEIGHS = "weighted_fresh(weight) and decay(gamma) weigh rows"  # what a policy should do in place of counting


class Tuned(NamedTuple):
    """What a search found.

    Attributes:
      value: the best number, ``[]``; or a schedule, ``[T - 1]``: entry g - 1 is used where batch g joins the data; or
        the rows of each batch, ``[T]``, whose sum is the budget: entry 0 is the first real batch.
      risk: ``[steps]``, the mean of the metric at fit T before each step, over the chains that were searched on.
    """

    value: Array
    risk: Array


def tune(
    setting: Setting | str | Callable[..., Setting],
    policy: Policy | str | Callable[..., Policy],
    *,
    metric: str,
    num_generations: int,
    num_samples: int | None = None,
    budget: float | None = None,
    schedule: bool = False,
    start: ArrayLike | None = None,
    num_chains: int = 1000,
    steps: int = 100,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> Tuned:
    """Find the number of a policy, a schedule of it, or the division of a budget of rows that minimizes the final risk.

    The mean of `metric` at fit T over chains is differentiated through all generations, and Adam descends: on the log
    odds of numbers in (0, 1), or on the logarithms of numbers of rows. What is found is a minimum on the chains at
    hand: judge it on others (another `seed`), above all a schedule, whose many numbers can fit the noise of few chains.

    - A number: give `num_samples` and a policy without its number, such as ``policies.weighted_fresh``.
    - A schedule, a number for each generation: give `schedule` as well.
    - A budget of rows, divided over the generations: give `budget` in place of `num_samples`, and a policy with its
      number, such as ``policies.weighted_fresh(0.4)``. Batch g then has n_g synthetic rows and, where the policy takes
      real ones, n_g of these; numbers of rows need not be whole, as their statistics are drawn from their law.

    Args:
      setting: a setting, the name of one, or its factory, called with its defaults. It must be differentiable:
        ``gaussian``, ``linear_regression``, or an ``ecosystem`` of one of these.
      policy: the factory of a policy, or its name; its first argument is tuned, and must weigh rows and not count them
        (``weighted_fresh`` or ``decay``). Any function from a number to a policy will do. With `budget`: a policy, or
        the name or factory of one, called with its defaults.
      metric: the name of a metric of the setting whose value is one number, as ``squared_error_of_mean``.
      num_generations: T, the number of fits, at least 2.
      num_samples: n, the rows of the first real batch and of every synthetic one.
      budget: the sum of the rows of all T batches; only for settings whose statistics have a law for any number of rows
        (``gaussian`` of a normal source).
      schedule: whether each generation has a number of its own.
      start: where the search begins: a number in (0, 1), or ``[T - 1]`` of them for a schedule; default 0.5. With
        `budget`: the shares of it that batches begin with, ``[T]``; default equal ones.
      num_chains: the number of independent chains whose mean is taken, with the same random numbers at every step.
      steps: the number of gradients taken; one compiled program takes them all.
      learning_rate: of Adam.
      seed: of the chains.

    Returns:
      The best `value`, of shape ``[]``, ``[T - 1]`` or ``[T]``, and the `risk` before each step, ``[steps]``, in the
      units of the metric.

    Raises:
      UsageError: an argument is wrong, or the risk has no gradient: the setting chooses rows or symbols among others,
        the policy counts rows, or the metric does not answer to small changes. It says so before anything is computed.
        Also where the search meets a risk that is not finite.

    Source:
      Best weights: arXiv 2502.18049. Gradients through draws, by reparameterisation: arXiv 1312.6114, 1805.08498.

    Example:
      The best weight of new real rows is near the golden ratio's 0.618:

      >>> import collapse_jax as cj
      >>> best = cj.tune("gaussian", "weighted_fresh", metric="squared_error_of_mean", num_samples=50,
      ...                num_generations=4, num_chains=500, steps=30)
      >>> print(f"{best.value:.1f}")
      0.6
      >>> bool(best.risk[-1] < best.risk[0])
      True
    """
    if (num_samples is None) == (budget is None):
        raise UsageError("give either num_samples, to tune the number of a policy, or budget, to divide its rows")
    require_integer("num_generations", num_generations, 2)
    if budget is not None:
        require_positive("budget", budget)
        if schedule:
            raise UsageError("schedule: a budget is divided over all generations anyway; leave schedule out")
    if isinstance(setting, str):
        setting = factories("setting")[require_choice("setting", setting, factories("setting"))]
    risk = final_risk(
        setting if isinstance(setting, Setting) else setting(),
        _fixed_policy(policy) if num_samples is None else _policy_by_number(policy),
        metric=metric,
        num_samples=num_samples,
        num_generations=num_generations,
        num_chains=num_chains,
        seed=seed,
    )
    first = _first_values(start, num_generations, schedule, budget)
    return minimize_risk(risk, first, steps=steps, learning_rate=learning_rate, budget=budget)


def _fixed_policy(policy: Policy | str | Callable[..., Policy]) -> Callable[[Array], Policy]:
    """Return a function from rows of a batch, which it ignores, to the one policy that is asked for."""
    if isinstance(policy, str):
        policy = factories("policy")[require_choice("policy", policy, factories("policy"))]
    fixed = policy if isinstance(policy, Policy) else policy()
    return lambda rows: fixed


def _policy_by_number(policy: Policy | str | Callable[..., Policy]) -> Callable[[Array], Policy]:
    """Return the function from a number to a policy that is asked for."""
    if isinstance(policy, Policy):
        raise UsageError(
            f"policy {policy.name} has its number already: give the factory, such as policies.weighted_fresh without "
            "parentheses, or a budget of rows"
        )
    if isinstance(policy, str):
        policy = factories("policy")[require_choice("policy", policy, factories("policy"))]
    name = getattr(policy, "__name__", "policy")
    first = next(iter(inspect.signature(policy).parameters.values()), None)
    if first is None:
        raise UsageError(f"policy {name} takes no number that could be tuned; {_WEIGHS}")
    hint = first.annotation
    if hint is not inspect.Parameter.empty and float not in (hint, *typing.get_args(hint)):
        raise UsageError(f"policy {name}: {first.name} is no fraction and has no gradient; {_WEIGHS}")
    return policy


def _first_values(start: ArrayLike | None, num_generations: int, schedule: bool, budget: float | None) -> Array:
    """Return the values that the search begins with: ``[]``, ``[T - 1]``, or shares ``[T]`` of a budget."""
    if budget is not None:
        length, default = num_generations, 1 / num_generations
    else:
        length, default = num_generations - 1, 0.5
    first = jnp.asarray(default if start is None else start, jnp.result_type(float))
    if first.ndim == 0 and (schedule or (budget is not None and start is None)):
        return jnp.full(length, first)
    wanted = (length,) if schedule or budget is not None else ()
    if first.shape != wanted:
        kind = "a number" if not wanted else f"{length} numbers"
        more = "; set schedule=True for a number a generation" if first.shape == (length,) else ""
        raise UsageError(f"start must be {kind}, not of shape {first.shape}{more}")
    return first


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
    """Return the mean of a metric at fit T over chains as a function that ``jax.grad`` and ``jax.jit`` take.

    Args:
      setting: what is fitted.
      policy: from a number (traced) to a policy; the number must weigh rows, not count them. Where `num_samples` is
        None it is given the rows of a batch, and most policies have no use for them: ``lambda rows: replace()``.
      metric: of the setting; its value must be one number, smooth in the fit.
      num_samples: n; None: the value is itself the rows of each batch, the first real one's and those that join the
        data after fits 1 .. T - 1 (real and synthetic ones, as many of each). Rows are then counted by the law of their
        statistics, where any number > 0 will do.
      num_generations: T, at least 2.
      num_chains: whose mean is taken; the same random numbers at every call.
      seed: of these.

    Returns:
      ``(value) -> scalar``; the value is a float for all generations, or ``[T - 1]``, one after the other; of rows
      ``[T]``. A derivative that would be 0 everywhere raises a ``UsageError`` when it is traced.

    Raises:
      UsageError: a setting that is not differentiable, a policy whose number counts rows, another metric, or a number
        out of range; of rows: a setting whose statistics have no law for any number of them.

    Example:
      >>> import jax
      >>> from collapse_jax import policies, settings
      >>> risk = final_risk(settings.gaussian(), policies.decay, metric="squared_error_of_mean", num_samples=20,
      ...                   num_generations=3, num_chains=100)
      >>> bool(jax.grad(risk)(0.5) < 0)  # to forget less is better
      True
    """
    require_integer("num_generations", num_generations, 2)
    require_integer("num_chains", num_chains, 1)
    _require_smooth(setting, metric, num_samples)
    world, keys = setting.world(), chain_keys(seed, num_chains)
    reason = f"{metric} at fit {num_generations} does not change with small changes of what is tuned"

    def chain_at(value: Array) -> Tree:
        made = policy(value)
        rows: Any = value if num_samples is None else num_samples
        _require_weights(made, rows, num_samples is None)
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
        return require_gradient(jax.vmap(last, (None, 0))(schedule, keys).mean(), schedule, reason)

    return jax.jit(risk)  # so that numbers of rows are traced


def _require_smooth(setting: Setting, metric: str, num_samples: int | None) -> None:
    """Refuse a setting whose chains are step functions of their weights, and a metric that it does not have."""
    if not setting.info.differentiable:
        raise UsageError(
            f"setting {setting.name} chooses rows or symbols among others, so the risk has no gradient through its "
            "generations; gaussian and linear_regression have one"
        )
    numbers = [m.name for m in setting.metrics if not m.dims]
    if metric not in numbers:
        raise UsageError(f"metric: setting {setting.name} has no number {metric!r}; one of {', '.join(numbers)}")
    statistics = setting.statistics if setting.label_only is None else None
    if num_samples is None and (statistics is None or statistics.sample_real is None):
        raise UsageError(f"setting {setting.name} draws rows, of which there are whole numbers; give num_samples")


def _require_weights(policy: Policy, num_samples: Any, any_number: bool) -> None:
    """Refuse a policy that counts rows by the value that is tuned, or (`any_number`) that takes whole numbers only."""
    batches, resample = policy.batches, policy.resample
    if any_number:
        if isinstance(batches, PartlyReal | JoinCounts) or policy.sizes or resample is not None:
            raise UsageError(
                f"policy {policy.name} counts rows one by one, so a budget of them cannot be divided; "
                "weighted_fresh(weight), decay(gamma), accumulate() and replace() do not"
            )
        return
    counts: list[Callable[[int], Any]] = [resample.num] if resample is not None else []
    counts += [batches.num_real] if isinstance(batches, PartlyReal | JoinCounts) else []
    counts += [batches.num_synthetic] if isinstance(batches, JoinCounts) else []
    if any(is_traced(count(num_samples)) for count in counts):
        raise UsageError(
            f"policy {policy.name} counts rows by this number, so the risk has steps and no gradient; {_WEIGHS}"
        )


def _divide(budget: float, logs: Array) -> Array:
    """Return the parts of a budget whose logarithms, but for one constant, are given."""
    return budget * jax.nn.softmax(logs)


def minimize_risk(
    risk: Callable[[Array], Array],
    start: ArrayLike,
    *,
    steps: int = 100,
    learning_rate: float = 0.1,
    budget: float | None = None,
) -> Tuned:
    """Minimize a function of shares in (0, 1) by Adam on their log odds, or of parts of a budget on their logarithms.

    Args:
      risk: ``(value) -> scalar``, as of ``final_risk``.
      start: a number in (0, 1) or an array of them. Of a budget: the shares that it is first divided by, ``[parts]``.
      steps: the number of gradients taken; one compiled program takes them all.
      learning_rate: of Adam.
      budget: what the values that `risk` takes must sum to; None: nothing.

    Returns:
      The best value, of the shape of `start`, and the risk before each step, ``[steps]``.

    Raises:
      UsageError: a start outside (0, 1), no steps, a rate or budget that is not above 0, or a risk that is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> best = minimize_risk(lambda x: (1 / x).sum(), jnp.array([0.2, 0.8]), budget=12.0)
      >>> print(jnp.round(best.value))
      [6. 6.]
    """
    require_integer("steps", steps, 1)
    require_positive("learning_rate", learning_rate)
    first = jnp.asarray(start, jnp.result_type(float))
    if not bool(((first > 0) & (first < 1)).all()):
        reject("start", first.tolist(), "between 0 and 1")
    if budget is None:
        logs, to_value = jnp.log(first) - jnp.log1p(-first), jax.nn.sigmoid
    else:
        require_positive("budget", budget)
        if first.ndim != 1:
            raise UsageError("start: a budget is divided by shares, one a batch, such as jnp.full(T, 1 / T)")
        logs, to_value = jnp.log(first), partial(_divide, budget)
    adam, gradient = optax.adam(learning_rate), jax.value_and_grad(lambda x: risk(to_value(x)))

    def step(carry: Tree, _: None) -> tuple[Tree, Array]:
        x, state = carry
        value, slope = gradient(x)
        change, state = adam.update(slope, state)
        return (x + change, state), value

    (found, _), path = jax.jit(lambda x: jax.lax.scan(step, (x, adam.init(x)), length=steps))(logs)
    value = to_value(found)
    if not bool(jnp.isfinite(value).all() & jnp.isfinite(path).all()):
        raise UsageError(
            "the risk or its gradient is not finite somewhere on the way; begin elsewhere, or give more rows"
        )
    return Tuned(value, path)
