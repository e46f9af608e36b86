"""Settings, policies and curators: groups of functions that come or stay away together."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from collapse_jax.types.data import Array, Key, Metric, Tree, World
from collapse_jax.types.functions import (
    ChainWorldFn,
    CompressFn,
    CountFn,
    CurateFn,
    FitFn,
    InitFn,
    JoinFn,
    ObserveFn,
    PrepareInputsFn,
    RelabelFn,
    RelabelStatisticsFn,
    RewriteFn,
    RowScoreFn,
    SampleChildrenFn,
    SampleFn,
    SampleRealFn,
    SampleRealStatisticsFn,
    SampleStatisticsFn,
    SummarizeFn,
    WorldFn,
)
from collapse_jax.types.sources import Source, Symbols


class SufficientStatistics(NamedTuple):
    """Finite statistics that a fit needs of its rows: pools fold into one row of them, whatever their age.

    Attributes:
      compress: see ``CompressFn``.
      sample: see ``SampleStatisticsFn``.
      sample_real: see ``SampleRealStatisticsFn``; None where the law of real rows' statistics is not known.
    """

    compress: CompressFn
    sample: SampleStatisticsFn
    sample_real: SampleRealStatisticsFn | None = None


class LabelStatistics(NamedTuple):
    """Statistics of labels, for loops in which all batches share the inputs of the first.

    Attributes:
      prepare_inputs: see ``PrepareInputsFn``; what it keeps says whether each label is drawn, or only their law.
      relabel: see ``RelabelStatisticsFn``.
    """

    prepare_inputs: PrepareInputsFn
    relabel: RelabelStatisticsFn


class LabelOnly(NamedTuple):
    """A loop in which models give labels only: inputs are those of a chain's first real rows.

    Row i of a batch has input i; rows that a policy calls fresh bring inputs of their own.

    Attributes:
      relabel: see ``RelabelFn``; it takes the place of ``Setting.sample``.
      statistics: of labels, beside ``Setting.statistics``; None where there are none.
    """

    relabel: RelabelFn
    statistics: LabelStatistics | None = None


class Extras(NamedTuple):
    """What some policies, curators and metrics can use, and no setting needs.

    Attributes:
      summarize: see ``SummarizeFn``; not beside ``Setting.statistics``.
      sample_children: see ``SampleChildrenFn``; None where new rows do not each come from one training row.
      rewrite: see ``RewriteFn``; None where rows are no sequences.
      row_scores: by name, see ``RowScoreFn``; the first is what curators take by default.
      chain_world: see ``ChainWorldFn``; None where all chains share the world.
      sized_summarize: ``(num_rows) -> SummarizeFn``: `summarize` with room for a pool of at most so many rows, where
        its size depends on them.
    """

    summarize: SummarizeFn | None = None
    sample_children: SampleChildrenFn | None = None
    rewrite: RewriteFn | None = None
    row_scores: Mapping[str, RowScoreFn] = MappingProxyType({})
    chain_world: ChainWorldFn | None = None
    sized_summarize: Callable[[int], SummarizeFn] | None = None


class Info(NamedTuple):
    """What is known of a setting without running it.

    Attributes:
      source: the real law, of rows in columns or of symbols: what predictions know of it.
      call: how a registered factory was called (``core.registry.Call``), or None.
      min_samples: fewest rows a fit is defined for.
      largest_block: chains to run side by side where no better number is known; None lets memory decide.
      differentiable: whether, at a fixed key, new rows and fits are smooth functions of the fit before: gradients then
        reach through generations. Not where rows or symbols are chosen among others.
      world_shapes: where making the world takes compute (a base model): what ``Setting.world`` gives, but only the
        shapes (``jax.ShapeDtypeStruct``) of what is computed, beside all that it follows from (what is no array, as a
        key of a dict). Runs are planned by it, and one world serves wherever these agree. None: the world itself.
    """

    source: Source | Symbols | None = None
    call: Any = None
    min_samples: int = 1
    largest_block: int | None = None
    differentiable: bool = False
    world_shapes: WorldFn | None = None


class Setting(NamedTuple):
    """What is fitted, and how the fit generates. A factory makes it; its floats may be tracers, its ints are shapes.

    Attributes:
      name: as in the registry.
      world: see ``WorldFn``.
      sample_real: see ``SampleRealFn``.
      fit: see ``FitFn``.
      sample: see ``SampleFn``.
      observe: see ``ObserveFn``.
      metrics: what ``observe`` returns.
      init: see ``InitFn``; for settings trained by gradients.
      statistics: where finite statistics of the rows are sufficient.
      label_only: where a chain's inputs stay, and its models give labels.
      extras: what policies, curators and metrics may use beside these.
      info: what is known without running it.
    """

    name: str
    world: WorldFn
    sample_real: SampleRealFn
    fit: FitFn
    sample: SampleFn
    observe: ObserveFn
    metrics: tuple[Metric, ...]
    init: InitFn | None = None
    statistics: SufficientStatistics | None = None
    label_only: LabelOnly | None = None
    extras: Extras = Extras()
    info: Info = Info()


RealRows = Literal["first", "fresh"]
"""Which real rows go with a batch: those of a chain's first real batch, or new ones each time."""


