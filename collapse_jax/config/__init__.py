"""Experiments written as YAML: loaded, checked and written back."""

from collapse_jax.config.experiment import Experiment, dumps, from_dict, load, to_dict
from collapse_jax.config.parse import describe
from collapse_jax.config.schema import Mesh, Spec, metrics_of, spec_types, usage
from collapse_jax.config.yaml_io import ConfigError

__all__ = ["ConfigError", "Experiment", "Mesh", "Spec", "describe", "dumps", "from_dict", "load", "metrics_of",
           "spec_types", "to_dict", "usage"]  # fmt: skip
