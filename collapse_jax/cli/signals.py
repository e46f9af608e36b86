"""End a run in time: Python sees a signal only between two of its own steps, and XLA may compile for minutes."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from collapse_jax.core.errors import UsageError

GRACE = 5.0  # seconds from a signal to the end of the process
_KEPT = "finished units are kept; run the same command again to continue"
_WORDS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}
_announced = threading.Event()


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM, by which schedulers announce that a machine will go."""


@contextlib.contextmanager
def end_in_time(grace: float = GRACE) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the process within `grace` seconds, whatever it is at, and at once if they come twice.

    The first signal raises ``Terminated`` or ``KeyboardInterrupt`` in the main thread, so that what is being written is
    finished or left out. A thread waits beside it: when time is over, it prints one line and ends the process. Results
    appear in single steps, so at most the unit in flight is lost.

    After a signal the process ends in time also where a program that called ``main`` itself would go on.

    Args:
      grace: seconds, 0 or more.

    Raises:
      UsageError: `grace` is no such number.
    """
    if not 0 <= grace < float("inf"):
        raise UsageError(f"--grace must be a number of seconds of at least 0, not {grace:g}")
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    ending = threading.Event()
    _announced.clear()

    def end_run(number: int, _: Any) -> NoReturn:
        if ending.is_set():
            _end_process(number)
        ending.set()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    handled = {number: signal.signal(number, end_run) for number in _WORDS}
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch_signals, args=(read_end, grace), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        if not ending.is_set():  # else the process ends: threads of XLA may hold it up for longer than `grace`
            signal.set_wakeup_fd(before)
            for number, handler in handled.items():
                signal.signal(number, handler)
            os.write(write_end, b"\0")
            watcher.join()
            os.close(read_end)
            os.close(write_end)


def announce_end(number: int) -> None:
    """Print why the process ends and what is kept."""
    _announced.set()
    print(f"{_WORDS[signal.Signals(number)]}: {_KEPT}", file=sys.stderr, flush=True)


def _watch_signals(read_end: int, grace: float) -> None:
    """End the process `grace` seconds after a first signal, or at a second one; return at a zero byte."""
    number = _read_signal(read_end)
    if number == 0:
        return
    select.select([read_end], [], [], grace)
    _end_process(number)


def _end_process(number: int) -> NoReturn:
    if not _announced.is_set():
        announce_end(number)
    os._exit(128 + number)  # no handlers, no destructors: XLA's threads are at work, and would abort the process


def _read_signal(read_end: int) -> int:
    """Return the next number of a signal that ends the process, or 0."""
    while True:
        (number,) = os.read(read_end, 1)
        if number in (0, *_WORDS):
            return number
