"""How many rows of each kind a batch has: what a policy says of it, answered in one place."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import is_traced, require_integer
from collapse_jax.types import Array, Join, JoinCounts, PartlyReal, Policy, Setting, Source, Synthetic


class BatchRows(NamedTuple):
    """The numbers of rows of the batch at hand.

    Attributes:
      batches: what the policy says of its batches.
      n: rows of a chain's first real batch.
      size: rows of the batch at hand: n, or what the schedule says.
    """

    batches: Synthetic | PartlyReal | Join | JoinCounts
    n: Any
    size: Any

    def at(self, generation: Array | int) -> "BatchRows":
        """Return the numbers of the batch that is made after fit `generation`."""
        if not self.has_schedule:
            return self
        sizes = jnp.asarray(self._sizes)
        return self._replace(size=sizes[jnp.minimum(generation, len(sizes)) - 1])

    @property
    def _sizes(self) -> tuple[int, ...]:
        return () if isinstance(self.batches, JoinCounts) else self.batches.sizes

    @property
    def has_schedule(self) -> bool:
        """Whether batches have sizes of their own; slots of the smaller ones are then empty."""
        return bool(self._sizes)

    @property
    def has_other_shape(self) -> bool:
        """Whether a batch may have another number of rows than the first real one."""
        return self.has_schedule or isinstance(self.batches, JoinCounts)

    @property
    def largest(self) -> Any:
        """Rows of the largest batch: n, or the largest size of the schedule."""
        return max(self.n, *self._sizes) if self.has_schedule else self.n

    @property
    def slots(self) -> Any:
        """Synthetic rows that are drawn, of which `synthetic` are there."""
        return max(self.synthetic, 1) if isinstance(self.batches, JoinCounts) else self.largest

    @property
    def synthetic(self) -> Any:
        """Synthetic rows, those included whose place real rows take."""
        return self.batches.num_synthetic(self.n) if isinstance(self.batches, JoinCounts) else self.size

    @property
    def real(self) -> Array | int | None:
        """Real rows that the policy counts; None where it counts none. Of the first real batch there are n at most."""
        if isinstance(self.batches, PartlyReal):
            return self.batches.num_real(self.size if self.batches.real == "fresh" else self.n)
        return self.batches.num_real(self.n) if isinstance(self.batches, JoinCounts) else None

    @property
    def replaced(self) -> Array | int | None:
        """Synthetic rows whose place real ones take; None where real rows, if any, stand beside."""
        return self.real if isinstance(self.batches, PartlyReal) else None

    @property
    def drawn_real(self) -> int:
        """Fresh real rows that are drawn (static), of which the policy may count fewer."""
        return max(int(self.batches.num_real(self.n)), 1) if isinstance(self.batches, JoinCounts) else self.largest

    def is_real(self, num: int) -> Array:
        """Return which of `num` rows are those that the policy counts as real."""
        return jnp.arange(num) < (0 if self.real is None else self.real)

    def is_there(self, num: int) -> Array:
        """Return which of `num` slots hold a synthetic row."""
        return jnp.arange(num) < self.synthetic


def batch_rows(setting: Setting, policy: Policy, num_samples: Any) -> BatchRows:
    """Return the numbers of rows of a policy's batches.

    Raises:
      UsageError: numbers that the setting or the policy does not allow.
    """
    batches = policy.batches
    takes_a_part = isinstance(batches, PartlyReal) or (isinstance(batches, Join) and bool(batches.sizes))
    source = setting.info.source
    if takes_a_part and policy.real == "fresh" and isinstance(source, Source) and not source.independent:
        raise UsageError(
            f"policy {policy.name}: it takes a part of the new real rows of a draw, and those of source "
            f"{source.name} are spaced evenly, or counted, as a whole"
        )
    if isinstance(batches, JoinCounts):
        if batches.real == "first":
            require_integer(f"policy {policy.name}: real", batches.num_real(num_samples), 0, num_samples)
    elif batches.sizes:
        if is_traced(num_samples):
            raise UsageError(f"policy {policy.name}: num_samples is traced, and its batches need a largest size")
        least = num_samples if policy.real == "first" else max(1, setting.info.min_samples)
        for size in batches.sizes:
            require_integer(f"policy {policy.name}: sizes", size, least, 2**31 - 1)
        if set(batches.sizes) == {num_samples}:  # no schedule: a count that is traced draws other numbers
            batches = batches._replace(sizes=())
    return BatchRows(batches, num_samples, num_samples)
