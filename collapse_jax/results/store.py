"""A sweep's results on disk or in a bucket: one zarr store, written unit by unit, a mask of what is done last."""

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

from collapse_jax.core.errors import StoreError
from collapse_jax.planning.plan import Plan
from collapse_jax.planning.units import Cut, Unit
from collapse_jax.results.dataset import make_dataset, metric_attributes, run_attributes

STORE, DONE = "results.zarr", "done"
_BUCKETS = ("gs://", "s3://", "az://", "http://", "https://")


def is_bucket(place: Any) -> bool:
    """Whether `place` is a URL of an object store.

    Raises:
      StoreError: a URL of another kind.
    """
    if isinstance(place, str) and "://" in place and not place.startswith(_BUCKETS):
        raise StoreError(f"{place}: not a URL that can be written to; one of {', '.join(_BUCKETS[:3])}")
    return isinstance(place, str) and place.startswith(_BUCKETS)


def join(place: Any, name: str) -> Any:
    """`name` inside a folder or a bucket's URL; an ``obstore`` store holds the results itself."""
    if is_bucket(place):
        return f"{place.rstrip('/')}/{name}"
    return Path(place) / name if isinstance(place, str | Path) else place


def zarr_store(place: Any, read_only: bool = False) -> Any:
    """What zarr opens: a local folder, or an object store (extra ``cloud``)."""
    from zarr import storage

    if isinstance(place, str | Path) and not is_bucket(place):
        return storage.LocalStore(place, read_only=read_only)
    if isinstance(place, str):
        place = _obstore().from_url(place)
    return storage.ObjectStore(place, read_only=read_only)


def create(plan: Plan, place: Any, attrs: Mapping[str, Any]) -> None:
    """An empty store for the results of `plan`: metrics all NaN, nothing done. It appears whole or not at all.

    Args:
      plan: what will be run.
      place: a folder that does not exist yet, a URL, or an ``obstore`` store.
      attrs: further attributes.
    """
    record = {
        **run_attributes(plan),
        **attrs,
        "variables": list(plan.metrics),
        "plan": json.dumps([cut._asdict() for cut in plan.cuts]),
    }
    if isinstance(place, str | Path) and not is_bucket(place):
        place = Path(place)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{place.parent}: cannot be a folder ({error.strerror})") from error
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
        try:
            partial.chmod(0o755)
            _create(plan, zarr_store(partial), record)
            with contextlib.suppress(OSError):  # another shard was first: its store is as good as ours
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    else:
        _create(plan, zarr_store(place), record)


def _create(plan: Plan, store: Any, record: Mapping[str, Any]) -> None:
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.errors import ContainsArrayError

    empty = make_dataset(plan, {}, {}).drop_attrs()
    as_text = {n: c.to_numpy().astype(object) for n, c in empty.coords.items() if c.dtype.kind == "U"}
    empty.assign_coords({n: (n, v) for n, v in as_text.items()}).to_zarr(
        store, zarr_format=3, consolidated=False, mode="a"
    )
    group = zarr.open_group(store, mode="a")
    group.attrs.update(record)
    dims, checked = plan.grid.dims, ZstdCodec(level=3, checksum=True)
    horizon = plan.options.num_generations

    def make(name: str, shape: tuple[int, ...], chunks: tuple[int, ...], **options: Any) -> None:
        with contextlib.suppress(ContainsArrayError):  # another shard made the same one
            group.create_array(name, shape=shape, chunks=chunks, **options)

    for name, described in metric_attributes(plan).items():
        value = plan.metrics[name].shape
        make(
            name, (*plan.shape, *value), (*plan.chunk, horizon, *value), dtype=plan.options.precision,
            fill_value=float("nan"), dimension_names=(*dims, *described.get("value_dims", ())), compressors=checked,
            attributes=described,
        )  # fmt: skip
    done = {"long_name": "whether these chains are finished"}
    make(DONE, plan.shape[:-1], plan.chunk, dtype="uint8", fill_value=0, dimension_names=dims[:-1], attributes=done)


def exists(place: Any) -> bool:
    """Whether a store is there."""
    import zarr

    try:
        return DONE in zarr.open_group(zarr_store(place, read_only=True), mode="r")
    except (FileNotFoundError, ValueError, KeyError):
        return False


def is_complete(place: Any) -> bool:
    """Whether everything in the store is done."""
    import zarr

    done: Any = zarr.open_group(zarr_store(place, read_only=True), mode="r")[DONE]
    return bool(np.asarray(done[...]).all())


def labels_of(place: Any) -> dict[str, list[Any]]:
    """The labels of the store's dimensions."""
    with xr.open_dataset(zarr_store(place, read_only=True), engine="zarr", consolidated=False, chunks=None) as ds:
        return {str(name): values.to_numpy().tolist() for name, values in ds.coords.items()}


