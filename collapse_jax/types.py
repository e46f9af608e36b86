"""The parts an experiment is made of: NamedTuples of arrays and of pure functions, and nothing else.

- ``pool_0  = {real}``
- ``theta_g = fit(view(pool_{g-1}))``, g = 1 .. T (fit 1 sees real data only)
- ``x_g     = curate(sample(theta_g))``
- ``pool_g  = fade * pool_{g-1} + join(x_g, real)``
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

Array = jax.Array
Key = jax.Array
Tree = Any  # a pytree of arrays


class Batch(NamedTuple):
    """Rows with multiplicities, kept as blocks (one block a generation).

    Attributes:
      items: pytree with leaves ``[blocks, rows, ...]``: data rows, or rows of statistics that each stand
        for ``weight`` data rows.
      weight: ``[blocks, rows]``, or ``[blocks, 1]`` where all rows of a block weigh the same; >= 0. A weight is a
        multiplicity: 0 = absent, 2 = there twice. Every fit obeys it.
    """

    items: Tree
    weight: Array


class World(NamedTuple):
    """What is fixed for all chains of a run; a fit never sees it.

    Attributes:
      real: pytree of arrays that the law of the real data reads (a table, the centres of blobs, or nothing), and that
        ``Setting.init`` may read.
      truth: pytree of arrays that metrics compare with (the mean and covariance of the real law, say).
      test: held-out real rows, ``[num_test, ...]``, or None.
    """

    real: Tree
    truth: Tree
    test: Tree


class Source(NamedTuple):
    """Where real rows come from.

    Attributes:
      name: as in the registry.
      dim: number of columns.
      arrays: pytree of arrays that ``draw`` reads. It travels to compiled code as an argument, never closed over.
      draw: ``(key, arrays, num) -> [num, dim]``, pure, `num` static: independent rows of the real law.
      held_out: ``(num) -> [num, dim]``, run once on the host: test rows, the same at every call; raises ``UsageError``
        where fewer than `num` exist.
      mean: ``[dim]``, of the real law. For a table: of its train split, which *is* the real law.
      covariance: ``[dim, dim]``, of the real law (of a table's train split: divided by the number of rows).
      is_normal: whether the real law is exactly N(mean, covariance).
      modes: ``[modes, dim]``, centres of the modes, where the law is a mixture of equally likely isotropic ones of one
        spread.
      classes: where the last column is a label, a whole number from 0: how many there are (then `arrays` is the table
        ``[rows, dim]`` of which rows are drawn); None where it is not.
      shape: ``(height, width, channels)`` where a row is an image, pixel by pixel in that order, each in [0, 1], before
        its label (then `arrays` is the table ``[rows, dim]`` of which rows are drawn); None where it is not.
      log_density: ``(arrays, rows [num, dim]) -> [num]``, pure: exact log density of the real law in nats, or None
        where it is not known.
      call: how a registered factory was called (``calls.Call``), or None.
    """

    name: str
    dim: int
    arrays: Tree
    draw: Callable[[Key, Tree, int], Array]
    held_out: Callable[[int], ArrayLike]
    mean: ArrayLike
    covariance: ArrayLike
    is_normal: bool = False
    modes: ArrayLike | None = None
    classes: int | None = None
    shape: tuple[int, int, int] | None = None
    log_density: Callable[[Tree, Array], Array] | None = None
    call: Any = None


class Symbols(NamedTuple):
    """A law over K symbols.

    Attributes:
      name: as in the registry of ``data.symbols``.
      probabilities: ``[K]`` in float64; their sum is 1.
      call: as in ``Source``.
    """

    name: str
    probabilities: np.ndarray
    call: Any = None


class Text(NamedTuple):
    """Where sequences of symbols come from, for models that learn to continue them.

    Attributes:
      name: as in the registry of ``data.texts``.
      pieces: the bytes of UTF-8 that each of the V symbols 0 .. V - 1 stands for.
      arrays: pytree of arrays that ``draw`` reads.
      draw: ``(key, arrays, num, length) -> [num, length]``, pure: independent sequences of the real law.
      held_out: ``(num, length) -> [num, length]``, on the host: test sequences that do not overlap, the same at every
        call; raises ``UsageError`` where fewer than `num` exist.
      real_rows: ``(length) -> [rows, columns]``, on the host: all of the real text (of a law without end: a long
        stretch), in which n-grams count as real.
      size: symbols that ``draw`` chooses from, or None where they never end.
      bytes_per_symbol: of the held-out text, in UTF-8, or None.
      log_prob: ``(rows [num, length]) -> [num]``, on the host: exact log probability of sequences that begin as
        drawn ones do, in nats, or None where nobody knows it.
    """

    name: str
    pieces: tuple[bytes, ...]
    arrays: Tree
    draw: Callable[[Key, Tree, int, int], Array]
    held_out: Callable[[int, int], np.ndarray]
    real_rows: Callable[[int], np.ndarray]
    size: int | None = None
    bytes_per_symbol: float | None = None
    log_prob: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def num_symbols(self) -> int:
        """V."""
        return len(self.pieces)

    def decode(self, symbols: np.ndarray) -> str:
        """What symbols ``[length]`` say; bytes that are no character become U+FFFD."""
        return b"".join(self.pieces[i] for i in np.asarray(symbols).tolist()).decode(errors="replace")


class Metric(NamedTuple):
    """What one number (or one array) a generation means.

    Attributes:
      name: of the variable.
      long_name: in words.
      units: ``"1"`` for a pure number.
      source: where it is defined.
      scale: how its axis should be drawn: linear or log.
      role: what ``verdicts.score`` may take it for; several words where it serves for several: ``"risk"`` (a
        population risk), ``"excess_risk"`` (one that is 0 at the truth), ``"log_variance"`` (log of the total variance
        over the truth's), ``"modes"`` (how many are alive), ``"tail"`` (mass on the truth's tails, or symbols alive),
        ``"hallucination"`` (share of samples below the 0.1% quantile of the truth's density), ``"ancestors"`` (share of
        the real rows that have descendants). ``"spread"`` (how much new rows vary, 0 where all are alike) is for
        ``compare``.
      baseline: risk of a trivial model that learns nothing, where it is known (a tracer where it follows from one).
      dims: names and lengths of a value's own dimensions, where it is an array: sample texts are ``(("sample", k),
        ("symbol", length))``, pictures ``(("sample", k), ("y", h), ("x", w))`` and perhaps ``("channel", c)``. Such
        metrics are kept, and left out of tables, curves and verdicts.
      attrs: what else one needs to read such a value, as JSON can write it: of texts, ``symbols`` (see
        ``variables.texts_of``).
    """

    name: str
    long_name: str
    units: str
    source: str
    scale: str = "linear"
    role: str = ""
    baseline: Any = None
    dims: tuple[tuple[str, int], ...] = ()
    attrs: Mapping[str, Any] = MappingProxyType({})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a value: () for a number."""
        return tuple(length for _, length in self.dims)


