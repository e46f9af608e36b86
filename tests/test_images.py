"""Sources of images: what is embedded, a user's own, prepared datasets, imbalance, and what is said of bad ones."""

import io

import jax
import numpy as np
import pytest
from image_helpers import all_rows, archive, error_of, folder, sorted_rows
from PIL import Image

import collapse_jax.data as data
from collapse_jax.data import bundled
from collapse_jax.data.images import LETTERS

pytestmark = pytest.mark.usefixtures("cache")

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _any_order():
    """A test draws the same numbers whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


BYTES = RNG.integers(0, 256, (30, 5, 4), dtype=np.uint8)
LABELS = np.arange(30) % 3


def test_digits_are_images_where_their_pixels_are():
    source = data.digits(pca=None, labels=True)
    assert (source.shape, source.classes, source.dim) == ((8, 8, 1), 10, 65)
    assert data.digits().shape is None
    assert data.digits(pca=None, standardize=True).shape is None
    images = source.arrays[:, :64].reshape(-1, *source.shape)
    directly = bundled.read_digits()
    known = {image.tobytes(): label for image, label in zip(directly.image, directly.label, strict=True)}
    for image, label in zip(images[:50], source.arrays[:50, 64], strict=True):
        assert known[(16 * image[..., 0]).astype(np.uint8).tobytes()] == label


def test_glyphs_are_letters_in_fonts():
    glyph = bundled.read_glyphs()
    assert glyph.image.shape == (4576, 28, 28)
    assert glyph.image.max() == 15
    pairs, count = np.unique(np.stack([glyph.letter, glyph.font]), axis=1, return_counts=True)
    assert pairs.shape[1] == LETTERS * 22
    assert (count == 8).all()
    assert len(np.unique(glyph.image.reshape(len(glyph.image), -1), axis=0)) == len(glyph.image)  # no two alike
    letters, fonts, plain = (data.glyphs(kind, letters=3) for kind in ("letter", "font", "none"))
    assert (letters.shape, letters.classes, letters.dim) == ((28, 28, 1), 3, 785)
    assert (fonts.classes, plain.classes, plain.dim) == (22, None, 784)
    assert len(letters.arrays) == 3 * 22 * 8 - 106  # a fifth is held out
    np.testing.assert_array_equal(letters.arrays[:, :784], plain.arrays)
    assert 0 <= plain.arrays.min() < plain.arrays.max() <= 1


def test_letters_are_told_apart_by_nearest_neighbours():
    """Letter and image belong together, in all fonts."""
    glyph = bundled.read_glyphs()
    image, letter = glyph.image.reshape(-1, 784).astype(float), glyph.letter
    first, second = image[:-1:2], image[1::2]  # of each pair of copies one
    square = (first**2).sum(1)[:, None] - 2 * first @ second.T + (second**2).sum(1)
    assert (letter[1::2][square.argmin(1)] == letter[:-1:2]).mean() > 0.7  # by chance 0.04


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_images_of_ones_own(form, tmp_path):
    path = archive(tmp_path / "x.npz", images=BYTES, labels=LABELS) if form == "npz" else folder(tmp_path / "x", BYTES)
    source = data.image_files(path)
    assert (source.name, source.shape, source.classes, source.dim) == ("image_files", (5, 4, 1), 3, 21)
    expected = np.hstack([BYTES.reshape(30, -1) / np.float32(255), LABELS[:, None]])
    np.testing.assert_allclose(sorted_rows(all_rows(source)), sorted_rows(expected), rtol=1e-6)
    drawn = np.asarray(source.draw(jax.random.key(0), source.arrays, 40))
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in np.asarray(source.arrays)}
    np.testing.assert_allclose(source.mean, source.arrays.astype(float).mean(0), rtol=1e-6)
    np.testing.assert_allclose(source.covariance, np.cov(source.arrays.T.astype(float), ddof=0), atol=1e-6)


def test_colours_floats_and_images_without_labels(tmp_path):
    colours = RNG.integers(0, 256, (30, 5, 4, 3), dtype=np.uint8)
    source = data.image_files(folder(tmp_path / "colours", colours, "RGB"))
    assert source.shape == (5, 4, 3)
    row = np.asarray(source.arrays)[0]  # pixel by pixel, channels last
    assert any(np.allclose(row[:-1].reshape(5, 4, 3), image / 255) for image in colours)
    floats = data.image_files(archive(tmp_path / "f.npz", images=BYTES / 255), labels=False)
    bytes_ = data.image_files(archive(tmp_path / "b.npz", images=BYTES[..., None]), labels=False)
    np.testing.assert_allclose(floats.arrays, bytes_.arrays, rtol=1e-6)
    flat = tmp_path / "colours" / "a"
    assert data.image_files(str(flat), labels=False).classes is None
    mixed = folder(tmp_path / "mixed", list(BYTES))
    Image.fromarray(colours[0]).save(tmp_path / "mixed" / "a" / "000.png")
    error_of(lambda: data.image_files(mixed), "003.png is grey and 000.png is coloured", "channels: 3")
    red = np.asarray(data.image_files(mixed, channels=3).arrays)[:, :-1].reshape(-1, 5, 4, 3)
    assert (red == red[..., :1]).all((1, 2, 3)).sum() >= len(red) - 1  # grey files stay grey
    assert data.image_files(mixed, channels=1).shape == (5, 4, 1)


def test_a_minority_keeps_its_share():
    plain = data.digits(pca=None, labels=True)
    rare = data.digits(pca=None, labels=True, minority=0.1, minority_classes=2)
    count, kept = (np.bincount(all_rows(s)[:, -1].astype(int), minlength=10) for s in (plain, rare))
    np.testing.assert_array_equal(kept[:8], count[:8])
    np.testing.assert_array_equal(kept[8:], np.ceil(0.1 * count[8:]))
    few = data.digits(pca=None, labels=True, minority=1e-6)
    assert (all_rows(few)[:, -1] == 9).sum() == 4
    unlabelled = data.digits(pca=None, minority=0.1, minority_classes=2)
    np.testing.assert_array_equal(unlabelled.arrays, rare.arrays[:, :64])


BAD_ARCHIVES = [
    ({"images": BYTES}, ["no array 'labels'", "labels: false"]),
    ({"labels": LABELS}, ["no array 'images'"]),
    ({"images": BYTES, "labels": LABELS[:20]}, ["labels of shape (20,) for 30 images"]),
    ({"images": BYTES, "labels": LABELS - 1}, ["image 1 has the label -1", "whole numbers from 0"]),
    ({"images": BYTES, "labels": LABELS + 0.5}, ["image 1 has the label 0.5"]),
    ({"images": BYTES, "labels": np.array(["a"] * 30)}, ["image 1 has the label a"]),
    ({"images": BYTES, "labels": LABELS * 100}, ["201 classes and 30 images"]),
    ({"images": BYTES, "labels": LABELS + 1}, ["no image to train on has the label 0", "without gaps"]),
    ({"images": BYTES.astype(float), "labels": LABELS}, ["image 1 holds", "0..1", "divide"]),
    ({"images": BYTES / 255 - 0.5, "labels": LABELS}, ["image 1 holds -0."]),
    ({"images": np.full((30, 2, 2), np.nan), "labels": LABELS}, ["image 1 holds nan"]),
    ({"images": BYTES.astype(np.int64), "labels": LABELS}, ["dtype int64", "uint8"]),
    ({"images": np.zeros((30, 20)), "labels": LABELS}, ["shape (30, 20)", "[num, height, width]"]),
    ({"images": np.zeros((30, 5, 4, 2)), "labels": LABELS}, ["shape (30, 5, 4, 2)", "1 or 3 channels"]),
    ({"images": BYTES[:0], "labels": LABELS[:0]}, ["shape (0, 5, 4, 1)"]),
    ({"images": BYTES[:3], "labels": LABELS[:3]}, ["3 rows leave"]),
]


@pytest.mark.parametrize(("arrays", "words"), BAD_ARCHIVES)
def test_bad_archives(arrays, words, tmp_path):
    path = archive(tmp_path / "x.npz", **arrays)
    error_of(lambda: data.image_files(path), path, *words)


def test_bad_files_and_folders(tmp_path):
    error_of(lambda: data.image_files(str(tmp_path / "gone.npz")), "gone.npz", "no such file")
    error_of(lambda: data.image_files(str(tmp_path / "gone")), "no such folder")
    (tmp_path / "x.npz").write_bytes(b"PK not this")
    error_of(lambda: data.image_files(str(tmp_path / "x.npz")), "numpy.savez")
    (tmp_path / "empty").mkdir()
    error_of(lambda: data.image_files(str(tmp_path / "empty")), "no subfolders", "labels: false")
    error_of(lambda: data.image_files(str(tmp_path / "empty"), labels=False), "no images", ".png")
    path = folder(tmp_path / "sizes", BYTES)
    Image.fromarray(BYTES[0].T).save(tmp_path / "sizes" / "b" / "wide.png")
    error_of(lambda: data.image_files(path), "wide.png", "5 x 4 pixels where 000.png has 4 x 5")
    (tmp_path / "sizes" / "b" / "wide.png").write_bytes(b"not an image")
    error_of(lambda: data.image_files(path), "wide.png", "not a readable image")
    plain = archive(tmp_path / "plain.npz", images=BYTES)
    error_of(lambda: data.image_files(plain, labels=False, minority=0.5), "minority=0.5", "no labels")
    error_of(lambda: data.digits(minority=0.5, minority_classes=10), "minority_classes=10", "at most 9")


# Prepared datasets


@pytest.fixture(scope="module")
def dataset(cache):
    """A prepared dataset of PNG images with the splits train and test, as mnist is."""
    import tensorflow_datasets as tfds

    def png(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        return file.getvalue()

    class TinyImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(5, 4, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 20), "test": self._generate_examples(20, 30)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"image": png(BYTES[i]), "label": int(LABELS[i])}

    TinyImages(data_dir=str(cache), file_format="array_record").download_and_prepare()
    return "tiny_images"


def test_a_prepared_dataset(dataset):
    source = data.tfds_images(dataset)
    expected = np.hstack([BYTES.reshape(30, -1) / 255, LABELS[:, None]])
    np.testing.assert_allclose(sorted_rows(source.arrays), sorted_rows(expected[:20]), rtol=1e-6)
    np.testing.assert_allclose(sorted_rows(source.held_out(10)), sorted_rows(expected[20:]), rtol=1e-6)
    assert (source.shape, source.classes) == ((5, 4, 1), 3)
    assert data.tfds_images(dataset, labels=False).dim == 20


@pytest.mark.filterwarnings("ignore::collapse_jax.data.images.ImageWarning")
def test_a_prepared_dataset_without_a_test_split():
    data.load_digits()
    ours, theirs = data.tfds_images("collapse_digits", white=16), data.digits(pca=None, labels=True)
    np.testing.assert_allclose(sorted_rows(all_rows(ours)), sorted_rows(all_rows(theirs)), rtol=1e-5)
    error_of(lambda: data.tfds_images("collapse_digits"), "the largest pixel is 16", "white: 16")


def test_datasets_that_are_not_there_or_not_images(dataset):
    command = "tensorflow_datasets as t; t.load('mnist', builder_kwargs={'file_format': 'array_record'})"
    error_of(lambda: data.tfds_images("mnist"), "tfds_images: 'mnist' is not prepared", command)
    error_of(lambda: data.tfds_images(dataset, label="species"), "no feature 'species'", "features image, label")
