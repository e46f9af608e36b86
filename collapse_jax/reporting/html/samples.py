"""What was generated, for a report: images and texts of the first chain, by policy and generation."""

import base64
import io
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.reporting import plot_images
from collapse_jax.reporting.html.charts import thinned
from collapse_jax.results.variables import array_variables, texts_of

_MOST_STEPS, _MOST_SAMPLES = 24, 8  # generations of the slider; samples of each
_MOST_LETTERS = 400_000  # of all texts of a variable


def images(ds: xr.Dataset) -> dict[str, Any] | None:
    """``strips[policy][generation]``: a row of images as a PNG in a data URI; None where a run kept none."""
    if not plot_images.has_images(ds):
        return None
    values = _first(ds[plot_images.VARIABLE]).isel(sample=slice(_MOST_SAMPLES))
    values = values.isel(generation=thinned(values.sizes["generation"], _MOST_STEPS))
    strips = [[_png(column.isel(generation=[g])) for g in range(values.sizes["generation"])] for column in values]
    return {**_labels(values), "strips": strips, "count": values.sizes["sample"]}


def texts(ds: xr.Dataset) -> list[dict[str, Any]]:
    """One a variable of texts: ``rows[policy][generation]``, the texts."""
    found = []
    for name in array_variables(ds):
        if "symbols" not in ds[name].attrs:
            continue
        values = _first(ds[name]).isel(sample=slice(_MOST_SAMPLES))
        each = values.sizes["policy"] * values.sizes["sample"] * values.sizes["symbol"]
        values = values.isel(
            generation=thinned(values.sizes["generation"], min(_MOST_STEPS, max(_MOST_LETTERS // each, 2)))
        )
        rows = texts_of(values).transpose("policy", "generation", "sample").to_numpy().tolist()
        title = str(ds[name].attrs.get("long_name", name))
        found.append({**_labels(values), "name": name, "title": title, "rows": rows})
    return found


def _first(values: xr.DataArray) -> xr.DataArray:
    """``[policy, generation, ...]``: of the first chain, at the first point of a grid."""
    own = values.attrs.get("value_dims", ("sample", "y", "x", "channel"))
    values = values.isel({d: 0 for d in map(str, values.dims) if d not in ("policy", "generation", *own)})
    values = values if "policy" in values.dims else values.expand_dims("policy")
    return values.transpose("policy", "generation", ...)


def _labels(values: xr.DataArray) -> dict[str, Any]:
    policies = values["policy"].to_numpy() if "policy" in values.coords else np.asarray(["all"])
    return {"policies": [str(p) for p in policies], "generations": values["generation"].to_numpy().tolist()}


def _png(row: xr.DataArray) -> str:
    from PIL import Image

    if not np.isfinite(row.to_numpy()).any():
        return ""
    mosaic = np.round(plot_images.mosaic(row) * 255).astype(np.uint8)[:-1, :-1]
    data = io.BytesIO()
    Image.fromarray(mosaic).save(data, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
