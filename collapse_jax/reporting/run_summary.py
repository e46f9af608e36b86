"""What the end of a run shows: its tables, its picture, and some of what it generated."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_jax.results import io, store

if TYPE_CHECKING:
    from rich.console import Console


def show(out: Any, console: "Console", is_new: bool) -> list[Any]:
    """Prints the tables, and draws what there is to see unless it is there and nothing is new; returns where it is."""
    from rich.text import Text

    is_here = not store.is_bucket(out)
    if is_here and not is_new and (tables := Path(out) / io.TABLES).exists():
        print(tables.read_text(), end="")
        return [page for name in io.PAGES if (page := Path(out) / name).exists()]
    from collapse_jax.analysis import verdicts
    from collapse_jax.reporting import plot_curves, sample_pages
    from collapse_jax.results.variables import scalars

    ds = io.open(out)
    with console.capture() as printed:
        console.print(io.table(ds))
        console.print(verdicts.table(ds))
    print(printed.get(), end="")
    pages = [plot_curves.plot_into(ds, out)] if scalars(ds) else []
    pages += sample_pages.write_into(ds, out)
    if is_here:  # last, so that it tells that all of them are
        (Path(out) / io.TABLES).write_text(Text.from_ansi(printed.get()).plain)
    return pages
