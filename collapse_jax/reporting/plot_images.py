"""The picture of generated images: rows are generations, columns policies, and the n-th image of each has one noise."""

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
_OF_IMAGE = ("sample", "y", "x", "channel")
_MOST_ROWS, _MOST_COLUMNS, _MOST_SAMPLES = 8, 6, 8
_INCHES = 0.42  # of an image's side
_MISSING = 0.5  # grey of a cell that is not finished


def has_images(ds: xr.Dataset) -> bool:
    """Whether a run kept generated images: a variable ``sample_image`` of dims (..., generation, sample, y, x)."""
    return VARIABLE in ds and {"generation", "sample", "y", "x"} <= set(map(str, ds[VARIABLE].dims))


def plot_samples(ds: xr.Dataset, path: Path | str) -> Path:
    """Draws the generated images of a run into a picture file.

    Args:
      ds: what ``sweep`` returned, of a setting whose rows are images; see ``has_images``.
      path: of the picture; its suffix chooses the format.

    Returns:
      The path.

    Raises:
      UsageError: `ds` holds no images, or a suffix that matplotlib cannot write.
    """
    return save_figure(draw_samples(ds), path)


def samples_into(ds: xr.Dataset, out: Any) -> str:
    """Draws the generated images into a results folder, or a bucket (extra ``cloud``); returns where the picture is."""
    if not store.is_bucket(out):
        return str(plot_samples(ds, Path(out) / PICTURE))
    data = io.BytesIO()
    draw_samples(ds).savefig(data, dpi=150, format="png")
    store.put_object(out, PICTURE, data.getvalue())
    return str(store.join_path(out, PICTURE))


def draw_samples(ds: xr.Dataset) -> "Figure":
    """The figure that `plot_samples` saves: chain 0, up to 8 generations and 8 images of each.

    Of a grid the first point is shown, under every policy (up to 6). Values below 0 are black, above 1 white.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    if not has_images(ds):
        raise UsageError(f"{VARIABLE}: the run kept no images; its setting makes none, or `metrics` leaves them out")
    images = ds[VARIABLE].isel({str(d): 0 for d in ds[VARIABLE].dims if d not in ("policy", "generation", *_OF_IMAGE)})
    images = images.expand_dims("policy") if "policy" not in images.dims else images
    images = images.isel(policy=slice(_MOST_COLUMNS), sample=slice(_MOST_SAMPLES))
    rows = np.unique(np.linspace(0, images.sizes["generation"] - 1, _MOST_ROWS).round().astype(int))
    images = images.isel(generation=rows)
    columns = [images.isel(policy=i) for i in range(images.sizes["policy"])]
    count, side = images.sizes["sample"], images.sizes["x"] / images.sizes["y"]
    size = (len(columns) * count * _INCHES * side + 0.9, len(rows) * _INCHES + 0.8)
    figure = Figure(figsize=(max(size[0], 4.0), size[1]), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for number, (ax, column) in enumerate(zip(panels, columns, strict=True)):
        ax.imshow(mosaic(column), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(str(column["policy"].to_numpy()) if "policy" in column.coords else "", fontsize=10)
        ax.set_xticks([])
        height = images.sizes["y"] + 1
        names = [str(g) for g in images["generation"].to_numpy()]
        ax.set_yticks((np.arange(len(rows)) + 0.5) * height - 0.5, names if number == 0 else [""] * len(rows))
        ax.tick_params(length=0, labelsize=9)
        ax.spines[:].set_visible(False)
    panels[0].set_ylabel("generation", fontsize=9)
    words = [str(ds.attrs[key]) for key in ("setting",) if key in ds.attrs]
    title = " · ".join([*words, "images of chain 0, from the same noise under each policy"])
    figure.suptitle("\n".join(textwrap.wrap(title, int(10 * figure.get_figwidth()))), fontsize=11)
    return figure


def mosaic(images: xr.DataArray) -> np.ndarray:
    """``[generations (h + 1), samples (w + 1)(, 3)]``: a row a generation, with white lines between the images."""
    order = ("generation", "sample", "y", "x", *(["channel"] if "channel" in images.dims else []))
    values = images.transpose(*order).to_numpy().astype(float)
    values = values[..., 0] if values.ndim == 5 and values.shape[-1] == 1 else values
    values = np.clip(np.where(np.isfinite(values), values, _MISSING), 0.0, 1.0)
    framed = np.pad(values, [(0, 0), (0, 0), (0, 1), (0, 1), *[(0, 0)] * (values.ndim - 4)], constant_values=1.0)
    generations, samples, height, width = framed.shape[:4]
    return framed.swapaxes(1, 2).reshape(generations * height, samples * width, *framed.shape[4:])
