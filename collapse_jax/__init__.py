"""collapse_jax: model collapse as one pure function of a key.

Names load on first use, so that ``collapse-jax --help`` need not import JAX. ``__init__.pyi`` lists them with their
types; whatever it does not name is internal.
"""

import importlib
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_MAKES_DATASETS = ("open", "run", "sweep")  # their datasets have the accessor ``collapse``


def __getattr__(name: str) -> Any:
    if name in _MAKES_DATASETS:
        importlib.import_module("collapse_jax.reporting.accessor")
    return _load(name)
