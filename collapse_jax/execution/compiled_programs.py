"""The programs that this process has compiled, so that the same sweep with other numbers compiles nothing."""

import warnings

from collapse_jax.core.bounded_cache import BoundedCache
from collapse_jax.execution.programs import CompiledBlock
from collapse_jax.planning.memory_estimate import forget_estimates
from collapse_jax.planning.program_sizes import forget_sizes

COMPILED: BoundedCache[CompiledBlock] = BoundedCache(128)
_compiled_before: set[str] = set()
_said: set[str] = set()


class RecompilationWarning(UserWarning):
    """A part cannot be told from another, so that its programs are compiled at every call."""


def note_compilation(reason: str) -> None:
    """Warn, once, of programs that are compiled again because there is no key for them.

    Args:
      reason: why there is no key.
    """
    if reason in _compiled_before and reason not in _said:
        _said.add(reason)
        warnings.warn(
            f"programs are compiled again at each call, since {reason}; parts made by a registered factory "
            "(@cj.register_setting, ...) of numbers, texts and arrays are compiled once",
            RecompilationWarning,
            stacklevel=2,
        )
    _compiled_before.add(reason)


def clear_cache() -> None:
    """Forget all compiled programs of this process, and what is known of their sizes.

    ``run``, ``sweep`` and all else that runs chains keep the 128 programs that were used last. A program is used again
    where parts come from the same registered factories with the same arguments. Floats, seeds and the number of chains
    may differ: they are inputs.

    Example:
      >>> import collapse_jax as cj
      >>> cj.clear_cache()
    """
    COMPILED.clear()
    forget_sizes()
    forget_estimates()
