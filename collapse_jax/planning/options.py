"""Options of a sweep besides its design, and their checks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from collapse_jax.core.sharding import mesh_size
from collapse_jax.core.validation import require_choice, require_integer

PRECISIONS = ("float32", "float64")
RNGS = ("threefry2x32", "rbg", "unsafe_rbg")
BACKENDS = ("auto", "each", "rows", "law")


class Options(NamedTuple):
    """What a sweep is told besides its design (see ``design.Design``); the fields are arguments of ``cj.sweep``."""

    num_chains: int
    metrics: Sequence[str] | None = None
    precision: str = "float32"
    rng: str = "threefry2x32"
    backend: str = "auto"
    chains_per_block: int | None = None
    checkpoint_every: int | None = None
    mesh: Mapping[str, int] | None = None


def check_options(options: Options) -> Options:
    """Return the options with plain numbers.

    Raises:
      UsageError: an option is wrong by itself.
    """
    given = options._asdict()
    counts = {name: given[name] for name in ("num_chains", "chains_per_block", "checkpoint_every")}
    numbers = {name: require_integer(name, value, 1) for name, value in counts.items() if value is not None}
    mesh_size(options.mesh)
    for name, choices in (("precision", PRECISIONS), ("rng", RNGS), ("backend", BACKENDS)):
        require_choice(name, getattr(options, name), choices)
    return Options(**(given | numbers))
