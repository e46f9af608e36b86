"""One run of ``collapse-jax bench``."""

from collections.abc import Callable
from pathlib import Path

from collapse_jax.bench import profile_regions
from collapse_jax.bench.measure import measure, scalings
from collapse_jax.bench.report import Report, about
from collapse_jax.bench.suites import suite

_ROUNDS, _SECONDS = 7, 0.25  # of a case in a round
_QUICK_ROUNDS, _QUICK_SECONDS = 3, 0.05
_SCALING_ROUNDS = 3  # of three sizes an axis: each setting takes a minute


def bench(
    name: str = "core",
    only: str = "",
    quick: bool = False,
    scaling: bool = False,
    trace: Path | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> Report:
    """Measures a suite.

    Args:
      name: of the suite: core, nets or engine.
      only: cases whose names hold this.
      quick: two cases, three short rounds.
      scaling: exponents of the first case of each setting under replace, in chains, generations, n and its own size.
      trace: a folder that a profile of one run of each case is written into.
      tell: is told what is being done.

    Raises:
      UsageError: no such suite or case.
    """
    cases = suite(name, quick, only)
    rounds, seconds = (_QUICK_ROUNDS, _QUICK_SECONDS) if quick else (_ROUNDS, _SECONDS)
    rows, rates, made = measure(cases, rounds, seconds, tell)
    found = {} if trace is None else profile_regions.profile(made, trace, tell)
    first = {p.case.setting: p for p in reversed(made) if p.case.policy.name == "replace"}
    grown = [s for p in first.values() for s in scalings(p, min(rounds, _SCALING_ROUNDS), tell)] if scaling else []
    return Report(about(name, rounds), rates, tuple(rows), tuple(grown), found)
