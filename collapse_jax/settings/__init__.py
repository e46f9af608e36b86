"""Settings say what is fitted: each file has a factory of a ``Setting``."""

from collapse_jax.settings.diffusion import diffusion
from collapse_jax.settings.discrete import discrete
from collapse_jax.settings.ecosystem import ecosystem
from collapse_jax.settings.exponential_family import bernoulli, poisson
from collapse_jax.settings.flow_matching import flow_matching
from collapse_jax.settings.gaussian import gaussian
from collapse_jax.settings.gaussian_mixture import gaussian_mixture
from collapse_jax.settings.ideal_diffusion import ideal_diffusion
from collapse_jax.settings.kde import kde
from collapse_jax.settings.language_model import language_model
from collapse_jax.settings.linear_regression import linear_regression
from collapse_jax.settings.logistic_regression import logistic_regression
from collapse_jax.settings.markov import markov
from collapse_jax.settings.self_supervised import self_supervised
from collapse_jax.settings.vae import vae

__all__ = [
    "bernoulli", "diffusion", "discrete", "ecosystem", "flow_matching", "gaussian", "gaussian_mixture",
    "ideal_diffusion", "kde", "language_model", "linear_regression", "logistic_regression", "markov", "poisson",
    "self_supervised", "vae",
]  # fmt: skip
