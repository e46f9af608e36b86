"""Rows, worlds, and where rows come from."""

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
      call: how a registered factory was called (``registry.Call``), or None.
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
      call: as in ``Source``.
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
    call: Any = None

    @property
    def num_symbols(self) -> int:
        """V."""
        return len(self.pieces)

    def decode(self, symbols: np.ndarray) -> str:
        """What symbols ``[length]`` say; bytes that are no character become U+FFFD."""
        return b"".join(self.pieces[i] for i in np.asarray(symbols).tolist()).decode(errors="replace")


ROLES = ("risk", "excess_risk", "log_variance", "modes", "tail", "hallucination", "ancestors", "spread")


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
        the real rows that have descendants). ``"diversity"`` (how much new rows vary, 0 where all are alike) is for
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
