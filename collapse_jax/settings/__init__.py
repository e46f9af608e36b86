"""What is fitted: one file a setting, each a factory of a ``Setting``."""

from collections.abc import Callable

from collapse_jax.settings.flow_matching import flow_matching
from collapse_jax.settings.gaussian import gaussian
from collapse_jax.settings.gaussian_mixture import gaussian_mixture
from collapse_jax.settings.ideal_diffusion import ideal_diffusion
from collapse_jax.settings.kde import kde
from collapse_jax.settings.language_model import language_model
from collapse_jax.settings.markov import markov
from collapse_jax.types import Setting

REGISTRY: dict[str, Callable[..., Setting]] = {
    f.__name__: f for f in (gaussian, kde, flow_matching, gaussian_mixture, ideal_diffusion, markov, language_model)
}

__all__ = [
    "REGISTRY",
    "flow_matching",
    "gaussian",
    "gaussian_mixture",
    "ideal_diffusion",
    "kde",
    "language_model",
    "markov",
]
