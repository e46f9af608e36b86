"""Show how far a run is: a bar in a terminal or a notebook, or lines of text where there is neither."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_SECONDS_BETWEEN_LINES = 5.0  # where there is no terminal
_SECONDS_BETWEEN_REDRAWS = 0.1  # in a notebook

ProgressBar = Callable[[float, str], None]  # is called with the share that is done, and a text


@contextlib.contextmanager
def show_run_progress() -> Iterator[Callable[[Any], None]]:
    """Yield a callback of ``resumable.RunProgress``: it draws a bar, or prints lines where there is no terminal."""
    if not sys.stderr.isatty():
        yield _line_printer()
        return
    with _open_terminal_bar() as draw_bar:
        start = time.monotonic()

        def progress_callback(progress: Any) -> None:
            speed = f"{_format_speed(progress.done, start)}, " if progress.done else ""
            draw_bar(progress.share, speed + _format_units(progress))

        yield progress_callback


@contextlib.contextmanager
def show_sweep_progress(
    progress: Callable[[int, int], None] | bool | None,
) -> Iterator[Callable[[int, int], None]]:
    """Yield the argument `progress` of ``sweep.sweep`` as a callback of (done, total), in chain-generations.

    True draws a bar, in a notebook's cell or in a terminal; None and False draw nothing.
    """
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda done, total: None
        return
    with _open_notebook_bar() if in_notebook() else _open_terminal_bar() as draw_bar:
        start = time.monotonic()
        yield lambda done, total: draw_bar(done / total, _format_speed(done, start))


@contextlib.contextmanager
def _open_terminal_bar() -> Iterator[ProgressBar]:
    from rich import progress
    from rich.console import Console

    speed_column = progress.TextColumn("{task.fields[speed]}")
    text_column = progress.TextColumn("{task.description}")
    columns = (
        text_column, progress.BarColumn(), progress.TaskProgressColumn(), speed_column, progress.TimeRemainingColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compiling", total=None, speed="")
        yield lambda share, speed: bar.update(task, description="running", completed=share, total=1.0, speed=speed)


def in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this program; nothing is imported to find out."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextlib.contextmanager
def _open_notebook_bar() -> Iterator[ProgressBar]:
    """Yield a bar of plain HTML, since rich's would need ipywidgets."""
    from IPython.display import HTML, display

    def render_bar(share: float, text: str) -> Any:
        return HTML(f'<progress max="1" value="{share:.4f}" aria-label="progress"></progress> {share:.0%} {text}')

    handle, last = display(render_bar(0.0, "compiling"), display_id=True), 0.0

    def draw_bar(share: float, text: str) -> None:
        nonlocal last
        if share >= 1 or time.monotonic() - last >= _SECONDS_BETWEEN_REDRAWS:
            last = time.monotonic()
            handle.update(render_bar(share, text))

    yield draw_bar


def _format_speed(done: int, start: float) -> str:
    speed = done / max(time.monotonic() - start, 1e-9)
    return f"{speed:,.0f} chain-generations/s" if speed >= 10 or not done else f"{speed:.2g} chain-generations/s"


def _format_units(progress: Any) -> str:
    resumed = f", resumed from {progress.resumed}" if progress.resumed else ""
    return f"{progress.units}/{progress.total_units} units{resumed}"


def _line_printer() -> Callable[[Any], None]:
    start = last = time.monotonic()

    def progress_callback(progress: Any) -> None:
        nonlocal last
        now = time.monotonic()
        is_first_of_resumed = progress.done == 0 and progress.resumed
        if progress.done < progress.left and now - last < _SECONDS_BETWEEN_LINES and not is_first_of_resumed:
            return
        last = now
        left = f"{(now - start) * (1 / progress.share - 1):,.0f} s left" if progress.share else "starting"
        line = f"{progress.share:4.0%}  {_format_units(progress)}  {_format_speed(progress.done, start)}  {left}"
        print(line, file=sys.stderr, flush=True)

    return progress_callback
