"""Give datasets of runs an accessor: ``runs.collapse.plot()``. Notebooks show what its methods return.

Each method imports what it needs, since every program that makes a dataset imports this module.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


@xr.register_dataset_accessor("collapse")
class Collapse:
    """The accessor ``runs.collapse`` of datasets that ``run``, ``sweep`` and ``open`` return, and of parts of them."""

    def __init__(self, ds: xr.Dataset):
        self._ds = ds

    def plot(self, path: Path | str | None = None) -> "Figure":
        """Draw each metric against the generation, a colour for each policy, and exact means as dashed lines.

        Args:
          path: a picture file to write as well; its suffix chooses the format.

        Raises:
          UsageError: matplotlib cannot write the suffix, or no metric is one number a generation.
        """
        from collapse_jax.reporting import plot_curves
        from collapse_jax.reporting.figures import save_figure

        figure = plot_curves.draw_curves(self._ds)
        if path is not None:
            save_figure(figure, path)
        figure.__dict__["_repr_png_"] = lambda: _encode_png(figure)  # notebooks show it without pyplot
        return figure

    def table(self, generation: int = -1) -> "Table":
        """Return a table of each metric over chains, with 95% intervals, at a position of the generation axis."""
        from collapse_jax.reporting import tables

        return _widen_in_notebook(tables.render_summary(self._ds, generation))

    def score(self) -> xr.Dataset:
        """Return the verdicts of eight definitions of collapse; see ``cj.score``."""
        from collapse_jax.analysis.verdicts import score

        return score(self._ds)

    def verdicts(self) -> "Table":
        """Return a table of the verdicts of ``score``, with median times to collapse."""
        from collapse_jax.reporting import tables

        return _widen_in_notebook(tables.render_verdicts(self._ds))

    def predict(self) -> xr.Dataset:
        """Return the exact mean over chains of each metric for which theory knows one.

        Returns:
          A dataset with the metrics' dims without ``chain``; NaN where no mean is known, or where a mean over chains
          cannot be compared with it. The variables ``..._theory_low`` and ``..._theory_high`` of results hold bounds
          and limits too.
        """
        from collapse_jax.results.theory_variables import exact_means

        return exact_means(self._ds)

    def report(self, path: Path | str = "report.html") -> Path:
        """Write one HTML page of all results and return its path; see ``html.write_report``."""
        from collapse_jax.reporting import html

        return html.write_report(self._ds, path)


def _widen_in_notebook(table: "Table") -> "Table":
    """Return the table, in a notebook as wide as its content, since cells of notebooks scroll."""
    from rich.console import Console

    from collapse_jax.execution.progress import in_notebook

    if in_notebook():
        table.width = Console(width=1000).measure(table).maximum
    return table


def _encode_png(figure: "Figure") -> bytes:
    data = io.BytesIO()
    figure.savefig(data, dpi=100, format="png")
    return data.getvalue()
