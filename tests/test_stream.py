"""Sweeps that are killed, resumed, shared out, damaged and repaired: the store equals an unbroken one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from collapse_jax import config, policies, results, settings, sweep
from collapse_jax.cli import main
from collapse_jax.core import errors
from collapse_jax.execution import resumable

CONFIG = """
setting: {kind: gaussian, num_test: 16}
policies: [replace, decay]
num_samples: 4
num_generations: 4
num_chains: 6
chains_per_block: 2
metrics: [trace_ratio, squared_error_of_mean]
sweep:
  product: {setting.dim: [1, 2], setting.temperature: [0.5, 1.0]}
"""
FLOW = """
setting: {kind: flow_matching, width: 8, steps: 3, num_test: 8}
policies: [accumulate]
num_samples: 8
num_generations: 6
num_chains: 4
chains_per_block: 2
checkpoint_every: 1
metrics: [trace_ratio, test_loss]
"""

SMALL = {
    "_UNIT_OPERATIONS": 1.0,
    "max_concurrent_blocks": lambda devices: 1,
}  # units of one block


pytestmark = pytest.mark.xdist_group("stream")  # one worker, for they compare with stores that are made once


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Many units in a small sweep."""
    for name, value in SMALL.items():
        monkeypatch.setattr(f"collapse_jax.planning.units.{name}", value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Unbroken stores of both configs, made once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(f"collapse_jax.planning.units.{name}", value)
        for name, text in (("grid", CONFIG), ("flow", FLOW)):
            (folder / f"{name}.yaml").write_text(text)
            fill(folder / f"{name}.yaml", folder / name)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(CONFIG)
    (tmp_path / "flow.yaml").write_text(FLOW)
    return tmp_path


def fill(name, out, overrides=(), **options):
    experiment = config.load(name, overrides)
    return resumable.fill_store(experiment.grid(), experiment.options(), out, **options)


def stop_at_save(monkeypatch, number):
    """The run of flow.yaml, interrupted after so many checkpoints."""
    make_saver, count = resumable.checkpoint.make_saver, [0]

    def killing(path):
        made = make_saver(path)

        def save(block, done, state):
            made.save(block, done, state)
            count[0] += 1
            if count[0] == number:
                raise KeyboardInterrupt

        return made._replace(save=save)

    with monkeypatch.context() as patch:
        patch.setattr(resumable.checkpoint, "make_saver", killing)
        with pytest.raises(KeyboardInterrupt):
            fill("flow.yaml", "out")


def same(a, b):
    a, b = (results.open(x) for x in (a, b))
    assert list(a.data_vars) == list(b.data_vars)
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name], b[name])


def test_a_stream_is_the_sweep_in_memory(whole):
    made = sweep(
        partial(settings.gaussian, num_test=16),  # whose programs the stream has compiled
        [policies.replace(), policies.decay()],
        axes={"dim": [1, 2], "temperature": [0.5, 1.0]},
        num_samples=4,
        num_generations=4,
        num_chains=6,
        chains_per_block=2,
        metrics=["trace_ratio", "squared_error_of_mean"],
    )
    found = results.open(whole / "grid")
    assert found.trace_ratio.dims == ("policy", "dim", "temperature", "chain", "generation")
    assert found.attrs["done"] == 1.0
    for name in made.data_vars:
        np.testing.assert_array_equal(found[name], made[name])
        assert found[name].attrs == made[name].attrs
    for name in made.coords:
        np.testing.assert_array_equal(found[name], made[name])


def test_what_is_unfinished_is_nan_and_the_same_command_goes_on(folder, whole, monkeypatch):
    runs = resumable.Runner.run_unit
    count = [0]

    def stop(self, unit, saver=None):
        count[0] += 1
        if count[0] == 8:
            raise KeyboardInterrupt
        return runs(self, unit, saver)

    monkeypatch.setattr(resumable.Runner, "run_unit", stop)
    with pytest.raises(KeyboardInterrupt):
        fill("grid.yaml", "out")
    half = results.open("out")
    assert half.attrs["done"] == pytest.approx(7 / 24)
    assert np.isnan(half.trace_ratio).mean() == pytest.approx(17 / 24)
    told = []
    assert fill("grid.yaml", "out", progress_callback=told.append).complete
    assert (told[0].resumed, told[0].units, told[-1].units, told[-1].total_units) == (7, 7, 24, 24)
    assert told[-1].done == told[-1].left == 17 * 2 * 4
    assert told[-1].share == pytest.approx(1)
    assert count[0] == 8 + 17
    same(whole / "grid", "out")


