"""Sources of images that the package carries, and what all sources of images share."""

import functools
import math
import warnings
from typing import Literal, NamedTuple

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_source
from collapse_jax.core.validation import MAX_SEED, reject, require_flag, require_integer, require_number
from collapse_jax.data import bundled
from collapse_jax.data.tables import Split, make_empirical_source, split_rows, standardize_split
from collapse_jax.types import Source

PIXELS = 64
WHITE = 16  # largest value of a pixel of the digits
GLYPH_WHITE = 15
LETTERS, FONTS = 26, 22


class Images(NamedTuple):
    """Images ``[num, height, width, channels]`` of pixels in [0, 1], and for each its class, a whole number from 0."""

    image: np.ndarray
    label: np.ndarray | None


class ImageWarning(UserWarning):
    """Images can be read, and some metrics of them are not what one may think."""


class Imbalance(NamedTuple):
    """An imbalance: each of the last `classes` classes keeps this share of its images."""

    share: float
    classes: int


@register_source
def digits(
    pca: int | None = 8,
    standardize: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    labels: bool = False,
    minority: float = 1.0,
    minority_classes: int = 1,
) -> Source:
    """Draw images of handwritten digits, 8x8 pixels in 0..1, as principal components (UCI, 1797 rows).

    Args:
      pca: number of principal components of the train split, ordered by variance; None gives all 64 pixels.
      standardize: subtract the train split's mean and divide by its standard deviation, column by column.
      test_fraction: share of the rows that is held out.
      seed: draws the split into training and held-out rows.
      labels: append the digit as a last column, for settings that learn it.
      minority: share of the images of each rare digit that is kept (at least 4), held-out ones too.
      minority_classes: number of rare digits, counted from 9 downwards.

    Raises:
      UsageError: an argument is out of range.

    Example:
      >>> from collapse_jax import data
      >>> source = data.digits(pca=None, labels=True)
      >>> source.shape, source.classes, source.dim
      ((8, 8, 1), 10, 65)
    """
    pca = None if pca is None else require_integer("digits: pca", pca, 1, PIXELS)
    standardize = require_flag("digits: standardize", standardize)
    test_fraction = require_number("digits: test_fraction", test_fraction, above=0, below=1)
    seed = require_integer("digits: seed", seed, 0, MAX_SEED)
    labels = require_flag("digits: labels", labels)
    rare = check_imbalance("digits", minority, minority_classes)
    images, digit = bundled.read_digits()  # the rows of ``load_digits``, whose library takes half a second to import
    kept = select_kept_rows("digits", digit, 10, rare, seed)
    split = split_rows(images[kept].reshape(-1, PIXELS) / WHITE, test_fraction, seed, "digits")
    if pca is not None:
        split = project_on_components(split, pca)
    split = standardize_split(split) if standardize else split
    shape = (8, 8, 1) if pca is None and not standardize else None
    if not labels:
        return make_empirical_source("digits", split, shape=shape)
    digit_split = split_rows(digit[kept].reshape(-1, 1), test_fraction, seed, "digits")
    return make_empirical_source(
        "digits", Split(*map(np.hstack, zip(split, digit_split, strict=True))), classes=10, shape=shape
    )


@register_source
def glyphs(
    labels: Literal["letter", "font", "none"] = "letter",
    letters: int = LETTERS,
    test_fraction: float = 0.2,
    seed: int = 0,
    minority: float = 1.0,
    minority_classes: int = 1,
) -> Source:
    """Draw capital letters in 22 fonts, 28x28 pixels in 0..1, each letter and font 8 times (4,576 rows in all).

    They are turned, scaled, slanted and shifted a little, so that no two are alike (``experiments/render_glyphs.py``).

    Args:
      labels: what the last column holds, the class of an image: its letter, its font, or nothing.
      letters: number of letters, from A on.
      test_fraction: share of the rows that is held out.
      seed: draws the split into training and held-out rows.
      minority: share of the images of each rare class that is kept (at least 4), held-out ones too.
      minority_classes: number of rare classes, counted from the last downwards.

    Raises:
      UsageError: an argument is out of range.

    Example:
      >>> from collapse_jax import data
      >>> data.glyphs(labels="font", letters=2).classes
      22
    """
    if labels not in ("letter", "font", "none"):
        reject("glyphs: labels", labels, "letter, font or none")
    letters = require_integer("glyphs: letters", letters, 1, LETTERS)
    test_fraction = require_number("glyphs: test_fraction", test_fraction, above=0, below=1)
    seed = require_integer("glyphs: seed", seed, 0, MAX_SEED)
    rare = check_imbalance("glyphs", minority, minority_classes)
    glyph = bundled.read_glyphs()
    chosen = glyph.letter < letters
    label = {"letter": glyph.letter, "font": glyph.font, "none": None}[labels]
    images = Images(glyph.image[chosen, ..., None] / np.float32(GLYPH_WHITE), None if label is None else label[chosen])
    return make_image_source("glyphs", "glyphs", images, None, test_fraction, seed, rare)


