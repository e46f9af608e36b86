"""How far a run is: a bar in a terminal or a notebook, or lines where there is neither."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_NEWS_EVERY = 5.0  # seconds between lines where there is no terminal
_REDRAWN_EVERY = 0.1  # seconds, in a notebook

Draw = Callable[[float, str], None]  # of the share that is done, and words


@contextlib.contextmanager
def shown() -> Iterator[Callable[[Any], None]]:
    """A function of ``stream.Progress`` that draws a bar, or prints a line now and then where there is no terminal."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    with _bar() as draw:
        start = time.monotonic()

        def update(now: Any) -> None:
            rate = f"{_rate(now.done, start)}, " if now.done else ""
            draw(now.share, rate + _units(now))

        yield update


@contextlib.contextmanager
def told(progress: Callable[[int, int], None] | bool | None) -> Iterator[Callable[[int, int], None]]:
    """The `progress` of ``sweep.sweep`` as a function of what is done and of all, in chain-generations.

    True draws a bar, in a notebook's cell or in a terminal; None and False draw nothing.
    """
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda done, total: None
        return
    with _cell() if in_notebook() else _bar() as draw:
        start = time.monotonic()
        yield lambda done, total: draw(done / total, _rate(done, start))


@contextlib.contextmanager
def _bar() -> Iterator[Draw]:
    from rich import progress as p
    from rich.console import Console

    speed = p.TextColumn("{task.fields[speed]}")
    words = p.TextColumn("{task.description}")
    columns = (words, p.BarColumn(), p.TaskProgressColumn(), speed, p.TimeRemainingColumn())
    with p.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compiling", total=None, speed="")
        yield lambda share, speed: bar.update(task, description="running", completed=share, total=1.0, speed=speed)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; nothing is imported to find out."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextlib.contextmanager
def _cell() -> Iterator[Draw]:
    """A bar of plain HTML: rich's would need ipywidgets."""
    from IPython.display import HTML, display

    def bar(share: float, words: str) -> Any:
        return HTML(f'<progress max="1" value="{share:.4f}" aria-label="progress"></progress> {share:.0%} {words}')

    handle, last = display(bar(0.0, "compiling"), display_id=True), 0.0

    def draw(share: float, words: str) -> None:
        nonlocal last
        if share >= 1 or time.monotonic() - last >= _REDRAWN_EVERY:
            last = time.monotonic()
            handle.update(bar(share, words))

    yield draw


def _rate(done: int, start: float) -> str:
    rate = done / max(time.monotonic() - start, 1e-9)
    return f"{rate:,.0f} chain-generations/s" if rate >= 10 or not done else f"{rate:.2g} chain-generations/s"


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
        last = clock
        left = f"{(clock - start) * (1 / now.share - 1):,.0f} s left" if now.share else "starting"
        print(f"{now.share:4.0%}  {_units(now)}  {_rate(now.done, start)}  {left}", file=sys.stderr, flush=True)

    return update
