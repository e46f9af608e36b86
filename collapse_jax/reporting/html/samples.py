"""Collect generated images and texts for a report: those of the first chain, by policy and generation."""

import base64
import io
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.reporting import plot_images
from collapse_jax.reporting.html.charts import thin_generations
from collapse_jax.results.variables import array_variables, texts_of

_MAX_GENERATIONS, _MAX_SAMPLES = 24, 8  # generations of the slider, and samples of each
_MAX_LETTERS = 400_000  # of all texts of a variable


def collect_images(ds: xr.Dataset) -> dict[str, Any] | None:
    """Return ``strips[policy][generation]``, rows of images as PNGs in data URIs; None where a run kept no images."""
    if not plot_images.has_images(ds):
        return None
    values = _select_first_chain(ds[plot_images.VARIABLE]).isel(sample=slice(_MAX_SAMPLES))
    values = values.isel(generation=thin_generations(values.sizes["generation"], _MAX_GENERATIONS))
    generations = range(values.sizes["generation"])
    strips = [[_encode_png(column.isel(generation=[g])) for g in generations] for column in values]
    return {**_list_labels(values), "strips": strips, "count": values.sizes["sample"]}


def collect_texts(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Return the texts of each variable of texts, ``rows[policy][generation]``."""
    collected = []
    for name in array_variables(ds):
        if "symbols" not in ds[name].attrs:
            continue
        values = _select_first_chain(ds[name]).isel(sample=slice(_MAX_SAMPLES))
        letters = values.sizes["policy"] * values.sizes["sample"] * values.sizes["symbol"]
        limit = min(_MAX_GENERATIONS, max(_MAX_LETTERS // letters, 2))
        values = values.isel(generation=thin_generations(values.sizes["generation"], limit))
        rows = texts_of(values).transpose("policy", "generation", "sample").to_numpy().tolist()
        title = str(ds[name].attrs.get("long_name", name))
        collected.append({**_list_labels(values), "name": name, "title": title, "rows": rows})
    return collected


def _select_first_chain(values: xr.DataArray) -> xr.DataArray:
    """Return the values ``[policy, generation, ...]`` of the first chain at the first point of a grid."""
    value_dims = values.attrs.get("value_dims", ("sample", "y", "x", "channel"))
    values = values.isel({d: 0 for d in map(str, values.dims) if d not in ("policy", "generation", *value_dims)})
    values = values if "policy" in values.dims else values.expand_dims("policy")
    return values.transpose("policy", "generation", ...)


def _list_labels(values: xr.DataArray) -> dict[str, Any]:
    policies = values["policy"].to_numpy() if "policy" in values.coords else np.asarray(["all"])
    return {"policies": [str(p) for p in policies], "generations": values["generation"].to_numpy().tolist()}


def _encode_png(row: xr.DataArray) -> str:
    from PIL import Image

    if not np.isfinite(row.to_numpy()).any():
        return ""
    mosaic = np.round(plot_images.make_mosaic(row) * 255).astype(np.uint8)[:-1, :-1]
    data = io.BytesIO()
    Image.fromarray(mosaic).save(data, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
