"""Rows, worlds and metrics: the data that functions of parts pass to each other."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array
Tree = Any  # a pytree of arrays


class OffAt(NamedTuple):
    """The value at which a number of a factory turns something off, as in ``Annotated[Array | float, OffAt(1.0)]``.

    Numbers of factories are inputs of compiled programs, so that other values compile nothing. At this value a number
    is a constant instead, and the program does without what is turned off.

    Attributes:
      value: the value.
    """

    value: float


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


# What a metric may serve as, in ``Metric.role``.
ROLES = ("risk", "excess_risk", "log_variance", "modes", "tail", "hallucination", "ancestors", "diversity")


class Metric(NamedTuple):
    """What a metric means: one number (or one array) a generation.

    Attributes:
      name: name of the variable in a dataset.
      long_name: what it measures, in words.
      units: its units; ``"1"`` for a pure number.
      source: where it is defined: an arXiv number, a DOI, or "definition".
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
      default: whether it is computed where no metrics are asked for; False where it costs much more than a generation.
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
    default: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a value; () for a number."""
        return tuple(length for _, length in self.dims)


class Pretext(NamedTuple):
    """What an encoder of images learns without labels.

    Attributes:
      name: name in the registry.
      heads: widths of the perceptrons that training alone needs, ``(features, pixels) -> {name: (in, ..., out)}``.
      loss: ``(nets, params, target, key, rows [B, D], view) -> scalar``, a mean over images: `nets` apply the encoder
        and its heads (``nets.encoders.EncoderNetworks``), ``view(key, rows)`` is a random view of each, `target` what
        `momentum` says.
      momentum: decay of a moving average of the parameters, which the loss sees as `target`; None: `target` is None.
      call: how a registered factory was called (``core.registry.Call``), or None.
    """

    name: str
    heads: Callable[[int, int], dict[str, tuple[int, ...]]]
    loss: Callable[..., Array]
    momentum: Array | float | None = None
    call: Any = None