def make_image_source(
    name: str,
    where: str,
    train: Images,
    test: Images | None,
    test_fraction: float,
    seed: int,
    rare: Imbalance,
    class_names: tuple[str, ...] | None = None,
) -> Source:
    """Return the source whose real rows are the images of `train`, each followed by its label where they have labels.

    Args:
      name: name of the source.
      where: names the images in errors.
      train: images to train on, and to hold some out of.
      test: held-out images; without them, a `test_fraction` of `train` is held out.
      test_fraction: share of the rows that is held out.
      seed: draws the split, and which images of rare classes are kept.
      rare: an imbalance.
      class_names: what each class is called, or None.

    Raises:
      UsageError: there are too few images, or fewer of them than classes.
    """
    shape = train.image.shape[1:]
    given = [images for images in (train, test) if images is not None]
    classes = None
    if train.label is None:
        if rare.share < 1:
            raise UsageError(
                f"{where}: minority={rare.share:g} where images have no labels; give labels, or minority=1"
            )
    else:
        classes = max(int(images.label.max(initial=0)) for images in given if images.label is not None) + 1
        if classes > len(train.label):
            raise UsageError(f"{where}: {classes} classes and {len(train.label)} images; give more images than classes")
        empty = np.bincount(train.label, minlength=classes) == 0
        if empty.any():
            message = f"no image to train on has the label {empty.argmax()}, and the largest is {classes - 1}"
            raise UsageError(
                f"{where}: {message}; number the classes from 0 without gaps (numpy.unique(labels, "
                "return_inverse=True))"
            )
    rows = [_flatten_images(where, images, classes, rare, seed) for images in given]
    split = Split(*rows) if len(rows) == 2 else split_rows(rows[0], test_fraction, seed, where)
    return make_empirical_source(name, split, classes=classes, shape=shape, class_names=class_names)


def warn_of_constant_pixels(where: str, train: Images) -> None:
    """Warn, in a line, of pixels that are the same in all images, and what that does to metrics."""
    flat = train.image.reshape(len(train.image), -1)
    constant = flat.min(0) == flat.max(0)
    if constant.any():
        _warn_once(
            f"{where}: {constant.sum()} of {constant.size} pixel values are the same in all images. There "
            "pixel_variance_ratio is NaN, and the images have no density: of gaussian the log_det_ratio is not "
            "finite and the test_nll infinite"
        )


@functools.cache  # a run makes its parts more than once
def _warn_once(line: str) -> None:
    warnings.warn(line, ImageWarning, stacklevel=5)


def _flatten_images(where: str, images: Images, classes: int | None, rare: Imbalance, seed: int) -> np.ndarray:
    """Return rows ``[num, pixels (+ 1)]`` in float32, which suffices for pixels and halves the memory."""
    flat = np.asarray(images.image.reshape(len(images.image), -1), np.float32)
    if images.label is None or classes is None:
        return flat
    kept = select_kept_rows(where, images.label, classes, rare, seed)
    return np.hstack([flat[kept], images.label[kept, None].astype(np.float32)])


def check_imbalance(where: str, minority: float, minority_classes: int) -> Imbalance:
    """Return the checked arguments of an imbalance."""
    share = require_number(f"{where}: minority", minority, above=0, high=1)
    return Imbalance(share, require_integer(f"{where}: minority_classes", minority_classes, 1))


def select_kept_rows(where: str, label: np.ndarray, classes: int, rare: Imbalance, seed: int) -> np.ndarray:
    """Return the numbers of the rows to keep, in order: of each rare class its share (rounded up), at least 4."""
    if rare.share < 1 and rare.classes >= classes:
        message = f"{rare.classes} of {classes} classes are to be rare; at most {classes - 1} can be"
        raise UsageError(f"{where}: minority_classes={rare.classes}: {message}")
    kept = np.ones(len(label), bool)
    rng = np.random.default_rng(seed)
    for number in range(classes - rare.classes, classes) if rare.share < 1 else ():
        own = rng.permutation(np.flatnonzero(label == number))
        kept[own[max(math.ceil(rare.share * len(own)), 4) :]] = False
    return np.flatnonzero(kept)


def load_digits() -> bundled.Digits:
    """Load the digits through TensorFlow Datasets or, where it cannot be imported, the same rows from our own file."""
    try:
        from collapse_jax.data import tfds_builders
    except Exception:  # a broken protobuf raises more than ImportError, and the rows are the same either way
        return bundled.read_digits()
    return tfds_builders.load_digits()


def project_on_components(split: Split, num: int) -> Split:
    """Return `split` in the first `num` principal axes of its train split, whose mean becomes 0.

    The loading of largest magnitude of each axis is positive. Columns beyond the rank of the train split are 0.
    """
    mean = split.train.mean(0)
    _, singular, axes = np.linalg.svd(split.train - mean, full_matrices=False)
    if num > len(axes):
        raise UsageError(f"digits: {len(split.train)} train rows have {len(axes)} components at most, not pca={num}")
    axes, singular = axes[:num], singular[:num]
    signs = np.sign(axes[np.arange(num), np.abs(axes).argmax(1)])
    # A null axis is arbitrary, and standardising its rounding noise would make it look like data.
    kept = np.where(singular > 1e-10 * singular[0], signs, 0.0)
    return Split(*((part - mean) @ (axes * kept[:, None]).T for part in split))
