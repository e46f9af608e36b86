"""What a run leaves behind: a labelled dataset, where it came from, its store on disk and its table."""

import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import xarray as xr

from collapse_jax.core.errors import StoreError
from collapse_jax.results import records, store
from collapse_jax.results.provenance import warn_of_missing_plugins
from collapse_jax.results.store import STORE
from collapse_jax.results.variables import select_scalars

CONFIG, PICTURE, TABLES = "config.yaml", "metrics.png", "tables.txt"
PAGES = (PICTURE, "samples.txt", "samples.png")  # what there is to see in a folder


def check_free(path: Path | str) -> None:
    """Raises `StoreError` unless results could be written at `path`: it must be absent, or an empty folder."""
    shown, path = path, Path(path).resolve()
    try:
        nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    except OSError as error:
        raise StoreError(f"{shown}: cannot be a folder ({error.strerror})") from error
    if not nearest.is_dir():
        raise StoreError(f"{nearest}: is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreError(f"{nearest}: no permission to write there")
    if nearest == path and any(not found.name.startswith(".") for found in path.iterdir()):
        what = "already holds another run" if (path / STORE).exists() else "is not empty"
        raise StoreError(f"{path}: {what}; choose another folder with --out")


def save(ds: xr.Dataset, path: Path | str) -> Path:
    """Write the store and the config into the folder `path`, which appears complete or not at all.

    Args:
      ds: what ``run`` or ``sweep`` returned.
      path: a folder that is absent or empty.

    Returns:
      The folder.

    Raises:
      StoreError: `path` holds something, or cannot be written.
    """
    path = Path(path)
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: process numbers come again in containers, and a killed run may have left its folder.
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.resolve().parent))
    try:
        partial.chmod(0o755)
        _write(ds.assign_attrs(variables=list(map(str, ds.data_vars)), layout=store.LAYOUT), partial / STORE)
        records.write_manifest(store.open_zarr_store(partial / STORE), {})
        if "config" in ds.attrs:
            (partial / CONFIG).write_text(ds.attrs["config"], encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        partial.rename(path)  # over an empty folder too, and in one step
    except OSError as error:
        raise StoreError(f"{path}: was filled during the run; the results are in {partial}") from error
    return path


def open(path: Any) -> xr.Dataset:
    """The dataset of a results folder, of the store inside it, of a bucket's URL or of an ``obstore`` store.

    It can be read while it is being written: cells that are not finished are NaN, and the attribute ``done`` is the
    share that is.

    Raises:
      StoreError: no store, or a damaged one.
    """
    ds = store.read_store(store_path(path))
    warn_of_missing_plugins(ds.attrs)
    return ds


def store_path(path: Any) -> Any:
    """Where the store of a results folder is."""
    store.require_place(path)
    if isinstance(path, str | Path) and not store.is_bucket(path):
        path = Path(path)
        found = path if path.suffix == ".zarr" else path / STORE
        if not found.is_dir():
            raise StoreError(f"{path}: not a results folder (there is no {STORE} in it)")
        return found
    return store.join_path(path, STORE)


def to_parquet(ds: xr.Dataset, path: Path | str) -> Path:
    """One row a (policy, axes, chain, generation), one column a metric; needs the extra ``parquet``.

    Metrics whose values are arrays (``variables.array_variables``) have no place in such a table, and are left out.

    Raises:
      StoreError: the extra is missing.
    """
    try:
        importlib.import_module("pyarrow")
        frame = select_scalars(ds).to_dataframe().reset_index()
    except ImportError as error:
        raise StoreError("parquet needs optional packages: pip install 'collapse-jax[parquet]'") from error
    frame.to_parquet(path, index=False)
    return Path(path)


def _write(ds: xr.Dataset, path: Path) -> None:
    # zarr 3 specifies strings of variable length, not NumPy's fixed ones
    text = {n: (c.dims, c.to_numpy().astype(object)) for n, c in ds.coords.items() if c.dtype.kind == "U"}
    ds.assign_coords(text).to_zarr(path, zarr_format=3, consolidated=False, mode="w-")
