"""What one does with results, on the dataset itself: ``runs.collapse.plot()``. Notebooks show what it returns.

Each method imports what it needs: who makes a dataset has this module, and may need none of them.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


@xr.register_dataset_accessor("collapse")
class Collapse:
    """``runs.collapse``, on what ``cj.run``, ``cj.sweep`` and ``cj.open`` return, and on parts of it."""

    def __init__(self, ds: xr.Dataset):
        self._ds = ds

    def plot(self, path: Path | str | None = None) -> "Figure":
        """Each metric against the generation, one colour a policy, dashed where the exact value is known.

        Args:
          path: of a picture file to write, too; its suffix chooses the format.

        Raises:
          UsageError: a suffix that matplotlib cannot write, or no metric that is one number a generation.
        """
        from collapse_jax.reporting import plot_curves
        from collapse_jax.reporting.figures import save_figure

        figure = plot_curves.draw(self._ds)
        if path is not None:
            save_figure(figure, path)
        figure.__dict__["_repr_png_"] = lambda: _png(figure)  # notebooks show it without pyplot
        return figure

    def table(self, generation: int = -1) -> "Table":
        """Centre and 95% interval over chains of each metric, at a position of the generation axis."""
        from collapse_jax.reporting import tables

        return _whole(tables.render_summary(self._ds, generation))

    def score(self) -> xr.Dataset:
        """Eight definitions of collapse as verdicts; see ``verdicts.score``."""
        from collapse_jax.analysis import verdicts as definitions

        return definitions.score(self._ds)

    def verdicts(self) -> "Table":
        """`score` as a table, with median times to collapse."""
        from collapse_jax.reporting import tables

        return _whole(tables.render_verdicts(self._ds))

    def predict(self) -> xr.Dataset:
        """The exact mean over chains of each metric of which one is known.

        Returns:
          The metrics' dims but ``chain``; NaN where no mean is known, or where so few chains cannot be held to it.
        """
        from collapse_jax.analysis.predictions import Lines
        from collapse_jax.results.summary import curve_positions
        from collapse_jax.results.variables import select_scalars

        lines, positions, known = Lines(self._ds), curve_positions(self._ds), {}
        for name, values in select_scalars(self._ds).data_vars.items():
            found = {label: lines.at(str(name), position) for label, position in positions.items()}
            if all(line is None for line in found.values()):
                continue
            known[name] = xr.full_like(values.isel(chain=0, drop=True), np.nan, dtype=float)
            for label, line in found.items():
                if line is not None:
                    known[name][positions[label]] = line
        return xr.Dataset(known)

    def report(self, path: Path | str = "report.html") -> Path:
        """Writes one HTML page of it all; see ``html.write``."""
        from collapse_jax.reporting import html

        return html.write(self._ds, path)


def _whole(table: "Table") -> "Table":
    """In a notebook, whose cells scroll, a table is as wide as it likes."""
    from rich.console import Console

    from collapse_jax.execution.progress import in_notebook

    if in_notebook():
        table.width = Console(width=1000).measure(table).maximum
    return table


def _png(figure: "Figure") -> bytes:
    data = io.BytesIO()
    figure.savefig(data, dpi=100, format="png")
    return data.getvalue()
