"""Tests are about what a program computes: on every change they try programs that compile in half the time."""

import gc
import os
import shutil
import tempfile

import jax
import numpy as np
import pytest
from table_rows import ROWS

from collapse_jax.core import registry


def pytest_configure(config):
    """What compiles quickly, and what several tests, workers or commands compile, once: for this run of the tests."""
    gc.set_threshold(20_000, 10, 10)  # tracing makes objects by the million
    if hasattr(config, "workerinput"):
        return  # what is set here is inherited
    # As XLA compiled loops until it got fusion emitters: in half the time, and a tenth less in one LLVM module instead
    # of parts for many cores. `verify` and the nightly tests compile as users do. Where the emitters are all there is,
    # XLA stops at a flag that it does not know.
    if jax.__version_info__ < (0, 11) and "not nightly" in config.getoption("markexpr"):
        quick = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + quick
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="compiled-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        # Files, workers and commands that tests start compile the same hundreds of single operations.
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


APART = ("test_laws", "test_check")  # files that are long, and whose tests share little


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The tests of a file, and the laws of one setting, go to one worker, which compiles what they share once."""
    for item in items:
        file = item.module.__name__
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        name = parameters.get("setting", parameters.get("name"))
        if file.startswith("test_laws") and isinstance(name, str):
            item.add_marker(pytest.mark.xdist_group(name))
        elif not file.startswith(APART) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(file))


_since_cleared = [0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Programs of a file are forgotten with it: thousands of them slow Python down and take gigabytes."""
    _since_cleared[0] += 1
    files = [x.module.__name__ for x in (item, nextitem) if x is not None]
    # The laws of one setting come one after another, a few from each file.
    laws = all(file.startswith("test_laws") for file in files) and _since_cleared[0] < 40
    if nextitem is None or (files[0] != files[1] and not laws):
        jax.clear_caches()
        _since_cleared[0] = 0


@pytest.fixture
def optimised():
    """For tests that look at bits, or simulate for seconds: programs are compiled as users' are."""


# What these look at may hang on how a program is compiled: bits of different programs, and the last digits of float32.
AS_USERS = ("test_blocks", "test_devices", "test_lineage", "test_numerics", "test_sharding")


ALWAYS = jax.config.read("jax_disable_most_optimizations")  # as the environment says


@pytest.fixture(autouse=True, scope="module")
def _quick_fixtures(request):
    """What the tests of such a file share is made before ``_quick_compiles`` of the first of them."""
    by_day = not any(item.get_closest_marker("nightly") for item in request.session.items)
    quick = by_day and request.module.__name__ not in AS_USERS
    jax.config.update("jax_disable_most_optimizations", quick or ALWAYS)
    with pytest.MonkeyPatch.context() as patch:  # for the commands that tests start
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(quick or ALWAYS)))
        yield
    jax.config.update("jax_disable_most_optimizations", ALWAYS)


@pytest.fixture(autouse=True)
def _quick_compiles(request, _quick_fixtures):
    """JAX's own switch; the nightly tests compile as users do."""
    before = jax.config.read("jax_disable_most_optimizations")
    users = "optimised" in request.fixturenames or request.node.get_closest_marker("nightly") is not None
    jax.config.update("jax_disable_most_optimizations", ALWAYS or (before and not users))
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


@pytest.fixture
def own_parts(monkeypatch):
    """What a test registers does not outlive it; what the package registers is there before it."""
    for group in registry.GROUPS:
        registry.factories(group)
    monkeypatch.setattr(registry, "_factories", {group: dict(known) for group, known in registry._factories.items()})
