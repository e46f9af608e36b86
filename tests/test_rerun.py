"""Datasets say what was run, and can be run again: from memory always, from disk where all parts have names."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import yaml

import collapse_jax as cj
from collapse_jax import config, curators, data, policies, results, settings
from collapse_jax.cli import main
from collapse_jax.config.rerun import experiment_arguments
from collapse_jax.core import registry
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.options import Options
from collapse_jax.results import live_arguments
from collapse_jax.results.config_text import write_config

DECAY = policies.decay()._replace(name="mine")
SMALL = {"num_samples": 8, "num_generations": 2, "num_chains": 3}


def same(a, b):
    assert a.sizes == b.sizes
    for name, values in a.data_vars.items():
        np.testing.assert_array_equal(values, b[name])


def test_every_dataset_says_what_was_run_and_where(tmp_path):
    runs = cj.run("gaussian", policies.fresh_real(0.25), metrics="trace_ratio", **SMALL)
    about = {"version_jax", "version_collapse_jax", "version_python", "platform", "device", "time", "run_id", "config"}
    assert about <= set(runs.attrs)
    assert runs.attrs["call"] == "run"
    said = yaml.safe_load(runs.attrs["config"])
    assert said["policies"] == [{"kind": "fresh_real", "share": 0.25}]
    assert (said["num_samples"], said["num_chains"], said["seed"]) == (8, 3, 0)
    back = cj.open(results.save(runs, tmp_path / "out"))
    assert about <= set(back.attrs)
    assert (tmp_path / "out" / "config.yaml").read_text() == runs.attrs["config"]


SWEEPS = {
    "run": lambda: cj.run(settings.gaussian(2), policies.window(k=2), metrics="trace_ratio", seed=3, **SMALL),
    "axes": lambda: cj.sweep(
        settings.gaussian, [policies.fresh_real, policies.replace()], metrics=["trace_ratio"], num_chains=2,
        axes={("dim", "num_samples"): [(1, 5), (2, 9)], "policies.0.share": [0.1, 0.5], "num_generations": [2],
              "seed": 4}, precision="float64",
    ),
    "curators": lambda: cj.sweep(
        settings.gaussian(), policies.replace(), curator=[None, curators.then(curators.best_of(by="value"))],
        metrics=["trace_ratio"], **SMALL,
    ),
    "trace": lambda: cj.sweep("poisson", "accumulate", axes={"num_samples": [5, 7]}, trace="num_samples",
                              num_generations=2, num_chains=2),
}  # fmt: skip


@cache
def made(name):
    """The dataset of one of these, made once."""
    return SWEEPS[name]()


@pytest.mark.parametrize("name", SWEEPS)
def test_a_dataset_is_made_again_bit_for_bit(name, tmp_path, monkeypatch):
    first = made(name)
    call = {"run": cj.run, "sweep": cj.sweep}[first.attrs["call"]]
    same(first, call(**cj.arguments_of(first)))
    stored = cj.open(results.save(first, tmp_path / "out"))
    monkeypatch.setattr(live_arguments, "_runs", type(live_arguments._runs)())  # as in another process
    again = call(**cj.arguments_of(stored))
    same(first, again)
    assert again.attrs["config"] == first.attrs["config"]


def test_the_command_line_runs_a_datasets_config_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = made("axes")
    (tmp_path / "again.yaml").write_text(first.attrs["config"])
    assert main.main(["run", "again.yaml", "--out", "out"]) == 0
    stored = cj.open("out")
    same(first, stored)
    assert stored.attrs["config"] == first.attrs["config"]
    same(first, cj.sweep(**cj.arguments_of(stored)))
    np.testing.assert_array_equal(first.trace_ratio_theory_low, stored.trace_ratio_theory_low)


@pytest.mark.parametrize("kind", registry.factories("setting"))
def test_every_part_can_be_written_and_read(kind):
    """What is written of each setting, with every policy and curator, is read as the same."""
    names = [name for name in registry.factories("policy") if name != "replace"]
    raw = {"setting": kind, "policies": ["replace", *names], **SMALL, "curator": list(registry.factories("curator"))}
    experiment = config.from_dict(raw)
    text = config.dumps(experiment)
    assert config.from_dict(yaml.safe_load(text)) == experiment
    factory = registry.factories("setting")[kind]
    grid = make_grid(factory(), [registry.factories("policy")[name]() for name in ("replace", *names)],
                     num_samples=8, num_generations=2, curator=curators.then(
                         *(curator() for curator in registry.factories("curator").values())))  # fmt: skip
    assert yaml.safe_load(write_config(grid.design, Options(3))) == yaml.safe_load(text)


def test_what_no_config_can_say_is_named_and_run_again_from_memory(tmp_path, monkeypatch):
    table = settings.gaussian(num_test=4, source=data.array(np.random.default_rng(0).normal(size=(60, 2))))
    made = {
        "setting.source: array was not made by a registered factory": (table, "replace"),
        "policies.0: replace was not made by a registered factory": ("gaussian", policies.replace()._replace(keep=2)),
        "policies.0: no config can say the name 'mine' of a decay": (
            "gaussian",
            policies.decay()._replace(name="mine"),
        ),
        "setting: <lambda> was not made by a registered factory": (lambda: settings.gaussian(), "replace"),
    }
    for message, parts in made.items():
        runs = cj.run(*parts, **SMALL, metrics="trace_ratio")
        assert runs.attrs["config_missing"] == message
        assert "config" not in runs.attrs
        same(runs, cj.run(**cj.arguments_of(runs)))
    stored = cj.open(results.save(runs, tmp_path / "out"))
    monkeypatch.setattr(live_arguments, "_runs", type(live_arguments._runs)())
    with pytest.raises(
        cj.UsageError, match="cannot say what was run: setting: <lambda> was not made by a reg"
    ) as error:
        cj.arguments_of(stored)
    assert "\n" not in str(error.value)


PARTS = """
import collapse_jax as cj
from collapse_jax.types import Policy