def cuts(place: Any) -> list[Cut]:
    """How the store's results were cut into units.

    Raises:
      StoreError: a store of another version of this package.
    """
    try:
        return [Cut(cut["width"], tuple(cut["block"])) for cut in json.loads(attributes_of(place)["plan"])]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{place}: made by another version; choose another folder with --out") from error


def attributes_of(place: Any) -> dict[str, Any]:
    """The store's attributes.

    Raises:
      StoreError: no store, or a damaged one.
    """
    import zarr

    try:
        return dict(zarr.open_group(zarr_store(place, read_only=True), mode="r").attrs)
    except Exception as error:
        raise StoreError(f"{place}: not a store of results ({_line(error)})") from error


class Writer:
    """Writes units into a store that exists."""

    def __init__(self, plan: Plan, place: Any):
        import zarr

        self.plan, self.place = plan, place
        # Chunks of nothing but NaN are written too: then one that is not there is lost.
        with zarr.config.set({"array.write_empty_chunks": True}):
            self.group = zarr.open_group(zarr_store(place), mode="r+")
            self.arrays: dict[str, Any] = {name: self.group[name] for name in (*plan.metrics, DONE)}
        self.done = np.asarray(self.arrays[DONE][...])

    def is_done(self, unit: Unit) -> bool:
        """Whether the unit was finished, by this process or another before it."""
        return bool(self.done[unit.where].all())

    def write(self, unit: Unit, values: Mapping[str, np.ndarray]) -> None:
        """Results first, the mask last: a process killed between the two has lost the unit and nothing else.

        Raises:
          StoreError: the disk is full, or the place cannot be written.
        """
        try:
            for name, value in values.items():
                self.arrays[name][unit.where] = value
            self.arrays[DONE][unit.where] = 1
        except _write_errors() as error:
            raise StoreError(
                f"{self.place}: cannot be written ({_line(error)}); what was done before is kept"
            ) from error
        self.done[unit.where] = 1

    def forget(self, unit: Unit) -> None:
        """Marks a unit as not done."""
        self.arrays[DONE][unit.where] = 0
        self.done[unit.where] = 0

    def damaged(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, str]]:
        """Those marked as done of whose results some cannot be read, or are not there, and why."""
        for unit in filter(self.is_done, units):
            for name in self.plan.programs[unit.program].metrics:
                lost = [key for key in self._chunks(name, unit) if not self._exists(key)]
                try:
                    self.arrays[name][unit.where]
                except Exception as error:  # codecs raise errors of many kinds
                    lost = [f"{name} is unreadable ({_line(error)})"]
                if lost:
                    yield unit, lost[0] if " " in lost[0] else f"{lost[0]} is missing"
                    break

    def _chunks(self, name: str, unit: Unit) -> list[str]:
        """Keys of the unit's chunks of one metric."""
        array = self.arrays[name]
        where = (*unit.where, *(slice(0, length) for length in array.shape[len(unit.where) :]))
        spans = [range(s.start // c, -(-s.stop // c)) for s, c in zip(where, array.chunks, strict=True)]
        return [f"{name}/{array.metadata.encode_chunk_key(index)}" for index in itertools.product(*spans)]

    def _exists(self, key: str) -> bool:
        inner: Any = self.group.store
        if hasattr(inner, "root"):
            return (Path(inner.root) / key).exists()
        import obstore

        try:
            obstore.head(inner.store, key)
        except FileNotFoundError:
            return False
        return True


def read(place: Any) -> xr.Dataset:
    """The results so far; cells that are not finished are NaN. ``done``, the share that is, is an attribute.

    Raises:
      StoreError: no store, or damaged results (which are named).
    """
    store, attrs = zarr_store(place, read_only=True), attributes_of(place)
    with xr.open_dataset(store, engine="zarr", consolidated=False, chunks=None, mask_and_scale=False) as ds:
        names = [name for name in attrs.get("variables", ds.data_vars) if name in ds]
        loaded = {}
        for name in names:
            try:
                loaded[name] = ds[name].load()
            except Exception as error:
                raise StoreError(f"{place}: {name} is damaged ({_line(error)}); run again with --repair") from error
        done = float(ds[DONE].mean()) if DONE in ds else 1.0
        coords = {
            n: (c.dims, c.to_numpy().astype(object).astype(str)) for n, c in ds.coords.items() if c.dtype.kind in "OT"
        }
        unseen = ("variables", "plan")
        result = xr.Dataset(loaded).assign_coords(coords)
        for variable in result.data_vars.values():
            variable.attrs.pop("_FillValue", None)
        return result.assign_attrs({k: v for k, v in attrs.items() if k not in unseen}, done=done)


def put(place: str, name: str, data: bytes) -> None:
    """Writes a small object into a bucket."""
    _obstore().from_url(place).put(name, data)


def _obstore() -> Any:
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


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
