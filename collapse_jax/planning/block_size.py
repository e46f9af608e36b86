"""How many chains lie side by side in a block, and how many generations pass between two looks at the host."""

import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Tree

# What a block draws in one generation should stay in cache (on CPU), and its pools in memory; bytes.
_WORKING_SET = {"cpu": 256 << 10, "gpu": 256 << 20, "tpu": 256 << 20}
_POOLS = {"cpu": 1 << 30, "gpu": 16 << 30, "tpu": 4 << 30}
_WIDEST = 1024
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def stretch_of(num_generations: int) -> int:
    """Generations between two looks at the host: a divisor of the horizon where there is one of a useful size."""
    divisors = [s for s in range(8, 33) if num_generations % s == 0]
    if divisors or num_generations < 8:
        return max(divisors, default=num_generations)
    return -(-num_generations // -(-num_generations // 24))


def block_width(lane: int, drawn: int, hint: int | None, wanted: int | None = None, training: int = 0) -> int:
    """Chains to run side by side: a power of two set by sizes alone, never by how many chains were asked for.

    Args:
      lane: bytes that a chain keeps.
      drawn: bytes that it draws in a generation.
      hint: at most so many.
      wanted: exactly so many.
      training: bytes that it takes while it is fitted.
    """
    platform, memory = jax.default_backend(), device_memory()
    fits = min(_WORKING_SET.get(platform, 256 << 10) // drawn, _POOLS.get(platform, 1 << 30) // lane)
    width = 2 ** int(np.log2(max(fits, 8)))
    most = max(memory // (lane + max(drawn, training)), 1) if memory is not None else _WIDEST
    return wanted or min(width, 2 ** int(np.log2(most)), _WIDEST, hint or _WIDEST)


def lane_bytes(state: Tree, new: Tree, rows: Tree, law: bool) -> tuple[int, int]:
    """What one chain keeps, and what it draws in a generation.

    Args:
      state: has the shapes of one chain's state.
      new: has those of a generation's batch.
      rows: has those of n real rows, or is () where none are drawn.
      law: whether only the first batch is rows.
    """
    drawn = _bytes(new) if law else max(_bytes(rows), _bytes(new))
    return _bytes(state) + 4 * _bytes(rows), drawn  # the first batch, and what drawing it takes


def device_memory() -> int | None:
    """Bytes of the device's memory, or None where it does not tell."""
    if jax.default_backend() == "cpu":
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None
        limits = [int(p.read_text()) for p in _LIMITS if p.exists() and p.read_text().strip().isdecimal()]
        return min([*limits, *([] if whole is None else [whole])], default=None)
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def _bytes(tree: Any) -> int:
    shapes = jax.tree.leaves(jax.eval_shape(_plain, tree))
    return max(1, sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in shapes))


def _plain(tree: Any) -> Any:
    """Keys as the words they are made of."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
