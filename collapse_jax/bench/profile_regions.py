"""Where the time of a profile goes, by the regions that ``chain`` names: fit, sample, curate, pool and metrics."""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from collapse_jax.bench.measure import Prepared

REGIONS = ("fit", "sample", "curate", "pool", "metrics")
OTHER = "other"  # keys of streams, loops themselves, what a program does before and after its generations
_NAMED = re.compile(rf"(?:^|[/(;])({'|'.join(REGIONS)})(?=$|[/);])")
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', re.MULTILINE)


def profile(cases: Sequence[Prepared], folder: Path, tell: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Writes a profile of one block of each case, and adds up the time of its regions: ``{case: {region: share}}``.

    The profiles (``*.xplane.pb`` and ``*.trace.json.gz``, a folder a case) can be opened by XProf and Perfetto.
    """
    found = {}
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # what Python does is not looked at, and would be most of the file
    for prepared in cases:
        name = prepared.case.name
        tell(f"profile of {name}")
        place = folder / re.sub(r"[^\w.=-]+", "_", name)
        with jax.profiler.trace(str(place), profiler_options=options):
            prepared.run(blocks=1)
        written = max(place.glob("plugins/profile/*/*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
        events = json.loads(gzip.decompress(written.read_bytes()))["traceEvents"]
        found[name] = shares(events, prepared.programs.advance[0].as_text() or "", "jit_advance")
    return found


def shares(events: Iterable[dict[str, Any]], program: str, module: str) -> dict[str, float]:
    """Shares of the time of a profile's events, by region; of an operation that calls others, what it took itself.

    Args:
      events: of the trace viewer's format.
      program: the compiled program's text, which says what source its operations came from.
      module: name of the program, whose events count.
    """
    sources = {name: _region(source) for name, source in _INSTRUCTION.findall(program)}
    threads: dict[Any, list[dict[str, Any]]] = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("ph") == "X" and str(arguments.get("hlo_module", "")).startswith(module):
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    seconds: dict[str, float] = {}
    for found in threads.values():
        for region, own in _own(found, sources):
            seconds[region] = seconds.get(region, 0.0) + own
    total = sum(seconds.values())
    return {region: value / total for region, value in seconds.items() if total > 0}


def _own(events: list[dict[str, Any]], sources: dict[str, str]) -> Iterable[tuple[str, float]]:
    """The region of each event of a thread and what it took without those inside it, which may take its region."""
    open_events: list[list[Any]] = []  # [end, region, own]
    for event in sorted(events, key=lambda e: (e["ts"], -e.get("dur", 0.0))):
        start, length = event["ts"], event.get("dur", 0.0)
        while open_events and open_events[-1][0] <= start:
            yield tuple(open_events.pop()[1:])
        region = sources.get(event["args"].get("hlo_op", event["name"]), OTHER)
        if open_events:
            open_events[-1][2] -= length
            region = open_events[-1][1] if region == OTHER else region
        open_events.append([start + length, region, length])
    yield from (tuple(event[1:]) for event in open_events)


def _region(source: str) -> str:
    """The innermost region of an operation's source."""
    found = _NAMED.findall(source)
    return found[-1] if found else OTHER
