"""Keep a sweep's results on disk or in a bucket: a zarr store, written unit by unit; records say what is done."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.core.errors import StoreError, explain_write_errors
from collapse_jax.planning.plan import Plan
from collapse_jax.planning.units import Cut
from collapse_jax.results import records
from collapse_jax.results.dataset import make_dataset, metric_attributes, record_attributes, run_attributes

STORE = "results.zarr"
LAYOUT = 2  # of the store's records; stores of layout 1 had a mask instead
_IDENTITY = ("config", "plan", "plugins")  # recorded twice, so that one damaged record is not the end
_REPAIR = "run again with --repair"
_BUCKETS = ("gs://", "s3://", "az://", "http://", "https://")


def is_bucket(place: Any) -> bool:
    """Return whether `place` is a URL of an object store.

    Raises:
      StoreError: `place` is a URL of another kind.
    """
    if isinstance(place, str) and "://" in place and not place.startswith(_BUCKETS):
        raise StoreError(f"{place}: is not a URL that can be written to; give one of {', '.join(_BUCKETS[:3])}")
    if isinstance(place, str) and place.startswith(_BUCKETS) and not place.partition("://")[2].strip("/ "):
        raise StoreError(f"{place}: names no bucket; give {place.partition('://')[0]}://BUCKET/FOLDER")
    return isinstance(place, str) and place.startswith(_BUCKETS)


def require_place(place: Any) -> None:
    """Raise ``StoreError`` where `place` can be neither a folder nor a bucket, whether or not it exists."""
    if is_bucket(place):
        open_zarr_store(place, read_only=True)
    elif isinstance(place, str | Path):
        try:
            Path(place).stat()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise StoreError(f"{place}: cannot be a folder: {reason}") from error


def join_path(place: Any, name: str) -> Any:
    """Return the path of `name` in a folder or a bucket's URL; an ``obstore`` store is returned as it is."""
    if is_bucket(place):
        return f"{place.rstrip('/')}/{name}"
    return Path(place) / name if isinstance(place, str | Path) else place


def open_zarr_store(place: Any, read_only: bool = False) -> Any:
    """Return the store that zarr opens: a local folder, or an object store (extra ``cloud``)."""
    from zarr import storage

    if isinstance(place, str | Path) and not is_bucket(place):
        return storage.LocalStore(place, read_only=read_only)
    if isinstance(place, str):
        place = _open_bucket(place)
    return storage.ObjectStore(place, read_only=read_only)


def create_store(plan: Plan, place: Any) -> None:
    """Create a store for the results of `plan`: all metrics NaN, nothing done. It appears whole or not at all.

    Args:
      plan: the plan that will be run.
      place: a folder that does not exist yet, a URL, or an ``obstore`` store.

    Raises:
      StoreError: the folder cannot be made or written to.
    """
    record = {
        **run_attributes(plan),
        **record_attributes(plan),
        "call": "sweep",
        "plan": json.dumps([cut._asdict() for cut in plan.cuts]),
        "layout": LAYOUT,
    }
    if isinstance(place, str | Path) and not is_bucket(place):
        place = Path(place)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{place.parent}: the folder cannot be made ({error.strerror})") from error
        with explain_write_errors(place):
            partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
        try:
            partial.chmod(0o755)
            _fill_new_store(plan, open_zarr_store(partial), record)
            with contextlib.suppress(OSError):  # another shard was first, and its store is the same
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    else:
        zarr_store = open_zarr_store(place)
        if records.become_maker(zarr_store):
            _fill_new_store(plan, zarr_store, record)


def _fill_new_store(plan: Plan, zarr_store: Any, record: Mapping[str, Any]) -> None:
    """Make the arrays of a store, and then its manifest, with which the store exists."""
    _create_arrays(plan, zarr_store, record)
    known = {name: record[name] for name in _IDENTITY if name in record}
    records.write_manifest(zarr_store, {**known, "shape": list(plan.shape[:-1])})


