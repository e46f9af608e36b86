"""What was measured as a table, as JSON, and beside what was measured before."""

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
from collapse_jax.bench.machine import Rates, copied_size, floor, limit, lowest
from collapse_jax.bench.measure import Row, Scaling
from collapse_jax.core.errors import UsageError
from collapse_jax.planning.roofline import Work

if TYPE_CHECKING:
    from rich.table import Table

_LEAST = 0.05  # a difference of times that is never called one
_SIGMAS = 3.0


class Report(NamedTuple):
    """All of one run of ``bench``.

    Attributes:
      about: versions, device, cores, date and suite.
      rates: of the machine.
      rows: one a case.
      scalings: where they were asked for.
      regions: ``{case: {region: share of its time}}``, where a profile was taken.
    """

    about: dict[str, Any]
    rates: Rates
    rows: tuple[Row, ...]
    scalings: tuple[Scaling, ...] = ()
    regions: dict[str, dict[str, float]] = {}  # noqa: RUF012


def about(suite: str, rounds: int) -> dict[str, Any]:
    """Where and when."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "suite": suite,
        "rounds": rounds,
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{len(jax.local_devices())} x {device.platform}: {device.device_kind}",
        "processor": _processor(),
        "cores": cores,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "collapse_jax": __version__,
    }


def _processor() -> str:
    """As Linux calls it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write(report: Report, path: Path) -> None:
    """As JSON.

    Raises:
      UsageError: a file that cannot be written.
    """
    rows = [row._asdict() | {"work": row.work._asdict(), "us": 1e6 * row.median, "spread": row.spread,
                             "fraction_of_floor": row.fraction} for row in report.rows]  # fmt: skip
    values = {"about": report.about, "rates": report.rates._asdict(), "rows": rows,
              "scalings": [scaling._asdict() for scaling in report.scalings], "regions": report.regions}  # fmt: skip
    try:
        path.write_text(json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def read(path: Path) -> Report:
    """What ``write`` wrote.

    Raises:
      UsageError: a file that is not that.
    """
    try:
        values = json.loads(path.read_text())
        rates = values["rates"] | {"copies": {int(k): v for k, v in values["rates"]["copies"].items()}}
        rows = [
            Row(**{name: row[name] for name in Row._fields})._replace(
                work=Work(**row["work"]), seconds=tuple(row["seconds"])
            )
            for row in values["rows"]
        ]
        scalings = [Scaling(**s)._replace(values=tuple(s["values"]), seconds=tuple(s["seconds"]))
                    for s in values["scalings"]]  # fmt: skip
        return Report(values["about"], Rates(**rates), tuple(rows), tuple(scalings), values["regions"])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not what `collapse-jax bench --json` writes") from error


class Change(NamedTuple):
    """A case beside its former self.

    Attributes:
      name: of the case.
      ratio: of the times, now over before.
      machine: the same ratio of the floors of what was done before: how much slower the machine is now.
      noise: relative difference below which none is called one.
    """

    name: str
    ratio: float
    machine: float
    noise: float

    @property
    def verdict(self) -> str:
        """Slower or faster than machine and noise explain, or neither."""
        left = math.log(self.ratio / self.machine)
        return "" if abs(left) <= math.log1p(self.noise) else "slower" if left > 0 else "faster"


def compare(now: Report, before: Report) -> list[Change]:
    """The cases that both hold.

    Raises:
      UsageError: there are none.
    """
    known, changes = {row.name: row for row in before.rows}, []
    for row in now.rows:
        if row.name in known:
            old = known[row.name]
            # Larger blocks of today must not excuse today's times: the old work in the old blocks' memory.
            size = min(now.rates.copies, key=lambda measured: abs(math.log(measured / copied_size(old.peak_bytes))))
            again = lowest(floor(old.work, now.rates, size)) / lowest(old.floor)
            noise = max(_LEAST, _SIGMAS * math.hypot(row.spread, old.spread))
            changes.append(Change(row.name, row.median / old.median, again, noise))
    if not changes:
        raise UsageError("compare: the two reports have no case in common")
    return changes


def pages(report: Report) -> list[Any]:
    """Lines and tables, for a console."""
    parts = [*machine_lines(report), table(report.rows)]
    parts += [scaling_table(report.scalings)] if report.scalings else []
    return [*parts, region_table(report.regions)] if report.regions else parts


def machine_lines(report: Report) -> list[str]:
    """The machine in three lines."""
    a, rates = report.about, report.rates
    copies = ", ".join(f"{_bytes(size)} {rate / 1e9:.3g}" for size, rate in rates.copies.items())
    return [
        f"{a['device']}, {a['cores']} cores of {a['processor']}; Python {a['python']}, jax {a['jax']}, {a['date']}; "
        f"load {a['load']}",
        f"rates: {rates.products / 1e9:.3g} GFLOP/s of products, {rates.exponentials / 1e9:.3g}e9 exponentials/s, "
        f"{rates.random_words / 1e6:.3g}e6 words/s, {rates.normals / 1e6:.3g}e6 normals/s",
        f"GB/s of copies: {copies}",
    ]


def table(rows: Sequence[Row]) -> "Table":
    """One line a case."""
    result = _table("case", "draws", "trace\ns", "compile\ns", "us a chain-\ngeneration", "+-",
                    "chain-gen-\nerations/s", "kFLOP", "kB", "floor\nus", "of\nfloor", "most of\nit is",
                    "MB a\nblock")  # fmt: skip
    for row in rows:
        result.add_row(
            row.name,
            row.backend,
            f"{row.trace_seconds:.2f}",
            f"{row.compile_seconds:.2f}",
            f"{1e6 * row.median:,.3g}" if row.median < 1e-3 else f"{1e6 * row.median:,.0f}",
            f"{row.spread:.0%}",
            f"{1 / row.median:,.3g}" if row.median > 1e-2 else f"{1 / row.median:,.0f}",
            f"{row.work.flops / 1e3:,.3g}" if row.work.flops < 1e6 else f"{row.work.flops / 1e3:,.0f}",
            f"{row.work.bytes / 1e3:,.3g}" if row.work.bytes < 1e6 else f"{row.work.bytes / 1e3:,.0f}",
            f"{1e6 * lowest(row.floor):,.3g}",
            f"{row.fraction:.0%}",
            limit(row.floor),
            f"{row.peak_bytes / 2**20:,.3g}",
        )
    return result


def scaling_table(scalings: Sequence[Scaling]) -> "Table":
    """One line a case and axis."""
    result = _table("case", "axis", "values", "seconds", "exponent")
    for s in scalings:
        seconds = ", ".join(f"{value:.2g}" for value in s.seconds)
        result.add_row(s.name, s.axis, ", ".join(map(str, s.values)), seconds, f"{s.exponent:.2f} +- {s.error:.2f}")
    return result


def change_table(changes: Sequence[Change]) -> "Table":
    """One line a case."""
    result = _table("case", "now / before", "machine", "noise", "")
    for c in changes:
        result.add_row(c.name, f"{c.ratio:.2f}", f"{c.machine:.2f}", f"{c.noise:.0%}", c.verdict)
    return result


def region_table(regions: dict[str, dict[str, float]]) -> "Table":
    """Shares of time."""
    names = sorted({name for shares in regions.values() for name in shares})
    result = _table("case", *names)
    for case, shares in regions.items():
        result.add_row(case, *(f"{shares.get(name, 0.0):.0%}" for name in names))
    return result


def _table(first: str, *others: str) -> "Table":
    from rich.table import Table

    result = Table(box=None, padding=(0, 2, 0, 0))
    result.add_column(first, no_wrap=True)
    for name in others:
        result.add_column(name, justify="right")
    return result


def _bytes(size: float) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"
