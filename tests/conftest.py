"""Laws are about what a program computes: on every change they are tried on programs that compile in half the time."""

import jax
import numpy as np
import pytest
from table_rows import ROWS


@pytest.fixture
def optimised():
    """For tests that look at bits: programs are compiled as users' are."""


@pytest.fixture(autouse=True)
def _quick_compiles(request):
    """JAX's own switch, for the laws alone; the nightly tests compile as users do."""
    quick = request.module.__name__.startswith(("test_laws", "test_compiles", "test_batch", "test_nets"))
    quick &= "optimised" not in request.fixturenames and request.node.get_closest_marker("nightly") is None
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick or before)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where TensorFlow Datasets prepares: nowhere of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("tfds")
        patch.setenv("TFDS_DATA_DIR", str(path))
        yield path


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """A file of ``table_rows.ROWS``."""
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    np.savetxt(path, ROWS, delimiter=",", fmt="%.17g", header="a,b,c", comments="")
    return str(path)
