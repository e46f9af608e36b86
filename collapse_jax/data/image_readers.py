"""Readers of the user's own images, and of prepared datasets; every fault is a ``UsageError`` of one line."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.registry import register_source
from collapse_jax.core.validation import MAX_SEED, one_line, reject, require_flag, require_integer, require_number
from collapse_jax.data import readers
from collapse_jax.data.images import Images, check_imbalance, make_image_source
from collapse_jax.types import Source

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_MAX_CLASSES = 1000


@register_source
def image_files(
    path: str,
    labels: bool = True,
    test_fraction: float = 0.2,
    seed: int = 0,
    minority: float = 1.0,
    minority_classes: int = 1,
) -> Source:
    """Read your own images: a folder (a subfolder a class, in the order of their names) or an ``.npz`` archive.

    Args:
      path: a folder of image files, all of one size (transparent pixels become white); or an archive of ``images``,
        ``[num, height, width]`` or with 1 or 3 channels last, bytes of 0..255 or floats of 0..1, and ``labels``,
        ``[num]``, whole numbers from 0.
      labels: append the class as a last column. False: the files lie in `path` itself, or the archive has no labels.
      test_fraction: share of the rows that is held out.
      seed: draws the split into training and held-out rows.
      minority: share of the images of each rare class that is kept (at least 4), held-out ones too.
      minority_classes: number of rare classes, counted from the last downwards.

    Raises:
      UsageError: the files cannot be read, or are no images of one size.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from collapse_jax import data
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "images.npz"
      ...     np.savez(path, images=np.zeros((10, 4, 4), np.uint8), labels=np.arange(10) % 2)
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
    file = Path(os.path.expanduser(name))
    if file.is_dir():
        images = _read_folder(file, labels)
    elif file.suffix.lower() == ".npz":
        images = _read_archive(file, labels)
    else:
        raise UsageError(f"{file}: no such folder, and no .npz file; give the path of a folder of images or of one")
    return make_image_source("image_files", str(file), images, None, test_fraction, seed, rare)


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

    Raises:
      UsageError: the dataset is not prepared, or has no such features.

    Example:
      >>> from collapse_jax import data
      >>> data.tfds_images("mnist").shape  # doctest: +SKIP
      (28, 28, 1)
    """
    labels = require_flag("tfds_images: labels", labels)
    test_fraction = require_number("tfds_images: test_fraction", test_fraction, above=0, below=1)
    seed = require_integer("tfds_images: seed", seed, 0, MAX_SEED)
    rare = check_imbalance("tfds_images", minority, minority_classes)
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
    train = _read_split(builder, "train", name, fields)
    test = _read_split(builder, "test", name, fields) if "test" in builder.info.splits else None
    return make_image_source("tfds_images", name, train, test, test_fraction, seed, rare)


def _read_split(builder: Any, split: str, name: str, fields: list[str]) -> Images:
    source = builder.as_data_source(split)
    examples = source.__getitems__(range(len(source)))
    label = np.asarray([example[fields[1]] for example in examples]) if len(fields) == 2 else None
    return check_images(f"{name} ({split})", [example[fields[0]] for example in examples], label)


def _read_folder(folder: Path, labels: bool) -> Images:
    """Read a folder of images: grey if all files are grey, otherwise RGB."""
    groups = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if labels else [folder]
    if not groups:
        raise UsageError(f"{folder}: no subfolders; a class is a subfolder of images, or give labels: false")
    files = [(path, number) for number, group in enumerate(groups) for path in _list_image_files(group)]
    from PIL import Image

    pictures = []
    for path, _ in files:
        try:
            with Image.open(path) as opened:
                pictures.append(_read_pixels(opened))
        except Exception as error:  # damaged files fail in many ways
            raise UsageError(f"{path}: not a readable image ({one_line(error)}); write it again as PNG") from None
        if pictures[-1].shape[:2] != pictures[0].shape[:2]:
            (h, w), (height, width) = pictures[-1].shape[:2], pictures[0].shape[:2]
            raise UsageError(f"{path}: {w} x {h} pixels where {files[0][0].name} has {width} x {height}; give one size")
    grey = all(picture.ndim == 2 for picture in pictures)
    if len({picture.dtype for picture in pictures}) > 1:
        pictures = [p / np.float32(255) if p.dtype == np.uint8 else p for p in pictures]
    same = [p if grey or p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pictures]
    return check_images(str(folder), np.stack(same), np.array([number for _, number in files]) if labels else None)


def _read_pixels(opened: Any) -> np.ndarray:
    """Return the pixels of a PIL image on white, grey ``[height, width]`` or RGB: bytes, or floats for 16 bits."""
    from PIL import Image

    if opened.mode in ("I", "F"):
        raise UsageError(f"its pixels, of mode {opened.mode}, have no known white")
    if opened.mode.startswith("I;16"):
        return np.asarray(opened).astype(np.float32) / 65535
    grey = opened.mode in ("1", "L", "LA")
    if opened.has_transparency_data:
        white = Image.new("RGBA", opened.size, "white")
        opened = Image.alpha_composite(white, opened.convert("RGBA"))
    return np.asarray(opened.convert("L" if grey else "RGB"))


def _list_image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{folder}: no images; it needs files that end in one of {', '.join(SUFFIXES)}")
    return files


def _read_archive(file: Path, labels: bool) -> Images:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            read = {name: arrays[name] for name in ("images", "labels") if name in arrays}
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file; give the path of an .npz archive") from None
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise UsageError(f"{file}: not a readable .npz archive ({reason}); write it with numpy.savez") from None
    for name in ("images", "labels") if labels else ("images",):
        if name not in read:
            cure = ", or labels: false" if name == "labels" else ""
            raise UsageError(
                f"{file}: no array {name!r}; write it with numpy.savez(path, images=..., labels=...){cure}"
            )
    return check_images(str(file), read["images"], read["labels"] if labels else None)


def check_images(where: str, pictures: Any, label: np.ndarray | None) -> Images:
    """Return images and labels of the forms that ``image_files`` names, as ``Images``.

    Raises:
      UsageError: the images have several sizes or other channels, values lie outside the range of their type, or labels
        are no classes or not one for each image.
    """
    sizes = {np.shape(picture)[:2] for picture in pictures}
    if len(sizes) > 1:
        raise UsageError(f"{where}: images of several sizes, {one_line(sorted(sizes))}; give one size")
    array = np.asarray(pictures)
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise UsageError(
            f"{where}: shape {array.shape}; images are [num, height, width], or with 1 or 3 channels after these"
        )
    return Images(
        _scale_to_unit_range(where, array), None if label is None else _read_classes(where, label, len(array))
    )


def _scale_to_unit_range(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array / np.float32(255)
    if array.dtype.kind not in "bf":
        raise UsageError(f"{where}: dtype {array.dtype}; images are bytes (uint8, 0..255) or floats of 0..1")
    outside = ~((array >= 0) & (array <= 1))  # NaN too
    if outside.any():
        place = np.unravel_index(int(outside.argmax()), array.shape)
        value = f"image {place[0] + 1} holds {array[place]:g}"
        raise UsageError(f"{where}: {value}; floats lie in 0..1 (divide by the largest value, or save bytes of 0..255)")
    return array.astype(np.float32)


def _read_classes(where: str, label: np.ndarray, num: int) -> np.ndarray:
    if label.shape != (num,):
        raise UsageError(f"{where}: labels of shape {label.shape} for {num} images; give one label an image, [{num}]")
    number = label.astype(np.float64) if label.dtype.kind in "biuf" else np.full(num, np.nan)
    bad = ~((number == np.floor(number)) & (number >= 0) & (number < _MAX_CLASSES))
    if bad.any():
        at = int(bad.argmax())
        message = f"image {at + 1} has the label {one_line(label[at])}"
        raise UsageError(f"{where}: {message}; labels are whole numbers from 0, below {_MAX_CLASSES}")
    return number.astype(np.int64)
