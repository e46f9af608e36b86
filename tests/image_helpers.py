"""Small folders and archives of images, what is said of bad ones, and references of their metrics."""

import numpy as np
import pytest
import scipy.linalg
from PIL import Image

import collapse_jax.data as data


def error_of(make, *words):
    with pytest.raises(ValueError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def archive(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def folder(path, images, mode="L"):
    """One file an image, in a subfolder for each of the labels a, b, c."""
    for number, image in enumerate(images):
        group = path / "abc"[number % 3]
        group.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(group / f"{number:03}.png")
    return str(path)


def sorted_rows(rows):
    return np.asarray(rows)[np.lexsort(np.asarray(rows).T)]


def all_rows(source):
    held_out = max(n for n in range(1, 10_000) if _holds(source, n))
    return np.vstack([source.arrays, source.held_out(held_out)])


def _holds(source, num):
    try:
        source.held_out(num)
    except ValueError:
        return False
    return True


def one_file(path, *images):
    """The rows of a folder of such PIL images, each there ten times."""
    path.mkdir()
    for number in range(10):
        for name, image in zip("abc", images, strict=False):
            image.save(path / f"{number}{name}.png")
    return np.unique(all_rows(data.image_files(str(path), labels=False)), axis=0)


def frechet_by_scipy(x, mean, covariance):
    x = x.astype(np.float64)
    own = np.cov(x.T)
    across = scipy.linalg.sqrtm(own @ covariance).real
    return ((x.mean(0) - mean) ** 2).sum() + np.trace(own) + np.trace(covariance) - 2 * np.trace(across)


def distances(x, y):
    return np.sqrt(((x[:, None].astype(np.float64) - y[None].astype(np.float64)) ** 2).sum(-1))
