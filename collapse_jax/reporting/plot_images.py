"""Draw generated images: rows are generations, columns policies; the n-th image of all comes from one noise."""

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from collapse_jax.core.errors import UsageError
from collapse_jax.reporting.figures import save_figure
from collapse_jax.results import store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIABLE, PICTURE = "sample_image", "samples.png"
_IMAGE_DIMS = ("sample", "y", "x", "channel")
_MAX_ROWS, _MAX_COLUMNS, _MAX_SAMPLES = 8, 6, 8
_INCHES = 0.42  # the side of an image
_MISSING = 0.5  # the grey of an unfinished cell


def has_images(ds: xr.Dataset) -> bool:
    """Return whether a run kept generated images: ``sample_image`` with the dims (..., generation, sample, y, x)."""
    return VARIABLE in ds and {"generation", "sample", "y", "x"} <= set(map(str, ds[VARIABLE].dims))


def plot_samples(ds: xr.Dataset, path: Path | str) -> Path:
    """Draw the generated images of a run into a picture file.

    Args:
      ds: the dataset of a run that kept images; see ``has_images``.
      path: the picture to write; its suffix chooses the format.

    Returns:
      The path.

    Raises:
      UsageError: `ds` holds no images, or matplotlib cannot write the suffix.
    """
    return save_figure(draw_samples(ds), path)


def write_sample_images(ds: xr.Dataset, out: Any) -> str:
    """Draw the generated images into a results folder, or a bucket (extra ``cloud``), and return the picture's path."""
    if not store.is_bucket(out):
        return str(plot_samples(ds, Path(out) / PICTURE))
    data = io.BytesIO()
    draw_samples(ds).savefig(data, dpi=150, format="png")
    store.put_object(out, PICTURE, data.getvalue())
    return str(store.join_path(out, PICTURE))


def draw_samples(ds: xr.Dataset) -> "Figure":
    """Return the figure that ``plot_samples`` saves: chain 0, up to 8 generations and 8 images of each.

    The first point of a grid is shown, under up to 6 policies. Values below 0 are black, values above 1 white.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    if not has_images(ds):
        raise UsageError(f"{VARIABLE}: the run kept no images; its setting makes none, or `metrics` leaves them out")
    kept = ("policy", "generation", *_IMAGE_DIMS)
    images = ds[VARIABLE].isel({str(d): 0 for d in ds[VARIABLE].dims if d not in kept})
    images = images.expand_dims("policy") if "policy" not in images.dims else images
    images = images.isel(policy=slice(_MAX_COLUMNS), sample=slice(_MAX_SAMPLES))
    rows = np.unique(np.linspace(0, images.sizes["generation"] - 1, _MAX_ROWS).round().astype(int))
    images = images.isel(generation=rows)
    columns = [images.isel(policy=i) for i in range(images.sizes["policy"])]
    count, side = images.sizes["sample"], images.sizes["x"] / images.sizes["y"]
    size = (len(columns) * count * _INCHES * side + 0.9, len(rows) * _INCHES + 0.8)
    figure = Figure(figsize=(max(size[0], 4.0), size[1]), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for number, (ax, column) in enumerate(zip(panels, columns, strict=True)):
        ax.imshow(make_mosaic(column), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(str(column["policy"].to_numpy()) if "policy" in column.coords else "", fontsize=10)
        ax.set_xticks([])
        height = images.sizes["y"] + 1
        names = [str(g) for g in images["generation"].to_numpy()]
        ax.set_yticks((np.arange(len(rows)) + 0.5) * height - 0.5, names if number == 0 else [""] * len(rows))
        ax.tick_params(length=0, labelsize=9)
        ax.spines[:].set_visible(False)
    panels[0].set_ylabel("generation", fontsize=9)
    setting = [str(ds.attrs["setting"])] if "setting" in ds.attrs else []
    title = " · ".join([*setting, "images of chain 0, from the same noise under each policy"])
    figure.suptitle("\n".join(textwrap.wrap(title, int(10 * figure.get_figwidth()))), fontsize=11)
    return figure


def make_mosaic(images: xr.DataArray) -> np.ndarray:
    """Return ``[generations (h + 1), samples (w + 1)(, 3)]``: a row of images for each generation, with white lines."""
    order = ("generation", "sample", "y", "x", *(["channel"] if "channel" in images.dims else []))
    values = images.transpose(*order).to_numpy().astype(float)
    values = values[..., 0] if values.ndim == 5 and values.shape[-1] == 1 else values
    values = np.clip(np.where(np.isfinite(values), values, _MISSING), 0.0, 1.0)
    framed = np.pad(values, [(0, 0), (0, 0), (0, 1), (0, 1), *[(0, 0)] * (values.ndim - 4)], constant_values=1.0)
    generations, samples, height, width = framed.shape[:4]
    return framed.swapaxes(1, 2).reshape(generations * height, samples * width, *framed.shape[4:])