class Setting(NamedTuple):
    """What is fitted, and how the fit generates. Made by a factory; its floats may be tracers, its ints are shapes.

    Attributes:
      name: as in the registry.
      world: ``() -> World``, on the host, once a run.
      real: ``(key, world, num) -> items``, leaves ``[num, ...]``: rows of the real law.
      fit: ``(key, train, start) -> params``. `train` is a ``Batch`` of rows (or of statistics, where ``compress``
        exists); `start` is what ``init`` gave, or the last fit's parameters, or None.
      sample: ``(key, params, num) -> items``, leaves ``[num, ...]``.
      observe: ``(key, world, params, summary, generated) -> {metric: value}``, once a generation. Whatever the run
        does not ask for is dead code. `summary` is what ``summarise`` made of the training rows (or None); `generated`
        the new rows, leaves ``[n, ...]`` (None where only statistics are drawn).
      metrics: what ``observe`` returns.
      init: ``(key, world) -> params``, once a chain, for settings trained by gradients, or None. Of the world it may
        take what lies in ``World.real`` (a base model, say).
      outline: ``() -> World``, where making the world takes compute (a base model): what ``world`` gives, but only the
        shapes (``jax.ShapeDtypeStruct``) of what is computed, beside all that it follows from (what is no array, as a
        key of a dict). Runs are planned by it, and one world serves wherever outlines agree. None: the world itself.
      compress: ``(Batch) -> Batch`` of one row of sufficient statistics: ``fit(compress(b)) == fit(b)``. It takes rows
        and rows of statistics alike, so it also merges. None where no finite statistic is sufficient.
      sample_compressed: ``(key, params, num, count, exact) -> items``, leaves ``[1, ...]``: the statistics
        of `count` sampled rows (`count` may be traced, `num` is its static bound). `exact` draws them from their law,
        at a cost that does not depend on `num`; otherwise rows are drawn and compressed. Comes with ``compress``.
      real_compressed: ``(key, world, num, count) -> items``, leaves ``[1, ...]``: by their law, the statistics of the
        first `count` (None: all) of the `num` real rows that `key` stands for; either may be traced. None where that
        law is not known.
      relabel: ``(key, params, items) -> items``: the same inputs, with labels drawn from the fit. Where it is given the
        loop is label-only: a chain's inputs are those of its first real rows, and take the place of ``sample``'s.
        Row i of a batch has input i; rows that a policy calls fresh bring inputs of their own.
      inputs: ``(first) -> (inputs, labels)``, for label-only loops in which all batches share the first one's inputs:
        what a chain needs to keep of them, made once, and a ``Batch`` of one row of statistics of its labels, which
        ``compress`` merges and ``fit`` takes. `first` is a ``Batch`` of rows, or of what ``real_compressed`` drew.
      relabel_compressed: ``(key, params, inputs) -> items``, leaves ``[1, ...]``: such statistics of new labels.
        Comes with ``inputs``, which say whether each label is drawn or only their statistics' law.
      summarise: ``(world, Batch) -> Batch`` of one row: an additive evaluation made once, at a batch's birth, and
        merged by mass like ``compress``; only ``observe`` sees it. None where there is none, or ``compress`` exists.
      mutate: ``(key, params, rows) -> items``: new rows, each from the training row in its place; `rows` are drawn in
        proportion to weight. With ``split(key)`` as the two keys this must be ``sample``'s law. None where new rows do
        not each come from one training row.
      rewrite: ``(key, params, items, fraction) -> items``: each symbol of a row drawn anew with probability `fraction`
        (may be traced), given those before it as they are, but for those that every row is given to begin with. None
        where rows are no sequences.
      scores: by name, ``(world, params, items) -> [num]``: what rows can be judged by, more being better; the first
        is what curators take unless told another. `params` is the fit that drew them, and may be ignored.
      reparameterised: whether, at a fixed key, new rows and fits are smooth functions of the fit before: gradients then
        reach through generations. Not where rows or symbols are chosen among others.
      min_samples: fewest rows a fit is defined for.
      block_hint: chains to run side by side where no better number is known; None lets memory decide.
      source: the real law, of rows in columns or of symbols: what predictions know of it.
      call: as in ``Source``.
    """

    name: str
    world: Callable[[], World]
    real: Callable[[Key, World, int], Tree]
    fit: Callable[[Key, Batch, Tree], Tree]
    sample: Callable[[Key, Tree, int], Tree]
    observe: Callable[..., dict[str, Array]]
    metrics: tuple[Metric, ...]
    init: Callable[[Key, World], Tree] | None = None
    outline: Callable[[], World] | None = None
    compress: Callable[[Batch], Batch] | None = None
    sample_compressed: Callable[..., Tree] | None = None
    real_compressed: Callable[..., Tree] | None = None
    relabel: Callable[[Key, Tree, Tree], Tree] | None = None
    inputs: Callable[[Batch], tuple[Tree, Batch]] | None = None
    relabel_compressed: Callable[[Key, Tree, Tree], Tree] | None = None
    summarise: Callable[[World, Batch], Batch] | None = None
    mutate: Callable[[Key, Tree, Tree], Tree] | None = None
    rewrite: Callable[[Key, Tree, Tree, Array | float], Tree] | None = None
    scores: Mapping[str, Callable[[World, Tree, Tree], Array]] = MappingProxyType({})
    reparameterised: bool = False
    min_samples: int = 1
    block_hint: int | None = None
    source: Source | Symbols | None = None
    call: Any = None


