"""How to add a metric to a setting that is there: the Kullback-Leibler divergence of Gaussian fits.

Run it: ``python examples/metric_divergence.py``.
"""

import jax.numpy as jnp

import collapse_jax as cj
from collapse_jax import policies, settings
from collapse_jax.numerics import gaussian_moments, ldl
from collapse_jax.types import Array, Key, Metric, Setting, Tree, World

# A metric says what it may serve as (here: a risk that is 0 at the truth), by which verdicts find it.
METRIC = Metric(
    "forward_kl", "Kullback-Leibler divergence KL(truth | fit)", "nats a row", "definition", "log", "excess_risk"
)


def with_divergence(setting: Setting) -> Setting:
    """Return `setting`, a ``gaussian``, with the metric ``forward_kl``: infinite where the fit is singular."""

    def observe(key: Key, world: World, fitted: Tree, summary: Tree, generated: Tree) -> dict[str, Array]:
        """`world` holds the truth, `fitted` is the fit; `generated` its rows, None where only statistics are drawn."""
        seen = setting.observe(key, world, fitted, summary, generated)
        return seen | {"forward_kl": divergence(world.truth.law, fitted)}

    return setting._replace(observe=observe, metrics=(*setting.metrics, METRIC))


def divergence(truth: gaussian_moments.Moments, fitted: gaussian_moments.Moments) -> Array:
    """Return KL of two normal laws, by triangular factors.

    It is (tr(F^-1 S) + e^T F^-1 e - d + log det F - log det S) / 2.
    """
    error = (truth.mean - fitted.mean)[:, None]
    columns = jnp.concatenate([gaussian_moments.cholesky_factor(truth), error], axis=1)
    solved = ldl.solve_unit_lower(fitted.factor, columns)
    quadratic = jnp.exp(jnp.log((solved**2).sum(1)) - 2 * fitted.log_scale).sum()  # in logs: variances die
    finite = 0.5 * (quadratic - len(truth.mean) + gaussian_moments.log_det(fitted) - gaussian_moments.log_det(truth))
    return jnp.where(jnp.isneginf(fitted.log_scale).any(), jnp.inf, finite)


def main() -> None:
    """Ask for the metric by name; what is not asked for costs nothing."""
    runs = cj.run(
        with_divergence(settings.gaussian(1)),
        policies.accumulate(),
        metrics=["forward_kl"],
        num_samples=100,
        num_generations=20,
        num_chains=200,
    )
    for generation in (1, 5, 20):
        print(f"generation {generation}: {float(runs.forward_kl.median('chain').sel(generation=generation)):.3f} nats")


if __name__ == "__main__":
    main()
