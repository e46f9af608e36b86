"""One chain of generations as pure functions; it knows no setting and no policy by name."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.core import batch as B
from collapse_jax.core import resampling
from collapse_jax.core.data_plan import DataPlan, plan_data
from collapse_jax.core.errors import UsageError
from collapse_jax.core.pool import Memory, memory_for
from collapse_jax.core.random import stream
from collapse_jax.core.validation import is_traced, require_integer
from collapse_jax.types import Array, Batch, Chain, Curator, Key, Policy, Setting, Tree, World


class State(NamedTuple):
    """A chain between two generations.

    Attributes:
      key: of the chain; generations fold their number into it.
      pool: rows, or statistics where fits can do with them.
      summary: what ``Setting.summarise`` made of the pool, block by block, or None.
      first: the first real rows (or their statistics), where the policy goes on using them, or None.
      inputs: of a label-only loop: what ``Setting.inputs`` made of the first real rows, or these rows; or None.
      params: the last fit, where fits may start from it, or None.
    """

    key: Key
    pool: Batch
    summary: Batch | None
    first: Batch | None
    inputs: Tree
    params: Tree


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
    """One chain of `num_generations` fits, as pure functions of a key and of a world (``setting.world()``).

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
        require_integer("num_samples", num_samples, max(1, setting.min_samples), 2**31 - 1)
    require_integer("num_generations", num_generations, 1, 2**31 - 1)
    if policy.redraw is not None:
        require_integer("num", policy.redraw(num_samples), setting.min_samples)
    if policy.real_rows is not None and policy.join is not None and policy.new_rows is None:
        raise UsageError(f"policy {policy.name}: give real_rows or join, not both")
    if policy.new_rows is not None and policy.real_rows is not None and policy.real == "first":
        require_integer(f"policy {policy.name}: real", policy.real_rows(num_samples), 0, num_samples)
    if policy.sizes:
        policy = _scheduled(setting, policy, num_samples)
    made = plan_data(setting, policy, curator, backend, fold)
    maker = _Maker(setting, policy, curator, made, num_samples, num_generations, num_samples)
    return Chain(maker.init, maker.emit, maker.absorb)


def _scheduled(setting: Setting, policy: Policy, num_samples: int) -> Policy:
    """The policy without its schedule where that says n of every batch: a count that is traced draws other numbers."""
    if is_traced(num_samples):
        raise UsageError(f"policy {policy.name}: num_samples is traced, and its batches need a largest size")
    least = num_samples if policy.real == "first" else max(1, setting.min_samples)
    for size in policy.sizes:
        require_integer(f"policy {policy.name}: sizes", size, least, 2**31 - 1)
    if policy.new_rows is not None:
        raise UsageError(f"policy {policy.name}: give new_rows or sizes, not both")
    return policy._replace(sizes=()) if set(policy.sizes) == {num_samples} else policy


def simulate(chain: Chain, key: Key, world: World, num_generations: int) -> dict[str, Array]:
    """Runs one chain by ``lax.scan``: ``{metric: [num_generations]}``."""

    def step(state: Tree, generation: Array) -> tuple[Tree, dict[str, Array]]:
        state, new, observations = chain.emit(world, state, generation)
        return chain.absorb(world, state, new, generation), observations

    return jax.lax.scan(step, chain.init(key, world), jnp.arange(1, num_generations + 1))[1]


