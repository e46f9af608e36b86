"""Record each process that writes to a store: versions, plugins, flags and device, which may decide the numbers."""

import importlib
import uuid
from typing import Any

from collapse_jax.core.errors import StoreError
from collapse_jax.planning.design import find_plugins
from collapse_jax.planning.plan import Plan
from collapse_jax.results import records, store
from collapse_jax.results.provenance import describe_device, package_version, provenance

_PACKAGES = ("collapse-jax", "jax", "jaxlib")
_FLAGS = ("jax_threefry_partitionable", "jax_default_matmul_precision")  # that decide what is drawn or rounded


def describe_session(plan: Plan) -> dict[str, Any]:
    """Return what of a process may decide the numbers of a run."""
    config = importlib.import_module("jax").config
    versions = {package: package_version(package) for package in _PACKAGES}
    flags = {flag: str(getattr(config, flag)) for flag in _FLAGS}
    return {**versions, "plugins": sorted(find_plugins(plan.grid.design)), **flags, "device": describe_device()}


class Session:
    """One process that writes to a store."""

    def __init__(self, plan: Plan):
        self.name = uuid.uuid4().hex
        self.facts = describe_session(plan)
        self.begun = False

    def begin(self, place: Any, mixed_versions: bool) -> None:
        """Record this session in a store, before it writes results.

        Raises:
          StoreError: an earlier session differs, and `mixed_versions` is not set.
        """
        zarr_store = store.open_zarr_store(place)
        earlier = records.read_records(zarr_store, records.SESSIONS, records.list_objects(zarr_store))
        for session in earlier.values() if not mixed_versions else ():
            known = self.facts if session is None else session["facts"]
            for name, value in self.facts.items():
                if known.get(name) != value:
                    raise StoreError(
                        f"{place}: was begun with {name} {known.get(name)!r}, and here it is {value!r}, which may "
                        "change the numbers; go on with --mixed-versions, or choose another folder with --out"
                    )
        self.begun = True
        self._write(place, {})

    def end(self, place: Any, seconds: dict[str, float]) -> None:
        """Record how long this session took."""
        if self.begun:
            self._write(place, {name: round(value, 3) for name, value in seconds.items()})

    def _write(self, place: Any, seconds: dict[str, float]) -> None:
        record = {"facts": self.facts, "time": provenance()["time"], "seconds": seconds}
        try:
            records.write_record(store.open_zarr_store(place), f"{records.SESSIONS}/{self.name}", record)
        except store.write_errors() as error:
            raise StoreError(
                f"{place}: cannot be written ({store.describe_error(error)}); the units finished before are kept"
            ) from error
