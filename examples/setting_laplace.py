"""How to add a setting: the Laplace law around 0, its scale fitted by maximum likelihood.

Run it: ``python examples/setting_laplace.py``.

The first half would do: `fit` and `sample` on rows. The second says that the mean absolute row is sufficient, so that
pools fold into one number, and by which law it is drawn, so that a generation costs the same at any n.
"""

import jax
import jax.numpy as jnp

import collapse_jax as cj
from collapse_jax import policies
from collapse_jax.core import batch
from collapse_jax.core.registry import register_setting
from collapse_jax.core.validation import require_positive
from collapse_jax.types import Array, Batch, Extras, Key, Metric, Setting, SufficientStatistics, Tree, World


@register_setting
def laplace(scale: Array | float = 1.0) -> Setting:
    """Fit a Laplace law around 0, its scale by the mean absolute row.

    n absolute rows sum to scale * Gamma(n, 1), exactly. Under ``replace`` the log of the scale is therefore a random
    walk with steps log Gamma(n, 1) - log n.

    Args:
      scale: Scale of the real law; may be a tracer.

    Raises:
      UsageError: a scale that is not above 0.

    Example:
      >>> [metric.name for metric in laplace().metrics]
      ['log_variance_ratio', 'divergence']
    """
    require_positive("scale", scale)

    def observe(key: Key, world: World, fitted: Array, summary: Tree, generated: Tree) -> dict[str, Array]:
        log_ratio = jnp.log(fitted / scale)
        return {"log_trace_ratio": 2 * log_ratio, "reverse_kl": jnp.expm1(log_ratio) - log_ratio}

    return Setting(
        name="laplace",
        world=lambda: World(real=(), truth=(), test=None),
        sample_real=lambda key, world, num: scale * jax.random.laplace(key, (num,)),
        fit=lambda key, train, start: compress(train).items[0, 0],
        sample=lambda key, fitted, num: fitted * jax.random.laplace(key, (num,)),
        observe=observe,
        metrics=(
            Metric("log_trace_ratio", "logarithm of the variance over the truth's", "nats", "definition",
                   role="log_variance"),
            Metric("reverse_kl", "Kullback-Leibler divergence KL(fit | truth)", "nats a row", "definition", "log",
                   "excess_risk"),
        ),
        statistics=SufficientStatistics(compress, sample_statistics),
        extras=Extras(row_scores={"likelihood": lambda world, fitted, x: -jnp.abs(x) / scale}),
    )  # fmt: skip


def compress(pool: Batch) -> Batch:
    """Return the weighted mean absolute row.

    It is its own absolute value, so rows of statistics merge by the same line.
    """
    x, weight = batch.weighted_rows(pool)
    mass = weight.sum()
    mean = jnp.where(weight > 0, weight * jnp.abs(x), 0.0).sum() / mass  # rows of weight 0 may hold anything, NaN too
    return batch.make_batch(mean[None], mass)


def sample_statistics(key: Key, fitted: Array, num: int, count: Array | int, exact: bool) -> Array:
    """Draw the mean absolute of `count` new rows: from its law, or of rows that are drawn."""
    if exact:
        return fitted * jax.random.gamma(key, jnp.asarray(count, float))[None] / count
    rows = jnp.where(jnp.arange(num) < count, jax.random.laplace(key, (num,)), 0.0)
    return fitted * jnp.abs(rows).sum()[None] / count


def main() -> None:
    """Run two policies, and print what the eight definitions say of them."""
    runs = cj.sweep(
        laplace(), [policies.replace(), policies.accumulate()], num_samples=100, num_generations=50, num_chains=200
    )
    verdicts = runs.collapse.score().verdict.sel(definition="collapsing_variance")
    for policy in runs.policy.to_numpy():
        ratio = float(runs.log_trace_ratio.sel(policy=policy, generation=50).median())
        print(f"{policy}: log variance ratio {ratio:.2f}, collapsing: {verdicts.sel(policy=policy).item()}")


if __name__ == "__main__":
    main()