def _create_arrays(plan: Plan, store: Any, record: Mapping[str, Any]) -> None:
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.errors import ContainsArrayError

    empty = make_dataset(plan, {}, {})  # the labels, and what theory says
    record = {**record, "variables": [*plan.metrics]}
    empty = empty.drop_attrs(deep=False)
    as_text = {n: c.to_numpy().astype(object) for n, c in empty.coords.items() if c.dtype.kind == "U"}
    empty.assign_coords({n: (n, v) for n, v in as_text.items()}).to_zarr(
        store, zarr_format=3, consolidated=False, mode="a"
    )
    group = zarr.open_group(store, mode="a")
    group.attrs.update(record)
    dims, checked = plan.grid.dims, ZstdCodec(level=3, checksum=True)
    horizon = plan.grid.num_generations

    def create_array(name: str, shape: tuple[int, ...], chunks: tuple[int, ...], **options: Any) -> None:
        with contextlib.suppress(ContainsArrayError):  # another shard made the same one
            group.create_array(name, shape=shape, chunks=chunks, **options)

    for name, described in metric_attributes(plan).items():
        value = plan.metrics[name].shape
        create_array(
            name, (*plan.shape, *value), (*plan.chunk_shape, horizon, *value), dtype=plan.options.precision,
            fill_value=float("nan"), dimension_names=(*dims, *described.get("value_dims", ())), compressors=checked,
            attributes=described,
        )  # fmt: skip


def store_exists(place: Any) -> bool:
    """Return whether there is a store at `place`, whole or damaged."""
    zarr_store = open_zarr_store(place, read_only=True)
    keys = (f"{records.MANIFEST}/zarr.json", "zarr.json")
    return any(records.read_object(zarr_store, key) is not None for key in keys)


def check_store(place: Any) -> bool:
    """Return whether everything in a store is done, after a look at the presence and size of all that was written.

    Raises:
      DamageError: something is missing or of another size; labels and descriptions are compared whole.
    """
    zarr_store = open_zarr_store(place, read_only=True)
    manifest, units = _check_files(place, zarr_store)
    if manifest is None:
        raise _other_version(place)
    return bool(finished_cells(manifest["shape"], units).all())


def _check_files(place: Any, zarr_store: Any) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """Return the manifest and the units of a store; None and nothing where another version made the store.

    Raises:
      DamageError: something is missing or of another size.
    """
    try:
        manifest = records.read_record(zarr_store, records.MANIFEST)
        if manifest is None:
            if "layout" in read_attributes(place):
                raise records.DamageError(f"{records.MANIFEST}/zarr.json is missing")
            return None, {}
        units = records.read_records(zarr_store, records.UNITS, records.list_objects(zarr_store))
        sizes = records.list_objects(zarr_store)  # after the records, for other processes may be writing
        damage = records.find_damage(zarr_store, manifest["files"], sizes, whole=True)
        for name, unit in units.items() if damage is None else ():
            if unit is None:
                damage = f"{records.UNITS}/{name}/zarr.json is not what was written"
            elif found := records.find_damage(zarr_store, unit["files"], sizes, whole=False):
                damage = found
            if damage is not None:
                break
        if damage is not None:
            raise records.DamageError(damage)
    except records.DamageError as error:
        raise records.DamageError(f"{place}: is damaged, {error}; {_REPAIR}") from error
    return manifest, {name: unit for name, unit in units.items() if unit is not None}


