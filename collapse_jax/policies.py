"""Which data are kept. A policy is a name and what it says of the pool; see ``types.Policy``.

Generation 1 always fits the first real batch of n rows alone. Shares and weights may be tracers.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_policy
from collapse_jax.core.validation import is_traced, require_integer, require_share
from collapse_jax.types import Array, Batch, Join, JoinCounts, PartlyReal, Policy, Resample


@register_policy
def replace() -> Policy:
    """Train on the latest synthetic batch only (arXiv 2305.17493; "fully synthetic loop" in 2307.01850)."""
    return Policy("replace", keep=1)


@register_policy
def accumulate() -> Policy:
    """Train on the real data and every synthetic batch so far (arXiv 2404.01413)."""
    return Policy("accumulate")


@register_policy
def accumulate_subsample(num: int | None = None, replacement: bool = False) -> Policy:
    """Accumulate, but each fit sees `num` rows (default n) drawn anew from the whole pool (arXiv 2410.16713)."""
    if num is not None:
        require_integer("num", num, 1)
    return Policy("accumulate_subsample", resample=Resample(lambda n: n if num is None else num, replacement))


@register_policy
def fixed_real(share: float = 0.5) -> Policy:
    """Of n rows, `share` are from the chain's first real batch, chosen once, the rest the latest synthetic ones.

    "Synthetic augmentation loop" of arXiv 2307.01850; 2310.00429.
    """
    return Policy("fixed_real", keep=1, batches=PartlyReal("first", _count(share)))


@register_policy
def fresh_real(share: float = 0.5) -> Policy:
    """Of n rows, `share` are new real ones, the rest the latest synthetic ("fresh data loop", arXiv 2307.01850)."""
    return Policy("fresh_real", keep=1, batches=PartlyReal("fresh", _count(share)))


@register_policy
def weighted_fresh(weight: float = 0.5, real: int | None = None) -> Policy:
    """Train on new real rows at total weight `weight` and n synthetic ones at 1 - `weight` (arXiv 2502.18049).

    Of `real` new real rows (default n) each counts 2 w n / real times, of n synthetic ones 2 (1 - w) times: of as many
    of both, w = 1/2 is pooling. Where the variance is known and k = real / n, the error of a fitted mean is least at
    w = (sqrt(k^2 + 4 k) - k) / 2, for k = 1 the golden ratio's 0.618.
    """
    require_share("weight", weight)
    if real is not None:
        require_integer("real", real, 1)

        def beside(new: Batch, rows: Batch | None) -> Batch:
            assert rows is not None
            n = batch.num_rows(new) if batch.num_rows(new) > 1 else batch.total(new)  # statistics: one row of weight n
            return batch.beside(batch.scale(new, 2 * (1 - weight)), batch.scale(rows, 2 * weight * n / real))

        return Policy("weighted_fresh", keep=1, batches=JoinCounts(beside, "fresh", lambda n: real, lambda n: n))

    def join(new: Batch, rows: Batch | None) -> Batch:
        assert rows is not None
        return batch.stack(batch.scale(new, 2 * (1 - weight)), batch.scale(rows, 2 * weight))

    return Policy("weighted_fresh", keep=1, batches=Join(join, "fresh"))


@register_policy
def mix(real: int | None = None, synthetic: int | None = None, nested: bool = True) -> Policy:
    """Train on `real` real rows and `synthetic` ones of the last fit (default n of each); at T = 2 a one-shot mix.

    Fit 1 is a generator made of n real rows. Fit 2 sees synthetic rows of it beside real ones, which are the first of
    those n (`nested`: the published protocol, arXiv 2410.16713) or others, new each generation. Do synthetic rows help?
    Metrics of generated rows see S of them (one where S is 0): compare mixes by what judges the fit, a test loss say.
    For the mean of a law the squared error is 1 / N + (S / N)^2 / n if the real rows are others, least at S = R n /
    (2 R - n) where R > n / 2; nested it is 1 / N + 1 / n - R^2 / (n N^2), worst at N = 2 R^2 / n (derived here; N = R +
    S, unit variance). Later generations go on alike.

    Args:
      real: R, real rows that each fit sees; nested, at most n.
      synthetic: S, rows generated each generation.
      nested: whether real rows are among those of the first fit.

    Raises:
      UsageError: a number below 0, no rows at all, or (when used) more nested rows than there are.
    """
    for name, value in (("real", real), ("synthetic", synthetic)):
        if value is not None:
            require_integer(name, value, 0)
    if real == synthetic == 0:
        raise UsageError("real and synthetic are both 0: a fit would see no rows")

    def beside(new: Batch, rows: Batch | None) -> Batch:
        assert rows is not None
        return batch.beside(rows, new)

    def count(given: int | None) -> Callable[[int], int]:
        return lambda n: n if given is None else given

    return Policy(
        "mix", keep=1, batches=JoinCounts(beside, "first" if nested else "fresh", count(real), count(synthetic))
    )


@register_policy
def window(k: int = 5) -> Policy:
    """Train on the last `k` batches, the real data being batch 0."""
    require_integer("k", k, 1)
    return Policy("window", keep=k)


@register_policy
def decay(gamma: float = 0.5) -> Policy:
    """Accumulate with weight gamma^age."""
    require_share("gamma", gamma)
    return Policy("decay", fade=gamma)


@register_policy
def contaminated(share: float = 0.5) -> Policy:
    """A pool grows by n rows a generation: `share` of them new real ones, the rest synthetic (arXiv 2602.16065)."""
    return Policy("contaminated", batches=PartlyReal("fresh", _count(share)))


@register_policy
def growing(sizes: Sequence[int] = (), policy: Policy | None = None) -> Policy:
    """Batches of other sizes than n under another policy, ``replace`` by default: those that grow hold collapse off.

    Under ``replace`` the errors of batches add up, 1 / n + sum of 1 / sizes in units of one row's, which stays finite
    where n_t grows faster than t: n_t = n t^(1 + s) (arXiv 2505.13947), here ``[round(n * t**(1 + s)) for t in range(2,
    T + 1)]``. Shares of new real rows are shares of these sizes; of the first real batch there are never more. Fits
    that draw their rows from a pool go on drawing as many.

    Args:
      sizes: rows of the batch that joins after fit 1, 2, ...; the last one goes on. None: n.
      policy: any but those that say how many rows are generated (``mix``, ``weighted_fresh`` with `real`).

    Raises:
      UsageError: a size below 1, or a policy that says how many rows are generated.
    """
    for size in sizes:
        require_integer("sizes", size, 1)
    inner = replace() if policy is None else policy
    if isinstance(inner.batches, JoinCounts):
        raise UsageError(f"policy {inner.name} says how many rows each batch has, so that none of them can grow")
    batches = inner.batches._replace(sizes=tuple(sizes))
    return inner._replace(name="growing" if policy is None else f"growing {inner.name}", batches=batches)


def _count(share: Array | float) -> Callable[[int], Array | int]:
    """Rows that are real: rounded half up, and one row stays on each side whose share is not 0."""
    require_share("share", share)

    def count(n: int) -> Array | int:
        # The slack lets a share such as 0.585 of 100, which no float is exactly, round up traced or not.
        nearest = share * n + 0.5 + 1e-5
        if is_traced(share) or is_traced(n):
            return jnp.clip(jnp.floor(nearest), share > 0, jnp.maximum(n - (share < 1), share > 0)).astype(int)
        return max(min(math.floor(nearest), n - (share < 1)), int(share > 0))

    return count


__all__ = [
    "accumulate",
    "accumulate_subsample",
    "contaminated",
    "decay",
    "fixed_real",
    "fresh_real",
    "growing",
    "mix",
    "replace",
    "weighted_fresh",
    "window",
]
