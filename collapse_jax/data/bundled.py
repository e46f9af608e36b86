"""Data that the package carries in ``files/``; see the README there and DATA_LICENSES.md."""

import lzma
from importlib import resources
from typing import NamedTuple

import numpy as np


class Digits(NamedTuple):
    """Images ``[1797, 8, 8]`` of pixels 0..16, and labels ``[1797]`` of 0..9; both are uint8."""

    image: np.ndarray
    label: np.ndarray


def read_digits() -> Digits:
    """Read the digits from the package's own file."""
    file = resources.files("collapse_jax.data") / "files" / "digits.npz"
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        return Digits(image=arrays["image"], label=arrays["label"])


class Glyphs(NamedTuple):
    """Images ``[num, 28, 28]`` of pixels 0..15, and for each its letter (0: A) and its font; all are uint8."""

    image: np.ndarray
    letter: np.ndarray
    font: np.ndarray


def read_glyphs() -> Glyphs:
    """Read the capital letters in the fonts that matplotlib carries."""
    file = resources.files("collapse_jax.data") / "files" / "glyphs.npz"
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        return Glyphs(arrays["image"], arrays["letter"], arrays["font"])


def read_shakespeare() -> str:
    """Read plays of Shakespeare, speakers and verse: 1.1 MB of ASCII."""
    return _read_text("shakespeare")


def read_austen() -> str:
    """Read novels of Jane Austen: 1.1 MB, nearly all ASCII."""
    return _read_text("austen")


def _read_text(name: str) -> str:
    file = resources.files("collapse_jax.data") / "files" / f"{name}.txt.xz"
    return lzma.decompress(file.read_bytes()).decode()
