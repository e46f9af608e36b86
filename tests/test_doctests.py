"""The examples in docstrings run, and say what they print."""

import doctest
import importlib
from pathlib import Path

import pytest

import collapse_jax

ROOT = Path(collapse_jax.__path__[0])
WITH_EXAMPLES = sorted(
    ".".join(("collapse_jax", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_say_what_they_print(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
