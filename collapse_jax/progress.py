"""How far a run is: a bar, or lines where there is no terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_NEWS_EVERY = 5.0  # seconds between lines where there is no terminal


@contextlib.contextmanager
def shown() -> Iterator[Callable[[Any], None]]:
    """A function of ``stream.Progress`` that draws a bar, or prints a line now and then where there is no terminal."""
    from rich import progress as p
    from rich.console import Console

    if not sys.stderr.isatty():
        yield _lines()
        return
    speed = p.TextColumn("{task.fields[speed]}")
    words = p.TextColumn("{task.description}")
    columns = (words, p.BarColumn(), p.TaskProgressColumn(), speed, p.TimeRemainingColumn())
    with p.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compiling", total=None, speed="")

        start = time.monotonic()

        def update(now: Any) -> None:
            rate = now.done / max(time.monotonic() - start, 1e-9)
            words = f"{rate:,.0f} chain-generations/s, {_units(now)}" if now.done else _units(now)
            bar.update(task, description="running", completed=now.share, total=1.0, speed=words)

        yield update


def _units(now: Any) -> str:
    again = f", resumed from {now.resumed}" if now.resumed else ""
    return f"{now.units}/{now.total_units} units{again}"


def _lines() -> Callable[[Any], None]:
    start = last = time.monotonic()

    def update(now: Any) -> None:
        nonlocal last
        clock = time.monotonic()
        if now.done < now.left and clock - last < _NEWS_EVERY and not (now.done == 0 and now.resumed):
            return
        last, rate = clock, now.done / max(clock - start, 1e-9)
        left = f"{(clock - start) * (1 / now.share - 1):,.0f} s left" if now.share else "starting"
        print(f"{now.share:4.0%}  {_units(now)}  {rate:,.0f} chain-generations/s  {left}", file=sys.stderr, flush=True)

    return update
