"""The functions that parts are made of, each as a Protocol.

Functions are called by position, so an implementation may give its arguments other names (``rows_NxD``). All but
``WorldFn`` are pure: they are traced, vmapped over chains and compiled. Leaves of a pytree have the shapes stated.
"""

from typing import TYPE_CHECKING, Protocol

from collapse_jax.types.data import Array, Batch, Key, Tree, World

if TYPE_CHECKING:
    from collapse_jax.types.parts import Setting


class WorldFn(Protocol):
    """Make what all chains of a run share. It runs on the host, once a run.

    Example: ``lambda: World(real=(), truth=jnp.asarray(rate), test=None)``
    """

    def __call__(self) -> World: ...


class SampleRealFn(Protocol):
    """Draw `num` (static) independent rows of the real law, leaves ``[num, ...]``.

    Example: ``lambda key, world, num: jax.random.normal(key, (num, 2))``
    """

    def __call__(self, key: Key, world: World, num: int, /) -> Tree: ...


class FitFn(Protocol):
    """Fit the model to training rows and return its parameters.

    A weight is a multiplicity, and every fit obeys it: a row of weight 0 is absent and may hold anything, NaN too; a
    row of weight 2 is there twice.

    Args:
      key: randomness of the fit.
      train: rows, leaves ``[blocks, rows, ...]``, or rows of statistics where the setting has ``statistics``.
      start: what ``init`` gave, or the last fit's parameters; None without ``init``.

    Example::

        def fit(key, train, start):
            x, weight = batch.weighted_rows(train)
            return jnp.where(weight > 0, weight * x, 0.0).sum() / weight.sum()
    """

    def __call__(self, key: Key, train: Batch, start: Tree, /) -> Tree: ...


class SampleFn(Protocol):
    """Draw `num` (static) rows from a fitted model, leaves ``[num, ...]``.

    Example: ``lambda key, params, num: params + jax.random.normal(key, (num,))``
    """

    def __call__(self, key: Key, params: Tree, num: int, /) -> Tree: ...


class ObserveFn(Protocol):
    """Return the metrics of one generation, ``{name: value}``; what a run does not ask for is dead code.

    Args:
      key: randomness of the metrics.
      world: truth and held-out rows.
      params: the fit.
      summary: what ``Extras.summarize`` made of the training rows, leaves without the axes of blocks and rows; or None.
      generated: the new rows, leaves ``[num, ...]``; None where only their statistics are drawn.

    Example: ``lambda key, world, params, summary, generated: {"log_ratio": jnp.log(params / world.truth)}``
    """

    def __call__(self, key: Key, world: World, params: Tree, summary: Tree, generated: Tree, /) -> dict[str, Array]: ...


class InitFn(Protocol):
    """Return the parameters that a chain's first fit starts from; of the world it may read ``World.real``.

    Example: ``lambda key, world: jnp.zeros(2)``
    """

    def __call__(self, key: Key, world: World, /) -> Tree: ...


class CompressFn(Protocol):
    """Reduce a batch to one row of sufficient statistics: ``fit(compress(batch))`` equals ``fit(batch)``.

    It takes rows and rows of statistics alike, so it also merges. The weight of its row is the total weight.

    Example: the weighted mean, of which a row is its own statistic::

        def compress(train):
            x, weight = batch.weighted_rows(train)
            mass = weight.sum()
            return batch.make_batch((jnp.where(weight > 0, weight * x, 0.0).sum() / mass)[None], mass)
    """

    def __call__(self, train: Batch, /) -> Batch: ...


class SampleStatisticsFn(Protocol):
    """Draw the statistics of `count` sampled rows, leaves ``[1, ...]``.

    Args:
      key: randomness of the rows.
      params: the fit.
      num: static bound of `count`.
      count: how many rows; may be traced.
      exact: draw from the law of the statistics, at a cost that does not depend on `num`; otherwise draw rows and
        compress them.

    Example: the mean of Poisson rows, whose sum is Poisson: ``lambda key, rate, num, count, exact:
    jax.random.poisson(key, rate * count)[None] / count``
    """

    def __call__(self, key: Key, params: Tree, num: int, count: Array | int, exact: bool, /) -> Tree: ...


