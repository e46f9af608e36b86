"""``benchmarks/accelerator.py`` at a small scale: it measures every part, and ends in time."""

import importlib.util
import json
import math
import time
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "benchmarks/accelerator.py"


@pytest.fixture(scope="module")
def accelerator():
    spec = importlib.util.spec_from_file_location("accelerator", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def split_output(text):
    """The lines of JSON, and what follows them."""
    lines = text.splitlines()
    end = lines.index("")
    return [json.loads(line, parse_constant=pytest.fail) for line in lines[:end]], lines[end:]


def numbers_of(row):
    return {name: value for name, value in row.items() if isinstance(value, float | int)}


def test_every_part_is_measured(accelerator, capsys):
    accelerator.main(["--scale", "0.001", "--cases", "1"])
    (machine, *rows), table = split_output(capsys.readouterr().out)
    parts = [part.name for part in accelerator.PARTS]
    assert machine["scale"] == 0.001
    assert [row["part"] for row in rows] == parts
    for row in rows:
        assert "error" not in row, row
        numbers = numbers_of(row)
        assert len(numbers) >= 3
        assert all(math.isfinite(value) and value >= 0 for value in numbers.values()), row
        figure = next(numbers[name] for name in ("us_per_chain_generation", "s") if name in numbers)
        assert figure > 0
        assert numbers["all_s"] > 0
    assert [line.split(" | ")[0] for line in table if line.startswith("| ")] == [
        f"| {name}" for name in ("part", *parts)
    ]
    assert not any("did not fit" in line or "failed:" in line.replace("failed: none", "") for line in table)


@pytest.mark.fast
def test_an_error_is_a_line_and_what_does_not_fit_is_named(accelerator, monkeypatch, capsys):
    def fail():
        raise ValueError("no such\ndevice")

    def wait():
        time.sleep(0.01)
        return {"s": 0.01}

    parts = (
        accelerator.Part("first", 0, lambda scale: [accelerator.Case("a", fail), accelerator.Case("b", wait)]),
        accelerator.Part("long", 1e9, lambda scale: [accelerator.Case("c", fail)]),
        accelerator.Part("last", 0, lambda scale: [accelerator.Case("d", wait)]),
    )
    monkeypatch.setattr(accelerator, "PARTS", parts)
    accelerator.main(["--minutes", "1"])
    (_, a, b, d), table = split_output(capsys.readouterr().out)
    assert (a["case"], a["error"]) == ("a", "ValueError: no such device")
    assert [(row["case"], row["s"]) for row in (b, d)] == [("b", 0.01), ("d", 0.01)]
    assert table[-1] == "did not fit: long: c"


@pytest.mark.fast
def test_what_hangs_is_cut_off(accelerator, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(accelerator.os, "_exit", ended.append)
    hang = accelerator.Case("slow", lambda: time.sleep(0.5) or {"s": 1.0})
    monkeypatch.setattr(accelerator, "GRACE", 0.0)
    monkeypatch.setattr(accelerator, "PARTS", (accelerator.Part("one", 0, lambda scale: [hang]),))
    accelerator.main(["--minutes", str(1.2 / 60)])  # cut off a second before its end
    rows, table = split_output(capsys.readouterr().out)
    assert ended == [0]
    assert len(rows) == 1  # the machine; what ends after the table is not printed
    assert table[-1] == "did not fit: one: slow (cut off)"
