"""The variables of results: most hold one number a generation, others an array, such as sample texts or pictures.

The latter say so by their attribute ``value_dims``, the dimensions of one value.
"""

import numpy as np
import xarray as xr

from collapse_jax.core.errors import UsageError


def scalars(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with those variables alone that are one number a generation."""
    return ds.drop_vars(shaped(ds))


def shaped(ds: xr.Dataset) -> list[str]:
    """The names of the others."""
    return [str(name) for name, values in ds.data_vars.items() if "value_dims" in values.attrs]


def grid_dims(ds: xr.Dataset) -> list[str]:
    """The dimensions of policies and grid points."""
    found = (str(d) for v in ds.data_vars.values() for d in v.dims if d not in v.attrs.get("value_dims", ()))
    return [dim for dim in dict.fromkeys(found) if dim not in ("chain", "generation")]


def texts_of(values: xr.DataArray) -> xr.DataArray:
    """Sample texts as strings, by nothing but what the results hold.

    The attribute ``symbols`` of such a variable lists, for each symbol, the bytes of UTF-8 that it stands for, written
    in Latin-1. In a sweep over texts these are (nested) lists along the dimensions ``symbols_dims``, whose places are
    found by the labels there, listed in ``symbols_labels``: in any order, and for any part that keeps its labels.

    Args:
      values: a variable of texts, or a part of it: ``runs.sample_text.sel(generation=50)``.

    Returns:
      Strings, along the dimensions of `values` but ``"symbol"``; bytes that are no character become U+FFFD. Chains that
      are not finished have "".

    Raises:
      UsageError: a variable of something else, or one without the labels, or with other ones, of a dimension that its
        symbols differ along.
    """
    if not isinstance(values, xr.DataArray) or "symbols" not in values.attrs or "symbol" not in values.dims:
        raise UsageError("texts_of: give a variable of sample texts with its attributes, such as ds.sample_text")
    whole = values.transpose(..., "symbol")
    rows, texts = whole.to_numpy(), np.empty(whole.shape[:-1], object)
    places = [_places(whole[..., 0], i) for i in range(len(values.attrs.get("symbols_dims", [])))]
    for index in np.ndindex(texts.shape):
        here, row = values.attrs["symbols"], rows[index]
        for place in places:
            here = here[place[index]]
        written = "".join(here[int(symbol)] for symbol in row[np.isfinite(row)])
        texts[index] = written.encode("latin-1").decode(errors="replace")
    coords = {name: c for name, c in whole.coords.items() if "symbol" not in c.dims}
    return xr.DataArray(texts.astype(str), coords, whole.dims[:-1], values.name)


def _places(texts: xr.DataArray, number: int) -> np.ndarray:
    """Of each text, its place along one of the dimensions that symbols differ along."""
    dim = texts.attrs["symbols_dims"][number]
    known, here = texts.attrs.get("symbols_labels"), texts.coords.get(dim)
    labels = known[number] if known else []
    if here is None or not set(found := here.to_numpy().reshape(-1).tolist()) <= set(labels):
        raise UsageError(f"texts_of: symbols differ along {dim!r}, whose labels are not the run's: decode first")
    places = np.reshape([labels.index(label) for label in found], here.shape)
    return xr.Variable(here.dims, places).set_dims(texts.sizes).to_numpy()
