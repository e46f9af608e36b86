"""What the README shows is run: its code, its commands, and the extension it promises."""

import re
from pathlib import Path

import pages
import pytest

import collapse_jax as cj
from collapse_jax import config, policies
from collapse_jax.core import registry
from collapse_jax.numerics.confidence_intervals import MIN_CHAINS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FOLDERS = (".", "diffusion", "language_model", "self_supervised", "strategies")


def smaller(code):
    """Return the code with fewer chains of fewer generations."""
    code = (
        code.replace("num_chains=1000", "num_chains=20")
        .replace('"num_chains": 1000', '"num_chains": 20')
        .replace("num_generations=50", "num_generations=4")
    )
    return code.replace("generation=50", "generation=4").replace('"steps": 50', '"steps": 2')


@pytest.mark.fast
def test_the_code_blocks_run_in_order(own_parts):
    names: dict = {}
    assert len(pages.blocks(README)) == 5
    pages.run(README, names, smaller)
    assert names["grid"].sizes == {"policy": 1, "weight": 9, "chain": 20, "generation": 4}
    runs = cj.run(
        names["exponential"](rate=2.0), policies.replace(), num_samples=50, num_generations=30, num_chains=500
    )
    spread = runs.log_rate_ratio.std("chain")
    # The estimate's log has variance psi1(n) a generation, and generations add up.
    assert float(spread[-1] / spread[0]) == pytest.approx(30**0.5, rel=0.2)


@pytest.mark.fast
def test_tables_name_every_setting_policy_and_curator():
    for name in (*registry.factories("policy"), *registry.factories("curator"), *registry.factories("setting")):
        assert f"| `{name}(" in README, name


def test_commands_name_what_exists():
    assert re.search(r"\.venv/bin/collapse-jax run (\S+)", README)[1] == "configs/quickstart.yaml"
    for path in re.findall(r"[`(]((?:configs|benchmarks|collapse_jax|docs|examples|experiments)/[\w/.]+)[`)]", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in FOLDERS for path in (ROOT / "configs" / folder).glob("*.yaml")),
    ids=lambda p: f"{p.parent.stem}-{p.stem}",
)
def test_every_config_loads_and_says_what_it_is(path):
    experiment = config.load(path)
    assert experiment.num_chains >= 1
    header = path.read_text().split("setting:")[0]
    for word in ("Shows", "Source", "Command", "Run time", "Expected"):
        assert word in header, word
    said = "a chain alone" if experiment.num_chains == 1 else f"{experiment.num_chains} chains: no verdict"
    assert (experiment.num_chains >= MIN_CHAINS) == ("# Undecided" not in header)
    assert experiment.num_chains >= MIN_CHAINS or f"# Undecided {said}" in header


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "papers").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_of_a_paper_loads_and_is_listed(path):
    config.load(path)
    header = path.read_text().split("setting:")[0]
    assert f"# Command   collapse-jax run {path.relative_to(ROOT)}\n" in header
    assert "# Source    arXiv" in header
    assert f"| `{path.relative_to(ROOT / 'configs' / 'papers')}` |" in README
