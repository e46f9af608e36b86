"""Which data are kept. A policy is a name and what it says of the pool; see ``types.Policy``.

Generation 1 always fits the first real batch of n rows alone. Shares and weights may be tracers.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp

from collapse_jax import batch as B
from collapse_jax.calls import recorded
from collapse_jax.check import check_at_least, check_share, is_traced
from collapse_jax.types import Array, Batch, Policy


@recorded
def replace() -> Policy:
    """Train on the latest synthetic batch only (arXiv 2305.17493; "fully synthetic loop" in 2307.01850)."""
    return Policy("replace", keep=1)


@recorded
def accumulate() -> Policy:
    """Train on the real data and every synthetic batch so far (arXiv 2404.01413)."""
    return Policy("accumulate")


@recorded
def accumulate_subsample(num: int | None = None, replacement: bool = False) -> Policy:
    """Accumulate, but each fit sees `num` rows (default n) drawn anew from the whole pool (arXiv 2410.16713)."""
    if num is not None:
        check_at_least("num", num, 1)
    return Policy("accumulate_subsample", redraw=lambda n: n if num is None else num, replacement=replacement)


@recorded
def fixed_real(share: float = 0.5) -> Policy:
    """Of n rows, `share` are from the chain's first real batch, chosen once, the rest the latest synthetic ones.

    "Synthetic augmentation loop" of arXiv 2307.01850; 2310.00429.
    """
    return Policy("fixed_real", keep=1, real="first", real_rows=_count(share))


@recorded
def fresh_real(share: float = 0.5) -> Policy:
    """Of n rows, `share` are new real ones, the rest the latest synthetic ("fresh data loop", arXiv 2307.01850)."""
    return Policy("fresh_real", keep=1, real="fresh", real_rows=_count(share))


@recorded
def weighted_fresh(weight: float = 0.5) -> Policy:
    """Train on n new real rows at total weight `weight` and n synthetic ones at 1 - `weight` (arXiv 2502.18049).

    Multiplicities 2w and 2(1 - w), so that w = 1/2 is pooling.
    """
    check_share("weight", weight)

    def join(new: Batch, real: Batch) -> Batch:
        return B.stack(B.scale(new, 2 * (1 - weight)), B.scale(real, 2 * weight))

    return Policy("weighted_fresh", keep=1, real="fresh", join=join)


@recorded
def window(k: int = 5) -> Policy:
    """Train on the last `k` batches, the real data being batch 0."""
    check_at_least("k", k, 1)
    return Policy("window", keep=k)


@recorded
def decay(gamma: float = 0.5) -> Policy:
    """Accumulate with weight gamma^age."""
    check_share("gamma", gamma)
    return Policy("decay", fade=gamma)


@recorded
def contaminated(share: float = 0.5) -> Policy:
    """A pool grows by n rows a generation: `share` of them new real ones, the rest synthetic (arXiv 2602.16065)."""
    return Policy("contaminated", real="fresh", real_rows=_count(share))


def _count(share: Array | float) -> Callable[[int], Array | int]:
    """Rows that are real: rounded half up, and one row stays on each side whose share is not 0."""
    check_share("share", share)

    def count(n: int) -> Array | int:
        # The slack lets a share such as 0.585 of 100, which no float is exactly, round up traced or not.
        nearest = share * n + 0.5 + 1e-5
        if is_traced(share) or is_traced(n):
            return jnp.clip(jnp.floor(nearest), share > 0, jnp.maximum(n - (share < 1), share > 0)).astype(int)
        return max(min(math.floor(nearest), n - (share < 1)), int(share > 0))

    return count


REGISTRY: dict[str, Callable[..., Policy]] = {
    f.__name__: f
    for f in (
        replace, accumulate, accumulate_subsample, fixed_real, fresh_real,
        weighted_fresh, window, decay, contaminated,
    )
}  # fmt: skip

__all__ = ["REGISTRY", *REGISTRY]
