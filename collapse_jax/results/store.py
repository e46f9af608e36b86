"""Keep a sweep's results on disk or in a bucket: a zarr store, written unit by unit; a mask says what is done."""

import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.core.errors import StoreError, explain_write_errors
from collapse_jax.planning.plan import Plan
from collapse_jax.planning.units import Cut, Unit
from collapse_jax.results.dataset import make_dataset, metric_attributes, record_attributes, run_attributes

STORE, DONE, UNITS = "results.zarr", "done", "units"
_BUCKETS = ("gs://", "s3://", "az://", "http://", "https://")


def is_bucket(place: Any) -> bool:
    """Return whether `place` is a URL of an object store.

    Raises:
      StoreError: `place` is a URL of another kind.
    """
    if isinstance(place, str) and "://" in place and not place.startswith(_BUCKETS):
        raise StoreError(f"{place}: is not a URL that can be written to; give one of {', '.join(_BUCKETS[:3])}")
    return isinstance(place, str) and place.startswith(_BUCKETS)


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
        place = _import_obstore().from_url(place)
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
            _create_arrays(plan, open_zarr_store(partial), record)
            with contextlib.suppress(OSError):  # another shard was first, and its store is the same
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    else:
        _create_arrays(plan, open_zarr_store(place), record)


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
    create_array(
        DONE, plan.shape[:-1], plan.chunk_shape, dtype="uint8", fill_value=0, dimension_names=dims[:-1],
        attributes={"long_name": "whether these chains are finished"},
    )  # fmt: skip


def store_exists(place: Any) -> bool:
    """Return whether a store exists at `place`."""
    import zarr

    try:
        return DONE in zarr.open_group(open_zarr_store(place, read_only=True), mode="r")
    except (FileNotFoundError, ValueError, KeyError):
        return False


def is_complete(place: Any) -> bool:
    """Return whether everything in the store is done."""
    import zarr

    done: Any = zarr.open_group(open_zarr_store(place, read_only=True), mode="r")[DONE]
    return bool(np.asarray(done[...]).all())


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
        recorded = json.loads(read_attributes(place)["plan"])
        return [Cut(tuple(cut["unit_shape"])) for cut in recorded]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{place}: another version of collapse-jax made this store; choose another folder with --out"
        ) from error


def read_attributes(place: Any) -> dict[str, Any]:
    """Return the store's attributes.

    Raises:
      StoreError: there is no store, or it is damaged.
    """
    import zarr

    try:
        return dict(zarr.open_group(open_zarr_store(place, read_only=True), mode="r").attrs)
    except Exception as error:
        raise StoreError(f"{place}: is not a store of results ({_describe_error(error)})") from error


def read_devices(place: Any) -> dict[str, str]:
    """Return the kind of device that computed each unit, ``{unit: device}``.

    Units that another version of this package computed are missing.
    """
    import zarr

    group = zarr.open_group(open_zarr_store(place, read_only=True), mode="r")
    units: Any = group[UNITS].groups() if UNITS in group else ()  # type: ignore[union-attr]  # it is a group
    return {name: str(unit.attrs["device"]) for name, unit in units}