@cj.register_policy
def halving(factor: float = 0.5) -> Policy:
    "Halve the weight of what is old."
    return Policy("halving", fade=factor)
"""
CONFIG = "{setting: gaussian, policies: [halving], num_samples: 5, num_generations: 2, num_chains: 2}"


def test_a_run_says_which_plugin_it_needs(tmp_path, monkeypatch):
    """In processes of their own, since what is loaded cannot be forgotten."""
    (tmp_path / "halves.py").write_text(PARTS)
    (tmp_path / "a.yaml").write_text(CONFIG)

    def command(*words, code=None):
        program = ["-c", code] if code else ["-m", "collapse_jax.cli", *words]
        return subprocess.run([sys.executable, *program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert command("run", "a.yaml", "--out", "out", "--plugin", "halves").returncode == 0
    attrs = json.loads((tmp_path / "out" / "results.zarr" / "zarr.json").read_text())["attributes"]
    assert attrs["plugins"] == ["halves"]
    again = command("run", "a.yaml", "--out", "out")
    assert again.returncode == 2
    line = "cj.load_plugin('halves') in Python, --plugin halves on the command line\n"
    assert again.stderr == f"error: out: this run needs parts that are not loaded: {line}"
    assert command("run", "a.yaml", "--out", "out", "--plugin", "halves.py").returncode == 2  # one of another name
    opened = command(
        code="""
import collapse_jax as cj, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ds = cj.open("out")
print([str(w.message) for w in caught])
try:
    cj.arguments_of(ds)
except cj.UsageError as error:
    print(error)
cj.load_plugin("halves")
again = cj.sweep(**cj.arguments_of(ds))
print(bool((again.trace_ratio == ds.trace_ratio).all()), again.attrs["plugins"])
"""
    )
    told, refused, done = opened.stdout.splitlines()
    assert "this run needs parts that are not loaded" in told
    assert refused.startswith("arguments_of: this run needs parts that are not loaded: cj.load_plugin('halves')")
    assert done == "True ['halves']"


def test_experiments_of_configs_are_arguments():
    experiment = config.from_dict({"setting": "gaussian", "policies": ["replace", {"kind": "window", "k": 2}], **SMALL,
                                   "metrics": ["trace_ratio"], "checkpoint_every": 1})  # fmt: skip
    runs = cj.sweep(**experiment_arguments(experiment))
    assert runs.policy.values.tolist() == ["replace", "window"]
