"""What a run leaves behind: a labelled dataset, where it came from, its store on disk and its table."""

import datetime
import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from collapse_jax.numerics.confidence_intervals import SUMMARIES, choose_summary
from collapse_jax.results import store
from collapse_jax.results.store import STORE, StoreError
from collapse_jax.results.variables import grid_dims, scalars

if TYPE_CHECKING:
    from rich.table import Table

CONFIG, PICTURE, TABLES = "config.yaml", "metrics.png", "tables.txt"
PAGES = (PICTURE, "samples.txt", "samples.png")  # what there is to see in a folder
ResultsError = StoreError
_PACKAGES = ("collapse-jax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "zarr")
_MOST_COLUMNS, _MOST_ROWS = 8, 100  # of a table in a terminal


class Summary(NamedTuple):
    """One cell of the table: a metric of one policy, over chains. Low and high are NaN where there is one chain.

    `kind` says what the centre is: a key of ``intervals.SUMMARIES``.
    """

    metric: str
    column: str
    kind: str
    centre: float
    low: float
    high: float


def provenance() -> dict[str, str]:
    """Versions, machine, device and time: what one needs to run the same thing again."""
    jax = importlib.import_module("jax")
    device = jax.devices()[0]
    return {
        **{f"version_{name.replace('-', '_')}": _version(name) for name in _PACKAGES},
        "version_python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def check_free(path: Path | str) -> None:
    """Raises `ResultsError` unless results could be written at `path`: it must be absent, or an empty folder."""
    shown, path = path, Path(path).resolve()
    try:
        nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    except OSError as error:
        raise ResultsError(f"{shown}: cannot be a folder ({error.strerror})") from error
    if not nearest.is_dir():
        raise ResultsError(f"{nearest}: is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ResultsError(f"{nearest}: no permission to write there")
    if nearest == path and any(not found.name.startswith(".") for found in path.iterdir()):
        what = "already holds another run" if (path / STORE).exists() else "is not empty"
        raise ResultsError(f"{path}: {what}; choose another folder with --out")


def save(ds: xr.Dataset, path: Path | str, config_text: str) -> Path:
    """Writes the store and the config into the folder `path`, which appears complete or not at all.

    Args:
      ds: what ``sweep`` returned.
      path: a folder that is absent or empty.
      config_text: YAML of the experiment; it goes into the store too.

    Returns:
      The folder.

    Raises:
      ResultsError: `path` holds something, or cannot be written.
    """
    path = Path(path)
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: process numbers come again in containers, and a killed run may have left its folder.
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.resolve().parent))
    try:
        partial.chmod(0o755)
        record = {**provenance(), **ds.attrs, "config": config_text, "variables": list(map(str, ds.data_vars))}
        _write(ds.assign_attrs(record), partial / STORE)
        (partial / CONFIG).write_text(config_text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        partial.rename(path)  # over an empty folder too, and in one step
    except OSError as error:
        raise ResultsError(f"{path}: was filled during the run; the results are in {partial}") from error
    return path


def open(path: Any) -> xr.Dataset:
    """The dataset of a results folder, of the store inside it, of a bucket's URL or of an ``obstore`` store.

    It can be read while it is being written: cells that are not finished are NaN, and the attribute ``done`` is the
    share that is.

    Raises:
      ResultsError: no store, or a damaged one.
    """
    return store.read(place(path))


def place(path: Any) -> Any:
    """Where the store of a results folder is."""
    if isinstance(path, str | Path) and not store.is_bucket(path):
        path = Path(path)
        found = path if path.suffix == ".zarr" else path / STORE
        if not found.is_dir():
            raise ResultsError(f"{path}: not a results folder (there is no {STORE} in it)")
        return found
    return store.join(path, STORE)


def to_parquet(ds: xr.Dataset, path: Path | str) -> Path:
    """One row a (policy, axes, chain, generation), one column a metric; needs the extra ``parquet``.

    Metrics whose values are arrays (``variables.shaped``) have no place in such a table, and are left out.

    Raises:
      ResultsError: the extra is missing.
    """
    try:
        importlib.import_module("pyarrow")
        frame = scalars(ds).to_dataframe().reset_index()
    except ImportError as error:
        raise ResultsError("parquet needs optional packages: pip install 'collapse-jax[parquet]'") from error
    frame.to_parquet(path, index=False)
    return Path(path)


def columns(ds: xr.Dataset) -> dict[str, dict[str, int]]:
    """Label -> position of each curve: one a policy, and one a point of the grid where other axes were swept."""
    dims, labels = grid_dims(ds), {}
    for index in np.ndindex(*(ds.sizes[dim] for dim in dims)):
        words = [_word(ds, dim, i) for dim, i in zip(dims, index, strict=True)]
        labels[" ".join(words)] = dict(zip(dims, index, strict=True))
    return labels


def at(values: xr.DataArray, position: Mapping[str, int]) -> xr.DataArray:
    """`values` at a position of ``columns``."""
    return values.isel({dim: i for dim, i in position.items() if dim in values.dims})


def summary(ds: xr.Dataset, generation: int = -1) -> list[Summary]:
    """Centre over chains, and its 95% interval, of every metric and policy at one position of the generation axis.

    A metric has one kind of centre under all policies, by the weight of its tails: see ``choose_summary``.
    """
    last, rows = scalars(ds).isel(generation=generation), []
    for name in map(str, last.data_vars):
        samples = {label: at(last[name], position).to_numpy() for label, position in columns(ds).items()}
        kind = choose_summary(samples.values())
        rows += [Summary(name, label, kind, *SUMMARIES[kind](values)) for label, values in samples.items()]
    return rows


def table(ds: xr.Dataset, generation: int = -1) -> "Table":
    """`summary` for a terminal: one row a metric, one column a policy; the other way round where a grid was swept."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    labels = columns(ds)
    if len(labels) > _MOST_COLUMNS:
        return _grid_table(ds, generation)
    rows, ds = summary(ds, generation), scalars(ds)
    number, chains = int(ds["generation"].to_numpy()[generation]), ds.sizes["chain"]
    over = f"centre over {chains:,} chains (which, by tail weight: below each metric), 95% interval in parentheses"
    title = f"Generation {number:,}: {over if chains > 1 else 'one chain'}"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 1, 0))
    result.add_column("metric", no_wrap=True)
    for label in labels:
        result.add_column(Text(label), justify="right", overflow="fold")
    for name in map(str, ds.data_vars):
        found = [row for row in rows if row.metric == name]
        kind = f"\n{found[0].kind}" if chains > 1 else ""
        result.add_row(Text(name + _units(ds[name].attrs) + kind), *(Text(_cell(row)) for row in found))
    return result


def _grid_table(ds: xr.Dataset, generation: int) -> "Table":
    """One row a point of the grid, medians only."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    points, ds = columns(ds), scalars(ds)
    last = ds.isel(generation=generation).median("chain", skipna=True)
    title = f"Generation {int(ds['generation'][generation]):,}: median over {ds.sizes['chain']:,} chains"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.add_column("")
    for name in map(str, ds.data_vars):
        result.add_column(name + _units(ds[name].attrs), justify="right")
    for label, position in list(points.items())[:_MOST_ROWS]:
        cells = [at(last[n], position) for n in ds.data_vars]
        result.add_row(Text(label), *(f"{float(cell):.3g}" for cell in cells))
    if len(points) > _MOST_ROWS:
        result.add_row(f"... {len(points) - _MOST_ROWS} more: collapse_jax.open", *("" for _ in ds.data_vars))
    return result


def _write(ds: xr.Dataset, path: Path) -> None:
    # zarr 3 specifies strings of variable length, not NumPy's fixed ones
    text = {n: (n, c.to_numpy().astype(object)) for n, c in ds.coords.items() if c.dtype.kind == "U"}
    ds.assign_coords(text).to_zarr(path, zarr_format=3, consolidated=False, mode="w-")


def _word(ds: xr.Dataset, dim: str, index: int) -> str:
    value = ds[dim].to_numpy()[index] if dim in ds.coords else index
    return str(value) if dim == "policy" else f"{dim}={value}"


def _units(attrs: Mapping[str, Any]) -> str:
    units = str(attrs.get("units", ""))
    return f"\n({units})" if units not in ("", "1") else ""


def _cell(row: Summary) -> str:
    if np.isnan(row.low) and np.isnan(row.high):
        return f"{row.centre:.3g}"
    return f"{row.centre:.3g}\n({row.low:.3g}, {row.high:.3g})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


__all__ = ["ResultsError", "Summary", "at", "check_free", "columns", "open", "provenance", "save", "summary", "table"]