def test_shards_share_the_work_and_need_not_know_of_each_other(folder, whole):
    done = [fill("grid.yaml", "out", shard=(i, 3)).complete for i in (2, 0, 1)]
    assert done == [False, False, True]
    same(whole / "grid", "out")
    experiment = config.load("grid.yaml")
    plan = resumable.make_plan(experiment.grid(), experiment.options())
    for n in (1, 2, 3, 7, 100):
        parts = [unit for i in range(n) for unit in resumable.units_of_shard(plan, (i, n))]
        assert parts == list(plan.units)
    sizes = [
        sum(resumable.count_unit_operations(plan, u) for u in resumable.units_of_shard(plan, (i, 4))) for i in range(4)
    ]
    assert max(sizes) < 2 * min(sizes)


def test_a_store_of_another_config_is_refused_with_the_key(folder, whole):
    shutil.copytree(whole / "grid", "out")
    with pytest.raises(errors.StoreError, match=r"out.*of seed 0, not 3"):
        fill("grid.yaml", "out", ["--seed", "3"])
    with pytest.raises(errors.StoreError, match=r"of setting.num_test 16, not 17"):
        fill("grid.yaml", "out", ["--setting.num-test", "17"])


def test_a_unit_that_raises_does_not_stop_the_others(folder, monkeypatch, capsys):
    runs = resumable.Runner.run_unit

    def fails(self, unit, saver=None):
        if unit.where[1].start == 1 and unit.where[0].start == 0:
            raise RuntimeError("no luck")
        return runs(self, unit, saver)

    monkeypatch.setattr(resumable.Runner, "run_unit", fails)
    assert main.main(["run", "grid.yaml", "--out", "out"]) == 1
    err = capsys.readouterr().err
    assert err.count("failed: RuntimeError: no luck") == 6
    assert "6 units failed and the others are done; run the same command again to retry" in err
    monkeypatch.setattr(resumable.Runner, "run_unit", runs)
    assert main.main(["run", "grid.yaml", "--out", "out"]) == 0
    assert results.open("out").attrs["done"] == 1


def test_a_second_run_on_a_store_is_refused_while_the_first_writes(folder):
    Path("out").mkdir()
    with resumable._hold_shard_lock("out", (0, 1)):  # noqa: SIM117
        with pytest.raises(errors.StoreError, match=f"another run .process {os.getpid()}. is writing here"):
            fill("grid.yaml", "out")
    assert not fill("grid.yaml", "out", shard=(0, 24)).failures
    assert 0 < units_done() < 24


def test_damaged_and_missing_chunks_are_named_and_redone_on_request(folder, whole):
    shutil.copytree(whole / "grid", "out")
    chunks = sorted(p for p in Path("out/results.zarr/trace_ratio/c").rglob("*") if p.is_file())
    data = bytearray(chunks[3].read_bytes())
    data[len(data) // 2] ^= 0xFF
    chunks[3].write_bytes(data)
    Path(str(chunks[5]).replace("trace_ratio", "squared_error_of_mean")).unlink()  # lost in one metric alone
    with pytest.raises(errors.StoreError, match=r"squared_error_of_mean/c/.* is missing; run again with --repair"):
        results.open("out")
    outcome = fill("grid.yaml", "out", repair=True)
    assert len(outcome.repaired) == 2
    assert "is not what was written" in outcome.repaired[0]
    assert "is missing" in outcome.repaired[1]
    same(whole / "grid", "out")


@pytest.mark.parametrize("stop", [1, *(pytest.param(n, marks=pytest.mark.nightly) for n in (3, 5))])
def test_a_chain_stopped_at_any_generation_goes_on_to_the_same_bits(folder, whole, monkeypatch, stop):
    stop_at_save(monkeypatch, stop + 6)  # in the second block or unit
    told = []
    fill("flow.yaml", "out", progress_callback=told.append)
    same(whole / "flow", "out")
    assert not list(Path("out/checkpoints").glob("*"))


@pytest.mark.nightly
def test_a_diffusion_model_goes_on_to_the_same_bits(folder, monkeypatch):
    """Whose chains carry averages of weights and frequencies of classes."""
    source = "source: {kind: digits, pca: 2, labels: true}, conditional: true"
    text = FLOW.replace("flow_matching", f"diffusion, {source}, warmup: 1")
    (folder / "flow.yaml").write_text(text.replace("[acc", "[replace, acc"))
    fill("flow.yaml", "unbroken")
    stop_at_save(monkeypatch, 7)
    fill("flow.yaml", "out")
    same("unbroken", "out")


def test_a_truncated_checkpoint_is_named_and_redone_on_request(folder, whole, monkeypatch):
    stop_at_save(monkeypatch, 1)
    for path in Path("out/checkpoints").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    outcome = fill("flow.yaml", "out")
    assert "checkpoint is damaged" in str(outcome.failures[0][1])
    assert "checkpoints" in str(outcome.failures[0][1])
    assert fill("flow.yaml", "out", repair=True).complete
    same(whole / "flow", "out")


SLOW = """
import sys, time
from collapse_jax.cli.main import main
from collapse_jax.execution import resumable
from collapse_jax.planning import block_size
from collapse_jax.results import store
from collapse_jax.planning import units
units._UNIT_OPERATIONS, units.max_concurrent_blocks = 1.0, lambda devices: 1
runs = resumable.Runner.run_unit
def slow(self, unit, saver=None):
    time.sleep(0.05)
    return runs(self, unit, saver)
resumable.Runner.run_unit = slow
sys.exit(main(sys.argv[1:]))
"""


def start(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, "run", "grid.yaml", "--out", "out", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def units_done():
    return len(list(Path("out/results.zarr/units").glob("*/zarr.json")))


def kill_after(process, units, number, patience=120):
    begin = time.monotonic()
    while process.poll() is None and units_done() < units and time.monotonic() - begin < patience:
        time.sleep(0.005)
    time.sleep(random.random() * 0.05)
    process.send_signal(number)
    return process.communicate(timeout=60)


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.nightly)])
def test_kill_9_at_random_moments_loses_at_most_the_unit_in_flight(folder, whole, kills):
    random.seed(0)
    fill("grid.yaml", "out", shard=(0, 4))  # so that there is something to lose
    for _ in range(kills):
        before = units_done()
        kill_after(start(), before + random.randrange(3), signal.SIGKILL)
        assert units_done() >= before
    process = start()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    same(whole / "grid", "out")
    assert not list(Path("out").rglob("*.partial"))


