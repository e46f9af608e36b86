"""A run ends in time after SIGTERM and Ctrl-C: between units, inside one, and while a program is compiled."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collapse_jax import results

CONFIG = """
setting: {kind: gaussian, dim: 1}
policies: [replace, accumulate]
num_samples: 8
num_generations: 4
num_chains: 8
metrics: [trace_ratio]
"""
# A process whose second unit does not come back to Python: XLA's own wait, as of a long unit or a long compile.
STUCK = """
import ctypes, signal, sys
from collapse_jax.cli import main
from collapse_jax.execution import runner

run_unit, count = runner.Runner.run_unit, [0]

def stuck(self, unit, saver=None):
    count[0] += 1
    if count[0] == 2:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # else they would wake it
        print("stuck", flush=True)
        ctypes.CDLL(None).sleep(60)
    return run_unit(self, unit, saver)

runner.Runner.run_unit = stuck
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture
def begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    Path("stuck.py").write_text(STUCK)
    started = []

    def start(*options):
        words = [sys.executable, "stuck.py", "run", "run.yaml", "--out", "out", *options]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert any(line == "stuck\n" for line in process.stdout)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_unit_that_does_not_return(begin, number, status):
    process = begin("--grace", "1")
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)  # the unit would take a minute
    assert process.returncode == status
    lines = [line for line in err.splitlines() if "kept" in line]
    assert lines == [f"{'terminated' if status == 143 else 'interrupted'}: finished units are kept; run the same "
                     "command again to continue"]  # fmt: skip
    assert "Traceback" not in err
    assert 0 < results.open("out").attrs["done"] < 1


def test_a_second_signal_ends_it_at_once(begin):
    process = begin("--grace", "1000")
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "rethrown" not in err
