"""Where compiled programs are kept, that they are bounded, and that a second process compiles none of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from collapse_jax.cli import program_cache

# What a process computes, and what JAX says of its cache.
RUN = """
import collections, json
import jax
import collapse_jax as cj
from collapse_jax.cli import program_cache

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.rpartition("/")[2]]))
program_cache.keep_compiled_programs()
runs = cj.run("gaussian", "accumulate", num_samples=10, num_generations=4, num_chains=3)
print(json.dumps([counts, {name: values.to_numpy().tobytes().hex() for name, values in runs.items()}]))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An environment without JAX's variables, whose cache folder is in `tmp_path`; JAX's options are put back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def kept_in():
    return jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs


@pytest.mark.fast
def test_programs_are_kept_in_the_users_folder(home):
    program_cache.keep_compiled_programs()
    assert kept_in() == (str(home / "caches" / "collapse_jax" / "xla"), 0.0)
    assert Path(kept_in()[0]).is_dir()


@pytest.mark.fast
def test_jax_variables_come_first(home, monkeypatch):
    before = kept_in()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(home / "mine"))
    program_cache.keep_compiled_programs()
    assert kept_in() == before
    assert list(home.iterdir()) == []
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    program_cache.keep_compiled_programs()
    assert kept_in() == (str(home / "caches" / "collapse_jax" / "xla"), before[1])


@pytest.mark.fast
@pytest.mark.parametrize("home_is", ["a file", "read-only", "nowhere"])
def test_without_a_folder_nothing_is_kept(home, home_is, monkeypatch, capfd):
    if home_is == "a file":
        (home / "caches").write_text("")
    elif home_is == "read-only":  # permissions do not hold for root
        monkeypatch.setattr(os, "access", lambda *_: False)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    before = kept_in()
    program_cache.keep_compiled_programs()
    assert kept_in() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.fast
def test_programs_that_were_used_longest_ago_go_first(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, written, read in (("a", 1, 9), ("b", 2, 2), ("c", 8, 3), ("d", 4, 4)):
        (tmp_path / name).write_bytes(b"0123456789")
        os.utime(tmp_path / name, (read, written))
    program_cache.drop_old_programs(tmp_path, 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d", "folder"]
    program_cache.drop_old_programs(tmp_path, 29)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "folder"]
    program_cache.drop_old_programs(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_second_process_compiles_nothing_and_a_damaged_folder_does_no_harm(home):
    def run():
        done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stderr == ""  # neither Python nor XLA warns (of a processor that lacks a feature, say)
        return json.loads(done.stdout)

    cold, first = run()
    programs = list((home / "caches" / "collapse_jax" / "xla").glob("*-cache"))
    assert cold["cache_misses"] == len(programs) > 2
    warm, second = run()
    assert warm["cache_hits"] == len(programs)
    assert "cache_misses" not in warm
    for path in programs:
        path.write_bytes(path.read_bytes()[:100])
    damaged, third = run()
    assert "cache_hits" not in damaged
    assert len(first) > 5
    assert first == second == third  # bit for bit
