"""Who does which part of a sweep, and where."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from collapse_jax import config, results
from collapse_jax.cli import launch, main
from collapse_jax.execution import resumable

CONFIG = """
setting: {kind: gaussian, num_test: 16}
policies: [replace, accumulate]
num_samples: 5
num_generations: 3
num_chains: 6
chains_per_block: 2
metrics: [trace_ratio]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("collapse_jax.planning.units._UNIT_OPERATIONS", 1.0)
    monkeypatch.setattr("collapse_jax.planning.units.max_concurrent_blocks", lambda devices: 1)
    (tmp_path / "small.yaml").write_text(CONFIG)
    assert main.main(["run", "small.yaml", "--out", "whole"]) == 0
    return tmp_path


def same(out):
    np.testing.assert_array_equal(results.open(out).trace_ratio, results.open("whole").trace_ratio)


@pytest.mark.parametrize(
    ("words", "environment", "shard"),
    [
        (None, {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, (0, 1)),
        ("2/8", {}, (2, 8)),
        ("auto", {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, (3, 4)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "2"}, (3, 4)),
        ("auto", {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "3"}, (0, 3)),
        ("auto", {"JOB_COMPLETION_INDEX": "0"}, (0, 1)),  # JAX's own word: one process
        ("auto", {}, (0, 1)),
    ],
)
def test_shards_are_read_from_words_and_environments(words, environment, shard):
    assert launch.parse_shard(words, environment) == shard


@pytest.mark.parametrize("words", ["3/3", "1", "a/b", "-1/2", "1/0"])
def test_a_shard_that_does_not_exist_is_refused(words):
    with pytest.raises(launch.LaunchError, match=r"--shard must be I/N .*, not"):
        launch.parse_shard(words, {})


@pytest.mark.parametrize("text", ["four", "-1", "4"])
def test_an_environment_without_such_a_shard_is_refused(text):
    with pytest.raises(launch.LaunchError, match="--shard auto: SLURM_PROCID"):
        launch.parse_shard("auto", {"SLURM_PROCID": text, "SLURM_NTASKS": "4"})


def test_an_unknown_engine_is_refused(folder, capsys):
    assert main.main(["run", "small.yaml", "--out", "out", "--engine", "sun"]) == 2
    assert "--engine must be one of local, ray, slurm, not 'sun'" in capsys.readouterr().err


@pytest.mark.nightly
def test_slurm_jobs_fill_one_store(folder):
    """On this machine: submitit's own stand-in for a cluster, with real processes."""
    pytest.importorskip("submitit")
    words = ["run", "small.yaml", "--out", "out", "--engine", "slurm", "--jobs", "2", "--slurm", "cluster=local"]
    done = subprocess.run([sys.executable, "-m", "collapse_jax.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    same("out")
    logs = "".join(path.read_text() for path in (folder / "out/slurm").glob("*log*"))
    assert "completed successfully" in logs


def test_a_unit_computed_elsewhere_is_the_same(folder):
    """What a worker of a cluster runs, without the cluster: it gets text and numbers, and gives arrays."""
    experiment = config.load("small.yaml")

    def engine(plan, units):
        for unit in units:
            yield unit, launch.compute_unit(config.dumps(experiment), (), plan.cuts, plan.units.index(unit))

    resumable.fill_store(experiment.grid(), experiment.options(), "out", engine=engine)
    same("out")


@pytest.mark.nightly
def test_a_ray_worker_killed_in_the_middle_is_replaced(folder):
    ray = pytest.importorskip("ray")
    killed = threading.Event()

    def kill():
        """The first worker that is at work."""
        while not killed.is_set():
            for process in psutil.process_iter(["cmdline"]):
                if any(word.startswith("ray::compute_unit") for word in process.info["cmdline"] or []):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.set()
                    return
            time.sleep(0.05)

    psutil = pytest.importorskip("psutil")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    threading.Thread(target=kill, daemon=True).start()
    options = launch.LaunchOptions(engine="ray", jobs=1)
    try:
        outcome = launch.launch(config.load("small.yaml"), "out", options, [], lambda _: None)
    finally:
        was_killed = killed.is_set()
        killed.set()
        ray.shutdown()
    assert was_killed
    assert outcome.complete, outcome.failures
    same("out")