class SampleRealStatisticsFn(Protocol):
    """Draw, by their law, the statistics of real rows, leaves ``[1, ...]``.

    Args:
      key: it stands for `num` real rows.
      world: truth.
      num: how many rows that key stands for; may be traced.
      count: the statistics are those of the first `count` of them; may be traced. None: of all.
    """

    def __call__(self, key: Key, world: World, num: Array | int, count: Array | int | None = None, /) -> Tree: ...


class RelabelFn(Protocol):
    """Return the same inputs with labels drawn from the fit, leaves ``[num, ...]``.

    Example: ``lambda key, w, rows: Rows(rows.x, rows.x @ w + jax.random.normal(key, rows.y.shape))``
    """

    def __call__(self, key: Key, params: Tree, items: Tree, /) -> Tree: ...


class PrepareInputsFn(Protocol):
    """Return what a chain keeps of its inputs, and a ``Batch`` of one row of statistics of its first labels.

    `first` is a ``Batch`` of rows, or of what ``SufficientStatistics.sample_real`` drew. ``compress`` merges such
    statistics of labels, and ``fit`` takes them.
    """

    def __call__(self, first: Batch, /) -> tuple[Tree, Batch]: ...


class RelabelStatisticsFn(Protocol):
    """Draw the statistics of new labels of a chain's inputs, leaves ``[1, ...]``."""

    def __call__(self, key: Key, params: Tree, inputs: Tree, /) -> Tree: ...


class ChainWorldFn(Protocol):
    """Return the world of one chain, whose real law or held-out rows are its own; it is called once a chain."""

    def __call__(self, key: Key, world: World, /) -> World: ...


class SummarizeFn(Protocol):
    """Reduce a batch to one row of an additive evaluation, which merges by mass as ``CompressFn`` does.

    It is made once, at the batch's birth, and only ``ObserveFn`` sees it.
    """

    def __call__(self, world: World, train: Batch, /) -> Batch: ...


class SampleChildrenFn(Protocol):
    """Draw one new row from each training row, leaves ``[num, ...]``.

    `rows` are drawn in proportion to weight. With the two keys of ``jax.random.split(key)``, one for that draw and one
    for this function, the law must be that of ``SampleFn``.

    Example: a kernel density estimate: ``lambda key, h, rows: rows + h * jax.random.normal(key, rows.shape)``
    """

    def __call__(self, key: Key, params: Tree, rows: Tree, /) -> Tree: ...


class RewriteFn(Protocol):
    """Draw each symbol of a row anew with probability `fraction` (may be traced), given those before it as they are.

    Symbols that every row is given to begin with stay.
    """

    def __call__(self, key: Key, params: Tree, items: Tree, fraction: Array | float, /) -> Tree: ...


class RowScoreFn(Protocol):
    """Judge rows, ``[num]``, more being better. `params` is the fit that drew them, and may be ignored.

    Example: ``lambda world, params, rows: rows[:, 0]``
    """

    def __call__(self, world: World, params: Tree, items: Tree, /) -> Array: ...


class CountFn(Protocol):
    """Return a number of rows, given n (or the rows of the batch at hand, where batches have a schedule of sizes).

    Example: ``lambda n: n // 2``
    """

    def __call__(self, n: int, /) -> Array | int: ...


class JoinFn(Protocol):
    """Return what joins the pool, of a new batch and of the real rows that go with it (None where there are none).

    It stacks blocks of n rows, or weighs each row, by ``stack_blocks``, ``join_rows`` and ``scale_weights`` of
    ``core.batch``.

    Example: ``lambda new, real: batch.stack_blocks(batch.scale_weights(new, 0.5), real)``
    """

    def __call__(self, new: Batch, real: Batch | None, /) -> Batch: ...


class CurateFn(Protocol):
    """Return `num` rows, leaves ``[1, num, ...]``, chosen or made from candidates; a row of weight 0 is dropped.

    Args:
      setting: what is fitted.
      key: randomness of the choice.
      world: truth and held-out rows.
      params: the fit that drew the candidates.
      candidates: leaves ``[1, num * oversample, ...]``. Those for one row lie side by side; in a label-only loop they
        have one input.
      num: rows kept.
    """

    def __call__(
        self, setting: "Setting", key: Key, world: World, params: Tree, candidates: Batch, num: int, /
    ) -> Batch: ...
