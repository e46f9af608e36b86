"""Where a line of code lives: what is heavy or optional is imported where it is used. `lint-imports` checks layers."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import collapse_jax

ROOT = Path(collapse_jax.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


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


@pytest.mark.fast
def test_the_root_has_few_entries():
    assert len([path for path in ROOT.iterdir() if path.name != "__pycache__"]) <= 24


@pytest.mark.fast
@pytest.mark.parametrize(
    "file", ["core/chain.py", "core/pool.py", "core/batch.py", "execution/blocks.py", "execution/sweep.py"]
)
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
@pytest.mark.parametrize("module", ["collapse_jax", "collapse_jax.cli.main"])
def test_what_help_needs_imports_no_jax(module):
    code = (
        f"import sys, {module}; print({module}.__name__, [m for m in ('jax', 'numpy', 'xarray') if m in sys.modules])"
    )
    assert python(code) == f"{module} []"


@pytest.mark.fast
def test_a_run_imports_nothing_that_it_does_not_use():
    code = """
import sys
import collapse_jax as cj
setting = cj.settings.gaussian(num_test=9, source=cj.data.digits())
cj.run(setting, "replace", num_samples=9, num_generations=2, num_chains=1)
heavy = ("flax", "optax", "orbax", "scipy.stats", "scipy.optimize", "tensorflow_datasets", "matplotlib", "zarr")
print([module for module in heavy if module in sys.modules])
"""
    assert python(code) == "[]"


BLOCKED = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Wall())
"""


def test_the_engine_needs_no_reader_no_store_and_no_command_line():
    blocked = ("tensorflow_datasets", "tensorflow", "zarr", "matplotlib", "orbax")
    code = BLOCKED.replace("{blocked}", repr(blocked)) + (
        "try:\n    import zarr\nexcept ImportError:\n    print('blocked')\n"
        "import collapse_jax as c\n"
        "made = c.settings.gaussian(1, num_test=4), c.policies.replace()\n"
        "c.make_chain(*made, num_samples=3, num_generations=2)\n"
        "print(c.sweep.__module__, 'zarr' in sys.modules)\n"
    )
    assert python(code).splitlines() == ["blocked", "collapse_jax.execution.sweep False"]
