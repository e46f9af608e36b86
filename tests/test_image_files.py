"""Files of images and archives: pixels as people see them, or one line that says why not."""

import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from image_helpers import all_rows, archive, error_of, folder, one_file, sorted_rows
from PIL import Image

import collapse_jax.data as data
from collapse_jax.data import image_arrays
from collapse_jax.data.images import ImageWarning

pytestmark = pytest.mark.filterwarnings("ignore::collapse_jax.data.images.ImageWarning")

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (30, 5, 4), dtype=np.uint8)
LABELS = np.arange(30) % 3


def pixels(path, **options):
    return sorted_rows(all_rows(data.image_files(str(path), labels=False, **options)))


def copies(path, *images, num=10, suffix="png", **options):
    """Write each image so many times."""
    path.mkdir(exist_ok=True)
    for number in range(num):
        for name, image in zip("abc", images, strict=False):
            image.save(path / f"{number}{name}.{suffix}", **options)
    return path


def test_sixteen_bits_are_grey_levels(tmp_path):
    levels = np.array([[0, 300], [32768, 65535]], np.uint16)
    deep = Image.fromarray(levels)
    assert deep.mode == "I;16"
    np.testing.assert_allclose(one_file(tmp_path / "deep", deep), [levels.reshape(-1) / 65535], rtol=1e-6)
    shallow = Image.fromarray(np.full((2, 2), 51, np.uint8))
    both = one_file(tmp_path / "both", deep, shallow)
    np.testing.assert_allclose(both, [levels.reshape(-1) / 65535, np.full(4, 0.2)], rtol=1e-6)


def test_what_is_transparent_is_white(tmp_path):
    shown, hidden = np.array([[[255, 0, 0, 255], [9, 9, 9, 0]], [[0, 0, 0, 51], [0, 0, 255, 255]]], np.uint8), 0.8
    seen = one_file(tmp_path / "colours", Image.fromarray(shown, "RGBA"))
    np.testing.assert_allclose(seen, [[1, 0, 0, 1, 1, 1, hidden, hidden, hidden, 0, 0, 1]], atol=1e-6)
    grey = Image.fromarray(np.array([[[51, 255], [0, 0]]], np.uint8), "LA")
    np.testing.assert_allclose(one_file(tmp_path / "grey", grey), [[0.2, 1]], atol=1e-6)
    indexed = Image.fromarray(shown, "RGBA").convert("RGB").quantize(4)
    indexed.info["transparency"] = indexed.getpixel((0, 0))
    assert (one_file(tmp_path / "indexed", indexed)[0, :3] == 1).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_white_are_refused(dtype, tmp_path):
    Image.fromarray(np.ones((2, 2), dtype)).save(tmp_path / "deep.tif")
    mode = {np.int32: "I", np.float32: "F"}[dtype]
    error_of(lambda: data.image_files(str(tmp_path), labels=False), "deep.tif", f"of mode {mode}", "write it again")


# What is white


@pytest.mark.parametrize("form", ["uint8", "bool"])
def test_bytes_of_zero_and_one_are_black_and_white(form, tmp_path):
    binary = (BYTES > 127).astype(form)
    rows = pixels(archive(tmp_path / "x.npz", images=binary))
    np.testing.assert_array_equal(rows, sorted_rows((BYTES > 127).reshape(30, 20).astype(float)))


def test_white_is_what_its_user_says(tmp_path):
    """Sixteen levels in bytes, twelve bits in sixteen, whole numbers, and images that are dark."""
    levels = BYTES.reshape(30, 20) // 16
    dark = archive(tmp_path / "dark.npz", images=BYTES // 16)
    error_of(lambda: pixels(dark), "the largest pixel is 15 where white would be 255", "white: 15", "white: 255")
    np.testing.assert_allclose(pixels(dark, white=15), sorted_rows(levels / 15), rtol=1e-6)
    np.testing.assert_allclose(pixels(dark, white=255), sorted_rows(levels / 255), rtol=1e-6)
    deep = archive(tmp_path / "deep.npz", images=BYTES.astype(np.uint16) * 16)
    error_of(lambda: pixels(deep), "white would be 65535")
    np.testing.assert_allclose(pixels(deep, white=4080), sorted_rows(BYTES.reshape(30, 20) / 255), rtol=1e-6)
    whole = archive(tmp_path / "whole.npz", images=BYTES.astype(np.int64))
    np.testing.assert_allclose(pixels(whole, white=255), sorted_rows(BYTES.reshape(30, 20) / 255), rtol=1e-6)
    error_of(lambda: pixels(whole, white=100), "image 1 holds", "0..100")
    twice = archive(tmp_path / "twice.npz", images=BYTES / 255 / 255)
    error_of(lambda: pixels(twice), "white would be 1")
    mask = copies(tmp_path / "mask", Image.fromarray((BYTES[0] > 127).astype(np.uint8)))
    error_of(lambda: pixels(mask), "the largest pixel is 1 where white would be 255")
    np.testing.assert_array_equal(pixels(mask, white=1)[0], (BYTES[0] > 127).reshape(-1))
    error_of(lambda: pixels(mask, white=0), "white", "above 0")
    error_of(lambda: pixels(mask, channels=2), "channels must be 1 or 3")


# How files are read


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(orientation, tmp_path):
    """Row 0 and column 0 of what is stored lie where the tag says (Exif 2.32, tag 274)."""
    stored = np.kron([[0, 40, 80], [120, 160, 255]], np.ones((8, 8))).astype(np.uint8)
    turns = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T,
             6: stored[::-1].T, 7: stored[::-1, ::-1].T, 8: stored[:, ::-1].T}  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    path = copies(tmp_path / "x", Image.fromarray(stored), suffix="jpg", exif=exif, quality=100)
    source = data.image_files(str(path), labels=False)
    upright = turns[orientation]
    assert source.shape == (*upright.shape, 1)
    np.testing.assert_allclose(source.arrays[0].reshape(upright.shape), upright / 255, atol=0.02)


