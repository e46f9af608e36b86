"""Sources of images."""

import numpy as np

from collapse_jax import check as checks
from collapse_jax.calls import recorded
from collapse_jax.data import embedded
from collapse_jax.data.tables import Split, empirical, split_rows, standardized
from collapse_jax.types import Source

PIXELS = 64
WHITE = 16  # the largest value of a pixel


@recorded
def digits(
    pca: int | None = 8,
    standardize: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    labels: bool = False,
) -> Source:
    """Images of handwritten digits, 8x8 pixels in 0..1, as their principal components (UCI, 1797 rows).

    Args:
      pca: number of principal components of the train split, ordered by variance; None gives all 64 pixels.
      standardize: subtract the train split's mean and divide by its standard deviation, column by column.
      test_fraction: share of the rows that is held out.
      seed: draws the split.
      labels: append the digit as a last column, for settings that learn it.
    """
    pca = None if pca is None else checks.integer("digits", "pca", pca, 1, PIXELS)
    standardize = checks.flag("digits", "standardize", standardize)
    test_fraction = checks.fraction("digits", "test_fraction", test_fraction)
    seed = checks.seed_number("digits", seed)
    labels = checks.flag("digits", "labels", labels)
    images, digit = load_digits()
    split = split_rows(images.reshape(-1, PIXELS) / WHITE, test_fraction, seed, "digits")
    if pca is not None:
        split = principal_components(split, pca)
    split = standardized(split) if standardize else split
    if not labels:
        return empirical("digits", split)
    digit_split = split_rows(digit.reshape(-1, 1), test_fraction, seed, "digits")
    return empirical("digits", Split(*map(np.hstack, zip(split, digit_split, strict=True))), classes=10)


def load_digits() -> embedded.Digits:
    """Images and labels through TensorFlow Datasets; where it cannot be imported, the same rows from our own file."""
    try:
        from collapse_jax.data import tfds_builders
    except Exception:  # a broken protobuf raises more than ImportError, and the rows are the same either way
        return embedded.read_digits()
    return tfds_builders.load_digits()


def principal_components(split: Split, num: int) -> Split:
    """`split` in the first `num` principal axes of its train split, whose mean becomes 0.

    The loading of largest magnitude of each axis is positive. Columns beyond the rank of the train split are 0.
    """
    mean = split.train.mean(0)
    _, singular, axes = np.linalg.svd(split.train - mean, full_matrices=False)
    if num > len(axes):
        raise ValueError(f"digits: {len(split.train)} train rows have {len(axes)} components at most, not pca={num}")
    axes, singular = axes[:num], singular[:num]
    signs = np.sign(axes[np.arange(num), np.abs(axes).argmax(1)])
    # a null axis is arbitrary, and standardising its rounding noise would make it look like data
    kept = np.where(singular > 1e-10 * singular[0], signs, 0.0)
    return Split(*((part - mean) @ (axes * kept[:, None]).T for part in split))
