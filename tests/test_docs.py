"""The pages under docs/: the tutorial's code prints what the page shows, and the reference leaves nothing out."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest
import yaml

import collapse_jax as cj
from collapse_jax.config import experiment

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def test_the_tutorial_prints_what_it_shows():
    names: dict = {}
    printed = pages.run(TUTORIAL, names)
    assert len(printed) == 7
    for block, out in zip(pages.blocks(TUTORIAL), printed, strict=True):
        assert pages.differences(block.shown or "", out) == []
    (text,) = re.findall(r"```yaml\n(.*?)```", TUTORIAL, re.DOTALL)
    grid = experiment.from_dict(yaml.safe_load(text)).grid()
    sizes = {axis.dim: len(axis.values) for axis in grid.axes}
    assert sizes == {dim: names["grid"].sizes[dim] for dim in ("num_samples", "share")}


@pytest.mark.fast
def test_the_check_of_pages_can_fail():
    page = "```python\nprint('mean', 1 / 3)\n```\n\n```text\nmean 0.33\n```\n```python\nx = 1\n```\n"
    assert pages.blocks(page) == [("print('mean', 1 / 3)\n", "mean 0.33\n"), ("x = 1\n", None)]
    assert pages.run(page, {}, lambda code: code.replace("3)", "4)")) == ["mean 0.25\n", ""]
    assert pages.differences("mean 0.33\n", "mean 0.3333\n") == []
    assert pages.differences("a | 1e-07", "a | 1.01e-07") == []
    for shown, printed in (("mean 0.33", "mean 0.25"), ("mean 0.33", "median 0.33"), ("1 2", "1"), ("1e-7", "1e-6"),
                           ("100 chains", "99 chains")):  # fmt: skip
        assert pages.differences(shown, printed, rtol=0.005)


def nav_of(node):
    """The pages that a part of the navigation names."""
    if isinstance(node, str):
        return [node]
    return [page for child in (node.values() if isinstance(node, dict) else node) for page in nav_of(child)]


@pytest.mark.fast
def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere():
    docs = ROOT / "docs"
    found = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert set(nav_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])) == found
    for page in found:
        text = (docs / page).read_text()
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (docs / page).parent.joinpath(link).exists(), f"{page}: {link}"
        for path in re.findall(r"`((?:configs|examples|tests|experiments|benchmarks)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"


@pytest.mark.fast
def test_the_reference_names_every_public_module():
    text = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    named = set(re.findall(r"^::: collapse_jax\.([\w.]+)$", text, re.M))
    public = {name: getattr(cj, name) for name in cj.__all__}
    homes = {part.__name__ if inspect.ismodule(part) else part.__module__ for part in public.values()}
    assert {home.removeprefix("collapse_jax.") for home in homes} <= named


# Not of this package: a group of entry points, an archive, a file of a bucket.
NO_MODULES = {"collapse_jax.parts", "collapse_jax.tar.gz", "collapse_jax/run.log"}
# Every file that users read, and the sources, whose docstrings become pages.
TEXTS = ("*.md", "mkdocs.yml", "docs/**/*.md", "benchmarks/*.*", "configs/**/*.yaml", "examples/*.py",
         "experiments/*.py", "collapse_jax/**/*.py")  # fmt: skip


def is_importable(name):
    """Whether a dotted name is a module, or an attribute of one."""
    found, so_far = cj, "collapse_jax"
    for part in name.split(".")[1:]:
        so_far = f"{so_far}.{part}"
        try:
            found = getattr(found, part, None) or importlib.import_module(so_far)
        except ImportError:
            return False
    return True


@pytest.mark.fast
def test_modules_and_files_that_texts_name_exist():
    for path in sorted({path for pattern in TEXTS for path in ROOT.glob(pattern)}):
        text = path.read_text()
        files = set(re.findall(r"(?<![\w./])collapse_jax/[\w/]+(?:\.\w+)*", text)) - NO_MODULES
        assert not [file for file in files if not (ROOT / file).exists()], path
        names = set(re.findall(r"(?<![\w./])collapse_jax(?:\.[a-z_]\w*)+", text)) - NO_MODULES
        names |= {f"collapse_jax.{name}" for name in re.findall(r"(?<![\w.])cj\.([a-z_]\w*)", text)}
        assert not [name for name in names if not is_importable(name)], path


@pytest.mark.nightly
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "mkdocs.yml"), "-d", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    parts = (tmp_path / "api" / "parts" / "index.html").read_text()
    for name in ("collapse_jax.settings.gaussian", "collapse_jax.policies.accumulate", "collapse_jax.types.data.Batch"):
        assert f'id="{name}' in parts


def test_the_setting_of_contributing_obeys_the_laws(own_parts):
    printed = pages.run((ROOT / "CONTRIBUTING.md").read_text(), {})
    checked, error = printed[0].splitlines()
    assert checked == "()"
    assert 0.1 < float(error) < 0.3  # 20 fits of 100 rows each: 0.2 in the mean over 200 chains
