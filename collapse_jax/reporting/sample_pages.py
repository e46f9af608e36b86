"""What a run generated, to look at: pages of texts and pictures beside its picture of curves."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.reporting import plot_images
from collapse_jax.results import store
from collapse_jax.results.summary import curve_positions, select_position
from collapse_jax.results.variables import array_variables, texts_of

TEXTS = "samples.txt"
_GENERATIONS = 5  # of a page, from the first to the last


def write_into(ds: xr.Dataset, out: Any) -> list[str]:
    """Writes what `ds` holds of samples into a results folder, or a bucket (extra ``cloud``); returns where."""
    pictures = [plot_images.samples_into(ds, out)] if plot_images.has_images(ds) else []
    names = [name for name in array_variables(ds) if "symbols" in ds[name].attrs]
    if not names:
        return pictures
    data = "\n".join(page(ds, name) for name in names).encode()
    if store.is_bucket(out):
        store.put_object(out, TEXTS, data)
    else:
        (Path(out) / TEXTS).write_bytes(data)
    return [str(store.join_path(out, TEXTS)), *pictures]


def page(ds: xr.Dataset, name: str) -> str:
    """The texts of the first chain under each policy and grid point, in some generations; ⏎ is the end of a line."""
    last = ds.sizes["generation"]
    chosen = np.unique(np.geomspace(1, last, min(_GENERATIONS, last)).round().astype(int)) - 1
    texts = texts_of(ds[name].isel(chain=0, generation=chosen)).transpose(..., "generation", "sample")
    lines = [f"{name}: {ds[name].attrs['long_name']}; chain {int(ds['chain'][0])}, \u23ce ends a line"]
    for label, position in curve_positions(ds).items():
        for generation, rows in zip(
            texts["generation"].to_numpy(), select_position(texts, position).to_numpy(), strict=True
        ):
            lines += ["", f"{label}, generation {generation}", *("  " + row.replace("\n", "\u23ce") for row in rows)]
    return "\n".join(lines) + "\n"
