"""Divide the time of a profile among the regions that ``chain`` names: fit, sample, curate, pool and metrics."""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from collapse_jax.bench.measure import PreparedCase

REGIONS = ("fit", "sample", "curate", "pool", "metrics")
OTHER = "other"  # keys of streams, loops, and what a program does before and after its generations
_NAMED = re.compile(rf"(?:^|[/(;])({'|'.join(REGIONS)})(?=$|[/);])")
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', re.MULTILINE)


def profile_cases(
    cases: Sequence[PreparedCase], folder: Path, report_progress: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Write a profile of one block of each case, and return the time of its regions: ``{case: {region: share}}``.

    The profiles (``*.xplane.pb`` and ``*.trace.json.gz``, a folder a case) can be opened by XProf and Perfetto.
    """
    regions = {}
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # the calls of Python are not used, and would be most of the file
    for prepared in cases:
        name = prepared.case.name
        report_progress(f"profile of {name}")
        case_folder = folder / re.sub(r"[^\w.=-]+", "_", name)
        with jax.profiler.trace(str(case_folder), profiler_options=options):
            prepared.time_run(blocks=1)
        written = max(case_folder.glob("plugins/profile/*/*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
        events = json.loads(gzip.decompress(written.read_bytes()))["traceEvents"]
        program = prepared.compiled.advance[0].as_text() or ""
        regions[name] = compute_region_shares(events, program, "jit_advance")
    return regions


def compute_region_shares(events: Iterable[dict[str, Any]], program: str, module: str) -> dict[str, float]:
    """Return the share of the time of a profile's events by region; an operation counts without those that it calls.

    Args:
      events: events in the trace viewer's format.
      program: the text of the compiled program, which says what source its operations came from.
      module: the name of the program whose events count.
    """
    sources = {name: _find_region(source) for name, source in _INSTRUCTION.findall(program)}
    threads: dict[Any, list[dict[str, Any]]] = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("ph") == "X" and str(arguments.get("hlo_module", "")).startswith(module):
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    seconds: dict[str, float] = {}
    for thread_events in threads.values():
        for region, own in _own_times(thread_events, sources):
            seconds[region] = seconds.get(region, 0.0) + own
    total = sum(seconds.values())
    return {region: value / total for region, value in seconds.items() if total > 0}


def _own_times(events: list[dict[str, Any]], sources: dict[str, str]) -> Iterable[tuple[str, float]]:
    """Yield the region of each event of a thread and its time without the events inside it, which may inherit it."""
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


def _find_region(source: str) -> str:
    """Return the innermost region of an operation's source."""
    regions = _NAMED.findall(source)
    return regions[-1] if regions else OTHER
