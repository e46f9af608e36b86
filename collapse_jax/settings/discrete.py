"""Laws over K symbols, fitted by empirical frequencies: the Wright-Fisher model of population genetics."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import batch
from collapse_jax.core.lineage import with_ancestors
from collapse_jax.core.random import stream
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import is_traced, require_positive
from collapse_jax.data import symbols
from collapse_jax.metrics import row_scores
from collapse_jax.numerics import count_laws
from collapse_jax.types import (
    Array,
    Batch,
    Extras,
    Info,
    Key,
    Metric,
    OffAt,
    Setting,
    SufficientStatistics,
    Symbols,
    Tree,
    World,
)

METRICS = (
    Metric("entropy", "entropy of the fit", "nats", "arXiv 2410.16713"),
    Metric("gini_simpson", "probability that two draws from the fit differ", "1", "1 - sum p^2", "log"),
    Metric("symbols_alive", "symbols of positive probability", "symbols", "arXiv 2410.16713", "log", "modes tail"),
    Metric("missing_mass", "real probability of the symbols that died", "1", "definition"),
    Metric("total_variation", "total variation distance from the real law", "1", "sum |p - q| / 2",
           role="excess_risk"),
)  # fmt: skip


class Frequencies(NamedTuple):
    """The shares ``[K]`` of the symbols: the fit, and the statistic that is sufficient for it."""

    share: Array


@register_setting
def discrete(
    probabilities: Symbols | Sequence[float] | None = None,
    lineage: bool = False,
    temperature: Annotated[Array | float, OffAt(1.0)] = 1.0,
) -> Setting:
    """Fit a law over K symbols by empirical frequencies: the Wright-Fisher model of population genetics.

    Rows are symbol numbers. A symbol that no training row has is dead, and under ``replace`` stays so. The fit from
    which one symbol is left is ``(runs.symbols_alive > 1).sum("generation") + 1``; T + 1 means: not within T
    (censored). Counts have a known law (multinomial), so rows need not be drawn. Where they are, a probability is
    resolved down to 2^-31 and is no more than 2^-31 off.

    Args:
      probabilities: The real law: one of ``data.symbols``, or K numbers whose sum is 1. The default is 10 equally
        likely symbols.
      lineage: Whether rows know their real ancestors, which the metric ``ancestors_alive`` counts.
      temperature: Temperature of sampling: symbols are drawn in proportion to share^(1 / temperature), as language
        models do. Below 1 the likeliest symbol takes all, in a few generations, however many rows there are: odds are
        raised to the power 1 / temperature^t.

    Raises:
      UsageError: numbers that are no probabilities, a temperature that is not above 0, or (with `lineage`) not 1.

    Example:
      >>> from collapse_jax import policies, run
      >>> runs = run(discrete([0.2, 0.8]), policies.replace(), num_samples=50, num_generations=3, num_chains=2)
      >>> bool((runs.symbols_alive <= 2).all())
      True
    """
    if probabilities is None:
        probabilities = symbols.uniform()
    elif not isinstance(probabilities, Symbols):
        probabilities = symbols.symbols_from_probabilities("discrete", probabilities)
    require_positive("temperature", temperature)
    as_fitted = not is_traced(temperature) and temperature == 1
    heated = (lambda params: params) if as_fitted else partial(_heated, temperature)
    law, num = probabilities.probabilities, len(probabilities.probabilities)
    setting = Setting(
        name="discrete",
        world=lambda: World(real=jnp.asarray(law, float), truth=jnp.asarray(law, float), test=None),
        sample_real=lambda key, world, n: count_laws.draw_categorical(key, world.real, n),
        fit=lambda key, train, start: jax.tree.map(lambda x: x[0, 0], _compress(num, train).items),
        sample=lambda key, params, n: count_laws.draw_categorical(key, heated(params).share, n),
        observe=_observe,
        metrics=_metrics(law),
        statistics=SufficientStatistics(
            compress=partial(_compress, num),
            sample=lambda key, params, *rest: _sample_statistics(key, heated(params), *rest),
            sample_real=_sample_real_statistics,
        ),
        extras=Extras(
            sample_children=(lambda key, params, rows: rows) if as_fitted else None,
            row_scores={
                "likelihood": lambda world, params, rows: jnp.log(world.truth)[rows],
                "value": row_scores.score_number,
            },
        ),
        info=Info(source=probabilities),
    )
    return with_ancestors(setting) if lineage else setting


def _metrics(law: np.ndarray) -> tuple[Metric, ...]:
    """Return the metrics, with the trivial baseline of an error: a model that always says the likeliest symbol."""
    return tuple(m._replace(baseline=float(1 - law.max())) if m.role == "excess_risk" else m for m in METRICS)


def _compress(num: int, train: Batch) -> Batch:
    """Return one row of frequencies, of rows and of frequencies alike."""
    items, weight = batch.weighted_rows(train)
    mass = weight.sum()
    if isinstance(items, Frequencies):
        part = (weight / mass)[:, None]
        share = jnp.where(part > 0, part * items.share, 0.0).sum(0)
    else:
        share = count_laws.count_symbols(items, weight, num) / mass
    return batch.make_batch(Frequencies(share[None]), mass)


def _heated(temperature: Array | float, params: Frequencies) -> Frequencies:
    """Return the law that is sampled from; what is dead stays dead."""
    return Frequencies(jax.nn.softmax(jnp.log(params.share) / temperature))


def _sample_statistics(key: Key, params: Frequencies, num: int, count: Array | int, exact: bool) -> Frequencies:
    draw = count_laws.draw_multinomial if exact else count_laws.draw_counts
    counts = draw(key, params.share, num, count)[None]
    return Frequencies(counts / jnp.asarray(count, counts.dtype))


def _sample_real_statistics(key: Key, world: World, num: Array | int, count: Array | int | None = None) -> Frequencies:
    whole = count_laws.draw_multinomial(key, world.real, num, num)
    if count is None:
        return Frequencies(whole[None] / jnp.asarray(num, whole.dtype))
    part = count_laws.draw_part_counts(stream(key, "part"), whole, num, count)[None]
    return Frequencies(part / jnp.asarray(count, part.dtype))


def _observe(key: Key, world: World, params: Frequencies, summary: None, generated: Tree) -> dict[str, Array]:
    share, truth = params.share, world.truth
    alive = share > 0
    return {
        "entropy": (share * jnp.log(1 / jnp.where(alive, share, 1.0))).sum(),
        "gini_simpson": (share * (1 - share)).sum(),
        "symbols_alive": alive.sum(),
        "missing_mass": jnp.where(alive, 0.0, truth).sum(),
        "total_variation": 0.5 * jnp.abs(share - truth).sum(),
    }
