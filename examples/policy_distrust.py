"""How to add a policy: accumulate, but believe synthetic rows less than real ones.

Run it: ``python examples/policy_distrust.py``.
"""

import collapse_jax as cj
from collapse_jax import settings
from collapse_jax.core import batch
from collapse_jax.core.registry import register_policy
from collapse_jax.core.validation import require_share
from collapse_jax.types import Array, Join, Policy


@register_policy
def distrust(trust: Array | float = 0.5) -> Policy:
    """Accumulate, but believe each synthetic row less than a real one.

    Args:
      trust: How many times a synthetic row is there, from 0 to 1: 1 is ``accumulate``, 0 the real rows for ever. It may
        be a tracer, and so an axis of one program.

    Raises:
      UsageError: a trust outside [0, 1].

    Example:
      >>> distrust(0.5).name
      'distrust'
    """
    require_share("trust", trust)
    return Policy("distrust", batches=Join(lambda new, real: batch.scale_weights(new, trust)))


def main() -> None:
    """Sweep over the trust, which is one compiled program."""
    runs = cj.sweep(
        settings.gaussian(1),
        distrust,
        axes={"trust": [0.0, 0.25, 0.5, 1.0]},
        metrics=["squared_error_of_mean"],
        num_samples=100,
        num_generations=50,
        num_chains=200,
    )
    error = runs.squared_error_of_mean.mean("chain").isel(policy=0)
    for trust in runs.trust.to_numpy():
        ratio = float(error.sel(trust=trust, generation=50) / error.sel(trust=trust, generation=1))
        print(f"trust {trust:.2f}: squared error of the mean at generation 50 is {ratio:.2f} times the first")


if __name__ == "__main__":
    main()
