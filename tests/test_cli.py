import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from collapse_jax import results
from collapse_jax.cli import main
from collapse_jax.core import errors, registry
from collapse_jax.results.locks import hold_lock

CONFIG = """
setting: {kind: gaussian, source: {kind: normal, dim: 2}}
policies: [replace, accumulate]
num_samples: 10
num_generations: 3
num_chains: 4
"""


class FakeRunner:
    """Gives what the engine gives, without its compile time."""

    def __init__(self, plan, progress_callback, devices=None):
        self.plan, self.progress_callback = plan, progress_callback
        self.seconds, self.rng = {"seconds_run": 0.1}, np.random.default_rng(0)

    def announce(self, units):
        return units

    def run_unit(self, unit, saver=None):
        shape = (*unit.shape, self.plan.grid.num_generations)
        self.progress_callback(int(np.prod(shape)))
        return {name: self.rng.lognormal(size=shape) for name in self.plan.programs[unit.program].metrics}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def engine(folder, monkeypatch):
    """A folder with a config, and an engine that takes no time."""
    monkeypatch.setattr("collapse_jax.execution.resumable.Runner", FakeRunner)
    return folder


def error_of(capsys, *argv):
    assert main.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_run_writes_prints_and_draws(engine, capsys):
    assert main.main(["run", "small.yaml", "--num-chains", "6"]) == 0
    out, err = capsys.readouterr()
    assert "Generation 3: median over 6 chains" in out
    assert "by eight definitions" in out
    assert "trace_ratio" in out
    assert "results/small/results.zarr" in out
    assert "100%" in err
    assert "chain-generations/s" in err
    ds = results.open("results/small")
    assert ds.sizes == {"policy": 2, "chain": 6, "generation": 3}
    assert "num_chains: 6" in ds.attrs["config"]
    assert (engine / "results/small/metrics.png").stat().st_size > 1000


def test_run_with_the_engine_itself(folder, capsys):
    assert main.main(["run", "small.yaml", "--out", "out", "--metrics", "[trace_ratio]"]) == 0
    ds = results.open("out")
    assert ds["trace_ratio"].dims == ("policy", "chain", "generation")
    assert np.isfinite(ds["trace_ratio"]).all()
    assert {"precision", "seed", "backend", "seconds_compile", "seconds_run"} <= set(ds.attrs)
    first, drawn = capsys.readouterr().out, (folder / "out/metrics.png").stat().st_mtime_ns
    assert main.main(["run", "small.yaml", "--out", "out", "--metrics", "[trace_ratio]"]) == 0
    assert capsys.readouterr().out == first
    assert (folder / "out/tables.txt").read_text() in first
    assert (folder / "out/metrics.png").stat().st_mtime_ns == drawn  # nothing is made again


def test_the_stored_config_runs_again(engine, capsys):
    assert main.main(["run", "small.yaml", "--out", "a", "--seed", "3"]) == 0
    assert main.main(["run", "a/config.yaml", "--out", "b"]) == 0
    assert (engine / "a/config.yaml").read_text() == (engine / "b/config.yaml").read_text()
    xr.testing.assert_equal(results.open("a"), results.open("b"))


def test_show_and_plot(engine, capsys):
    main.main(["run", "small.yaml", "--out", "out"])
    capsys.readouterr()
    assert main.main(["show", "out"]) == 0
    shown = capsys.readouterr().out
    for word in ("num_chains: 4", "version_jax", "Generation 3", "accumulate"):
        assert word in shown
    (engine / "out/metrics.png").unlink()
    assert main.main(["plot", "out"]) == 0
    assert (engine / "out/metrics.png").exists()
    assert main.main(["plot", "out/results.zarr", "--out", "picture.pdf"]) == 0
    assert (engine / "picture.pdf").exists()


def test_plot_mistakes(engine, capsys):
    main.main(["run", "small.yaml", "--out", "out"])
    capsys.readouterr()
    assert "not a results folder" in error_of(capsys, "plot", "absent")
    assert "not a results folder" in error_of(capsys, "show", ".")
    assert "xyz" in error_of(capsys, "plot", "out", "--out", "a.xyz")
    assert "cannot be written" in error_of(capsys, "plot", "out", "--out", "absent/a.png")


def test_list_names_everything(folder, capsys):

    assert main.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for group in registry.GROUPS:
        for name, factory in registry.factories(group).items():
            line = next(line for line in lines if line.startswith(f"  {name}("))
            assert factory.__doc__.partition("\n")[0] in line
    assert any("log_det_ratio" in line and "nats" in line for line in lines)
    (preset,) = [line for line in lines if "decoder_124m" in line and "layers" in line]
    assert "12 layers, width 768, 12 heads" in preset
    assert "85.0 million parameters" in preset


