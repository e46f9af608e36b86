"""Readers of the user's own images, and of prepared datasets; every fault is a ``UsageError`` of one line."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_source
from collapse_jax.core.validation import MAX_SEED, one_line, reject, require_flag, require_integer, require_number
from collapse_jax.data import readers
from collapse_jax.data.image_arrays import RawImages, check_size, make_images, read_archive
from collapse_jax.data.image_folders import read_folder
from collapse_jax.data.images import check_imbalance, make_image_source, warn_of_constant_pixels
from collapse_jax.types import Source


@register_source
def image_files(
    path: str,
    labels: bool = True,
    test_fraction: float = 0.2,
    seed: int = 0,
    minority: float = 1.0,
    minority_classes: int = 1,
    white: float | None = None,
    channels: int | None = None,
) -> Source:
    """Read your own images: a folder (a subfolder a class, in the order of their names) or an ``.npz`` archive.

    A split that is given is used: folders ``train`` and ``test``, or arrays ``x_train``, ``y_train``, ``x_test`` and
    ``y_test``. Otherwise a share of the images is held out. Subfolders name the classes
    (``Source.class_names``). Pixels that never change are told in an ``ImageWarning``.

    Args:
      path: a folder of image files (PNG, JPEG, BMP, GIF, WebP or TIFF), all of one size, turned upright as they say,
        transparent pixels on white; or an archive of ``images``, ``[num, height, width]`` or with 1 or 3 channels last,
        bytes of 0..255 or floats of 0..1, and ``labels``, ``[num]``, whole numbers from 0.
      labels: append the class as a last column. False: the files lie in `path` itself, or the archive has no labels.
      test_fraction: share of the rows that is held out, where no split is given.
      seed: draws the split into training and held-out rows.
      minority: share of the images of each rare class that is kept (at least 4), held-out ones too.
      minority_classes: number of rare classes, counted from the last downwards.
      white: the pixel value that becomes 1. The default is 255 for bytes, 65535 for 16 bits and 1 for floats, and 1 for
        bytes of an archive that are 0 and 1 alone; images that stay in the lower half of that need it.
      channels: 1 for grey images, 3 for coloured ones. The default is what the files of a folder are, if they agree.

    Raises:
      UsageError: the files cannot be read, or are no images of one size; they are too large, or several in one file;
        their colours would be changed by reading them; or white is not known.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from collapse_jax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "images.npz"
      ...     np.savez(path, images=np.arange(160, dtype=np.uint8).reshape(10, 4, 4), labels=np.arange(10) % 2)
      ...     source = data.image_files(path)
      >>> source.shape, source.classes
      ((4, 4, 1), 2)
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or not name:
        reject("image_files: path", path, "the path of a folder or of an .npz file")
    labels = require_flag("image_files: labels", labels)
    test_fraction = require_number("image_files: test_fraction", test_fraction, above=0, below=1)
    seed = require_integer("image_files: seed", seed, 0, MAX_SEED)
    rare = check_imbalance("image_files", minority, minority_classes)
    white = None if white is None else require_number("image_files: white", white, above=0)
    if channels not in (None, 1, 3):
        reject("image_files: channels", channels, "1 or 3")
    file, class_names = Path(os.path.expanduser(name)), None
    if file.is_dir():
        parts, class_names = read_folder(file, labels, channels)
    elif file.suffix.lower() == ".npz":
        if channels is not None:
            raise UsageError(f"image_files: channels={channels} is for folders; the arrays of {file} have their own")
        parts = read_archive(file, labels)
    else:
        raise UsageError(f"{file}: no such folder, and no .npz file; give the path of a folder of images or of one")
    images = make_images(str(file), parts, white, of_files=file.is_dir())
    test = images[1] if len(images) == 2 else None
    warn_of_constant_pixels(str(file), images[0])
    return make_image_source("image_files", str(file), images[0], test, test_fraction, seed, rare, class_names)


@register_source
def tfds_images(
    name: str,
    labels: bool = True,
    image: str = "image",
    label: str = "label",
    test_fraction: float = 0.2,
    seed: int = 0,
    minority: float = 1.0,
    minority_classes: int = 1,
    white: float | None = None,
) -> Source:
    """Read images that TensorFlow Datasets has prepared as ``array_record`` (``mnist``, ``cifar10``).

    Nothing is downloaded. The split ``train`` is the real law, and the split ``test`` is held out (a share of ``train``
    where there is none).

    Args:
      name: name of the dataset, with its config where it has several.
      labels: append the class as a last column.
      image: the feature that holds the image.
      label: the feature that holds the class.
      test_fraction: share of the rows that is held out where there is no split ``test``.
      seed: draws that split.
      minority: share of the images of each rare class that is kept (at least 4), held-out ones too.
      minority_classes: number of rare classes, counted from the last downwards.
      white: the pixel value that becomes 1, as in ``image_files``.

    Raises:
      UsageError: the dataset is not prepared, or has no such features; its images are too large, or white is not known.

    Example:
      >>> from collapse_jax import data
      >>> data.tfds_images("mnist").shape  # doctest: +SKIP
      (28, 28, 1)
    """
    labels = require_flag("tfds_images: labels", labels)
    test_fraction = require_number("tfds_images: test_fraction", test_fraction, above=0, below=1)
    seed = require_integer("tfds_images: seed", seed, 0, MAX_SEED)
    rare = check_imbalance("tfds_images", minority, minority_classes)
    white = None if white is None else require_number("tfds_images: white", white, above=0)
    for key, value in (("name", name), ("image", image), ("label", label)):
        if not isinstance(value, str) or not value:
            reject(f"tfds_images: {key}", value, "a word")
    builder = readers.open_prepared_dataset("tfds_images", name)
    fields = [image, label] if labels else [image]
    missing = [field for field in fields if field not in builder.info.features]
    if missing or "train" not in builder.info.splits:
        have = f"splits {', '.join(builder.info.splits)}; features {', '.join(sorted(builder.info.features))}"
        need = f"feature {missing[0]!r}" if missing else "split 'train'"
        raise UsageError(f"tfds_images: {name!r} has no {need}; it has {have}")
    splits = [split for split in ("train", "test") if split in builder.info.splits]
    images = make_images(name, [_read_split(builder, split, name, fields) for split in splits], white)
    test = images[1] if len(images) == 2 else None
    warn_of_constant_pixels(name, images[0])
    return make_image_source("tfds_images", name, images[0], test, test_fraction, seed, rare)


def _read_split(builder: Any, split: str, name: str, fields: list[str]) -> RawImages:
    where, source = f"{name} ({split})", builder.as_data_source(split)
    if len(source) == 0:
        raise UsageError(f"{where}: no images")
    check_size(where, len(source), np.shape(source[0][fields[0]]))
    examples = source.__getitems__(range(len(source)))
    pictures = [np.asarray(example[fields[0]]) for example in examples]
    sizes = {picture.shape for picture in pictures}
    if len(sizes) > 1:
        raise UsageError(f"{where}: images of several sizes, {one_line(sorted(sizes))}; give one size")
    label = np.asarray([example[fields[1]] for example in examples]) if len(fields) == 2 else None
    return RawImages(np.stack(pictures), label)