class Writer:
    """Writes units into an existing store."""

    def __init__(self, plan: Plan, place: Any):
        import zarr

        self.plan, self.place = plan, place
        # Chunks of NaN alone are written too, so that a chunk which is not there was lost.
        with zarr.config.set({"array.write_empty_chunks": True}):
            self.group = zarr.open_group(open_zarr_store(place), mode="r+")
            self.arrays: dict[str, Any] = {name: self.group[name] for name in (*plan.metrics, DONE)}
        self.done = np.asarray(self.arrays[DONE][...])

    def is_done(self, unit: Unit) -> bool:
        """Return whether the unit was finished, by this process or an earlier one."""
        return bool(self.done[unit.where].all())

    def write(self, unit: Unit, values: Mapping[str, np.ndarray], device: str) -> None:
        """Write the values of a unit, and then mark it as done: a process killed in between loses this unit alone.

        Args:
          unit: which unit.
          values: ``{metric: values}``.
          device: the kind of device that computed them; bits may depend on it.

        Raises:
          StoreError: the disk is full, or the place cannot be written.
        """
        try:
            for name, value in values.items():
                self.arrays[name][unit.where] = value
            self.group.create_group(f"{UNITS}/{unit.name}", attributes={"device": device}, overwrite=True)
            self.arrays[DONE][unit.where] = 1
        except _write_errors() as error:
            raise StoreError(
                f"{self.place}: cannot be written ({_describe_error(error)}); the units finished before are kept"
            ) from error
        self.done[unit.where] = 1

    def mark_undone(self, unit: Unit) -> None:
        """Mark a unit as not done."""
        self.arrays[DONE][unit.where] = 0
        self.done[unit.where] = 0

    def find_damaged(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, str]]:
        """Yield the units that are marked as done but whose results are missing or unreadable, with the reason."""
        for unit in filter(self.is_done, units):
            for name in self.plan.programs[unit.program].metrics:
                damages = [f"{key} is missing" for key in self._chunk_keys(name, unit) if not self._exists(key)]
                try:
                    self.arrays[name][unit.where]
                except Exception as error:  # codecs raise errors of many kinds
                    damages = [f"{name} is unreadable ({_describe_error(error)})"]
                if damages:
                    yield unit, damages[0]
                    break

    def _chunk_keys(self, name: str, unit: Unit) -> list[str]:
        """Return the keys of the unit's chunks of one metric."""
        array = self.arrays[name]
        where = (*unit.where, *(slice(0, length) for length in array.shape[len(unit.where) :]))
        spans = [range(s.start // c, -(-s.stop // c)) for s, c in zip(where, array.chunks, strict=True)]
        return [f"{name}/{array.metadata.encode_chunk_key(index)}" for index in itertools.product(*spans)]

    def _exists(self, key: str) -> bool:
        zarr_store: Any = self.group.store
        if hasattr(zarr_store, "root"):
            return (Path(zarr_store.root) / key).exists()
        import obstore

        try:
            obstore.head(zarr_store.store, key)
        except FileNotFoundError:
            return False
        return True


def read_store(place: Any) -> xr.Dataset:
    """Return the results so far: unfinished cells are NaN, and the attribute ``done`` is the share that is finished.

    Raises:
      StoreError: there is no store, or some results are damaged (the error names them).
    """
    store, attrs = open_zarr_store(place, read_only=True), read_attributes(place)
    with xr.open_dataset(store, engine="zarr", consolidated=False, chunks=None, mask_and_scale=False) as ds:
        names = [name for name in attrs.get("variables", ds.data_vars) if name in ds]
        loaded = {}
        for name in names:
            try:
                loaded[name] = ds[name].load()
            except Exception as error:
                raise StoreError(
                    f"{place}: {name} is damaged ({_describe_error(error)}); run again with --repair"
                ) from error
        done = float(ds[DONE].mean()) if DONE in ds else 1.0
        coords = {
            n: (c.dims, c.to_numpy().astype(object).astype(str)) for n, c in ds.coords.items() if c.dtype.kind in "OT"
        }
        internal = ("variables", "coordinates", "plan")
        result = xr.Dataset(loaded).assign_coords(coords)
        for variable in result.variables.values():
            variable.attrs.pop("_FillValue", None)
        devices = sorted(set(read_devices(place).values()))
        maker = str(attrs.get("device", "")).partition(" x ")[2]  # of the store, perhaps on another machine
        several = {"devices": devices} if devices and devices != [maker] else {}
        return result.assign_attrs({k: v for k, v in attrs.items() if k not in internal}, done=done, **several)


def put_object(place: str, name: str, data: bytes) -> None:
    """Write a small object into a bucket."""
    _import_obstore().from_url(place).put(name, data)


def _import_obstore() -> Any:
    try:
        from obstore import store
    except ImportError as error:
        raise StoreError("buckets need an optional package: pip install 'collapse-jax[cloud]'") from error
    return store


def _write_errors() -> tuple[type[Exception], ...]:
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        return (OSError,)
    return OSError, BaseError


def _describe_error(error: BaseException) -> str:
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
