"""Which data are kept: a policy is a name and what it says of the pool; see ``types.Policy``.

Generation 1 always fits the first real batch of n rows alone. Shares and weights may be tracers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import jax.numpy as jnp

from collapse_jax.core import batch
from collapse_jax.core.errors import UsageError
from collapse_jax.core.gradients import refuse_gradient
from collapse_jax.core.registry import register_policy
from collapse_jax.core.validation import is_traced, require_integer, require_share
from collapse_jax.types import Array, Batch, Join, JoinCounts, OffAt, PartlyReal, Policy, Resample

Share = Annotated[float, OffAt(0.0), OffAt(1.0)]  # of real rows: none, or all, is another policy


@register_policy
def replace() -> Policy:
    """Train on the latest synthetic batch only.

    It is the loop of arXiv 2305.17493, and the "fully synthetic loop" of 2307.01850.

    Example:
      >>> replace().keep
      1
    """
    return Policy("replace", keep=1)


@register_policy
def accumulate() -> Policy:
    """Train on the real data and every synthetic batch so far (arXiv 2404.01413).

    Example:
      >>> accumulate().keep is None
      True
    """
    return Policy("accumulate")


@register_policy
def accumulate_subsample(num: int | None = None, replacement: bool = False) -> Policy:
    """Accumulate, but each fit sees rows drawn anew from the whole pool (arXiv 2410.16713).

    Args:
      num: Number of rows that each fit sees. The default is n.
      replacement: Whether rows are drawn with replacement.

    Raises:
      UsageError: a number below 1.

    Example:
      >>> accumulate_subsample(num=100).resample.num(50)
      100
    """
    if num is not None:
        require_integer("num", num, 1)
    return Policy("accumulate_subsample", resample=Resample(lambda n: n if num is None else num, replacement))


@register_policy
def fixed_real(share: Share = 0.5) -> Policy:
    """Train on n rows, of which a share is from the chain's first real batch, the rest the latest synthetic ones.

    The real rows are chosen once. It is the "synthetic augmentation loop" of arXiv 2307.01850; also 2310.00429.

    Args:
      share: Share of real rows.

    Raises:
      UsageError: a share outside [0, 1].

    Example:
      >>> fixed_real(share=0.3).batches.num_real(50)
      15
    """
    return Policy("fixed_real", keep=1, batches=PartlyReal("first", _count(share)))


@register_policy
def fresh_real(share: Share = 0.5) -> Policy:
    """Train on n rows, of which a share is new real ones, the rest the latest synthetic ones.

    It is the "fresh data loop" of arXiv 2307.01850.

    Args:
      share: Share of real rows.

    Raises:
      UsageError: a share outside [0, 1].

    Example:
      >>> fresh_real(share=0.3).batches.num_real(50)
      15
    """
    return Policy("fresh_real", keep=1, batches=PartlyReal("fresh", _count(share)))


@register_policy
def weighted_fresh(weight: float = 0.5, real: int | None = None) -> Policy:
    """Train on new real rows at total weight w and n synthetic ones at 1 - w (arXiv 2502.18049).

    Of `real` new real rows each counts 2 w n / real times, of n synthetic ones 2 (1 - w) times: of as many of both,
    w = 1/2 is pooling. Where the variance is known and k = real / n, the error of a fitted mean is least at
    w = (sqrt(k^2 + 4 k) - k) / 2, for k = 1 the golden ratio's 0.618.

    Args:
      weight: Weight w of the real rows.
      real: Number of real rows. The default is n.

    Raises:
      UsageError: a weight outside [0, 1], or fewer than one real row.

    Example:
      >>> weighted_fresh(weight=0.618).real
      'fresh'
    """
    require_share("weight", weight)
    if real is not None:
        require_integer("real", real, 1)

        def beside(new: Batch, rows: Batch | None) -> Batch:
            assert rows is not None
            n = (
                batch.num_rows(new) if batch.num_rows(new) > 1 else batch.total_weight(new)
            )  # statistics: one row of weight n
            return batch.join_rows(
                batch.scale_weights(new, 2 * (1 - weight)), batch.scale_weights(rows, 2 * weight * n / real)
            )

        return Policy("weighted_fresh", keep=1, batches=JoinCounts(beside, "fresh", lambda n: real, lambda n: n))

    def join(new: Batch, rows: Batch | None) -> Batch:
        assert rows is not None
        return batch.stack_blocks(batch.scale_weights(new, 2 * (1 - weight)), batch.scale_weights(rows, 2 * weight))

    return Policy("weighted_fresh", keep=1, batches=Join(join, "fresh"))


@register_policy
def mix(real: int | None = None, synthetic: int | None = None, nested: bool = True) -> Policy:
    """Train on R real rows and S synthetic ones of the last fit; at T = 2 it is a one-shot mix.

    Fit 1 is a generator made of n real rows. Fit 2 sees synthetic rows of it beside real ones, which are the first of
    those n (`nested`: the published protocol, arXiv 2410.16713) or others, new each generation. Do synthetic rows help?
    Metrics of generated rows see S of them (one where S is 0): compare mixes by what judges the fit, a test loss say.
    For the mean of a law the squared error is 1 / N + (S / N)^2 / n if the real rows are others, least at S = R n /
    (2 R - n) where R > n / 2; nested it is 1 / N + 1 / n - R^2 / (n N^2), worst at N = 2 R^2 / n (derived here; N = R +
    S, unit variance). Later generations go on alike.

    Args:
      real: Number of real rows that each fit sees, R; nested, at most n. The default is n.
      synthetic: Number of rows generated each generation, S. The default is n.
      nested: Whether real rows are among those of the first fit.

    Raises:
      UsageError: a number below 0, no rows at all, or (when used) more nested rows than there are.

    Example:
      >>> batches = mix(real=20).batches
      >>> batches.num_real(50), batches.num_synthetic(50)
      (20, 50)
    """
    for name, value in (("real", real), ("synthetic", synthetic)):
        if value is not None:
            require_integer(name, value, 0)
    if real == synthetic == 0:
        raise UsageError("real and synthetic are both 0: a fit would see no rows")

    def beside(new: Batch, rows: Batch | None) -> Batch:
        assert rows is not None
        return batch.join_rows(rows, new)

    def count(given: int | None) -> Callable[[int], int]:
        return lambda n: n if given is None else given

    return Policy(
        "mix", keep=1, batches=JoinCounts(beside, "first" if nested else "fresh", count(real), count(synthetic))
    )


@register_policy
def window(k: int = 5) -> Policy:
    """Train on the last few batches, the real data being batch 0.

    Args:
      k: Number of batches that are kept.

    Raises:
      UsageError: a number below 1.

    Example:
      >>> window(k=3).keep
      3
    """
    require_integer("k", k, 1)
    return Policy("window", keep=k)


@register_policy
def decay(gamma: float = 0.5) -> Policy:
    """Accumulate with weight gamma^age.

    Args:
      gamma: Factor on the weight of every batch in each generation.

    Raises:
      UsageError: a factor outside [0, 1].

    Example:
      >>> decay(gamma=0.9).fade
      0.9
    """
    require_share("gamma", gamma)
    return Policy("decay", fade=gamma)


@register_policy
def contaminated(share: Share = 0.5) -> Policy:
    """Grow a pool by n rows a generation, of which a share is new real ones, the rest synthetic (arXiv 2602.16065).

    Args:
      share: Share of real rows.

    Raises:
      UsageError: a share outside [0, 1].

    Example:
      >>> contaminated(share=0.3).batches.num_real(50)
      15
    """
    return Policy("contaminated", batches=PartlyReal("fresh", _count(share)))


@register_policy
def growing(sizes: Sequence[int] = (), policy: Policy | None = None) -> Policy:
    """Give batches other sizes than n under another policy: those that grow hold collapse off.

    Under ``replace`` the errors of batches add up, 1 / n + sum of 1 / sizes in units of one row's, which stays finite
    where n_t grows faster than t: n_t = n t^(1 + s) (arXiv 2505.13947), here ``[round(n * t**(1 + s)) for t in range(2,
    T + 1)]``. Shares of new real rows are shares of these sizes; of the first real batch there are never more. Fits
    that draw their rows from a pool go on drawing as many.

    Args:
      sizes: Rows of the batch that joins after fit 1, 2, ...; the last one goes on. Without sizes, n.
      policy: A policy other than those that say how many rows are generated (``mix``, ``weighted_fresh`` with `real`).
        The default is ``replace``.

    Raises:
      UsageError: a size below 1, or a policy that says how many rows are generated.

    Example:
      >>> growing([70, 90], decay(0.5)).batches.sizes
      (70, 90)
    """
    for size in sizes:
        require_integer("sizes", size, 1)
    inner = replace() if policy is None else policy
    if isinstance(inner.batches, JoinCounts):
        raise UsageError(f"policy {inner.name} says how many rows each batch has, so that none of them can grow")
    batches = inner.batches._replace(sizes=tuple(sizes))
    return inner._replace(name="growing" if policy is None else f"growing {inner.name}", batches=batches)


def _count(share: Array | float) -> Callable[[int], Array | int]:
    """Return a function that counts real rows: rounded half up, and one row stays on each side whose share is not 0."""
    require_share("share", share)

    def count(n: int) -> Array | int:
        # The slack lets a share such as 0.585 of 100, which no float is exactly, round up traced or not.
        nearest = share * n + 0.5 + 1e-5
        if is_traced(share) or is_traced(n):
            nearest = refuse_gradient(nearest, "a share counts rows; weighted_fresh(weight) weighs them")
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
