"""Options that cannot be right end in status 2 and one line; names and paths are shown as they are."""

import jax
import jax.numpy as jnp
import pytest

import collapse_jax as cj
from collapse_jax.cli.failures import explain_failure
from collapse_jax.cli.main import main

CONFIG = "setting: {kind: gaussian, dim: 2}\npolicies: [replace]\nnum_samples: 10\nnum_generations: 3\nnum_chains: 4\n"
SIZES = {"num_samples": 10, "num_generations": 3, "num_chains": 4}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a config, in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["--out", "x" * 300],
        ["--out", "/".join(["x" * 200] * 40)],
        ["--out", "small.yaml/below"],
        ["--out", "s3://"],
        ["--out", "gs:///"],
        ["--out", "s3:// x"],
        ["--out", "ftp://host/x"],
        ["--shard", "0/99999999999999999999999"],
        ["--shard", "²/3"],
        ["--shard", "3/3"],
        ["--shard", "[bold]"],
        ["--slurm", "foo"],
        ["--slurm", "=x"],
        ["--slurm", "a b=x"],
        ["--jobs", "9" * 400],
        ["--jobs", "9" * 5000],
        ["--engine", "[/]"],
        ["--plugin", "[/]"],
        ["--plugin", "x" * 300 + ".py"],
        ["--[/]", "1"],
        ["--" + ".".join("a" * 1000), "1"],
        ["--setting", "{kind: [x]}"],
        ["--setting", "[" * 1000],
        ["--num-chains", "!!python/name:os.system"],
    ],
)
def test_a_hostile_option_ends_in_one_line(words, place, capsys):
    before = sorted(place.iterdir())
    assert main(["run", "small.yaml", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert sorted(place.iterdir()) == before


def test_paths_are_shown_as_they_are(place, capsys):
    assert main(["run", "small.yaml", "--out", "[/] [bold]x :smile:"]) == 0
    assert "results: [/] [bold]x :smile:/results.zarr" in capsys.readouterr().out
    assert main(["show", "[/] [bold]x :smile:"]) == 0


@pytest.mark.parametrize("command", ["show", "plot", "report", "export"])
@pytest.mark.parametrize("folder", ["x" * 300, "[/]", "s3://", "small.yaml"])
def test_a_folder_that_cannot_be_is_told_in_one_line(command, folder, place, capsys):
    assert main([command, folder]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_machine_without_the_asked_device_is_told_in_one_line(place, capsys, monkeypatch):
    def fail():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr("collapse_jax.cli.main.COMMANDS", {"run": lambda *_: fail()})
    assert main(["run", "small.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: JAX finds no device")
    monkeypatch.undo()
    assert explain_failure(AssertionError()) is None
    assert explain_failure(MemoryError("Unable to allocate 7 TiB")) == "out of memory: Unable to allocate 7 TiB"


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        ({"weight": [0.1, 0.2, 0.1]}, "axis 'weight': its values 0 and 2 are both 0.1; keep one"),
        ({"dim": [1, 1]}, "axis 'dim': its values 0 and 1 are both 1; keep one"),
        ({"seed": [3, 3]}, "axis 'seed': its values 0 and 1 are both 3"),
        ({"curator": [None, None]}, "axis 'curator': its values 0 and 1 are both None"),
        ({("dim", "seed"): [(1, 2), (1, 2)]}, "its values 0 and 1 are both (1, 2)"),
        ({"source": ["moons", "moons"]}, "items 0 and 1 are both moons"),
        ({"weight": [10**400]}, "must be numbers that a float can hold"),
        ({"weight": "0.5"}, "axis 'weight' must be a list of one or more values"),
        ({"weight": jnp.ones((2, 2))}, "an array of 2 dimensions"),
    ],
)
def test_a_hostile_axis_is_refused(axes, line):
    with pytest.raises(ValueError) as error:
        cj.sweep("gaussian", "weighted_fresh", axes=axes, **SIZES)
    assert line in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("axis", [0.5, [0.5], jnp.array(0.5), jnp.linspace(0.1, 0.9, 3)])
def test_an_axis_of_numbers_may_be_written_plainly(axis):
    ds = cj.sweep(cj.settings.gaussian(dim=1), "weighted_fresh", axes={"weight": axis}, **SIZES)
    assert ds.sizes["weight"] == jnp.size(jnp.asarray(axis))


@pytest.mark.parametrize(
    "wrong", [{"policy": ["replace", "accumulate"]}, {"metrics": 5}, {"mesh": 3}, {"curator": 5}, {"num_chains": 1e3}]
)
def test_a_hostile_argument_is_refused(wrong):
    with pytest.raises(ValueError) as error:
        cj.run(**({"setting": "gaussian", "policy": "replace", **SIZES} | wrong))
    assert str(error.value).isprintable()
