"""The examples in docstrings run as they are printed."""

import doctest
import importlib
from pathlib import Path

import pytest

import collapse_jax

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
