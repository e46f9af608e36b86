"""Write what a run generated beside its curves: a page of texts and a picture of images."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.reporting import plot_images
from collapse_jax.results import store
from collapse_jax.results.summary import curve_positions, select_position
from collapse_jax.results.variables import array_variables, texts_of

TEXTS = "samples.txt"
_GENERATIONS = 5  # generations of a page, from the first to the last
_LINE_END = "\u23ce"


def write_samples(ds: xr.Dataset, out: Any) -> list[str]:
    """Write the sample texts and images of a run into its results folder or bucket, and return their paths.

    A bucket needs the extra ``cloud``.
    """
    pictures = [plot_images.write_sample_images(ds, out)] if plot_images.has_images(ds) else []
    names = [name for name in array_variables(ds) if "symbols" in ds[name].attrs]
    if not names:
        return pictures
    data = "\n".join(format_samples(ds, name) for name in names).encode()
    if store.is_bucket(out):
        store.put_object(out, TEXTS, data)
    else:
        (Path(out) / TEXTS).write_bytes(data)
    return [str(store.join_path(out, TEXTS)), *pictures]


def format_samples(ds: xr.Dataset, name: str) -> str:
    """Return the texts of the first chain under each policy and grid point, in some generations."""
    last = ds.sizes["generation"]
    chosen = np.unique(np.geomspace(1, last, min(_GENERATIONS, last)).round().astype(int)) - 1
    texts = texts_of(ds[name].isel(chain=0, generation=chosen)).transpose(..., "generation", "sample")
    lines = [f"{name}: {ds[name].attrs['long_name']}; chain {int(ds['chain'][0])}, {_LINE_END} ends a line"]
    for label, position in curve_positions(ds).items():
        for generation, rows in zip(
            texts["generation"].to_numpy(), select_position(texts, position).to_numpy(), strict=True
        ):
            indented = ["  " + row.replace("\n", _LINE_END) for row in rows]
            lines += ["", f"{label}, generation {generation}", *indented]
    return "\n".join(lines) + "\n"
