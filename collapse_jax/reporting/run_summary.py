"""Show the end of a run: its tables, its picture, and some of what it generated."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_jax import results
from collapse_jax.core.errors import explain_write_errors
from collapse_jax.results import store

if TYPE_CHECKING:
    from rich.console import Console


def show_run(out: Any, console: "Console", is_new: bool) -> list[Any]:
    """Print the tables of a run, draw its pictures, and return their paths.

    Args:
      out: a results folder, or a bucket's URL.
      console: decides the width of the tables.
      is_new: whether results were added; where not, tables and pictures that exist are used again.

    Raises:
      StoreError: a picture or a table cannot be written.
    """
    from rich.text import Text

    is_local = not store.is_bucket(out)
    if is_local and not is_new and (tables_file := Path(out) / results.TABLES).exists():
        print(tables_file.read_text(), end="")
        return [page for name in results.PAGES if (page := Path(out) / name).exists()]
    from collapse_jax.reporting import plot_curves, sample_pages, tables
    from collapse_jax.results.variables import select_scalars

    ds = results.open(out)
    with console.capture() as printed:
        console.print(tables.render_summary(ds))
        if (differences := tables.render_differences(ds)) is not None:
            console.print(differences)
        console.print(tables.render_verdicts(ds))
    print(printed.get(), end="")
    with explain_write_errors(out):
        pages = [plot_curves.write_curves(ds, out)] if select_scalars(ds) else []
        pages += sample_pages.write_samples(ds, out)
        if is_local:  # last, since this file says that the pictures are there
            (Path(out) / results.TABLES).write_text(Text.from_ansi(printed.get()).plain)
    return pages