class Pretext(NamedTuple):
    """What an encoder of images learns without labels.

    Attributes:
      name: as in the registry of ``objectives``.
      heads: ``(features, pixels) -> {name: (in, ..., out)}``: widths of the perceptrons that training alone needs.
      loss: ``(nets, params, target, key, rows [B, D], view) -> scalar``, a mean over images: `nets` apply the encoder
        and its heads (``nets.encoders.EncoderNetworks``), ``view(key, rows)`` is a random view of each, `target` what
        `momentum` says.
      momentum: decay of a moving average of the parameters, which the loss sees as `target`; None: `target` is None.
      call: as in ``Source``.
    """

    name: str
    heads: Callable[[int, int], dict[str, tuple[int, ...]]]
    loss: Callable[..., Array]
    momentum: Array | float | None = None
    call: Any = None


class Policy(NamedTuple):
    """Which data are kept: ``pool <- last keep of (fade * pool) + join(new, real)``. Floats may be tracers.

    Attributes:
      name: as in the registry.
      keep: generations kept (static); None keeps all.
      fade: what each generation multiplies the weights of the pool by before the new batch joins it.
      real: the real rows that accompany each new batch: ``"first"`` (a chain's first real batch), ``"fresh"`` (n
        new ones), or None.
      real_rows: ``(n) -> count``: this many of a batch's n rows are the first rows of ``real`` in place of new ones.
      join: ``(new, real) -> Batch``: what joins the pool; default: `new` (after ``real_rows`` took their share).
      new_rows: ``(n) -> count`` (static): synthetic rows of a batch, where they are not n. Real rows then do not take
        their place: `join` finds n of them beside, or as many as ``real_rows`` says.
      sizes: rows of the batch that joins after fit 1, 2, ..., the last of them going on; (): n. `real_rows` is asked of
        them where real rows are fresh.
      redraw: ``(n) -> num`` (static): each fit sees `num` rows drawn anew from the whole pool; None: it sees the pool.
      replacement: whether ``redraw`` draws with replacement.
      call: as in ``Source``.
    """

    name: str
    keep: int | None = None
    fade: Array | float = 1.0
    real: str | None = None
    real_rows: Callable[[int], Array | int] | None = None
    join: Callable[[Batch, Any], Batch] | None = None
    new_rows: Callable[[int], int] | None = None
    sizes: tuple[int, ...] = ()
    redraw: Callable[[int], int] | None = None
    replacement: bool = False
    call: Any = None


