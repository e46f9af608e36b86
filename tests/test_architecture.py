"""Where a line of code lives: imports go down only, and what is heavy or optional is imported where it is used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import collapse_jax

ROOT = Path(collapse_jax.__file__).parent
BUILDING = [  # from the ground; a part imports from lower floors only
    ["types", "words", "cost", "calls", "threefry"],
    ["keys", "check", "intervals", "variables", "parts", "sizes", "spread", "worlds", "progress"],
    ["batch", "survival", "neighbours", "frechet", "augment", "extremes", "gamma"],
    ["moments", "counts", "lineage", "memory", "policies", "functional", "gradient", "scores", "metrics",
     "bandwidths"],
    ["least_squares", "text_metrics", "denoising", "curators", "newton", "objectives", "frames"],
    ["samplers"],
    ["nets", "data", "theory"],
    ["image_metrics", "representation_metrics"],
    ["settings"],
    ["chain", "axes"],
    ["blocks", "config_yaml", "tune"],
    ["units", "checkpoint"],
    ["memory_model"],
    ["sweeps", "config_sweep"],
    ["store", "config"],
    ["stream", "results", "cases", "starter", "completion"],
    ["plots_grid", "plots_images", "definitions", "verify"],
    ["plots", "samples", "forecast", "compare"],
    ["launch", "pages", "report", "bench"],
    ["accessor"],
    ["cli"],
]  # fmt: skip
FLOORS = {part: floor for floor, parts in enumerate(BUILDING) for part in parts}
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def part_of(file):
    """The module of the package, or the folder, that a file belongs to; None for the package's own __init__."""
    first = file.split("/")[0].removesuffix(".py")
    return None if first == "__init__" else first


def imported(source):
    """Parts of the package that a source imports, wherever in it."""
    parts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide floors"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts += [name.split(".")[1] for name in names if name.startswith("collapse_jax.")]
    return [part for part in parts if not part.startswith("__")]


def violations(part, source):
    below = [p for p in imported(source) if p != part]
    return [p for p in below if p not in FLOORS or FLOORS[p] >= FLOORS[part]]


@pytest.mark.fast
@pytest.mark.parametrize("file", FILES)
def test_imports_go_down(file):
    part, source = part_of(file), (ROOT / file).read_text()
    if part is None:
        assert imported(source) == []
        return
    assert part in FLOORS, f"{file}: give it a floor"
    assert violations(part, source) == []


@pytest.mark.fast
def test_the_test_of_imports_can_fail():
    assert violations("chain", "from collapse_jax import policies\nfrom collapse_jax.settings.kde import kde") == []
    assert violations("policies", "from collapse_jax.chain import make_chain") == ["chain"]
    assert violations("sweeps", "from collapse_jax import results as R") == ["results"]
    assert violations("batch", "def f():\n    import collapse_jax.plots") == ["plots"]
    assert violations("data", "from collapse_jax import nowhere") == ["nowhere"]
    assert {part for part in map(part_of, FILES) if part} >= {"types", "chain", "settings", "cli"}
    assert any(imported((ROOT / file).read_text()) for file in FILES)


@pytest.mark.fast
@pytest.mark.parametrize("file", ["chain.py", "blocks.py", "sweeps.py", "memory.py", "batch.py"])
def test_the_core_knows_no_setting_and_no_policy(file):
    assert {"settings", "policies", "curators"}.isdisjoint(imported((ROOT / file).read_text()))


@pytest.mark.fast
@pytest.mark.parametrize("file", FILES)
def test_files_are_short_and_finished(file):
    source = (ROOT / file).read_text()
    assert len(source.splitlines()) <= 400
    assert Path(file).name not in ("utils.py", "helpers.py", "common.py", "misc.py")
    assert not re.search("NotImplementedError|TODO|FIXME|XXX", source)


def python(code):
    """The standard output of another Python that runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.fast
@pytest.mark.parametrize("module", ["collapse_jax", "collapse_jax.cli"])
def test_what_help_needs_imports_no_jax(module):
    code = (
        f"import sys, {module}; print({module}.__name__, [m for m in ('jax', 'numpy', 'xarray') if m in sys.modules])"
    )
    assert python(code) == f"{module} []"


BLOCKED = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Wall())
"""


def test_the_engine_needs_no_reader_no_store_and_no_command_line():
    blocked = ("tensorflow_datasets", "tensorflow", "tyro", "zarr", "matplotlib", "orbax")
    code = BLOCKED.replace("{blocked}", repr(blocked)) + (
        "try:\n    import zarr\nexcept ImportError:\n    print('blocked')\n"
        "import collapse_jax as c\n"
        "made = c.settings.gaussian(1, num_test=4), c.policies.replace()\n"
        "c.make_chain(*made, num_samples=3, num_generations=2)\n"
        "print(c.sweep.__module__, 'zarr' in sys.modules)\n"
    )
    assert python(code).splitlines() == ["blocked", "collapse_jax.execution.sweep False"]