def test_sigterm_ends_in_one_line_and_two_runs_at_once_lose_nothing(folder, whole):
    first = start()
    _, err = kill_after(first, 2, signal.SIGTERM)
    assert first.returncode == 143
    assert "terminated: finished units are kept; run the same command again to continue" in err
    assert "Traceback" not in err
    first = start()
    while units_done() < 5 and first.poll() is None:
        time.sleep(0.01)
    second = start()
    _, err = second.communicate(timeout=300)
    assert second.returncode in (0, 2), err  # refused; or the first had just ended
    assert second.returncode == 0 or "is writing here" in err
    assert first.wait(timeout=300) == 0
    same(whole / "grid", "out")


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_when_there_is_room(folder, whole, monkeypatch):
    small = folder / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        (small / "out").mkdir()
        filler = small / "filler"
        experiment = config.load("grid.yaml")
        resumable.prepare_store(experiment.grid(), experiment.options(), small / "out")
        with pytest.raises(OSError), filler.open("wb", buffering=0) as file:  # noqa: PT012
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(errors.StoreError, match=r"cannot be written .*the units finished before are kept"):
            fill("grid.yaml", small / "out")
        filler.unlink()
        assert fill("grid.yaml", small / "out").complete
        same(whole / "grid", small / "out")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_bucket_holds_the_same(folder, whole):
    obstore = pytest.importorskip("obstore.store")
    bucket = obstore.MemoryStore()
    assert not fill("grid.yaml", bucket, shard=(1, 2)).complete
    half = results.open(bucket)
    assert 0.2 < half.attrs["done"] < 0.8
    assert fill("grid.yaml", bucket).complete
    same(whole / "grid", bucket)


def test_parquet_has_a_row_a_generation(folder, whole):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    shutil.copytree(whole / "grid", "out")
    assert main.main(["export", "out"]) == 0
    frame = pd.read_parquet("out/results.parquet")
    assert len(frame) == 2 * 2 * 2 * 6 * 4
    assert {"policy", "dim", "temperature", "chain", "generation", "trace_ratio"} <= set(frame.columns)
    ds = results.open("out")
    one = frame[(frame.policy == "decay") & (frame.dim == 2) & (frame.temperature == 1) & (frame.chain == 5)]
    np.testing.assert_array_equal(one.trace_ratio, ds.trace_ratio.sel(policy="decay", dim=2, temperature=1, chain=5))


@pytest.mark.nightly
def test_the_config_in_the_store_runs_again(folder):
    assert main.main(["run", "grid.yaml", "--out", "out"]) == 0
    assert yaml.safe_load(Path("out/config.yaml").read_text())["sweep"]["product"]["setting.dim"] == [1, 2]
    assert main.main(["run", "out/config.yaml", "--out", "again"]) == 0
    xr.testing.assert_equal(results.open("out"), results.open("again"))
