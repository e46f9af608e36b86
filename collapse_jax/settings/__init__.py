"""What is fitted: one file a setting, each a factory of a ``Setting``."""

from collections.abc import Callable

from collapse_jax.settings.flow_matching import flow_matching
from collapse_jax.settings.gaussian import gaussian
from collapse_jax.settings.kde import kde
from collapse_jax.settings.linear_regression import linear_regression
from collapse_jax.settings.logistic_regression import logistic_regression
from collapse_jax.types import Setting

REGISTRY: dict[str, Callable[..., Setting]] = {
    f.__name__: f for f in (gaussian, kde, flow_matching, linear_regression, logistic_regression)
}

__all__ = ["REGISTRY", "flow_matching", "gaussian", "kde", "linear_regression", "logistic_regression"]