def test_files_turned_differently_have_one_size_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = copies(tmp_path / "x", Image.fromarray(BYTES[0]))
    Image.fromarray(BYTES[0].T[::-1]).save(path / "turned.png", exif=exif)
    assert len(np.unique(pixels(path), axis=0)) == 1
    Image.fromarray(BYTES[0].T).save(path / "wide.png")
    error_of(lambda: pixels(path), "wide.png", "5 x 4 pixels where 0a.png has 4 x 5")


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
        b"P5 2 2 255 abcd",
        b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    ],
)
def test_only_promised_formats_are_opened(content, tmp_path, monkeypatch):
    path = copies(tmp_path / "x", Image.fromarray(BYTES[0]))
    (path / "0.png").write_bytes(content)
    monkeypatch.setattr("subprocess.Popen", None)  # an interpreter of PostScript cannot be started
    error_of(lambda: pixels(path), "0.png", "not a readable image (cannot identify")


def test_several_images_in_a_file_are_refused(tmp_path):
    frames = [Image.fromarray(image) for image in BYTES[:3]]
    for suffix in ("gif", "png", "webp", "tif"):
        path = tmp_path / suffix
        path.mkdir()
        frames[0].save(path / f"film.{suffix}", save_all=True, append_images=frames[1:])
        error_of(lambda path=path: pixels(path), f"film.{suffix}", "3 images", "a file of its own")


