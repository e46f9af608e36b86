"""Show measurements as tables, keep them as JSON, and compare them with earlier ones."""

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from collapse_jax import __version__
from collapse_jax.bench.machine import Rates, copy_size_for, find_bottleneck, floor_seconds, lowest_seconds
from collapse_jax.bench.measure import CaseTiming, Scaling
from collapse_jax.core.errors import UsageError, explain_write_errors
from collapse_jax.planning.roofline import Work

if TYPE_CHECKING:
    from rich.table import Table

_MIN_NOISE = 0.05  # relative differences of times below this are never called a change
_SIGMAS = 3.0


class BenchReport(NamedTuple):
    """All measurements of one run of ``collapse-jax bench``.

    Attributes:
      origin: versions, device, cores, date and suite.
      rates: what the machine does in a second.
      timings: one for each case.
      scalings: exponents, where they were asked for.
      regions: ``{case: {region: share of its time}}``, where a profile was taken.
    """

    origin: dict[str, Any]
    rates: Rates
    timings: tuple[CaseTiming, ...]
    scalings: tuple[Scaling, ...] = ()
    regions: dict[str, dict[str, float]] = {}  # noqa: RUF012


def describe_origin(suite: str, rounds: int) -> dict[str, Any]:
    """Return versions, device, cores, date and suite of a run that starts now."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "suite": suite,
        "rounds": rounds,
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{len(jax.local_devices())} x {device.platform}: {device.device_kind}",
        "processor": _processor_name(),
        "cores": cores,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "collapse_jax": __version__,
    }


def _processor_name() -> str:
    """Return the name that Linux has for the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_json(report: BenchReport, path: Path) -> None:
    """Write a report into a JSON file.

    Raises:
      StoreError: the file cannot be written.
    """
    timings = [
        timing._asdict()
        | {
            "work": timing.work._asdict(),
            "us": 1e6 * timing.median,
            "relative_deviation": timing.relative_deviation,
            "floor_share": timing.floor_share,
        }
        for timing in report.timings
    ]
    values = report._asdict() | {
        "rates": report.rates._asdict(),
        "timings": timings,
        "scalings": [scaling._asdict() for scaling in report.scalings],
    }
    with explain_write_errors(path):
        path.write_text(json.dumps(values, indent=1) + "\n")


def read_json(path: Path) -> BenchReport:
    """Return the report that ``write_json`` wrote.

    Raises:
      UsageError: the file cannot be read, or is no such report.
    """
    try:
        values = json.loads(path.read_text())
        rates = values["rates"] | {"copies": {int(k): v for k, v in values["rates"]["copies"].items()}}
        timings = [
            CaseTiming(**{name: timing[name] for name in CaseTiming._fields})._replace(
                work=Work(**timing["work"]), seconds=tuple(timing["seconds"])
            )
            for timing in values["timings"]
        ]
        scalings = [Scaling(**s)._replace(values=tuple(s["values"]), seconds=tuple(s["seconds"]))
                    for s in values["scalings"]]  # fmt: skip
        return BenchReport(values["origin"], Rates(**rates), tuple(timings), tuple(scalings), values["regions"])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: is not a file that `collapse-jax bench --json` writes") from error


class Change(NamedTuple):
    """One case of a report compared with the same case of an earlier one.

    Attributes:
      name: the name of the case.
      ratio: time now over time before.
      machine: floor now over floor before, of the earlier work: how much slower the machine is now.
      noise: a relative difference below this is not called a change.
    """

    name: str
    ratio: float
    machine: float
    noise: float

    @property
    def verdict(self) -> str:
        """Return "slower" or "faster" where machine and noise do not explain the ratio, else ""."""
        unexplained = math.log(self.ratio / self.machine)
        if abs(unexplained) <= math.log1p(self.noise):
            return ""
        return "slower" if unexplained > 0 else "faster"


def compare_reports(now: BenchReport, before: BenchReport) -> list[Change]:
    """Compare the cases that both reports hold.

    Raises:
      UsageError: they have no case in common.
    """
    known, changes = {timing.name: timing for timing in before.timings}, []
    for timing in now.timings:
        if timing.name in known:
            old = known[timing.name]
            # Larger blocks of today must not excuse today's times: the old work in the old blocks' memory.
            old_size = copy_size_for(old.peak_bytes)
            size = min(now.rates.copies, key=lambda measured: abs(math.log(measured / old_size)))
            machine = lowest_seconds(floor_seconds(old.work, now.rates, size)) / lowest_seconds(old.floor)
            noise = max(_MIN_NOISE, _SIGMAS * math.hypot(timing.relative_deviation, old.relative_deviation))
            changes.append(Change(timing.name, timing.median / old.median, machine, noise))
    if not changes:
        raise UsageError("compare: the two reports have no case in common")
    return changes


