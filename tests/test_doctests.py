"""The examples in docstrings run as they are printed."""

import doctest
import importlib
from pathlib import Path

import pytest

import collapse_jax
import collapse_jax as cj
from collapse_jax.core import registry

ROOT = Path(collapse_jax.__file__).parent
MODULES = sorted(
    ".".join(("collapse_jax", *file.relative_to(ROOT).with_suffix("").parts))
    for file in ROOT.rglob("*.py")
    if ">>> " in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.fast
def test_every_factory_has_an_example():
    registered = {
        f"{group} {name}": factory for group in registry.GROUPS for name, factory in registry.factories(group).items()
    }
    names = ("run", "sweep", "tune", "check", "predict", "simulate", "arguments_of")
    documented = registered | {name: getattr(cj, name) for name in names}
    assert [name for name, made in documented.items() if ">>> " not in (made.__doc__ or "")] == []
