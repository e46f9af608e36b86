"""Tell apart the variables of results: metrics of one number a generation, metrics of arrays, and what theory says.

The attribute ``value_dims`` of a metric of arrays (texts, pictures) names the dimensions of one value. The attribute
``theory_of`` of what theory says, which stands among the coordinates, names the metric that it is about.
"""

import numpy as np
import xarray as xr

from collapse_jax.core.errors import UsageError


def select_scalars(ds: xr.Dataset) -> xr.Dataset:
    """Return the dataset with those metrics alone that are one number a generation, without what theory says."""
    about_theory = [name for name, values in ds.coords.items() if "theory_of" in values.attrs]
    return ds.drop_vars([*array_variables(ds), *about_theory])


def array_variables(ds: xr.Dataset) -> list[str]:
    """Return the names of the variables whose values are arrays."""
    return [str(name) for name, values in ds.data_vars.items() if "value_dims" in values.attrs]


def grid_dims(ds: xr.Dataset) -> list[str]:
    """Return the dimensions of policies and grid points."""
    dims = (str(d) for v in ds.data_vars.values() for d in v.dims if d not in v.attrs.get("value_dims", ()))
    return [dim for dim in dict.fromkeys(dims) if dim not in ("chain", "generation")]


def texts_of(values: xr.DataArray) -> xr.DataArray:
    """Decode sample texts into strings; the results alone hold all that this needs.

    The attribute ``symbols`` of such a variable lists, for each symbol, the bytes of UTF-8 that it stands for, written
    in Latin-1. In a sweep over texts these are (nested) lists along the dimensions ``symbols_dims``, whose entries are
    found by the labels in ``symbols_labels``: so values may be in any order, and may be any part that keeps its labels.

    Args:
      values: a variable of texts, or a part of it: ``runs.sample_text.sel(generation=50)``.

    Returns:
      Strings, along the dimensions of `values` without ``"symbol"``; bytes that are no character become U+FFFD. Chains
      that are not finished have "".

    Raises:
      UsageError: `values` holds no texts, or its symbols differ along a dimension whose labels are missing or new.
    """
    if not isinstance(values, xr.DataArray) or "symbols" not in values.attrs or "symbol" not in values.dims:
        raise UsageError("texts_of: give a variable of sample texts with its attributes, such as ds.sample_text")
    ordered = values.transpose(..., "symbol")
    rows, texts = ordered.to_numpy(), np.empty(ordered.shape[:-1], object)
    indices = [_symbols_index(ordered[..., 0], i) for i in range(len(values.attrs.get("symbols_dims", [])))]
    for position in np.ndindex(texts.shape):
        symbols, row = values.attrs["symbols"], rows[position]
        for index in indices:
            symbols = symbols[index[position]]
        latin1 = "".join(symbols[int(symbol)] for symbol in row[np.isfinite(row)])
        texts[position] = latin1.encode("latin-1").decode(errors="replace")
    coords = {name: c for name, c in ordered.coords.items() if "symbol" not in c.dims}
    return xr.DataArray(texts.astype(str), coords, ordered.dims[:-1], values.name)


def _symbols_index(texts: xr.DataArray, number: int) -> np.ndarray:
    """Return, for each text, the index of its symbols along one of the dimensions that symbols differ along."""
    dim = texts.attrs["symbols_dims"][number]
    all_labels, coordinate = texts.attrs.get("symbols_labels"), texts.coords.get(dim)
    known = all_labels[number] if all_labels else []
    labels = [] if coordinate is None else coordinate.to_numpy().reshape(-1).tolist()
    if coordinate is None or not set(labels) <= set(known):
        raise UsageError(f"texts_of: symbols differ along {dim!r}, whose labels are not the run's: decode first")
    indices = np.reshape([known.index(label) for label in labels], coordinate.shape)
    return xr.Variable(coordinate.dims, indices).set_dims(texts.sizes).to_numpy()
