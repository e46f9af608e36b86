"""What the end of a run shows: its tables, its picture, and some of what it generated."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_jax import results
from collapse_jax.results import store

if TYPE_CHECKING:
    from rich.console import Console


def show(out: Any, console: "Console", is_new: bool) -> list[Any]:
    """Prints the tables, and draws what there is to see unless it is there and nothing is new; returns where it is."""
    from rich.text import Text

    is_here = not store.is_bucket(out)
    if is_here and not is_new and (printed_tables := Path(out) / results.TABLES).exists():
        print(printed_tables.read_text(), end="")
        return [page for name in results.PAGES if (page := Path(out) / name).exists()]
    from collapse_jax.reporting import plot_curves, sample_pages, tables
    from collapse_jax.results.variables import select_scalars

    ds = results.open(out)
    with console.capture() as printed:
        console.print(tables.render_summary(ds))
        console.print(tables.render_verdicts(ds))
    print(printed.get(), end="")
    pages = [plot_curves.plot_into(ds, out)] if select_scalars(ds) else []
    pages += sample_pages.write_into(ds, out)
    if is_here:  # last, so that it tells that all of them are
        (Path(out) / results.TABLES).write_text(Text.from_ansi(printed.get()).plain)
    return pages