def png_of_sixteen_bits(colours):
    """The file of a PNG with 16 bits a channel, which PIL does not write."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = colours.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_colours_that_would_be_changed_are_refused(tmp_path):
    path = tmp_path / "deep"
    path.mkdir()
    (path / "deep.png").write_bytes(png_of_sixteen_bits(RNG.integers(0, 65536, (3, 2, 3))))
    error_of(lambda: pixels(path), "deep.png", "16 bits a channel", "PNG of 8 bits")
    ink = copies(tmp_path / "ink", Image.fromarray(BYTES[0]).convert("CMYK"), suffix="jpg")
    error_of(lambda: pixels(ink), "0a.jpg", "CMYK", "in RGB")


def test_a_file_in_another_mode_changes_no_other(tmp_path):
    """An RGB file of grey pixels, and one of black and white, among grey ones."""
    grey = Image.fromarray(BYTES[0])
    alone = pixels(copies(tmp_path / "x", grey))[0]
    path = copies(tmp_path / "x", grey, grey.convert("RGB"), Image.fromarray(BYTES[0] > 127))
    source = data.image_files(str(path), labels=False)
    assert source.shape == (5, 4, 1)
    seen = np.unique(all_rows(source), axis=0)
    np.testing.assert_array_equal(seen, np.unique([alone, (BYTES[0] > 127).reshape(-1)], axis=0))


# Which files are read


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    expected = sorted_rows(all_rows(data.image_files(folder(tmp_path / "x", BYTES))))
    (tmp_path / "x" / "__MACOSX" / "a").mkdir(parents=True)
    (tmp_path / "x" / "__MACOSX" / "a" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "x" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "x" / "a" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "x" / "._a.png").write_bytes(b"resource fork")
    source = data.image_files(str(tmp_path / "x"))
    np.testing.assert_array_equal(sorted_rows(all_rows(source)), expected)


def test_images_that_would_be_left_out_are_named(tmp_path):
    path = folder(tmp_path / "x", BYTES)
    Image.fromarray(BYTES[0]).save(tmp_path / "x" / "sheet.png")
    error_of(lambda: data.image_files(path), "sheet.png", "beside the folders of classes")
    (tmp_path / "x" / "sheet.png").unlink()
    (tmp_path / "x" / "a" / "more").mkdir()
    error_of(lambda: data.image_files(path), "more", "a folder beside images")
    (tmp_path / "x" / "a" / "more").rmdir()
    (tmp_path / "x" / "b" / "phone.heic").write_bytes(b"")
    error_of(lambda: data.image_files(path), "phone.heic", "are not read")


def split_folder(path, names=("train", "test")):
    folder(path / names[0], BYTES[:21])
    folder(path / names[1], BYTES[21:])
    return str(path)


@pytest.mark.parametrize("form", ["folder", "npz", "npz of one column"])
def test_a_given_split_is_used(form, tmp_path):
    if form == "folder":
        path = split_folder(tmp_path / "x", ("Train", "test"))
    else:
        y = LABELS if form == "npz" else LABELS[:, None]  # as CIFAR-10 is kept
        path = archive(tmp_path / "x.npz", x_train=BYTES[:21], y_train=y[:21], x_test=BYTES[21:], y_test=y[21:])
    source = data.image_files(path)
    expected = np.hstack([BYTES.reshape(30, 20) / 255, LABELS[:, None]]).astype(np.float32)
    np.testing.assert_allclose(sorted_rows(source.arrays), sorted_rows(expected[:21]), rtol=1e-6)
    np.testing.assert_allclose(sorted_rows(source.held_out(9)), sorted_rows(expected[21:]), rtol=1e-6)
    assert (source.shape, source.classes) == ((5, 4, 1), 3)


def test_splits_without_labels_and_bad_ones(tmp_path):
    for name, images in (("train", BYTES[:20]), ("test", BYTES[20:])):
        (tmp_path / "flat" / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "flat" / name / f"{number}.png")
    source = data.image_files(str(tmp_path / "flat"), labels=False)
    assert (len(source.arrays), len(source.held_out(10)), source.classes) == (20, 10, None)
    error_of(lambda: data.image_files(str(tmp_path / "flat")), "train", "no subfolders", "labels: false")
    error_of(lambda: data.image_files(split_folder(tmp_path / "v", ("train", "val"))), "folders train, val", "test")
    path = split_folder(tmp_path / "more")
    (tmp_path / "more" / "test" / "c").rename(tmp_path / "more" / "test" / "z")
    error_of(lambda: data.image_files(path), "z", "without images to train on")
    both = archive(tmp_path / "both.npz", images=BYTES, labels=LABELS, x_train=BYTES, y_train=LABELS)
    error_of(lambda: data.image_files(both), "both 'images' and 'x_train'")
    unlike = archive(tmp_path / "u.npz", x_train=BYTES, x_test=BYTES[:, :4])
    error_of(lambda: pixels(unlike), "(5, 4, 1) and (4, 4, 1)", "one size")
    none = archive(tmp_path / "n.npz", x_train=BYTES, x_test=BYTES, y_train=LABELS)
    error_of(lambda: data.image_files(none), "no array 'y_test'", "there are: x_train, x_test, y_train")


def test_pixels_that_never_change_are_told_once(tmp_path):
    framed = BYTES.copy()
    framed[:, 0] = 7
    path = archive(tmp_path / "x.npz", images=framed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            data.image_files(path, labels=False)
    (line,) = (str(warning.message) for warning in caught if warning.category is ImageWarning)
    assert line.startswith(f"{path}: 4 of 20 pixel values")
    assert "pixel_variance_ratio is NaN" in line
    assert "\n" not in line


def test_subfolders_name_the_classes(tmp_path):
    assert data.image_files(split_folder(tmp_path / "x")).class_names == ("a", "b", "c")


# Sizes


def test_an_archive_that_would_expand_is_refused_by_its_headers(tmp_path):
    """A header tells of 3 GB; few bytes of it are read."""
    path = tmp_path / "bomb.npz"
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1, 1), np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("images.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header | {"shape": (30_000, 320, 320)})
        member.write(bytes(10_000_000))
    tracemalloc.start()
    error_of(lambda: data.image_files(str(path), labels=False), "images of 320 x 320 values", "make them smaller")
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 1_000_000
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("images.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header | {"shape": (3_000_000, 32, 32)})
    error_of(lambda: data.image_files(str(path), labels=False), "3000000 images of 1024 values", "take fewer")
    with zipfile.ZipFile(path, "w") as file:
        with file.open("images.npy", "w") as member:
            np.lib.format.write_array(member, BYTES)
        with file.open("labels.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, header | {"descr": "<U40000000", "shape": (30,)})
    error_of(lambda: data.image_files(str(path)), "'labels' takes 4.5 GiB")


def test_a_large_picture_is_refused_before_it_is_expanded(tmp_path):
    path = tmp_path / "x"
    path.mkdir()
    Image.new("L", (5000, 5000)).save(path / "large.png")
    tracemalloc.start()
    error_of(lambda: pixels(path), "large.png", "5000 x 5000", str(image_arrays.MAX_PIXELS))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
