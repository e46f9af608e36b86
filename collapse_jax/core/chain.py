"""One chain of generations as pure functions; it knows no setting and no policy by name."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core import batch, resampling
from collapse_jax.core.batch_rows import BatchRows, batch_rows
from collapse_jax.core.data_plan import DataPlan, plan_data
from collapse_jax.core.errors import UsageError
from collapse_jax.core.pool import Memory, choose_memory
from collapse_jax.core.random import stream
from collapse_jax.core.validation import is_traced, require_integer
from collapse_jax.core.worlds import require_own_world
from collapse_jax.types import (
    Array,
    Batch,
    Chain,
    Curator,
    Join,
    JoinCounts,
    Key,
    PartlyReal,
    Policy,
    Setting,
    SummarizeFn,
    Tree,
    World,
)


class State(NamedTuple):
    """A chain between two generations.

    Attributes:
      key: of the chain; generations fold their number into it.
      pool: rows, or statistics where fits can do with them.
      summary: what ``Extras.summarize`` made of the pool, block by block, or None.
      first: the first real rows (or their statistics), where the policy goes on using them, or None.
      inputs: of a label-only loop: what is kept of the inputs of the first real rows, or these rows; or None.
      params: the last fit, where fits may start from it, or None.
      world: the chain's own, where chains do not share it, or None.
    """

    key: Key
    pool: Batch
    summary: Batch | None
    first: Batch | None
    inputs: Tree
    params: Tree
    world: World | None = None


def make_chain(
    setting: Setting,
    policy: Policy,
    *,
    num_samples: int,
    num_generations: int,
    curator: Curator | None = None,
    backend: str = "auto",
    fold: str = "auto",
) -> Chain:
    """Return one chain of `num_generations` fits, as pure functions of a key and of a world (``setting.world()``).

    Args:
      setting: what is fitted.
      policy: which data are kept.
      num_samples: n, rows of the first real batch and of every synthetic one. It may be traced where no rows are drawn.
      num_generations: the horizon T; it bounds the memory of policies that keep everything.
      curator: what is done to each batch at its birth.
      backend: ``"law"`` draws the exact law of the sufficient statistics, ``"rows"`` draws rows, ``"auto"`` takes the
        law where the pair allows it.
      fold: ``"blocks"`` keeps every generation's rows even where statistics would do (slower; a check of the others).

    Raises:
      UsageError: a number below 1, or a backend that the pair does not allow.
    """
    if not is_traced(num_samples):
        require_integer("num_samples", num_samples, max(1, setting.info.min_samples), 2**31 - 1)
    require_integer("num_generations", num_generations, 1, 2**31 - 1)
    if policy.resample is not None:
        require_integer("num", policy.resample.num(num_samples), setting.info.min_samples)
    require_own_world(setting)
    rows = batch_rows(setting, policy, num_samples)
    policy = policy._replace(batches=rows.batches)
    plan = plan_data(setting, policy, curator, backend, fold)
    builder = _ChainBuilder(setting, policy, curator, plan, num_generations, rows)
    return Chain(builder.init, builder.emit, builder.absorb, num_generations)


def simulate(chain: Chain, key: Key, world: World, num_generations: int | None = None) -> dict[str, Array]:
    """Run one chain by ``lax.scan`` and return its metrics.

    Args:
      chain: what ``make_chain`` returned.
      key: the key of the chain; ``chain_keys`` gives those of runs.
      world: what ``setting.world()`` returned.
      num_generations: how many generations to run; default those that the chain was made for. Fewer are the first of
        these.

    Returns:
      ``{metric: [num_generations, ...]}``, generation 1 first.

    Raises:
      UsageError: more generations than the chain was made for, whose memory bounds them.

    Example:
      >>> import jax
      >>> from collapse_jax import policies, settings
      >>> setting = settings.gaussian(dim=1)
      >>> chain = make_chain(setting, policies.accumulate(), num_samples=20, num_generations=5)
      >>> simulate(chain, jax.random.key(0), setting.world())["trace_ratio"].shape
      (5,)
    """
    horizon = chain.num_generations
    if num_generations is not None and require_integer("num_generations", num_generations, 1) > horizon:
        raise UsageError(f"num_generations is {num_generations}, but the chain was made for {horizon}")
    last = horizon if num_generations is None else num_generations

    def step(state: Tree, generation: Array) -> tuple[Tree, dict[str, Array]]:
        state, new, observations = chain.emit(world, state, generation)
        return chain.absorb(world, state, new, generation), observations

    return jax.lax.scan(step, chain.init(key, world), jnp.arange(1, last + 1))[1]


class _ChainBuilder(NamedTuple):
    """The functions of a chain; the fields are what they close over."""

    setting: Setting
    policy: Policy
    curator: Curator | None
    plan: DataPlan
    horizon: int
    rows: BatchRows  # of the batch at hand

    def _at(self, generation: Array | int) -> "_ChainBuilder":
        """Return what makes the batch of a generation."""
        return self._replace(rows=self.rows.at(generation))

    def init(self, key: Key, world: World) -> State:
        own = self.setting.extras.chain_world
        if own is not None:
            world = own(stream(key, "world"), world)
        real, first = self._first_real(stream(key, "real"), world)
        inputs, start = self._inputs(real)
        template = jax.eval_shape(self._template, key, world, start, first, inputs)
        if template.weight.shape[1] == 1 and batch.num_rows(template) != batch.num_rows(start):
            raise UsageError(f"policy {self.policy.name}: join must stack blocks of n rows, or weigh each row")
        pool = self._memory(self._compress).start(start, template)
        summarize = self._summarize(world)
        if summarize is None:
            summary = None
        else:
            evaluated = summarize(start)  # of rows: settings that have this keep no statistics
            summary = self._memory(summarize).start(evaluated, evaluated)
        params = None if self.setting.init is None else self.setting.init(stream(key, "init"), world)
        kept = first if self.policy.real == "first" else None
        return State(key, pool, summary, kept, inputs, params, None if own is None else world)

    def _template(self, key: Key, world: World, start: Batch, real: Batch, inputs: Tree) -> Batch:
        """Return a batch of the shape that will join the pool; a curator may weigh each row, real ones weigh 1."""
        if self.curator is None and not self.rows.has_other_shape:
            return self._joined(start, real)
        later = self._at(1)
        if self.rows.has_other_shape and self.policy.real == "fresh":
            real = later._fresh_real(key, world)
        params = self.setting.fit(key, start, None if self.setting.init is None else self.setting.init(key, world))
        return later._joined(later._sample(key, world, params, inputs), real)

    def emit(self, world: World, state: State, generation: Array) -> tuple[State, Batch, dict[str, Array]]:
        world = world if state.world is None else state.world
        key = jax.random.fold_in(state.key, generation)
        train, resample = state.pool, self.policy.resample
        if resample is not None:
            with jax.named_scope("pool"):
                num = resample.num(self.rows.n)
                train = resampling.redraw_rows(stream(key, "redraw"), train, num, resample.replacement)
        with jax.named_scope("fit"):
            params = self.setting.fit(stream(key, "fit"), train, state.params)
        with jax.named_scope("sample"):
            new = self._at(generation)._sample(stream(key, "sample"), world, params, state.inputs)
        with jax.named_scope("metrics"):
            observations = self.setting.observe(
                stream(key, "observe"),
                world,
                params,
                self._summary(world, train if state.summary is None else state.summary),
                None if self.plan.fold else self._generated(new),
            )
        return state._replace(params=None if self.setting.init is None else params), new, observations

    def absorb(self, world: World, state: State, new: Batch, generation: Array) -> State:
        world = world if state.world is None else state.world
        return self._at(generation)._absorb(world, state, new, generation)

    def _absorb(self, world: World, state: State, new: Batch, generation: Array) -> State:
        real = state.first
        if self.policy.real == "fresh":
            key = stream(jax.random.fold_in(state.key, generation), "real")
            with jax.named_scope("sample"):
                real = self._fresh_real(key, world)
        with jax.named_scope("pool"):
            joined = self._joined(new, real)
            pool = self._memory(self._compress).add(state.pool, joined, self.policy.fade, generation)
        summary, summarize = state.summary, self._summarize(world)
        if summary is not None and summarize is not None:
            with jax.named_scope("metrics"):  # made at birth
                summary = self._memory(summarize).add(summary, summarize(joined), self.policy.fade, generation)
        return state._replace(pool=pool, summary=summary)

    @property
    def _compress(self) -> Callable[[Batch], Batch] | None:
        statistics = self.setting.statistics
        return None if statistics is None or not self.plan.fold else statistics.compress

    def _summarize(self, world: World) -> Callable[[Batch], Batch] | None:
        summarize = self._sized_summarize
        return partial(summarize, world) if summarize is not None and self.plan.summarize else None

    @property
    def _sized_summarize(self) -> SummarizeFn | None:
        """The evaluation of training rows, with room for the largest pool."""
        extras, policy = self.setting.extras, self.policy
        if extras.sized_summarize is None:
            return extras.summarize
        if policy.resample is not None:
            return extras.sized_summarize(policy.resample.num(self.rows.n))
        keep = self.horizon if policy.keep is None else min(policy.keep, self.horizon)
        beside = self.rows.drawn_real if isinstance(self.rows.batches, Join | JoinCounts) else 0
        later = self.rows.slots + beside
        return extras.sized_summarize(max(self.rows.n, later) + (keep - 1) * later)

    def _memory(self, merge: Callable[[Batch], Batch] | None) -> Memory:
        return choose_memory(self.policy, merge, self.horizon)

    def _compressed(self, rows: Batch) -> Batch:
        return rows if self._compress is None else self._compress(rows)

    def _summary(self, world: World, train: Batch) -> Tree:
        """Return the evaluation of what this generation trained on, without the block and row axes, or None."""
        summarize = self._sized_summarize
        return None if summarize is None else jax.tree.map(lambda x: x[0, 0], summarize(world, train).items)

    def _generated(self, new: Batch) -> Tree:
        """Return the new rows that metrics look at."""
        items, _ = batch.weighted_rows(new)
        return jax.tree.map(lambda x: x[: self.rows.n], items) if self.rows.has_schedule else items

    @property
    def _law_of_real(self) -> Any:
        """The law that statistics of real rows are drawn from; None where rows are drawn."""
        return None if self.setting.statistics is None or not self.plan.law else self.setting.statistics.sample_real

    def _first_real(self, key: Key, world: World) -> tuple[Batch, Batch]:
        """Return the first batch, of rows or of statistics, and those of its rows that may go with later ones."""
        law, n, count = self._law_of_real, self.rows.n, self.rows.real
        if law is None:
            real = batch.make_batch(self.setting.sample_real(key, world, n))
            return real, self._share_of(real)
        whole = batch.make_batch(law(key, world, n), n)
        return whole, whole if count is None else batch.make_batch(law(key, world, n, count), count)

    def _inputs(self, real: Batch) -> tuple[Tree, Batch]:
        """Return what a label-only loop keeps of the first batch (None in others), and what joins the pool."""
        label_only = self.setting.label_only
        if label_only is None:
            return None, self._compressed(real)
        if self.plan.shared and label_only.statistics is not None:
            return label_only.statistics.prepare_inputs(real)
        return batch.weighted_rows(real)[0], self._compressed(real)

    def _fresh_real(self, key: Key, world: World) -> Batch:
        """Return new real rows that go with a batch."""
        law = self._law_of_real
        if law is None:
            return self._share_of(batch.make_batch(self.setting.sample_real(key, world, self.rows.drawn_real)))
        count = self.rows.size if self.rows.real is None else self.rows.real
        return batch.make_batch(law(key, world, count), count)

    def _share_of(self, real: Batch) -> Batch:
        """Return the real rows that the policy counts; of statistics, those of the rows that take others' place."""
        if self.rows.real is not None and (self.plan.fold or isinstance(self.rows.batches, JoinCounts)):
            real = batch.scale_weights(
                real._replace(weight=batch.full_weight(real)), self.rows.is_real(batch.num_rows(real))
            )
        elif self.rows.has_schedule:
            real = batch.scale_weights(real, jnp.arange(batch.num_rows(real)) < self.rows.size)
        return self._compressed(real)

    def _joined(self, new: Batch, real: Any) -> Batch:
        """Return what a new batch and its real rows (None where the policy wants none) add to the pool."""
        kind = self.rows.batches
        if isinstance(kind, PartlyReal):
            new = batch.join_rows(real, new) if self.plan.fold else self._mixed(new, real)
        elif isinstance(kind, Join | JoinCounts):
            new = kind.function(new, real)
        if isinstance(kind, JoinCounts) and not self.plan.fold:
            new = batch.pad_rows(new, self.rows.n)  # the first batch, too, must find a place
        return self._compressed(new)

    def _mixed(self, new: Batch, real: Batch) -> Batch:
        """Return `new` with its first rows taken from `real`."""
        head, real = self.rows.is_real(self.rows.largest), batch.pad_rows(real, self.rows.largest)

        def choose(real_leaf: Array, new_leaf: Array) -> Array:
            return jnp.where(head.reshape(1, -1, *[1] * (real_leaf.ndim - 2)), real_leaf, new_leaf)

        items = jax.tree.map(choose, real.items, new.items)
        if self.curator is None and not self.rows.has_schedule:  # all weigh 1, new and real
            return Batch(items, new.weight)
        return Batch(items, choose(batch.full_weight(real), batch.full_weight(new)))

    def _sample(self, key: Key, world: World, params: Tree, inputs: Tree) -> Batch:
        """Return a new batch: statistics where the plan keeps them, or rows, curated."""
        if self.plan.fold:
            return self._sample_statistics(key, params, inputs)
        slots, label_only = self.rows.slots, self.setting.label_only
        num = 1 if self.curator is None else self.curator.oversample
        if label_only is None:
            candidates = batch.make_batch(self.setting.sample(key, params, slots * num))
        else:  # candidates for a slot lie side by side
            kept = _resized(inputs, slots)
            repeated = kept if num == 1 else jax.tree.map(lambda x: jnp.repeat(x, num, axis=0), kept)
            candidates = batch.make_batch(label_only.relabel(key, params, repeated))
        some_absent = self.rows.has_schedule or slots > self.rows.synthetic
        if some_absent:
            candidates = batch.scale_weights(candidates, jnp.repeat(self.rows.is_there(slots), num))
        if self.curator is None:
            return candidates
        with jax.named_scope("curate"):  # which may put real rows anywhere, into empty slots too
            new = self.curator.apply(self.setting, stream(key, "curate"), world, params, candidates, slots)
        return batch.scale_weights(new, self.rows.is_there(slots)) if some_absent else new

    def _sample_statistics(self, key: Key, params: Tree, inputs: Tree) -> Batch:
        """Return the statistics of a new batch."""
        slots, label_only, statistics = self.rows.slots, self.setting.label_only, self.setting.statistics
        replaced = self.rows.replaced
        if self.plan.shared and label_only is not None and label_only.statistics is not None:
            return batch.make_batch(label_only.statistics.relabel(key, params, inputs), self.rows.n)
        if label_only is not None:
            # The inputs of slots that real rows fill are not labelled.
            kept = self.rows.is_there(slots)
            kept = kept if replaced is None else kept & ~self.rows.is_real(slots)
            return self._compressed(batch.make_batch(label_only.relabel(key, params, _resized(inputs, slots)), kept))
        assert statistics is not None
        count = self.rows.synthetic if replaced is None else self.rows.size - replaced
        return batch.make_batch(statistics.sample(key, params, slots, count, self.plan.law), count)


def _resized(inputs: Tree, num: int) -> Tree:
    """Return `num` of the inputs, from the first on, and again where they end."""
    return jax.tree.map(lambda x: x if x.shape[0] == num else x[jnp.arange(num) % x.shape[0]], inputs)
