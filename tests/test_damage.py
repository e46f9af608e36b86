"""What is deleted, truncated or changed in a store is found, named in one line, and repaired from the config."""

import itertools
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from test_stream import SMALL

from collapse_jax import config, results
from collapse_jax.cli import main
from collapse_jax.core.errors import StoreError
from collapse_jax.execution import resumable
from collapse_jax.results import records, sessions, store

CONFIG = """
setting: {kind: gaussian, dim: 1}
policies: [replace, accumulate]
num_samples: 8
num_generations: 4
num_chains: 8
metrics: [trace_ratio, squared_error_of_mean]
sweep: {product: {setting.temperature: [0.5, 1.0]}}
"""


def fill(out, **options):
    experiment = config.load("run.yaml")
    return resumable.fill_store(experiment.grid(), experiment.options(), out, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(f"collapse_jax.planning.units.{name}", value)
        patch.chdir(folder)
        Path("run.yaml").write_text(CONFIG)
        fill("out")
    return folder


@pytest.fixture
def damaged(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    for name, value in SMALL.items():
        monkeypatch.setattr(f"collapse_jax.planning.units.{name}", value)
    return Path("out/results.zarr")


def delete(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def change_attribute(path):
    """Valid JSON that says something else."""
    document = json.loads(path.read_text())
    document["attributes"]["units"] = "changed"
    path.write_text(json.dumps(document))


WAYS = {"deleted": delete, "truncated": truncate, "empty": empty, "flipped": flip}
PLACES = {
    "chunk": "trace_ratio/c/0/0/0/0",
    "array": "trace_ratio/zarr.json",
    "label": "policy/c/0",
    "label's array": "policy/zarr.json",
    "axis": "temperature/c/0",
    "theory": "trace_ratio_theory_low/c/**/*",
    "root": "zarr.json",
    "manifest": "manifest/zarr.json",
    "unit": "units/*/zarr.json",
}
KINDS = [(place, way) for place in PLACES for way in WAYS]
KINDS += [(place, "changed") for place in ("array", "label's array", "root", "manifest", "unit")]


def find(folder, place):
    return min(path for path in folder.glob(PLACES[place] + ("*" if place == "chunk" else "")) if path.is_file())


def same(a, b):
    a, b = (results.open(x) for x in (a, b))
    assert list(a.data_vars) == list(b.data_vars)
    assert set(a.coords) == set(b.coords)
    for name in (*a.data_vars, *a.coords):
        np.testing.assert_array_equal(a[name], b[name])
        assert a[name].attrs == b[name].attrs


@pytest.mark.parametrize(("place", "way"), KINDS, ids=[f"{place} {way}" for place, way in KINDS])
def test_damage_is_found_named_and_repaired(place, way, damaged, whole, capsys):
    path = find(damaged, place)
    {**WAYS, "changed": change_attribute}[way](path)
    is_undone = (place, way) == ("unit", "deleted")  # what has no record was never done
    for command in (["show", "out"], ["report", "out"], ["run", "run.yaml", "--out", "out"]):
        if is_undone or (command[0] == "run" and (place, way) == ("chunk", "flipped")):
            continue  # every run looks at sizes, --repair at contents
        assert main.main(command) == 2, command
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0
        assert "--repair" in error
        assert place == "chunk" or str(path.relative_to(damaged)) in error or "zarr.json" in str(path)
    if is_undone:
        assert results.open("out").attrs["done"] < 1
    assert main.main(["run", "run.yaml", "--out", "out", "--repair"]) == 0
    assert is_undone or "repaired: " in capsys.readouterr().out
    same("out", whole / "out")
    assert fill("out").repaired == []


def test_a_chunk_of_another_unit_is_found_by_repair(damaged, whole):
    chunks = [p for p in sorted((damaged / "trace_ratio" / "c").rglob("*")) if p.is_file()]
    path, other = next((a, b) for a in chunks for b in chunks if a.read_bytes() != b.read_bytes())
    path.write_bytes(other.read_bytes())
    (repaired,) = fill("out", repair=True).repaired
    assert str(path.relative_to(damaged)) in repaired
    same("out", whole / "out")


def test_where_nothing_says_which_run_it_was_nothing_is_repaired(damaged):
    for place in ("root", "manifest"):
        truncate(find(damaged, place))
    with pytest.raises(StoreError, match="nothing says which run it holds; choose another folder"):
        fill("out", repair=True)


def test_a_store_of_another_layout_is_read_and_not_gone_on_with(damaged):
    shutil.rmtree(damaged / "manifest")
    document = json.loads((damaged / "zarr.json").read_text())
    del document["attributes"]["layout"]
    (damaged / "zarr.json").write_text(json.dumps(document))
    assert results.open("out").sizes["chain"] == 8
    with pytest.raises(StoreError, match="another version of collapse-jax made this store"):
        fill("out")


def test_an_unfinished_store_of_another_layout_says_so(damaged):
    """Which had a mask of what was done."""
    shutil.rmtree(damaged / "manifest")
    document = json.loads((damaged / "zarr.json").read_text())
    del document["attributes"]["layout"]
    (damaged / "zarr.json").write_text(json.dumps(document))
    mask = zarr.open_group(damaged, mode="r+").create_array(
        "done", shape=(2, 2, 8), dtype="uint8", fill_value=0, dimension_names=("policy", "temperature", "chain")
    )
    mask[0] = 1
    assert results.open("out").attrs["done"] == 0.5


def test_what_was_saved_unfinished_stays_unfinished(damaged, tmp_path):
    delete(find(damaged, "unit"))
    ds = results.open("out")
    assert results.open(results.save(ds, tmp_path / "saved")).attrs["done"] == ds.attrs["done"] < 1


def test_a_store_is_read_while_another_process_writes(damaged):
    """What appears between two looks at the folder is no damage: chunks come first, then their record."""
    zarr_store = store.open_zarr_store(damaged)
    known = records.read_records(zarr_store, records.UNITS, records.list_objects(zarr_store))
    objects = {key: records.read_object(zarr_store, key) for unit in known.values() for key in unit["files"]}
    for name in known:
        records.delete_object(zarr_store, f"{records.UNITS}/{name}/zarr.json")
    for key in objects:
        records.delete_object(zarr_store, key)

    def write():
        for name, unit in known.items():
            for key in unit["files"]:
                records.write_object(zarr_store, key, objects[key])
            records.write_record(zarr_store, f"{records.UNITS}/{name}", unit)
            time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        writing, shares = pool.submit(write), []
        while not writing.done():
            shares.append(store.check_store(damaged))
        writing.result()
    assert store.check_store(damaged)
    assert len(shares) > 1


def test_saved_results_are_checked_too(whole, tmp_path):
    ds = results.open(whole / "out")
    folder = results.save(ds, tmp_path / "saved")
    same(folder, whole / "out")
    delete(folder / "results.zarr" / "policy" / "c" / "0")
    with pytest.raises(StoreError, match=r"policy/c/0 is missing"):
        results.open(folder)


@pytest.mark.parametrize("fact", ["jax", "collapse-jax", "jax_threefry_partitionable", "device", "plugins"])
def test_another_version_goes_on_only_when_asked(fact, damaged, whole, monkeypatch, capsys):
    delete(find(damaged, "unit"))
    describe = sessions.describe_session
    monkeypatch.setattr(sessions, "describe_session", lambda plan: {**describe(plan), fact: "other"})
    assert main.main(["run", "run.yaml", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"was begun with {fact} " in error
    assert "'other'" in error
    assert main.main(["run", "run.yaml", "--out", "out", "--mixed-versions"]) == 0
    same("out", whole / "out")
    zarr_store = store.open_zarr_store(damaged)
    known = records.read_records(zarr_store, records.SESSIONS, records.list_objects(zarr_store))
    assert {session["facts"][fact] == "other" for session in known.values()} == {True, False}


def test_a_finished_store_is_passed_over_by_any_version(damaged, monkeypatch):
    monkeypatch.setattr(sessions, "describe_session", lambda plan: {"jax": "other"})
    assert main.main(["run", "run.yaml", "--out", "out"]) == 0


def test_what_a_killed_unit_left_is_not_shown(damaged):
    """Its chunks are there, its record is not: the cells are empty."""
    delete(find(damaged, "unit"))
    ds = results.open("out")
    assert 0 < ds.attrs["done"] < 1
    assert float(ds["trace_ratio"].isnull().mean()) == pytest.approx(1 - ds.attrs["done"])


def prepare(bucket):
    experiment = config.load("run.yaml")
    resumable.prepare_store(experiment.grid(), experiment.options(), bucket)


@pytest.mark.parametrize("dies", [False, True])
def test_of_many_processes_one_makes_the_store_of_a_bucket(dies, damaged, monkeypatch):
    """Each would take half a second; the store is that of the first, or of the next where the first died."""
    from obstore.store import MemoryStore

    bucket, makers, create = MemoryStore(), [], store._create_arrays

    def slow(plan, zarr_store, record):
        makers.append(record["run"])
        if dies and len(makers) == 1:
            raise KeyboardInterrupt
        time.sleep(0.5)
        create(plan, zarr_store, record)

    numbers, recorded = itertools.count(), store.record_attributes
    monkeypatch.setattr(store, "record_attributes", lambda plan: {**recorded(plan), "run": next(numbers)})
    monkeypatch.setattr(store, "_create_arrays", slow)
    monkeypatch.setattr(records, "_PATIENCE", 2.0 if dies else 60.0)
    with ThreadPoolExecutor(3) as pool:
        errors = [future.exception() for future in [pool.submit(prepare, bucket) for _ in range(3)]]
    assert len([error for error in errors if error is not None]) == dies
    assert len(makers) == 1 + dies
    assert store.read_attributes(bucket)["run"] == makers[-1]
    assert not store.check_store(bucket)