class Curator(NamedTuple):
    """What is done to a batch at its birth.

    Attributes:
      name: as in the registry.
      oversample: candidates sampled for each row kept (static). Those for one row lie side by side; in a label-only
        loop they have one input.
      apply: ``(setting, key, world, params, candidates, num) -> Batch`` of `num` rows, leaves ``[1, num, ...]``. A row
        of weight 0 is dropped.
      real_rows: new real rows that it takes for each row kept, in the mean.
      call: as in ``Source``.
    """

    name: str
    oversample: int
    apply: Callable[[Setting, Key, World, Tree, Batch, int], Batch]
    real_rows: Array | float = 0.0
    call: Any = None


class Chain(NamedTuple):
    """One chain as pure functions, for ``jax.vmap``, ``jax.lax.scan`` and ``jax.grad`` of your own.

    Attributes:
      init: ``(key, world) -> state``.
      emit: ``(world, state, generation) -> (state, new, observations)``: fit, sample, curate, observe.
      absorb: ``(world, state, new, generation) -> state``: the pool after this generation. `generation` counts from 1
        and must not be batched by a vmap: the pool is written in place.
    """

    init: Callable[[Key, World], Tree]
    emit: Callable[[World, Tree, Array], tuple[Tree, Tree, dict[str, Array]]]
    absorb: Callable[[World, Tree, Tree, Array], Tree]
