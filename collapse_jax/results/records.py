"""Record what was written to a store: size and digest of every file, so that damage is found and not read as results.

Records are the attributes of small zarr groups: ``manifest`` of what never changes (labels, descriptions of arrays),
``units/NAME`` of each unit's chunks, ``sessions/ID`` of each process that wrote. A unit is done where its record is.
"""

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from collapse_jax.core.errors import StoreError

MANIFEST, UNITS, SESSIONS = "manifest", "units", "sessions"
_MAKER = "manifest/maker"  # the object by which one of many processes becomes the maker of a store in a bucket
_PATIENCE = 60.0  # seconds for which a maker may be at work
_THREADS = 16  # reads from a bucket at once

Files = dict[str, list[Any]]  # {key: [bytes, digest]}


class DamageError(StoreError):
    """Something in a store is missing or not what was written."""


def list_objects(zarr_store: Any) -> dict[str, int]:
    """Return the size in bytes of each object of a store, by key."""
    if hasattr(zarr_store, "root"):
        root = str(zarr_store.root)
        sizes = {}
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):  # a temporary file of another process
                    sizes[os.path.relpath(path, root).replace(os.sep, "/")] = os.path.getsize(path)
        return sizes
    import obstore

    return {item["path"]: item["size"] for page in obstore.list(zarr_store.store) for item in page}


def read_object(zarr_store: Any, key: str) -> bytes | None:
    """Return the bytes of an object; None where there is none."""
    try:
        if hasattr(zarr_store, "root"):
            return (Path(zarr_store.root) / key).read_bytes()
        import obstore

        return bytes(obstore.get(zarr_store.store, key).bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def write_object(zarr_store: Any, key: str, data: bytes) -> None:
    """Write an object in one step: it is there whole, or not at all."""
    if not hasattr(zarr_store, "root"):
        import obstore

        obstore.put(zarr_store.store, key, data)
        return
    path = Path(zarr_store.root) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def delete_object(zarr_store: Any, key: str) -> None:
    """Delete an object, if there is one."""
    if hasattr(zarr_store, "root"):
        (Path(zarr_store.root) / key).unlink(missing_ok=True)
        return
    import obstore

    obstore.delete(zarr_store.store, key)


def describe_objects(zarr_store: Any, keys: Iterable[str]) -> Files:
    """Return size and digest of some objects as they are.

    Raises:
      DamageError: one of them is missing.
    """
    files = {}
    for key, data in _read_many(zarr_store, keys):
        if data is None:
            raise DamageError(f"{key} is missing just after it was written")
        files[key] = [len(data), _digest(data)]
    return files


def find_damage(zarr_store: Any, files: Mapping[str, Any], sizes: Mapping[str, int], whole: bool) -> str | None:
    """Return the first difference between what was written and what is there, in words; None where there is none.

    Args:
      zarr_store: the store.
      files: what was written, ``{key: [bytes, digest]}``.
      sizes: what is there, as ``list_objects`` returns it.
      whole: whether contents are read and compared; else presence and sizes are.
    """
    for key, (size, _) in files.items():
        if key not in sizes:
            return f"{key} is missing"
        if sizes[key] != size:
            return f"{key} has {sizes[key]:,} bytes, and {size:,} were written"
    for key, data in _read_many(zarr_store, files) if whole else ():
        if data is None or _digest(data) != files[key][1]:
            return f"{key} is not what was written"
    return None


def write_record(zarr_store: Any, name: str, attributes: Mapping[str, Any]) -> None:
    """Write a record, sealed by a digest of its own."""
    sealed = {**attributes, "digest": _digest(_canonical(attributes))}
    document = {"zarr_format": 3, "node_type": "group", "attributes": sealed}
    write_object(zarr_store, f"{name}/zarr.json", json.dumps(document).encode())


def read_record(zarr_store: Any, name: str) -> dict[str, Any] | None:
    """Return a record without its seal; None where there is none.

    Raises:
      DamageError: it is not what was written.
    """
    data = read_object(zarr_store, f"{name}/zarr.json")
    return None if data is None else _parse_record(name, data)


def read_records(zarr_store: Any, kind: str, sizes: Mapping[str, int]) -> dict[str, dict[str, Any] | None]:
    """Return the records of a kind (``UNITS`` or ``SESSIONS``) by name; None where one is damaged.

    Read them before the sizes of what they describe: what another process writes meanwhile is then there.
    """
    keys = [key for key in sizes if key.startswith(f"{kind}/") and key.endswith("/zarr.json") and key.count("/") == 2]
    found: dict[str, dict[str, Any] | None] = {}
    for key, data in _read_many(zarr_store, sorted(keys)):
        name = key.split("/")[1]
        try:
            found[name] = None if data is None else _parse_record(f"{kind}/{name}", data)
        except DamageError:
            found[name] = None
    return found


def write_manifest(zarr_store: Any, facts: Mapping[str, Any]) -> None:
    """Record everything that is in a new store, beside some facts."""
    for kind in (UNITS, SESSIONS):
        document = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        write_object(zarr_store, f"{kind}/zarr.json", json.dumps(document).encode())
    keys = [key for key in list_objects(zarr_store) if is_static(key)]
    write_record(zarr_store, MANIFEST, {**facts, "files": describe_objects(zarr_store, sorted(keys))})


def is_static(key: str) -> bool:
    """Return whether an object never changes: all but what records, chunks of units and other processes write."""
    kind = key.split("/", maxsplit=1)[0]
    return kind != MANIFEST and not (kind in (UNITS, SESSIONS) and key.count("/") > 1)


def become_maker(zarr_store: Any) -> bool:
    """Return whether this process is to make the store in a bucket; else another one has made it by now.

    The first of many processes to write one object is the maker; the others wait until the store is whole, and take
    over from a maker that died.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError

    for attempt in itertools.count():
        with contextlib.suppress(AlreadyExistsError):
            obstore.put(zarr_store.store, f"{_MAKER}-{attempt}", b"", mode="create")
            return True
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if read_object(zarr_store, f"{MANIFEST}/zarr.json") is not None:
                return False
            time.sleep(0.1)
    raise AssertionError("attempts never end")


def _parse_record(name: str, data: bytes) -> dict[str, Any]:
    try:
        attributes = dict(json.loads(data)["attributes"])
        seal = attributes.pop("digest")
        if seal != _digest(_canonical(attributes)):
            raise ValueError("its digest differs")
        return attributes
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamageError(f"{name}/zarr.json is not what was written") from error


def _read_many(zarr_store: Any, keys: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    keys = list(keys)
    if hasattr(zarr_store, "root") or len(keys) < 2:
        yield from ((key, read_object(zarr_store, key)) for key in keys)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from zip(keys, pool.map(lambda key: read_object(zarr_store, key), keys), strict=True)


def _canonical(attributes: Mapping[str, Any]) -> bytes:
    return json.dumps(attributes, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
