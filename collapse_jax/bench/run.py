"""Measure one suite of cases: a run of ``collapse-jax bench``."""

from collections.abc import Callable
from pathlib import Path

from collapse_jax.bench.measure import measure_cases, measure_scaling
from collapse_jax.bench.profile_regions import profile_cases
from collapse_jax.bench.report import BenchReport, describe_origin
from collapse_jax.bench.suites import select_cases

_ROUNDS, _SECONDS = 7, 0.25  # rounds, and seconds of a case in a round
_QUICK_ROUNDS, _QUICK_SECONDS = 3, 0.05
_SCALING_ROUNDS = 3  # rounds of three sizes an axis; each setting takes a minute


def ignore_progress(text: str) -> None:
    """Take a progress report and do nothing."""


def measure_suite(
    name: str = "core",
    only: str = "",
    quick: bool = False,
    scaling: bool = False,
    trace: Path | None = None,
    report_progress: Callable[[str], None] = ignore_progress,
) -> BenchReport:
    """Measure a suite.

    Args:
      name: the suite: core, nets or engine.
      only: measure the cases whose names hold this text.
      quick: measure two cases in three short rounds.
      scaling: measure exponents of the first case of each setting under replace, in chains, generations, n and the
        setting's own size.
      trace: a folder that a profile of one run of each case is written into.
      report_progress: is called with a text that says what is being done.

    Raises:
      UsageError: there is no such suite or case.
    """
    cases = select_cases(name, quick, only)
    rounds, seconds = (_QUICK_ROUNDS, _QUICK_SECONDS) if quick else (_ROUNDS, _SECONDS)
    timings, rates, prepared = measure_cases(cases, rounds, seconds, report_progress)
    regions = {} if trace is None else profile_cases(prepared, trace, report_progress)
    first = {p.case.setting: p for p in reversed(prepared) if p.case.policy.name == "replace"}
    scalings = []
    for case in first.values() if scaling else ():
        scalings += measure_scaling(case, min(rounds, _SCALING_ROUNDS), report_progress)
    return BenchReport(describe_origin(name, rounds), rates, tuple(timings), tuple(scalings), regions)