class _Maker(NamedTuple):
    """The functions of a chain; the fields are what they close over."""

    setting: Setting
    policy: Policy
    curator: Curator | None
    plan: DataPlan
    n: int
    horizon: int
    size: Any  # rows of the batch at hand: n, or what the policy's schedule says

    def _at(self, generation: Array | int) -> "_Maker":
        """What makes the batch of a generation."""
        if not self.policy.sizes:
            return self
        sizes = jnp.asarray(self.policy.sizes)
        return self._replace(size=sizes[jnp.minimum(generation, len(sizes)) - 1])

    @property
    def _most(self) -> int:
        """Rows that there is room for in a batch."""
        return max(self.n, *self.policy.sizes) if self.policy.sizes else self.n

    def init(self, key: Key, world: World) -> State:
        real, first = self._first_real(stream(key, "real"), world)
        inputs, batch = self._inputs(real)
        template = jax.eval_shape(self._template, key, world, batch, first, inputs)
        if template.weight.shape[1] == 1 and B.num_rows(template) != B.num_rows(batch):
            raise UsageError(f"policy {self.policy.name}: join must stack blocks of n rows, or weigh each row")
        pool = self._memory(self._compress).start(batch, template)
        summarise = self._summarise(world)
        if summarise is None:
            summary = None
        else:
            evaluated = summarise(batch)  # of rows: settings that have this keep no statistics
            summary = self._memory(summarise).start(evaluated, evaluated)
        params = None if self.setting.init is None else self.setting.init(stream(key, "init"), world)
        return State(key, pool, summary, first if self.policy.real == "first" else None, inputs, params)

    def _template(self, key: Key, world: World, batch: Batch, real: Batch, inputs: Tree) -> Batch:
        """Of what will join the pool; only its shape is used. A curator may weigh each row, which real rows are not."""
        sized = self.policy.new_rows is not None or bool(self.policy.sizes)
        if self.curator is None and not sized:
            return self._joined(batch, real)
        later = self._at(1)
        if sized and self.policy.real == "fresh":
            real = later._fresh_real(key, world)
        params = self.setting.fit(key, batch, None if self.setting.init is None else self.setting.init(key, world))
        return later._joined(later._sample(key, world, params, inputs), real)

    def emit(self, world: World, state: State, generation: Array) -> tuple[State, Batch, dict[str, Array]]:
        key = jax.random.fold_in(state.key, generation)
        train, policy = state.pool, self.policy
        if policy.redraw is not None:
            with jax.named_scope("pool"):
                train = resampling.redraw(stream(key, "redraw"), train, policy.redraw(self.n), policy.replacement)
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
                None if self.plan.fold else self._shown(new),
            )
        return state._replace(params=None if self.setting.init is None else params), new, observations

    def absorb(self, world: World, state: State, new: Batch, generation: Array) -> State:
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
        summary, summarise = state.summary, self._summarise(world)
        if summary is not None and summarise is not None:
            with jax.named_scope("metrics"):  # made at birth
                summary = self._memory(summarise).add(summary, summarise(joined), self.policy.fade, generation)
        return state._replace(pool=pool, summary=summary)

    @property
    def _compress(self) -> Callable[[Batch], Batch] | None:
        return self.setting.compress if self.plan.fold else None

    def _summarise(self, world: World) -> Callable[[Batch], Batch] | None:
        summarise = self.setting.summarise
        return partial(summarise, world) if summarise is not None and self.plan.summarise else None

    def _memory(self, merge: Callable[[Batch], Batch] | None) -> Memory:
        return memory_for(self.policy, merge, self.horizon)

    def _compressed(self, batch: Batch) -> Batch:
        return batch if self._compress is None else self._compress(batch)

    def _summary(self, world: World, train: Batch) -> Tree:
        """The evaluation of what this generation trained on, leaves without the block and row axes, or None."""
        if self.setting.summarise is None:
            return None
        return jax.tree.map(lambda x: x[0, 0], self.setting.summarise(world, train).items)

    def _shown(self, new: Batch) -> Tree:
        """The new rows that metrics look at."""
        rows, _ = B.rows(new)
        return jax.tree.map(lambda x: x[: self.n], rows) if self.policy.sizes else rows

    @property
    def _real_rows(self) -> Array | int | None:
        """Of the first real batch there are never more."""
        if self.policy.real_rows is None:
            return None
        return self.policy.real_rows(self.size if self.policy.real == "fresh" else self.n)

    @property
    def _replaced(self) -> Array | int | None:
        """How many rows of a batch are real in place of new ones."""
        return self._real_rows if self.policy.new_rows is None else None

    @property
    def _new_rows(self) -> Any:
        return self.size if self.policy.new_rows is None else self.policy.new_rows(self.n)

    def _first_real(self, key: Key, world: World) -> tuple[Batch, Batch]:
        """The first batch, of rows or of a law's statistics, and those of its rows that may go with later ones."""
        law, count = self.setting.real_compressed, self._real_rows
        if law is None or not self.plan.law:
            real = B.unit(self.setting.real(key, world, self.n))
            return real, self._share_of(real)
        whole = B.unit(law(key, world, self.n), self.n)
        return whole, whole if count is None else B.unit(law(key, world, self.n, count), count)

    def _inputs(self, real: Batch) -> tuple[Tree, Batch]:
        """What a label-only loop keeps of the inputs of the first batch (None in others), and what joins the pool."""
        if self.plan.shared and self.setting.inputs is not None:
            return self.setting.inputs(real)
        return None if self.setting.relabel is None else B.rows(real)[0], self._compressed(real)

    def _fresh_real(self, key: Key, world: World) -> Batch:
        """New real rows that go with a batch."""
        law, count = self.setting.real_compressed, self._real_rows
        if law is None or not self.plan.law:
            num = self._most if count is None or self._replaced is not None else max(int(count), 1)
            return self._share_of(B.unit(self.setting.real(key, world, num)))
        count = self.size if count is None else count
        return B.unit(law(key, world, count), count)

    def _share_of(self, real: Batch) -> Batch:
        """Of real rows; of statistics, those of the rows that take the place of others."""
        if self.policy.real_rows is not None and (self.plan.fold or self.policy.new_rows is not None):
            real = real._replace(weight=self._is_real(B.num_rows(real)) * B.full_weight(real))
        elif self.policy.sizes:
            real = B.scale(real, jnp.arange(B.num_rows(real)) < self.size)
        return self._compressed(real)

    def _is_real(self, num: int) -> Array:
        """Which of `num` rows are those that a policy mixes in."""
        return jnp.arange(num) < (0 if self._real_rows is None else self._real_rows)

    def _is_there(self, bound: int) -> Array:
        """Which of the slots of a batch are filled."""
        return jnp.arange(bound) < self._new_rows

    def _joined(self, new: Batch, real: Any) -> Batch:
        """What a new batch and its real rows (None where the policy wants none) add to the pool."""
        if self._replaced is not None:
            new = B.beside(real, new) if self.plan.fold else self._mixed(new, real)
        if self.policy.join is not None:
            new = self.policy.join(new, real)
        if self.policy.new_rows is not None and not self.plan.fold:
            new = B.padded(new, self.n)  # the first batch, too, must find a place
        return self._compressed(new)

    def _mixed(self, new: Batch, real: Batch) -> Batch:
        """`new` with its first rows taken from `real`."""
        head, real = self._is_real(self._most), B.padded(real, self._most)
        pick = lambda a, b: jnp.where(head.reshape(1, -1, *[1] * (a.ndim - 2)), a, b)  # noqa: E731
        items = jax.tree.map(pick, real.items, new.items)
        if self.curator is None and not self.policy.sizes:  # all weigh 1, new and real
            return Batch(items, new.weight)
        return Batch(items, pick(B.full_weight(real), B.full_weight(new)))

    def _sample(self, key: Key, world: World, params: Tree, inputs: Tree) -> Batch:
        relabel, statistics = self.setting.relabel, self.setting.relabel_compressed
        if self.plan.shared and statistics is not None:
            return B.unit(statistics(key, params, inputs), self.n)
        bound = self._most if self.policy.new_rows is None else max(self._new_rows, 1)
        if self.plan.fold and relabel is not None:
            # The inputs of slots that real rows fill are not labelled.
            kept = self._is_there(bound)
            kept = kept if self._replaced is None else kept & ~self._is_real(bound)
            return self._compressed(B.unit(relabel(key, params, _resized(inputs, bound)), kept))
        if self.plan.fold and self.setting.sample_compressed is not None:
            count = self._new_rows if self._replaced is None else self.size - self._replaced
            items = self.setting.sample_compressed(key, params, bound, count, self.plan.law)
            return B.unit(items, count)
        num = 1 if self.curator is None else self.curator.oversample
        if relabel is None:
            candidates = B.unit(self.setting.sample(key, params, bound * num))
        else:  # candidates for a slot lie side by side
            slots = _resized(inputs, bound)
            repeated = slots if num == 1 else jax.tree.map(lambda x: jnp.repeat(x, num, axis=0), slots)
            candidates = B.unit(relabel(key, params, repeated))
        some_absent = bool(self.policy.sizes) or bound > self._new_rows
        if some_absent:
            candidates = B.scale(candidates, jnp.repeat(self._is_there(bound), num))
        if self.curator is None:
            return candidates
        with jax.named_scope("curate"):
            new = self.curator.apply(self.setting, stream(key, "curate"), world, params, candidates, bound)
        return B.scale(new, self._is_there(bound)) if some_absent else new  # curators may put real rows anywhere


def _resized(inputs: Tree, num: int) -> Tree:
    """`num` of the inputs, from the first on, and again where they end."""
    resize = lambda x: x if x.shape[0] == num else x[jnp.arange(num) % x.shape[0]]  # noqa: E731
    return jax.tree.map(resize, inputs)
