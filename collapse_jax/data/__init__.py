"""Sources of real rows: one factory for each, which returns a ``Source``."""

from collapse_jax.data import symbols
from collapse_jax.data.image_readers import image_files, tfds_images
from collapse_jax.data.images import digits, glyphs, load_digits
from collapse_jax.data.synthetic import blobs, circles, moons, normal, swiss_roll
from collapse_jax.data.tables import array, table

__all__ = [
    "array",
    "blobs",
    "circles",
    "digits",
    "glyphs",
    "image_files",
    "load_digits",
    "moons",
    "normal",
    "swiss_roll",
    "symbols",
    "table",
    "tfds_images",
]
