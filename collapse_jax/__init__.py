"""collapse_jax: model collapse as one pure function of a key.

Names load on first use, so that ``collapse-jax --help`` need not import JAX.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "run": "execution.sweep",
    "sweep": "execution.sweep",
    "make_chain": "core.chain",
    "simulate": "core.chain",
    "chain_keys": "core.random",
    "open": "results.io",
    "predict": "analysis.predictions",
    "score": "analysis.verdicts",
    "texts_of": "results.variables",
    **{name: "types" for name in ("Batch", "Chain", "Curator", "Metric", "Policy", "Setting", "Source", "World")},
}
_MODULES = (
    "batch", "curators", "data", "definitions", "policies", "results", "settings", "spread", "survival", "theory",
    "tune", "types",
)  # fmt: skip

__all__ = sorted((*_HOMES, *_MODULES, "__version__"))


_WITH_ACCESSOR = ("open", "results", "run", "sweep")  # their datasets have the accessor ``collapse``


def __getattr__(name: str) -> Any:
    if name in _WITH_ACCESSOR:
        importlib.import_module("collapse_jax.reporting.accessor")
    if name in _HOMES:
        return getattr(importlib.import_module(f"collapse_jax.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"collapse_jax.{name}")
    raise AttributeError(f"module 'collapse_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