def render_report(report: BenchReport) -> list[Any]:
    """Return the lines and tables of a report for a console."""
    renderables = [*describe_machine(report), render_timings(report.timings)]
    renderables += [render_scalings(report.scalings)] if report.scalings else []
    return [*renderables, render_regions(report.regions)] if report.regions else renderables


def describe_machine(report: BenchReport) -> list[str]:
    """Return three lines on the machine."""
    origin, rates = report.origin, report.rates
    copies = ", ".join(f"{_format_bytes(size)} {rate / 1e9:.3g}" for size, rate in rates.copies.items())
    return [
        f"{origin['device']}, {origin['cores']} cores of {origin['processor']}; Python {origin['python']}, "
        f"jax {origin['jax']}, {origin['date']}; load {origin['load']}",
        f"rates: {rates.products / 1e9:.3g} GFLOP/s of products, {rates.exponentials / 1e9:.3g}e9 exponentials/s, "
        f"{rates.random_words / 1e6:.3g}e6 random words/s, {rates.normals / 1e6:.3g}e6 normals/s",
        f"GB/s of copies: {copies}",
    ]


def render_timings(timings: Sequence[CaseTiming]) -> "Table":
    """Return a table with one row for each case."""
    result = _make_table("case", "draws", "trace\ns", "compile\ns", "us a chain-\ngeneration", "+-",
                    "chain-gen-\nerations/s", "kFLOP", "kB", "floor\nus", "of\nfloor", "bottle-\nneck",
                         "MB a\nblock")  # fmt: skip
    for row in timings:
        result.add_row(
            row.name,
            row.backend,
            f"{row.trace_seconds:.2f}",
            f"{row.compile_seconds:.2f}",
            f"{1e6 * row.median:,.3g}" if row.median < 1e-3 else f"{1e6 * row.median:,.0f}",
            f"{row.relative_deviation:.0%}",
            f"{1 / row.median:,.3g}" if row.median > 1e-2 else f"{1 / row.median:,.0f}",
            f"{row.work.flops / 1e3:,.3g}" if row.work.flops < 1e6 else f"{row.work.flops / 1e3:,.0f}",
            f"{row.work.bytes / 1e3:,.3g}" if row.work.bytes < 1e6 else f"{row.work.bytes / 1e3:,.0f}",
            f"{1e6 * lowest_seconds(row.floor):,.3g}",
            f"{row.floor_share:.0%}",
            find_bottleneck(row.floor),
            f"{row.peak_bytes / 2**20:,.3g}",
        )
    return result


def render_scalings(scalings: Sequence[Scaling]) -> "Table":
    """Return a table with one row for each case and axis."""
    result = _make_table("case", "axis", "values", "seconds", "exponent")
    for s in scalings:
        seconds = ", ".join(f"{value:.2g}" for value in s.seconds)
        result.add_row(s.name, s.axis, ", ".join(map(str, s.values)), seconds, f"{s.exponent:.2f} +- {s.error:.2f}")
    return result


def render_changes(changes: Sequence[Change]) -> "Table":
    """Return a table with one row for each case that two reports share."""
    result = _make_table("case", "now / before", "machine", "noise", "")
    for c in changes:
        result.add_row(c.name, f"{c.ratio:.2f}", f"{c.machine:.2f}", f"{c.noise:.0%}", c.verdict)
    return result


def render_regions(regions: dict[str, dict[str, float]]) -> "Table":
    """Return a table of the shares of time of each region, one row for each case."""
    names = sorted({name for shares in regions.values() for name in shares})
    result = _make_table("case", *names)
    for case, shares in regions.items():
        result.add_row(case, *(f"{shares.get(name, 0.0):.0%}" for name in names))
    return result


def _make_table(first: str, *others: str) -> "Table":
    from rich.table import Table

    result = Table(box=None, padding=(0, 2, 0, 0))
    result.add_column(first, no_wrap=True)
    for name in others:
        result.add_column(name, justify="right")
    return result


def _format_bytes(size: float) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"
