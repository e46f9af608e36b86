"""Where results came from: versions, machine, device, time, and the plugins that registered their parts."""

import datetime
import functools
import importlib
import importlib.metadata
import platform
import warnings
from collections.abc import Mapping
from typing import Any

from collapse_jax.core import registry

_PACKAGES = ("collapse-jax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "zarr")


def provenance() -> dict[str, str]:
    """Return versions, machine, device and time: what one needs to run the same thing again."""
    jax = importlib.import_module("jax")
    return {
        **_versions(),
        "platform": platform.platform(),
        "jax_threefry_partitionable": str(jax.config.jax_threefry_partitionable),  # decides what is drawn
        "device": f"{len(jax.devices())} x {describe_device()}",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe_device() -> str:
    """Return the kind and the platform of this process's devices."""
    device = importlib.import_module("jax").devices()[0]
    return f"{device.device_kind} ({device.platform})"


def package_version(package: str) -> str:
    """Return the version of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def missing_plugins(attrs: Mapping[str, Any]) -> str | None:
    """Return in a line which plugins of a run are not loaded, and how to load them; None where none is missing."""
    missing = [plugin for plugin in attrs.get("plugins", ()) if not registry.is_loaded(plugin)]
    if not missing:
        return None
    flags = " ".join(f"--plugin {plugin}" for plugin in missing)
    calls = ", ".join(f"cj.load_plugin({plugin!r})" for plugin in missing)
    return f"this run needs parts that are not loaded: {calls} in Python, {flags} on the command line"


def warn_of_missing_plugins(attrs: Mapping[str, Any]) -> None:
    """Warn in a line where a run needs plugins that are not loaded: it can be read, and not repeated."""
    line = missing_plugins(attrs)
    if line is not None:
        warnings.warn(line, stacklevel=3)


@functools.cache
def _versions() -> dict[str, str]:
    versions = {f"version_{name.replace('-', '_')}": package_version(name) for name in _PACKAGES}
    return {**versions, "version_python": platform.python_version()}
