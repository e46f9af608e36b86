"""Laws of one parameter, fitted by maximum likelihood: the mean of the rows is sufficient, and is the fit."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from collapse_jax.core import batch
from collapse_jax.core.random import stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import is_traced, require_number, require_positive
from collapse_jax.metrics import row_scores
from collapse_jax.numerics import count_laws
from collapse_jax.types import Array, Batch, Extras, Key, Metric, Setting, SufficientStatistics, Tree, World


class Family(NamedTuple):
    """A law of one parameter, given by its mean.

    Attributes:
      draw: ``(key, mean, num) -> [num]``: rows.
      total: ``(key, mean, num, count) -> scalar``: by its law, the sum of `count` rows, at most `num`.
      part: ``(key, total, num, count) -> scalar``: the sum of `count` of `num` rows whose sum is `total`.
      divergence: ``(mean, truth) -> scalar``: Kullback-Leibler divergence of two laws of the family, nats.
      dead: ``(mean) -> bool``: whether only one value is left.
      values: how many there are; None where they never end.
    """

    draw: Callable[[Key, Array, int], Array]
    total: Callable[..., Array]
    part: Callable[..., Array]
    divergence: Callable[[Array, Array | float], Array]
    dead: Callable[[Array], Array]
    values: int | None = None


POISSON = Family(
    draw=count_laws.draw_poisson_rows,
    total=lambda key, rate, num, count: count_laws.draw_poisson(key, rate * count),
    part=lambda key, total, num, count: count_laws.draw_binomial(key, total, count / num),
    divergence=lambda rate, truth: _relative(rate, truth) - rate + truth,
    dead=lambda rate: rate == 0,
)
BERNOULLI = Family(
    draw=lambda key, p, num: count_laws.draw_bernoulli(key, p, num),
    total=lambda key, p, num, count: count_laws.draw_multinomial(key, jnp.stack([p, 1 - p]), num, count)[0],
    part=lambda key, total, num, count: count_laws.draw_part_counts(key, jnp.stack([total, num - total]), num, count)[
        0
    ],
    divergence=lambda p, truth: _relative(p, truth) + _relative(1 - p, 1 - truth),
    dead=lambda p: (p == 0) | (p == 1),
    values=2,
)


@register_setting
def poisson(rate: Array | float = 1.0) -> Setting:
    """Fit the rate of a Poisson law by maximum likelihood.

    Under ``replace`` the rate dies: 0 is fitted, and stays. P(rate = 0 at fit k) = exp(-n rate g_k), g_1 = 1,
    g_{k+1} = 1 - exp(-g_k), exactly. Sums have a known law, Poisson(n rate), so rows need not be drawn; they are
    counted in floats, which tell whole numbers below 2^24 apart.

    Args:
      rate: Rate of the real law.

    Raises:
      UsageError: a rate that is not above 0.

    Example:
      >>> from collapse_jax import policies, run
      >>> runs = run(poisson(2.0), policies.replace(), num_samples=50, num_generations=3, num_chains=2)
      >>> sorted(runs.data_vars)
      ['dead', 'log_rate_ratio', 'reverse_kl']
    """
    require_positive("rate", rate)
    ratio = Metric("log_rate_ratio", "logarithm of the fitted rate (the variance, too) over the truth's; -inf: dead",
                   "nats", "definition", role="log_variance")  # fmt: skip
    return _setting("poisson", POISSON, rate, ratio)


@register_setting
def bernoulli(p: Array | float = 0.5) -> Setting:
    """Fit the probability of a Bernoulli law by maximum likelihood.

    It is a law of two symbols, one of which dies under ``replace``. Sums have a known law, Binomial(n, p), so rows need
    not be drawn.

    Args:
      p: Probability of a 1 in the real law.

    Raises:
      UsageError: a probability that is not above 0 and below 1.

    Example:
      >>> [metric.name for metric in bernoulli(0.3).metrics]
      ['log_probability_ratio', 'dead', 'reverse_kl', 'symbols_alive']
    """
    if not is_traced(p):
        require_number("bernoulli: p", p, above=0, below=1)
    ratio = Metric("log_probability_ratio", "logarithm of the fitted p over the truth's; -inf: p is 0", "nats",
                   "definition")  # fmt: skip
    return _setting("bernoulli", BERNOULLI, p, ratio)


def _setting(name: str, family: Family, truth: Array | float, ratio: Metric) -> Setting:
    """Return the setting of a family. `truth` may be traced, so no world holds it: a grid of it is one program."""
    alive = Metric("symbols_alive", "symbols of positive probability", "symbols", "definition", "log", "modes tail")
    return Setting(
        name=name,
        world=lambda: World((), (), None),
        sample_real=lambda key, world, num: family.draw(key, jnp.asarray(truth, float), num),
        fit=lambda key, train, start: _compress(train).items[0, 0],
        sample=family.draw,
        observe=partial(_observe, family, truth, ratio.name),
        metrics=(
            ratio,
            Metric("dead", "whether the fit has one value only", "yes (1) or no (0)", "definition"),
            Metric(
                "reverse_kl",
                "Kullback-Leibler divergence KL(fit | truth)",
                "nats a row",
                "definition",
                "log",
                "excess_risk",
            ),
            *([] if family.values is None else [alive]),
        ),
        statistics=SufficientStatistics(
            _compress, partial(_sample_statistics, family), partial(_sample_real_statistics, family, truth)
        ),
        extras=Extras(row_scores={"value": row_scores.score_number}),
    )


def _compress(train: Batch) -> Batch:
    """Return the weighted mean: a row is a statistic of itself."""
    items, weight = batch.weighted_rows(train)
    mass = weight.sum()
    return batch.make_batch((jnp.where(weight > 0, weight * items, 0.0).sum() / mass)[None], mass)


def _sample_statistics(family: Family, key: Key, mean: Array, num: int, count: Array | int, exact: bool) -> Array:
    if exact:
        return _divide(family.total(key, mean, num, count), count)
    return _divide(jnp.where(jnp.arange(num) < count, family.draw(key, mean, num), 0.0).sum(), count)


def _sample_real_statistics(
    family: Family, truth: Array | float, key: Key, world: World, num: Array | int, count: Array | int | None = None
) -> Array:
    whole = family.total(key, jnp.asarray(truth, float), num, num)
    if count is None:
        return _divide(whole, num)
    return _divide(family.part(stream(key, "part"), whole, num, count), count)


def _divide(total: Array, count: Array | int) -> Array:
    """Return the mean of `count` rows as one row of statistics, ``[1]``."""
    return total[None] / jnp.asarray(count, total.dtype)


def _observe(
    family: Family, truth: Array | float, name: str, key: Key, world: World, mean: Array, summary: None, generated: Tree
) -> dict[str, Array]:
    dead = family.dead(mean).astype(float)
    metrics = {name: jnp.log(mean / truth), "dead": dead, "reverse_kl": family.divergence(mean, truth)}
    return (
        metrics if family.values is None else {**metrics, "symbols_alive": family.values - (family.values - 1) * dead}
    )


def _relative(a: Array, b: Array | float) -> Array:
    """Return ``a log(a / b)``, 0 at a = 0."""
    return jnp.where(a > 0, a * jnp.log(jnp.where(a > 0, a, 1.0) / b), 0.0)
