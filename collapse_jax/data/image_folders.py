"""Folders of image files: which files are read, and how each becomes an array of pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import one_line
from collapse_jax.data.image_arrays import RawImages, check_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")  # no other is ever opened, whatever a file is called
_OTHER_SUFFIXES = (".avif", ".heic", ".heif", ".jfif", ".jp2", ".npy", ".pbm", ".pgm", ".pnm", ".ppm", ".svg", ".tga")
_HELD_OUT = ("test", "val", "valid", "validation", "dev")
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX")
_MAX_SHORT = 65535


class _Group(NamedTuple):
    """The files of a class."""

    label: int
    files: list[Path]


def read_folder(folder: Path, labels: bool, channels: int | None) -> tuple[list[RawImages], tuple[str, ...] | None]:
    """Return the images of a folder, or those of its folders ``train`` and ``test``, and the names of the classes.

    Args:
      folder: holds files, or a folder a class, or ``train`` and ``test``, which hold these.
      labels: whether a subfolder is a class.
      channels: 1 for grey images and 3 for coloured ones; None: what the files are, if they agree.

    Raises:
      UsageError: the folder holds other things, or a file is no image, or not of the size and the colours of the rest.
    """
    parts = _list_parts(folder, labels)
    files = [file for groups in parts for group in groups for file in group.files]
    pictures = _join_channels(files, _read_files(files), channels)
    read, begin = [], 0
    for groups in parts:
        label = np.repeat([group.label for group in groups], [len(group.files) for group in groups])
        read.append(RawImages(pictures[begin : begin + len(label)], label if labels else None))
        begin += len(label)
    names = tuple(group.files[0].parent.name for group in parts[0]) if labels else None
    return read, names


def _list_parts(folder: Path, labels: bool) -> list[list[_Group]]:
    """Return the groups of files to train on, and those held out where the folder is split."""
    splits = {path.name.lower(): path for path in _list_folders(folder)}
    held_out = [name for name in splits if name in _HELD_OUT]
    if "train" not in splits or not held_out or len(splits) > 1 + len(held_out):
        return [_list_groups(folder, labels, None)]
    if held_out != ["test"]:
        found = ", ".join(path.name for path in splits.values())
        raise UsageError(f"{folder}: folders {found}; keep two of them, called train and test (which is held out)")
    _refuse_stray_files(folder, "train and test")
    train = _list_groups(splits["train"], labels, None)
    names = [path.name for path in _list_folders(splits["train"])] if labels else None
    return [train, _list_groups(splits["test"], labels, names)]


def _list_groups(folder: Path, labels: bool, names: Sequence[str] | None) -> list[_Group]:
    """Return the files of a folder, a group a class; `names` are those of the classes, if another folder has them."""
    if not labels:
        return [_Group(0, _list_files(folder))]
    classes = _list_folders(folder)
    if not classes:
        raise UsageError(f"{folder}: no subfolders; a class is a subfolder of images, or give labels: false")
    _refuse_stray_files(folder, "classes")
    known = [path.name for path in classes] if names is None else list(names)
    unknown = [path for path in classes if path.name not in known]
    if unknown:
        raise UsageError(f"{unknown[0]}: a class without images to train on; the folder train has no such subfolder")
    return [_Group(known.index(path.name), _list_files(path)) for path in classes]


def _is_hidden(path: Path) -> bool:
    """Return whether a file or folder is one that a system leaves behind, such as ``._a.png`` and ``__MACOSX``."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def _list_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path))


def _refuse_stray_files(folder: Path, kind: str) -> None:
    stray = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not _is_hidden(path)]
    if stray:
        raise UsageError(f"{min(stray)}: an image beside the folders of {kind}; move it into one of them, or away")


