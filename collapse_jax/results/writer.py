"""Write units into a store, find those that were damaged, and repair what never changes."""

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.core.errors import StoreError
from collapse_jax.planning.plan import Plan
from collapse_jax.planning.units import Unit
from collapse_jax.results import records
from collapse_jax.results.store import (
    STORE,
    create_store,
    describe_error,
    finished_cells,
    open_zarr_store,
    write_errors,
)


class Writer:
    """Writes units into an existing store."""

    def __init__(self, plan: Plan, place: Any, session: str = ""):
        import zarr

        self.plan, self.place, self.session = plan, place, session
        # Chunks of NaN alone are written too, so that a chunk which is not there was lost.
        with zarr.config.set({"array.write_empty_chunks": True}):
            self.group = zarr.open_group(open_zarr_store(place), mode="r+")
            self.arrays: dict[str, Any] = {name: self.group[name] for name in plan.metrics}
        self.zarr_store: Any = self.group.store
        self.read_done()

    def read_done(self) -> None:
        """Read again what is done: other shards may have been at work."""
        self.sizes = records.list_objects(self.zarr_store)
        self.units = records.read_records(self.zarr_store, records.UNITS, self.sizes)
        whole = {name: unit for name, unit in self.units.items() if unit is not None}
        self.done = finished_cells(self.plan.shape[:-1], whole)

    def is_done(self, unit: Unit) -> bool:
        """Return whether the unit was finished, by this process or an earlier one."""
        return bool(self.done[unit.where].all())

    def write(self, unit: Unit, values: Mapping[str, np.ndarray], device: str) -> None:
        """Write the values of a unit, and then its record: a process killed in between loses this unit alone.

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
            keys = [key for name in values for key in self._chunk_keys(name, unit)]
            record = {
                "device": device,
                "session": self.session,
                "where": [[where.start, where.stop] for where in unit.where],
                "files": records.describe_objects(self.zarr_store, keys),
            }
            records.write_record(self.zarr_store, f"{records.UNITS}/{unit.name}", record)
        except write_errors() as error:
            raise StoreError(
                f"{self.place}: cannot be written ({describe_error(error)}); the units finished before are kept"
            ) from error
        self.done[unit.where] = True

    def mark_undone(self, unit: Unit) -> None:
        """Mark a unit as not done."""
        records.delete_object(self.zarr_store, f"{records.UNITS}/{unit.name}/zarr.json")
        self.done[unit.where] = False

    def find_damaged(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, str]]:
        """Yield the units whose results are missing or not what was written, with the reason."""
        for unit in units:
            if unit.name not in self.units:
                continue
            record = self.units[unit.name]
            if record is None:
                yield unit, f"{records.UNITS}/{unit.name}/zarr.json is not what was written"
            elif damage := records.find_damage(self.zarr_store, record["files"], self.sizes, whole=True):
                yield unit, damage

    def _chunk_keys(self, name: str, unit: Unit) -> list[str]:
        """Return the keys of the unit's chunks of one metric."""
        array = self.arrays[name]
        where = (*unit.where, *(slice(0, length) for length in array.shape[len(unit.where) :]))
        spans = [range(s.start // c, -(-s.stop // c)) for s, c in zip(where, array.chunks, strict=True)]
        return [f"{name}/{array.metadata.encode_chunk_key(index)}" for index in itertools.product(*spans)]


def repair_static(plan: Plan, place: Any) -> list[str]:
    """Write anew what never changes in a store and is damaged: labels, descriptions of arrays, attributes, manifest.

    Args:
      plan: of the same config, which makes the same labels.
      place: the store.

    Returns:
      What was damaged, in words.

    Raises:
      StoreError: nothing is left that says which experiment this is.
    """
    zarr_store, damaged = open_zarr_store(place), []
    try:
        manifest = records.read_record(zarr_store, records.MANIFEST)
    except records.DamageError:
        manifest = None
    sizes = records.list_objects(zarr_store)
    files = {} if manifest is None else dict(manifest["files"])
    with tempfile.TemporaryDirectory(prefix="collapse-jax-") as folder:
        create_store(plan, Path(folder) / STORE)
        fresh = open_zarr_store(Path(folder) / STORE, read_only=True)
        if manifest is None:
            damaged.append(f"{records.MANIFEST}/zarr.json is missing or not what was written")
            files = (records.read_record(fresh, records.MANIFEST) or {})["files"]
            files |= records.describe_objects(zarr_store, ["zarr.json"])  # its time and machine are the store's own
        for key, file in files.items():
            if (found := records.find_damage(zarr_store, {key: file}, sizes, whole=True)) is None:
                continue
            data = records.read_object(fresh, key)
            if data is None:
                raise StoreError(f"{place}: is damaged, {found}, and cannot be repaired; run again in another folder")
            records.write_object(zarr_store, key, data)
            damaged.append(found)
            files[key] = records.describe_objects(fresh, [key])[key]
        if damaged:
            fresh_manifest = records.read_record(fresh, records.MANIFEST) or {}
            records.write_record(zarr_store, records.MANIFEST, {**fresh_manifest, "files": files})
    return damaged
