"""Choose how many chains run side by side in a block, and how many generations one call of its program makes."""

import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Tree

# What a block draws in one generation should stay in cache (on CPU), and its pools in memory; bytes.
_CACHE_BYTES = {"cpu": 256 << 10, "gpu": 256 << 20, "tpu": 256 << 20}
_POOL_BYTES = {"cpu": 1 << 30, "gpu": 16 << 30, "tpu": 4 << 30}
_MAX_CHAINS = {"cpu": 64, "gpu": 1024, "tpu": 1024}
_CALL_OPERATIONS = 2e8  # some tens of milliseconds on a CPU
_CALL_BYTES = 8 << 20
_MAX_BLOCKS_PER_CALL = 16
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def choose_generations_per_call(num_generations: int) -> int:
    """Return how many generations one call makes: a divisor of the horizon where there is one of a useful size."""
    divisors = [s for s in range(8, 33) if num_generations % s == 0]
    if divisors or num_generations < 8:
        return max(divisors, default=num_generations)
    return -(-num_generations // -(-num_generations // 24))


def choose_chains_per_block(
    state_bytes: int,
    drawn_bytes: int,
    setting_limit: int | None,
    chains_per_block: int | None = None,
    training_bytes: int = 0,
) -> int:
    """Return how many chains run side by side: a power of two set by sizes alone, never by how many there are.

    On a CPU blocks are as narrow as they can be without being slower, so that few chains do not pay for many; several
    of them are one call (see ``choose_blocks_per_call``).

    Args:
      state_bytes: bytes that a chain keeps.
      drawn_bytes: bytes that it draws in a generation.
      setting_limit: the largest number that the setting allows.
      chains_per_block: the number that the user asked for, which is returned.
      training_bytes: bytes that a chain takes while it is fitted.
    """
    if chains_per_block:
        return chains_per_block
    platform, memory = jax.default_backend(), device_memory()
    in_cache = _CACHE_BYTES.get(platform, _CACHE_BYTES["cpu"]) // drawn_bytes
    in_pools = _POOL_BYTES.get(platform, _POOL_BYTES["cpu"]) // state_bytes
    preferred = 2 ** int(np.log2(max(min(in_cache, in_pools), 8)))
    largest = _MAX_CHAINS.get(platform, _MAX_CHAINS["cpu"])
    in_memory = largest
    if memory is not None:
        in_memory = max(memory // (state_bytes + max(drawn_bytes, training_bytes)), 1)
    return min(preferred, 2 ** int(np.log2(in_memory)), largest, setting_limit or largest)


def choose_blocks_per_call(block_bytes: int, block_operations: float) -> int:
    """Return the most blocks of one call: several, a power of two, where one takes less time than a call's overhead.

    Args:
      block_bytes: bytes that the chains of a block keep; a call has room for all of its blocks, used or not.
      block_operations: operations of one call of one block.
    """
    if jax.default_backend() != "cpu":
        return 1  # where all chains of a block are computed at the same time
    wanted = min(_CALL_OPERATIONS / max(block_operations, 1.0), _CALL_BYTES / block_bytes, _MAX_BLOCKS_PER_CALL)
    return 2 ** int(np.log2(max(wanted, 1)))


def count_chain_bytes(state: Tree, new: Tree, rows: Tree, law: bool) -> tuple[int, int]:
    """Return the bytes that one chain keeps, and those that it draws in a generation.

    Args:
      state: the shapes of one chain's state.
      new: the shapes of a generation's batch.
      rows: the shapes of n real rows, or () where no real rows are drawn.
      law: whether only the first batch is rows.
    """
    drawn_bytes = _count_bytes(new) if law else max(_count_bytes(rows), _count_bytes(new))
    return _count_bytes(state) + 4 * _count_bytes(rows), drawn_bytes  # the first batch, and what drawing it takes


def device_memory() -> int | None:
    """Return the bytes of the device's memory, or None where the device does not say."""
    if jax.default_backend() == "cpu":
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else None
        limits = [int(p.read_text()) for p in _CGROUP_LIMITS if p.exists() and p.read_text().strip().isdecimal()]
        return min([*limits, *([] if physical is None else [physical])], default=None)
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def _count_bytes(tree: Any) -> int:
    shapes = jax.tree.leaves(jax.eval_shape(_unwrap_keys, tree))
    return max(1, sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in shapes))


def _unwrap_keys(tree: Any) -> Any:
    """Return the tree with keys as the unsigned integers that they are made of."""

    def unwrap(x: Any) -> Any:
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(unwrap, tree)
