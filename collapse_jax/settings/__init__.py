"""What is fitted: one file a setting, each a factory of a ``Setting``."""

from collections.abc import Callable

from collapse_jax.settings.discrete import discrete
from collapse_jax.settings.exponential_family import bernoulli, poisson
from collapse_jax.settings.flow_matching import flow_matching
from collapse_jax.settings.gaussian import gaussian
from collapse_jax.settings.kde import kde
from collapse_jax.types import Setting

REGISTRY: dict[str, Callable[..., Setting]] = {
    f.__name__: f for f in (gaussian, kde, discrete, poisson, bernoulli, flow_matching)
}

__all__ = ["REGISTRY", "bernoulli", "discrete", "flow_matching", "gaussian", "kde", "poisson"]
