"""What a command says where the machine, and not the package, is at fault."""

import os
import sys


def explain_failure(error: Exception) -> str | None:
    """Return a line on an error of the machine: no memory, or no device that JAX could use; None for any other."""
    if isinstance(error, MemoryError):
        return f"out of memory: {_one_line(error)}"
    return _describe_missing_device() if "jax" in sys.modules else None


def _describe_missing_device() -> str | None:
    import jax

    try:
        jax.devices()
    except Exception as error:  # an AssertionError without words among them
        platforms = os.environ.get("JAX_PLATFORMS")
        asked = f" of JAX_PLATFORMS={platforms}" if platforms else ""
        reason = f": {_one_line(error)}" if str(error) else ""
        return f"JAX finds no device{asked}{reason}"
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
