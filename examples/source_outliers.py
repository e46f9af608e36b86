"""How to add a source of real rows: a normal law with outliers.

Run it: ``python examples/source_outliers.py``.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

import collapse_jax as cj
from collapse_jax import policies, settings
from collapse_jax.core.random import draw_normals
from collapse_jax.core.registry import register_source
from collapse_jax.core.validation import require_integer, require_number, require_positive
from collapse_jax.data.synthetic import make_held_out
from collapse_jax.types import Array, Key, Source, Tree


@register_source
def outliers(dim: int = 1, share: float = 0.05, scale: float = 5.0) -> Source:
    """Draw rows N(0, I), of which a share are N(0, scale^2 I).

    The mean is 0, the variance 1 - share + share scale^2 in each column.

    Args:
      dim: Number of columns.
      share: Share of the rows that are outliers.
      scale: Standard deviation of outliers.

    Raises:
      UsageError: a number out of range.

    Example:
      >>> outliers(dim=2).covariance.diagonal()
      array([2.2, 2.2])
    """
    dim = require_integer("outliers: dim", dim, 1)
    share = require_number("outliers: share", share, above=0, below=1)
    scale = require_positive("outliers: scale", scale)

    def draw(key: Key, arrays: Tree, num: int) -> Array:
        key_which, key_rows = jax.random.split(key)
        is_outlier = jax.random.bernoulli(key_which, share, (num, 1))
        return jnp.where(is_outlier, scale, 1.0) * draw_normals(key_rows, (num, dim))

    def log_density(arrays: Tree, rows: Array) -> Array:
        squared, constant = (rows**2).sum(1), 0.5 * dim * math.log(2 * math.pi)
        usual, outlying = -squared / 2, -squared / (2 * scale**2) - dim * math.log(scale)
        return jnp.logaddexp(math.log1p(-share) + usual, math.log(share) + outlying) - constant

    return Source(
        name="outliers",
        dim=dim,
        arrays=(),  # a table would stand here: it travels to compiled code as an argument
        draw=draw,
        held_out=make_held_out("outliers", draw, ()),
        mean=np.zeros(dim),
        covariance=(1 - share + share * scale**2) * np.eye(dim),
        log_density=log_density,
    )


def main() -> None:
    """Fit a kernel density estimate to its own rows again and again: does it keep the likelihood of heavy tails?"""
    setting = settings.kde(source=outliers())
    runs = cj.run(
        setting, policies.accumulate(), metrics=["test_nll"], num_samples=100, num_generations=10, num_chains=50
    )
    for generation in (1, 2, 10):
        nll = float(runs.test_nll.sel(generation=generation).median())
        print(f"generation {generation}: negative log likelihood of held-out rows {nll:.2f} nats a row")


if __name__ == "__main__":
    main()
