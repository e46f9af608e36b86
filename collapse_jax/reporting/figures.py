"""Write figures into files; a suffix that matplotlib cannot write is the user's mistake."""

from pathlib import Path
from typing import TYPE_CHECKING

from collapse_jax.core.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150


def save_figure(figure: "Figure", path: Path | str) -> Path:
    """Write `figure` to a file whose suffix names the format, and return its path.

    Raises:
      UsageError: matplotlib writes no such format.
    """
    suffix, formats = Path(path).suffix.removeprefix("."), figure.canvas.get_supported_filetypes()
    if suffix not in formats:
        known = ", ".join(sorted(formats))
        raise UsageError(f"{path}: {suffix or 'no suffix'} is not a format of pictures; use one of {known}")
    figure.savefig(path, dpi=_DPI)
    return Path(path)