def _list_files(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if not _is_hidden(path))
    inner = [path for path in paths if path.is_dir()]
    files = [path for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    if not files:
        cure = f"; subfolders such as {one_line(inner[0].name)} are classes with labels: true" if inner else ""
        raise UsageError(f"{folder}: no images; it needs files that end in one of {', '.join(SUFFIXES)}{cure}")
    if inner:
        raise UsageError(f"{inner[0]}: a folder beside images, which would not be read; move it away")
    other = [path for path in paths if path.suffix.lower() in _OTHER_SUFFIXES]
    if other:
        raise UsageError(f"{other[0]}: files of this kind are not read; write it as PNG, or move it away")
    return files


def _read_files(files: list[Path]) -> list[np.ndarray]:
    """Return the pixels of each file, grey ``[height, width]`` or RGB, as they are stored; sizes come from headers."""
    from PIL import Image

    pictures: list[np.ndarray] = []
    area: list[int] = []
    for file in files:
        try:
            with Image.open(file, formats=FORMATS) as opened:
                size = opened.size
                if not pictures:
                    area = sorted(size)
                    check_size(str(file), len(files), (size[1], size[0], 1 if opened.mode in _GREY_MODES else 3))
                if sorted(size) == area:  # others are refused before they are expanded
                    _refuse_doubtful_pixels(file, opened)
                    picture = _read_pixels(opened)
                    size = picture.shape[1], picture.shape[0]  # as it is seen upright
        except UsageError as error:
            raise error if str(error).startswith(str(file)) else UsageError(f"{file}: {error}") from None
        except Exception as error:  # damaged files fail in many ways
            raise UsageError(f"{file}: not a readable image ({one_line(error)}); write it again as PNG") from None
        height, width = pictures[0].shape[:2] if pictures else (size[1], size[0])
        if size != (width, height):
            text = f"{size[0]} x {size[1]} pixels where {files[0].name} has {width} x {height}"
            raise UsageError(f"{file}: {text}; give one size")
        pictures.append(picture)
    return pictures


def _refuse_doubtful_pixels(file: Path, opened: Any) -> None:
    """Refuse a PIL image that would be read in part, or with other values than it has."""
    if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":  # a photograph with previews after it
        raise UsageError(f"it holds {opened.n_frames} images (an animation, or pages); write each to a file of its own")
    if opened.mode in ("I", "F"):
        raise UsageError(f"its pixels, of mode {opened.mode}, have no known white; write it again as PNG of 8 bits")
    if opened.mode not in _GREY_MODES + _COLOUR_MODES:
        raise UsageError(f"its colours, of mode {opened.mode}, are not RGB; write it again as PNG in RGB")
    bits, is_plain = _find_bits(file, opened)
    is_deep = bits > 8
    if is_deep and not (opened.mode.startswith("I;16") and bits == 16 and is_plain):
        raise UsageError(f"its {bits} bits a channel would be cut to 8; write it again as PNG of 8 bits")
    if not is_deep and not is_plain:
        raise UsageError("its pixels have a sign, or are floats; write it again as PNG of 8 bits")


def _find_bits(file: Path, opened: Any) -> tuple[int, bool]:
    """Return how many bits a channel of a file has, and whether they count from black to white without a sign."""
    if opened.format == "PNG":
        with file.open("rb") as head:
            bits = head.read(25)[24]  # the header chunk comes first; its ninth byte tells
        return bits, bits <= 8 or "transparency" not in opened.info
    if opened.format == "TIFF":
        tags = opened.tag_v2
        bits, signs = max(tags.get(258, (1,))), set(tags.get(339, (1,)))
        return bits, signs == {1} and (bits <= 8 or tags.get(262) == 1)
    return 8, True


def _read_pixels(opened: Any) -> np.ndarray:
    """Return the pixels of a PIL image upright and on white: grey ``[height, width]`` or RGB."""
    from PIL import Image, ImageOps

    is_grey, upright = opened.mode in _GREY_MODES, ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I;16"):
        return np.asarray(upright).astype(np.uint16)
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return np.asarray(upright.convert("L" if is_grey else "RGB"))


def _join_channels(files: list[Path], pictures: list[np.ndarray], channels: int | None) -> np.ndarray:
    """Return all pictures in one array, of 16 bits where one has them; grey and coloured files are not mixed."""
    grey = [picture.ndim == 2 for picture in pictures]
    if channels is None:
        channels = 1 if any(grey) else 3
        coloured = [not is_grey and _is_coloured(p) for is_grey, p in zip(grey, pictures, strict=True)]
        if channels == 1 and any(coloured):
            pair = f"{files[grey.index(True)].name} is grey and {files[coloured.index(True)].name} is coloured"
            raise UsageError(f"{files[0].parent}: {pair}; give channels: 3 (or 1, for all of them in grey)")
    same = [_set_channels(picture, channels) for picture in pictures]
    if len({picture.dtype for picture in same}) > 1:
        same = [p if p.dtype == np.uint16 else p.astype(np.uint16) * np.uint16(_MAX_SHORT // 255) for p in same]
    return np.stack(same)


def _is_coloured(picture: np.ndarray) -> bool:
    return bool((picture != picture[..., :1]).any())


def _set_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    from PIL import Image

    if channels == 3:
        return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    return picture if picture.ndim == 2 else np.asarray(Image.fromarray(picture).convert("L"))
