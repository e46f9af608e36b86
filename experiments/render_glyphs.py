"""Renders the 28x28 letters of ``data.glyphs`` from the fonts that matplotlib carries, and freezes them to an archive.

``python experiments/render_glyphs.py [--out collapse_jax/data/files/glyphs.npz]``

Letters A to Z in 22 fonts, 8 times each: turned, scaled, slanted and shifted a little by a fixed random stream. About
20 s on one CPU core. The archive in the repository was made with matplotlib 3.11.2 and Pillow 13.0.0; other versions
may round a pixel otherwise. It is a record: the package reads the archive and never this script.
"""

import argparse
import string
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmr10", "cmb10", "cmti10", "cmss10", "cmtt10", "cmmi10",
)  # fmt: skip
LETTERS = string.ascii_uppercase
COPIES = 8
SIZE, FINE = 28, 8  # pixels, and how many finer ones a pixel averages along a side
HEIGHT = 18  # pixels of an upright capital
WHITE = 15  # 16 grey levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("collapse_jax/data/files/glyphs.npz"))
    out = parser.parse_args().out
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    rng = np.random.default_rng(0)
    images, letters, fonts = [], [], []
    for number, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), _points(folder / f"{name}.ttf"))
        for letter, character in enumerate(LETTERS):
            upright = _drawn(font, character)
            for _ in range(COPIES):
                images.append(_changed(upright, rng))
                letters.append(letter)
                fonts.append(number)
    arrays = {"image": np.stack(images), "letter": np.uint8(letters), "font": np.uint8(fonts)}
    np.savez_compressed(out, **arrays, fonts=np.array(FONTS))
    print(f"{out}: {len(images)} images, {out.stat().st_size / 1e6:.2f} MB")


def _points(path: Path) -> int:
    """The size of a font at which its H is ``HEIGHT`` pixels high."""
    box = ImageFont.truetype(str(path), 1000).getbbox("H")
    return round(1000 * HEIGHT * FINE / (box[3] - box[1]))


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """White on black, its box in the middle."""
    canvas = Image.new("L", (SIZE * FINE, SIZE * FINE))
    left, top, right, bottom = font.getbbox(character)
    middle = SIZE * FINE / 2
    ImageDraw.Draw(canvas).text((middle - (left + right) / 2, middle - (top + bottom) / 2), character, 255, font)
    return canvas


def _changed(upright: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A copy turned by up to 12 degrees, scaled by 0.85 to 1.1, slanted by up to 0.15 and shifted by up to 2 pixels."""
    angle, slant = np.radians(rng.uniform(-12, 12)), rng.uniform(-0.15, 0.15)
    scale, shift = rng.uniform(0.85, 1.1), rng.uniform(-2, 2, 2) * FINE
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = np.linalg.inv(scale * turn @ np.array([[1.0, slant], [0.0, 1.0]]))  # PIL asks where a pixel comes from
    middle = np.full(2, SIZE * FINE / 2)
    start = middle - back @ (middle + shift)
    coefficients = (*back[0], start[0], *back[1], start[1])
    moved = upright.transform(upright.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    fine = np.asarray(moved, float).reshape(SIZE, FINE, SIZE, FINE).mean((1, 3))
    return np.round(fine / 255 * WHITE).astype(np.uint8)


if __name__ == "__main__":
    main()