class Synthetic(NamedTuple):
    """Each batch has n synthetic rows.

    Attributes:
      sizes: rows of the batch that joins after fit 1, 2, ... in place of n, the last of them going on; (): n.
    """

    sizes: tuple[int, ...] = ()


class PartlyReal(NamedTuple):
    """Each batch has n rows, of which real ones take the place of some synthetic ones.

    Attributes:
      real: which real rows.
      num_real: ``(n) -> count`` of real rows; fresh ones are counted by the rows of the batch at hand.
      sizes: as in ``Synthetic``.
    """

    real: RealRows
    num_real: CountFn
    sizes: tuple[int, ...] = ()


class Join(NamedTuple):
    """Each batch is what a function makes of n synthetic rows, and of as many real ones beside them.

    Attributes:
      function: see ``JoinFn``.
      real: which real rows; None: the function is given none.
      sizes: as in ``Synthetic``.
    """

    function: JoinFn
    real: RealRows | None = None
    sizes: tuple[int, ...] = ()


class JoinCounts(NamedTuple):
    """Each batch is what a function makes of so many synthetic rows, and of so many real ones beside them.

    Attributes:
      function: see ``JoinFn``.
      real: which real rows.
      num_real: ``(n) -> count`` of real rows.
      num_synthetic: ``(n) -> count`` of synthetic rows (static).
    """

    function: JoinFn
    real: RealRows
    num_real: CountFn
    num_synthetic: Callable[[int], int]


class Resample(NamedTuple):
    """Each fit sees rows drawn anew from the whole pool.

    Attributes:
      num: ``(n) -> num`` (static): how many.
      replacement: whether they are drawn with replacement.
    """

    num: Callable[[int], int]
    replacement: bool = False


class Policy(NamedTuple):
    """Which data are kept: ``pool <- last keep of (fade * pool) + batch``. Floats may be tracers.

    Attributes:
      name: as in the registry.
      keep: generations kept (static); None keeps all.
      fade: what each generation multiplies the weights of the pool by before the new batch joins it.
      batches: what a batch is made of.
      resample: which rows of the pool a fit sees; None: all.
      call: as in ``Info``.
    """

    name: str
    keep: int | None = None
    fade: Array | float = 1.0
    batches: Synthetic | PartlyReal | Join | JoinCounts = Synthetic()
    resample: Resample | None = None
    call: Any = None

    @property
    def real(self) -> RealRows | None:
        """Which real rows go with a batch, or None."""
        return None if isinstance(self.batches, Synthetic) else self.batches.real

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of the batch that joins after fit 1, 2, ..., or () where all have n."""
        return () if isinstance(self.batches, JoinCounts) else self.batches.sizes


class Curator(NamedTuple):
    """What is done to a batch at its birth.

    Attributes:
      name: as in the registry.
      oversample: candidates sampled for each row kept (static).
      apply: see ``CurateFn``.
      real_rows: new real rows that it takes for each row kept, in the mean.
      call: as in ``Info``.
    """

    name: str
    oversample: int
    apply: CurateFn
    real_rows: Array | float = 0.0
    call: Any = None


class Chain(NamedTuple):
    """One chain as pure functions, for ``jax.vmap``, ``jax.lax.scan`` and ``jax.grad`` of your own.

    A gradient is exact where ``Info.differentiable`` is true, the policy weighs rows and no curator chooses them.
    Counts of rows and choices of rows, symbols and labels have none: to differentiate them is a ``UsageError``.

    Attributes:
      init: ``(key, world) -> state``.
      emit: ``(world, state, generation) -> (state, new, observations)``: fit, sample, curate, observe.
      absorb: ``(world, state, new, generation) -> state``: the pool after this generation. `generation` counts from 1
        and must not be batched by a vmap: the pool is written in place.
      num_generations: the horizon T that the chain was made for; from generation T + 1 on its memory is too short.
    """

    init: Callable[[Key, World], Tree]
    emit: Callable[[World, Tree, Array], tuple[Tree, Tree, dict[str, Array]]]
    absorb: Callable[[World, Tree, Tree, Array], Tree]
    num_generations: int
