"""The laws of sources: rows of one shape, held-out rows that stay, and moments that the rows have."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from collapse_jax.checking.problems import Law, find_impurities
from collapse_jax.types import Array, Key, Source, Tree

NUM = 4096  # rows whose moments are compared with the declared ones
FEW = 5
STANDARD_ERRORS = 6.0  # beyond which a mean is another's


def laws_of_sources(source: Source, seed: int) -> list[Law]:
    """Return the laws of sources, to be tried on `source`."""
    key = jax.random.key(seed)
    return [
        ("rows have one shape", lambda: _find_shapes(source, key)),
        ("a draw is a pure function", lambda: find_impurities("draw", _few(source), key, source.arrays)),
        ("every key has rows of its own", lambda: _find_keys(source, key)),
        ("held-out rows stay", lambda: _find_held_out(source)),
        ("moments are those of the rows", lambda: _find_moments(source, key)),
        ("labels are classes", lambda: _find_labels(source, key)),
    ]


def _few(source: Source) -> Callable[[Key, Tree], Array]:
    return lambda key, arrays: source.draw(key, arrays, FEW)


def _draw(source: Source, key: jax.Array, num: int) -> np.ndarray:
    return np.asarray(jax.jit(source.draw, static_argnums=2)(key, source.arrays, num))


def _find_shapes(source: Source, key: jax.Array) -> Iterator[str]:
    rows = jax.eval_shape(lambda: source.draw(key, source.arrays, FEW))
    if rows.shape != (FEW, source.dim):
        yield f"asked for {FEW} rows, draw returns the shape {rows.shape}, not {(FEW, source.dim)}"
    for name, value, shape in (
        ("mean", source.mean, (source.dim,)),
        ("covariance", source.covariance, (source.dim, source.dim)),
    ):
        if np.shape(value) != shape:
            yield f"{name} has the shape {np.shape(value)}, not {shape}"
    if source.shape is not None:
        columns = int(np.prod(source.shape)) + (source.classes is not None)
        if columns != source.dim:
            yield f"images of the shape {source.shape} have {columns} columns, and dim is {source.dim}"


def _find_keys(source: Source, key: jax.Array) -> Iterator[str]:
    if np.array_equal(_draw(source, key, FEW), _draw(source, jax.random.fold_in(key, 1), FEW)):
        yield "two keys give the same rows"


def _find_held_out(source: Source) -> Iterator[str]:
    first, second = np.asarray(source.held_out(2)), np.asarray(source.held_out(2))
    if first.shape != (2, source.dim):
        yield f"asked for 2 rows, held_out returns the shape {first.shape}, not {(2, source.dim)}"
    elif not np.array_equal(first, second):
        yield "held_out returns other rows when it is called again"


def _find_moments(source: Source, key: jax.Array) -> Iterator[str]:
    rows, mean = np.asarray(_draw(source, key, NUM), float), np.asarray(source.mean, float)
    variance = np.diagonal(np.asarray(source.covariance, float))
    if not np.isfinite(rows).all():
        yield "some rows are not finite"
        return
    z_mean = (rows.mean(0) - mean) / np.sqrt(rows.var(0) / NUM + 1e-12)
    squares = (rows - mean) ** 2
    z_variance = (squares.mean(0) - variance) / np.sqrt(squares.var(0) / NUM + 1e-12)
    for name, z in (("mean", z_mean), ("variance", z_variance)):
        if np.abs(z).max() > STANDARD_ERRORS:
            column = int(np.argmax(np.abs(z)))
            yield f"the {name} of column {column} is {np.abs(z[column]):.0f} standard errors from the declared one"


def _find_labels(source: Source, key: jax.Array) -> Iterator[str]:
    if source.classes is None:
        return
    labels = _draw(source, key, 256)[:, -1]
    if not np.isin(labels, np.arange(source.classes)).all():
        yield f"the last column has values that are no whole numbers from 0 to {source.classes - 1}"
