"""Where real data come from: rows in columns, symbols, and texts."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from jax.typing import ArrayLike

from collapse_jax.types.data import Array, Key, Tree


class DrawRowsFn(Protocol):
    """Draw `num` (static) rows of the real law, ``[num, dim]``; see ``Source.independent``. It is pure.

    Example: ``lambda key, arrays, num: jax.random.normal(key, (num, 2))``
    """

    def __call__(self, key: Key, arrays: Tree, num: int, /) -> Array: ...


class HeldOutRowsFn(Protocol):
    """Return `num` test rows, ``[num, dim]``, the same at every call. It runs once, on the host.

    It raises ``UsageError`` where fewer than `num` exist.

    Example: ``lambda num: np.random.default_rng(0).normal(size=(num, 2))``
    """

    def __call__(self, num: int, /) -> ArrayLike: ...


class LogDensityFn(Protocol):
    """Return the exact log density of the real law in nats at `rows` ``[num, dim]``, ``[num]``. It is pure."""

    def __call__(self, arrays: Tree, rows: Array, /) -> Array: ...


class OwnData(NamedTuple):
    """What a chain has of its own where its real law, or only its held-out rows, are drawn for it.

    Attributes:
      arrays: what ``Source.draw`` reads, in the chain.
      covariance: covariance of the chain's real law, ``[dim, dim]``.
      test: held-out rows, ``[num, dim]``.
    """

    arrays: Tree
    covariance: Array
    test: Array


class DrawOwnFn(Protocol):
    """Draw what a chain has of its own, with `num` (static) held-out rows. It is pure."""

    def __call__(self, key: Key, num: int, /) -> OwnData: ...


class DrawTextFn(Protocol):
    """Draw `num` independent sequences of `length` symbols of the real law, ``[num, length]``. It is pure."""

    def __call__(self, key: Key, arrays: Tree, num: int, length: int, /) -> Array: ...


class HeldOutTextFn(Protocol):
    """Return `num` test sequences that do not overlap, ``[num, length]``, the same at every call, on the host.

    It raises ``UsageError`` where fewer than `num` exist.
    """

    def __call__(self, num: int, length: int, /) -> np.ndarray: ...


class RealTextFn(Protocol):
    """Return all of the real text, ``[rows, columns]``, on the host: n-grams in it count as real.

    A law without end gives a long part of it.
    """

    def __call__(self, length: int, /) -> np.ndarray: ...


class LogProbabilityFn(Protocol):
    """Return the exact log probability, in nats, of sequences that begin as drawn ones do, ``[num]``, on the host."""

    def __call__(self, rows: np.ndarray, /) -> np.ndarray: ...


class Source(NamedTuple):
    """Where real rows come from.

    Attributes:
      name: name in the registry.
      dim: number of columns.
      arrays: pytree of arrays that ``draw`` reads. It travels to compiled code as an argument, never closed over.
      draw: see ``DrawRowsFn``.
      held_out: see ``HeldOutRowsFn``.
      mean: mean of the real law, ``[dim]``. The law of a table is that of its train split.
      covariance: covariance of the real law, ``[dim, dim]``. That of a train split is divided by the number of rows.
      is_normal: whether the real law is exactly N(mean, covariance).
      modes: centres of the modes, ``[modes, dim]``, where the law is a mixture of equally likely isotropic ones of one
        standard deviation; else None.
      classes: number of classes, where the last column is a label, a whole number from 0 (then `arrays` is the table
        ``[rows, dim]`` of which rows are drawn); else None.
      shape: ``(height, width, channels)`` where a row is an image, pixel by pixel in that order, each in [0, 1], before
        its label (then `arrays` is the table ``[rows, dim]`` of which rows are drawn); else None.
      log_density: see ``LogDensityFn``; None where it is not known.
      independent: whether the rows of a draw are independent of each other. Where they are not (evenly spaced, in
        random order), moments and densities are those of many rows, predictions of theory do not apply, and policies
        that take a part of what is drawn anew are refused.
      class_names: what each class is called, where names are known (labels of a table that are words, or 1 and 2).
      num_held_out: number of rows that ``held_out`` has; None where they never end.
      draw_own: see ``DrawOwnFn``; None where all chains share the law and the held-out rows. Settings without
        ``Extras.chain_world`` are refused where it is given, and predictions of theory do not apply.
      call: how a registered factory was called (``core.registry.Call``), or None.
    """

    name: str
    dim: int
    arrays: Tree
    draw: DrawRowsFn
    held_out: HeldOutRowsFn
    mean: ArrayLike
    covariance: ArrayLike
    is_normal: bool = False
    modes: ArrayLike | None = None
    classes: int | None = None
    shape: tuple[int, int, int] | None = None
    log_density: LogDensityFn | None = None
    independent: bool = True
    class_names: tuple[str, ...] | None = None
    num_held_out: int | None = None
    draw_own: DrawOwnFn | None = None
    call: Any = None


class Symbols(NamedTuple):
    """A law over K symbols.

    Attributes:
      name: name in the registry.
      probabilities: ``[K]`` in float64; their sum is 1.
      call: how a registered factory was called (``core.registry.Call``), or None.
    """

    name: str
    probabilities: np.ndarray
    call: Any = None


class Text(NamedTuple):
    """Where sequences of symbols come from, for models that learn to continue them.

    Attributes:
      name: name in the registry.
      pieces: the bytes of UTF-8 that each of the V symbols 0 .. V - 1 stands for.
      arrays: pytree of arrays that ``draw`` reads.
      draw: see ``DrawTextFn``.
      held_out: see ``HeldOutTextFn``.
      real_rows: see ``RealTextFn``.
      size: number of symbols that ``draw`` chooses from, or None where they never end.
      bytes_per_symbol: bytes of UTF-8 a symbol of the held-out text, or None.
      log_prob: see ``LogProbabilityFn``; None where nobody knows it.
      call: how a registered factory was called (``core.registry.Call``), or None.
    """

    name: str
    pieces: tuple[bytes, ...]
    arrays: Tree
    draw: DrawTextFn
    held_out: HeldOutTextFn
    real_rows: RealTextFn
    size: int | None = None
    bytes_per_symbol: float | None = None
    log_prob: LogProbabilityFn | None = None
    call: Any = None

    @property
    def num_symbols(self) -> int:
        """Number of symbols, V."""
        return len(self.pieces)

    def decode(self, symbols: np.ndarray) -> str:
        """Return what symbols ``[length]`` say; bytes that are no character become U+FFFD."""
        return b"".join(self.pieces[i] for i in np.asarray(symbols).tolist()).decode(errors="replace")