def test_options_are_those_of_the_config(folder, capsys):
    assert main.main(["run", "small.yaml", "--options", "--policies.1", "{kind: window, k: 3}"]) == 0
    out = capsys.readouterr().out
    for flag in ("--num-chains 4", "--setting gaussian", "--setting.source.dim 2", "--policies.1.k 3", "--mesh null"):
        assert f"  {flag}\n" in out
    assert "--sweep" not in out
    assert "(a whole number)" in out


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("", "COMMAND"),
        ("rnu", "invalid choice: 'rnu'"),
        ("run", "required: CONFIG"),
        ("list --all", "unrecognized arguments: --all"),
        ("show", "required: DIR"),
        ("run absent.yaml", "absent.yaml: cannot be read: no such file"),
        ("run .", "is a directory"),
        ("run small.yaml extra", "extra: unexpected"),
        ("run small.yaml --ou x", "ou: unknown key"),
        ("run small.yaml --num-chian 5", "perhaps you meant 'num_chains'"),
        ("run small.yaml --num-samples 0", "num_samples: must be at least 1"),
        ("run small.yaml --policies.0 {kind: decay, gamma: -1}", "policies.0: gamma must be"),
        ("run small.yaml --out small.yaml", "is a file"),
        ("run small.yaml --setting.source {kind: table, path: absent.csv}", "absent.csv"),
        ("run small.yaml --out small.yaml/below", "cannot be a folder"),
        ("run small.yaml --engine sun", "--engine must be one of local, ray, slurm, not 'sun'"),
        ("run small.yaml --engine slurm --jobs 0", "--jobs must be a whole number from 1 to 1000000, not 0"),
        ("run small.yaml --jobs few", "invalid int value: 'few'"),
        ("run small.yaml --slurm partition", "--slurm must be KEY=VALUE, not 'partition'"),
        ("run small.yaml --shard 3/2", "--shard must be I/N with 0 <= I < N, or auto, not '3/2'"),
        ("run small.yaml --precision half", "precision: expected one of 'float32', 'float64', got 'half'"),
        ("init gausian --out a.yaml", "perhaps you meant 'gaussian'"),
        ("init gaussian --out absent/a.yaml", "absent/a.yaml: cannot be written: no such file"),
        ("plan absent.yaml", "absent.yaml: cannot be read"),
        ("compare absent.yaml", "absent.yaml: cannot be read"),
        ("compare absent", "absent: not a results folder"),
        ("export absent", "absent: not a results folder"),
        ("report absent", "absent: not a results folder"),
        ("verify --setting moons", "setting must be one that theory predicts something about"),
        ("completion tcsh", "invalid choice: 'tcsh'"),
    ],
)
def test_mistakes(engine, capsys, words, fragment):
    head, brace, tail = words.partition(" {")
    argv = [*head.split(), *([brace.strip() + tail] if brace else [])]
    assert fragment in error_of(capsys, *argv)
    assert sorted(path.name for path in engine.iterdir()) == ["small.yaml"]


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2", "\t", "- 1", "", "é: \x00"])
def test_a_config_that_is_no_experiment_is_one_line(engine, capsys, text):
    (engine / "bad.yaml").write_text(text)
    error_of(capsys, "run", "bad.yaml")


def test_what_cannot_be_written_is_one_line(engine, capsys, monkeypatch):
    assert main.main(["run", "small.yaml", "--out", "out"]) == 0
    capsys.readouterr()
    assert "absent/a.parquet: cannot be written" in error_of(capsys, "export", "out", "--out", "absent/a.parquet")
    (engine / "out/tables.txt").unlink()

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert main.main(["run", "small.yaml", "--seed", "3", "--out", "other"]) == 2
    assert capsys.readouterr().err.endswith("error: other/config.yaml: cannot be written: permission denied\n")


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path):
    with (
        pytest.raises(errors.StoreError, match="absent: cannot be written: no such file"),
        hold_lock(tmp_path / "absent", "shard"),
    ):
        pass


def test_an_error_of_the_package_keeps_its_traceback(engine, capsys, monkeypatch):
    def stumble(*_, **options):
        raise ValueError("a bug")

    with monkeypatch.context() as patch:  # in a unit: the other units go on
        patch.setattr(FakeRunner, "run_unit", stumble)
        assert main.main(["run", "small.yaml"]) == 1
        error = capsys.readouterr().err
        assert error.count("Traceback") == 1
        assert "in stumble" in error
        assert "failed: ValueError: a bug" in error
    monkeypatch.setattr("collapse_jax.planning.plan.make_chain", stumble)
    with pytest.raises(ValueError, match="a bug"):  # anywhere else
        main.main(["run", "small.yaml", "--out", "other"])


def test_another_run_is_refused_before_any_compute(engine, capsys, monkeypatch):
    assert main.main(["run", "small.yaml"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("collapse_jax.execution.resumable.Runner", None)  # calling the engine now would fail
    message = error_of(capsys, "run", "small.yaml", "--seed", "1")
    assert (
        "results/small/results.zarr: holds another run, of seed 0, not 1; choose another folder with --out" in message
    )
    assert main.main(["run", "small.yaml"]) == 0  # the same one is done


def test_the_engine_refuses_in_one_line(engine, capsys):
    assert "gaussian has no metric 'x'" in error_of(capsys, "run", "small.yaml", "--metrics", "[x]")
    assert not (engine / "results").exists()


def test_interrupt(engine, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeRunner, "run_unit", interrupt)
    assert main.main(["run", "small.yaml"]) == 130
    assert capsys.readouterr().err.endswith(
        "interrupted: finished units are kept; run the same command again to continue\n"
    )
    assert np.isnan(results.open("results/small").trace_ratio).all()
    monkeypatch.undo()


def python(code, cwd):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["--version"], ["rnu"], ["run", "absent.yaml"]])
def test_help_and_usage_import_nothing_heavy(argv, tmp_path):
    code = f"""
import sys
from collapse_jax.cli.main import main
try:
    main({argv!r})
except SystemExit:
    pass
heavy = {{"jax", "flax", "xarray", "matplotlib", "zarr", "scipy", "numpy"}} & set(sys.modules)
print("imported:", sorted(heavy))
"""
    assert python(code, tmp_path).stdout.endswith("imported: []\n")


def test_a_mistake_in_a_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "collapse_jax.cli", "run", "absent.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == "error: absent.yaml: cannot be read: no such file or directory\n"
    assert done.stdout == ""
