"""Arrays of pixels and classes, checked and scaled to 0..1, and the archives that hold them."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import one_line
from collapse_jax.data.images import Images

MAX_VALUES = 2**29  # pixel values of a set, 2 GiB in float32
MAX_BYTES = 2**32  # of an array as it is stored
MAX_PIXELS = 2**14  # values of an image: the covariance of so many columns takes 2 GiB
_MAX_CLASSES = 1000
_WHITES = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}
_SPLITS = (("images", "labels", None, None), ("x_train", "y_train", "x_test", "y_test"))


class RawImages(NamedTuple):
    """Images as they are stored, ``[num, height, width]`` or with channels last, and a label each, or None."""

    pictures: np.ndarray
    label: np.ndarray | None


class _ArrayHeader(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def check_size(where: str, num: int, size: tuple[int, ...]) -> None:
    """Refuse images that are too large, or too many, before they are read.

    Args:
      where: names the images in errors.
      num: number of images.
      size: shape of an image.

    Raises:
      UsageError: an image has more than ``MAX_PIXELS`` values, or all of them more than ``MAX_VALUES``.
    """
    values = math.prod(size)
    if values > MAX_PIXELS:
        shape = " x ".join(map(str, size))
        raise UsageError(f"{where}: images of {shape} values; at most {MAX_PIXELS} are read, so make them smaller")
    if num * values > MAX_VALUES:
        raise UsageError(
            f"{where}: {num} images of {values} values; at most {MAX_VALUES} values are read in all, so take fewer "
            "images or smaller ones"
        )


def make_images(where: str, parts: Sequence[RawImages], white: float | None, of_files: bool = False) -> list[Images]:
    """Return images and labels of the forms that ``image_files`` names, as ``Images``; all parts have one white.

    Args:
      where: names the images in errors.
      parts: what to train on, and what is held out, if that is given.
      white: the value that is white; None: the largest that the type can hold, or 1 for floats.
      of_files: whether the pixels are of files, whose format says what white is. Bytes of an array that are 0 and 1
        alone have the white 1.

    Raises:
      UsageError: the images have other channels or sizes, values lie outside the range of their type or within its
        lower half, or labels are no classes or not one for each image.
    """
    arrays = [_check_shape(where, part.pictures) for part in parts]
    if len({array.shape[1:] for array in arrays}) > 1:
        sizes = " and ".join(str(array.shape[1:]) for array in arrays)
        raise UsageError(f"{where}: images to train on and held-out images of sizes {sizes}; give one size")
    scale = _find_white(where, arrays, of_files) if white is None else white
    return [
        Images(
            _scale_to_unit_range(where, array, scale),
            None if part.label is None else _read_classes(where, part.label, len(array)),
        )
        for array, part in zip(arrays, parts, strict=True)
    ]


def _check_shape(where: str, pictures: np.ndarray) -> np.ndarray:
    array = pictures[..., None] if pictures.ndim == 3 else pictures
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise UsageError(
            f"{where}: shape {array.shape}; images are [num, height, width], or with 1 or 3 channels after these"
        )
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{where}: dtype {one_line(array.dtype)}; images are bytes (uint8, 0..255) or floats of 0..1")
    return array


def _find_white(where: str, arrays: Sequence[np.ndarray], of_files: bool) -> float:
    """Return the value that is white by the type of the pixels; refuse pixels that make another one more likely."""
    kinds = {array.dtype.name for array in arrays}
    white = _WHITES.get(kinds.pop()) if len(kinds) == 1 else None
    if white is None:
        names = " and ".join(sorted({array.dtype.name for array in arrays}))
        raise UsageError(
            f"{where}: dtype {names}; images are bytes (uint8, 0..255) or floats of 0..1; of other numbers, say which "
            "is white (white: 4095)"
        )
    largest = max(float(array.max()) for array in arrays)
    if white == 255 and largest <= 1 and not of_files:
        return 1.0
    if 0 < largest < white / 2:
        raise UsageError(
            f"{where}: the largest pixel is {largest:g} where white would be {white:g}; say which value is white "
            f"(white: {largest:g}, or white: {white:g} if all images are dark)"
        )
    return white


def _scale_to_unit_range(where: str, array: np.ndarray, white: float) -> np.ndarray:
    if array.dtype.kind != "u" or float(array.max()) > white:
        outside = ~((array >= 0) & (array <= white))  # NaN too
        if outside.any():
            place = np.unravel_index(int(outside.argmax()), array.shape)
            value = f"image {place[0] + 1} holds {array[place]:g}"
            kind = "floats" if array.dtype.kind == "f" else "pixels"
            cure = "divide by the largest value, say which value is white, or save bytes of 0..255"
            raise UsageError(f"{where}: {value}; {kind} lie in 0..{white:g} ({cure})")
    pixels = array if array.dtype.name in ("uint8", "uint16") else array.astype(np.float32)
    return pixels if white == 1 and pixels.dtype == np.float32 else pixels / np.float32(white)


def _read_classes(where: str, label: np.ndarray, num: int) -> np.ndarray:
    label = label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label
    if label.shape != (num,):
        raise UsageError(f"{where}: labels of shape {label.shape} for {num} images; give one label an image, [{num}]")
    number = label.astype(np.float64) if label.dtype.kind in "biuf" else np.full(num, np.nan)
    bad = ~((number == np.floor(number)) & (number >= 0) & (number < _MAX_CLASSES))
    if bad.any():
        at = int(bad.argmax())
        message = f"image {at + 1} has the label {one_line(label[at])}"
        raise UsageError(f"{where}: {message}; labels are whole numbers from 0, below {_MAX_CLASSES}")
    return number.astype(np.int64)


def read_archive(file: Path, labels: bool) -> list[RawImages]:
    """Return the images of an ``.npz`` archive: all of them, or those to train on and those held out.

    Sizes are read from the headers of the arrays, and refused before anything is expanded.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            headers = {name[:-4]: _read_header(archive, name) for name in archive.namelist() if name.endswith(".npy")}
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file; give the path of an .npz archive") from None
    except Exception as error:  # damaged archives fail in many ways
        raise _unreadable(file, error) from None
    train, train_label, test, test_label = _find_names(file, headers)
    groups = [(train, train_label), (test, test_label)] if test in headers else [(train, train_label)]
    names = [name for group in groups for name in (group if labels else group[:1])]
    for name in names:
        if name not in headers:
            cure = ", or labels: false" if name in (train_label, test_label) else ""
            held = one_line(", ".join(headers)) or "none"
            raise UsageError(
                f"{file}: no array {name!r} (there are: {held}); write it with numpy.savez(path, images=..., "
                f"labels=...){cure}"
            )
    for name in names:
        shape, dtype = headers[name]
        if name in (train, test):
            check_size(f"{file}: {name}", shape[0] if shape else 0, shape[1:])
        if math.prod(shape) * dtype.itemsize > MAX_BYTES:
            size = f"{name!r} takes {math.prod(shape) * dtype.itemsize / 2**30:.1f} GiB"
            raise UsageError(f"{file}: {size}; at most {MAX_BYTES // 2**30} are read")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            read = {name: arrays[name] for name in names}
    except Exception as error:
        raise _unreadable(file, error) from None
    return [RawImages(read[image], read[label] if labels else None) for image, label in groups]


def _read_header(archive: zipfile.ZipFile, name: str) -> _ArrayHeader:
    """Return the shape and the type that the head of an array in an archive tells."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return _ArrayHeader(shape, dtype)


def _find_names(file: Path, headers: dict[str, _ArrayHeader]) -> tuple[Any, ...]:
    """Return the names of the arrays: images, labels, held-out images, their labels (None for the last two: none)."""
    found = [names for names in _SPLITS if names[0] in headers]
    if len(found) > 1:
        raise UsageError(f"{file}: both 'images' and 'x_train'; keep one of them")
    return found[0] if found else _SPLITS["x_test" in headers]


def _unreadable(file: Path, error: Exception) -> UsageError:
    reason = one_line(error) or type(error).__name__
    return UsageError(f"{file}: not a readable .npz archive ({reason}); write it with numpy.savez")
