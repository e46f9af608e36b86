"""The public API as a type checker and as a user of ``import collapse_jax as cj`` see it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import collapse_jax as cj
from collapse_jax import policies, settings

GOOD = """
import collapse_jax as cj
from collapse_jax import curators, data, policies, settings

SIZES = {"num_samples": 20}
runs = cj.run(settings.gaussian(dim=2), policies.replace(), num_samples=20, num_generations=3, num_chains=4)
named = cj.run("gaussian", policies.fresh_real, num_samples=20, num_generations=3, num_chains=4, metrics="trace_ratio")
grid = cj.sweep(
    settings.gaussian,
    [policies.replace(), "accumulate"],
    axes={"setting.ddof": [0, 1], ("num_samples", "seed"): [(10, 0), (20, 1)]},
    num_generations=3,
    num_chains=4,
    curator=curators.best_of(2),
    metrics=["trace_ratio"],
)
chain = cj.make_chain(settings.kde(), policies.window(k=2), num_samples=20, num_generations=3)
verdict = cj.score(runs).verdict
best = cj.tune("gaussian", policies.decay, metric="squared_error_of_mean", num_samples=20, num_generations=3)
prediction = cj.predict("gaussian", "accumulate", num_samples=20, num_generations=3)
source: cj.Source = data.digits(pca=4)
reveal_type(runs)
reveal_type(grid)
reveal_type(prediction)
reveal_type(chain)
"""
BAD = """
import collapse_jax as cj

cj.rnu("gaussian", "replace", num_samples=20, num_generations=3, num_chains=4)
cj.run("gaussian", "replace", num_smaples=3, num_generations=3, num_chains=4)
cj.run("gaussian", "replace", num_samples=3, num_generations=3, num_chains=4, precision="float16")
cj.run("gaussian", ["replace"], num_samples=3, num_generations=3, num_chains=4)
cj.settings.gaussian(dimm=2)
"""


def check_types(folder, source):
    """The lines of ``mypy --strict`` about a user's file."""
    file = folder / "user.py"
    file.write_text(source)
    (folder / "empty.ini").write_text("[mypy]\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(folder / "empty.ini"), str(file)]
    where = os.environ | {"MYPYPATH": str(Path(__file__).parents[1])}  # type checkers do not follow editable installs
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=where)
    return [line.partition("user.py:")[2] for line in done.stdout.splitlines() if "user.py:" in line]


def test_a_type_checker_knows_the_api(tmp_path):
    lines = check_types(tmp_path, GOOD)
    revealed = [line.partition("note: Revealed type is ")[2].strip('"') for line in lines]
    assert revealed[:3] == ["xarray.core.dataset.Dataset"] * 3
    assert revealed[3].endswith(".Chain]")
    assert len(revealed) == 4


def test_a_type_checker_finds_mistakes(tmp_path):
    lines = check_types(tmp_path, BAD)
    numbers = [int(line.partition(":")[0]) for line in lines if ": error: " in line]
    assert numbers == [4, 5, 6, 7, 8], lines


@pytest.mark.fast
def test_run_takes_one_policy():
    sizes = {"num_samples": 4, "num_generations": 2, "num_chains": 2}
    with pytest.raises(cj.UsageError, match="call sweep for several"):
        cj.run(settings.gaussian(), [policies.replace(), policies.accumulate()], **sizes)
    with pytest.raises(cj.UsageError, match="call sweep for several"):
        cj.run(settings.gaussian(), policies.replace(), curator=[None], **sizes)


@pytest.mark.fast
def test_names_that_are_exported_exist():
    for name in cj.__all__:
        assert getattr(cj, name) is not None
    assert set(cj.__all__) <= set(dir(cj))
    with pytest.raises(AttributeError, match="rnu"):
        cj.rnu  # noqa: B018


@pytest.mark.fast
def test_a_chain_is_not_run_beyond_its_horizon():
    """Its memory is of a fixed length: from then on a pool that keeps everything would lose batches."""
    setting, key = settings.gaussian(num_test=4), jax.random.key(0)
    world = setting.world()
    chain = cj.make_chain(setting, policies.accumulate(), num_samples=5, num_generations=3, fold="blocks")
    assert chain.num_generations == 3
    whole = cj.simulate(chain, key, world)
    for num in (3, np.int64(2)):
        for name, values in cj.simulate(chain, key, world, num).items():
            np.testing.assert_array_equal(values, whole[name][:num])
    for num, message in ((4, "num_generations is 4, but the chain was made for 3"), (0, "of at least 1, not 0")):
        with pytest.raises(cj.UsageError, match=message):
            cj.simulate(chain, key, world, num)