def finished_cells(shape: Sequence[int], units: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    """Return which cells are done, ``[policy, *axes, chain]``."""
    done = np.zeros(shape, bool)
    for unit in units.values():
        done[tuple(slice(*ends) for ends in unit["where"])] = True
    return done


def _other_version(place: Any) -> StoreError:
    return StoreError(f"{place}: another version of collapse-jax made this store; choose another folder with --out")


def read_labels(place: Any) -> dict[str, list[Any]]:
    """Return the labels of the store's dimensions."""
    with xr.open_dataset(open_zarr_store(place, read_only=True), engine="zarr", consolidated=False, chunks=None) as ds:
        return {str(name): values.to_numpy().tolist() for name, values in ds.coords.items() if name in ds.dims}


def read_cuts(place: Any) -> list[Cut]:
    """Return how the store's results were cut into units.

    Raises:
      StoreError: another version of this package made the store.
    """
    try:
        return [Cut(tuple(cut["unit_shape"])) for cut in json.loads(read_identity(place)["plan"])]
    except (KeyError, TypeError, ValueError) as error:
        raise _other_version(place) from error


def read_identity(place: Any) -> dict[str, Any]:
    """Return what says which experiment a store holds (``_IDENTITY``): of the manifest, else of the attributes.

    Raises:
      StoreError: neither can be read, or another version of this package made the store.
    """
    try:
        manifest = records.read_record(open_zarr_store(place, read_only=True), records.MANIFEST)
    except records.DamageError:
        manifest = None
    try:
        known = read_attributes(place) if manifest is None else manifest
    except StoreError as error:
        raise StoreError(
            f"{place}: is not a store of results, or so damaged that nothing says which run it holds; "
            "choose another folder with --out"
        ) from error
    if manifest is None and known.get("layout") != LAYOUT:
        raise _other_version(place)
    return {name: known[name] for name in _IDENTITY if name in known}


def read_attributes(place: Any) -> dict[str, Any]:
    """Return the store's attributes.

    Raises:
      StoreError: there is no store, or it is damaged.
    """
    import zarr

    try:
        return dict(zarr.open_group(open_zarr_store(place, read_only=True), mode="r").attrs)
    except Exception as error:
        raise StoreError(f"{place}: is not a store of results ({describe_error(error)}); {_REPAIR}") from error


def read_devices(place: Any) -> dict[str, str]:
    """Return the kind of device that computed each unit, ``{unit: device}``.

    Units that another version of this package computed are missing.
    """
    zarr_store = open_zarr_store(place, read_only=True)
    units = records.read_records(zarr_store, records.UNITS, records.list_objects(zarr_store))
    return {name: str(unit["device"]) for name, unit in units.items() if unit is not None}


def read_store(place: Any) -> xr.Dataset:
    """Return the results so far: unfinished cells are NaN, and the attribute ``done`` is the share that is finished.

    Raises:
      StoreError: there is no store, or some results are damaged (the error names them).
    """
    zarr_store = open_zarr_store(place, read_only=True)
    manifest, units = _check_files(place, zarr_store)
    attrs = read_attributes(place)
    with xr.open_dataset(zarr_store, engine="zarr", consolidated=False, chunks=None, mask_and_scale=False) as ds:
        names = [name for name in attrs.get("variables", ds.data_vars) if name in ds]
        loaded = {}
        for name in names:
            try:
                loaded[name] = ds[name].load()
            except Exception as error:
                raise StoreError(f"{place}: {name} is damaged ({describe_error(error)}); {_REPAIR}") from error
        coords = {
            n: (c.dims, c.to_numpy().astype(object).astype(str)) for n, c in ds.coords.items() if c.dtype.kind in "OT"
        }
        result = xr.Dataset(loaded).assign_coords(coords)
    for variable in result.variables.values():
        variable.attrs.pop("_FillValue", None)
    facts: dict[str, Any] = {"done": attrs.get("done", _read_mask(zarr_store) if manifest is None else 1.0)}
    if manifest is not None and "shape" in manifest:
        done = finished_cells(manifest["shape"], units)
        facts = {"done": float(done.mean()), **_read_seconds(zarr_store)}
        if not done.all():  # a unit that was being written has left part of its values
            cells = xr.DataArray(done, dims=loaded[names[0]].dims[: done.ndim])
            result = result.where(cells)
    devices = sorted({str(unit["device"]) for unit in units.values()})
    maker = str(attrs.get("device", "")).partition(" x ")[2]  # of the store, perhaps on another machine
    several = {"devices": devices} if devices and devices != [maker] else {}
    internal = ("variables", "coordinates", "plan", "layout")
    return result.assign_attrs({k: v for k, v in attrs.items() if k not in internal}, **facts, **several)


def _read_mask(zarr_store: Any) -> float:
    """Return the share that is done of a store of layout 1, which had a mask; 1 where it has none."""
    import zarr

    group = zarr.open_group(zarr_store, mode="r")
    return float(np.asarray(group["done"][...]).mean()) if "done" in group else 1.0  # type: ignore[index]


def _read_seconds(zarr_store: Any) -> dict[str, float]:
    """Return the seconds that all sessions took together, by what they were spent on."""
    total: dict[str, float] = {}
    for session in records.read_records(zarr_store, records.SESSIONS, records.list_objects(zarr_store)).values():
        for name, seconds in (session or {}).get("seconds", {}).items():
            total[name] = total.get(name, 0.0) + seconds
    return {name: round(seconds, 3) for name, seconds in total.items()}


def put_object(place: str, name: str, data: bytes) -> None:
    """Write a small object into a bucket."""
    _open_bucket(place).put(name, data)


def _open_bucket(place: str) -> Any:
    failures: tuple[type[Exception], ...] = (*write_errors(), ValueError)
    try:
        return _import_obstore().from_url(place)
    except failures as error:
        raise StoreError(f"{place}: is no URL of a bucket ({describe_error(error)[:200]})") from error


def _import_obstore() -> Any:
    try:
        from obstore import store
    except ImportError as error:
        raise StoreError("buckets need an optional package: pip install 'collapse-jax[cloud]'") from error
    return store


def write_errors() -> tuple[type[Exception], ...]:
    """Return the errors that say that a place cannot be written."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        return (OSError,)
    return OSError, BaseError


def describe_error(error: BaseException) -> str:
    """Return an error in one line."""
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
