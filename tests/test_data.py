"""Sources of real rows: their laws, their held-out rows, the embedded digits."""

import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
import sklearn.decomposition
from scipy import integrate, stats
from table_rows import ROWS

import collapse_jax.data as data
from collapse_jax.core import registry
from collapse_jax.data import bundled

NUM = 20_000
pytestmark = pytest.mark.usefixtures("cache")


VARIANTS = [
    ("normal", {}),
    ("normal", {"dim": 1, "mean": 3.0, "scale": 0.5}),
    ("blobs", {}),
    ("blobs", {"num_centers": 5, "dim": 3, "std": 2.0, "shared_centers": False}),
    ("circles", {}),
    ("blobs", {"counts": "equal"}),
    ("circles", {"noise": 0.0, "factor": 0.3}),
    ("circles", {"spacing": "even"}),
    ("moons", {}),
    ("moons", {"noise": 0.5}),
    ("moons", {"spacing": "even"}),
    ("swiss_roll", {}),
    ("swiss_roll", {"noise": 0.0}),
    ("digits", {}),
    ("digits", {"pca": None}),
    ("digits", {"pca": 64, "standardize": True}),
    ("digits", {"minority": 0.1, "minority_classes": 5}),
    ("table", {}),
    ("table", {"standardize": True, "seed": 3}),
]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda v: f"{v[0]}-{'-'.join(map(str, v[1].values()))}")
def source(request, csv):
    name, options = request.param
    options = {"path": csv, **options} if name == "table" else options
    made = registry.factories("source")[name](**options)
    assert made.name == name
    return made


def draw(source, key=0):
    return np.asarray(source.draw(jax.random.key(key), source.arrays, NUM), np.float64)


def z_scores(rows, mean, covariance):
    """Every entry's distance from the truth in empirical standard errors."""
    centred = np.asarray(rows, np.float64) - mean
    first, second, fourth = centred.mean(0), centred.T @ centred, (centred**2).T @ centred**2
    second, fourth = second / len(rows), fourth / len(rows)
    error = np.concatenate([first, (second - covariance).ravel()])
    variance = np.concatenate([centred.var(0), (fourth - second**2).ravel()])
    standard_error = np.sqrt(np.maximum(variance, 0) / len(rows))
    exact = standard_error < 1e-6  # columns that never vary, up to rounding in float32
    assert np.abs(error[exact]).max(initial=0) < 1e-5
    return error[~exact] / standard_error[~exact]


# Laws


def test_every_source_is_tested():
    elsewhere = {"glyphs", "image_files", "tfds_images"}  # in test_images.py
    assert {name for name, _ in VARIANTS} | elsewhere == set(registry.factories("source"))


def test_draws_have_the_stated_moments(source):
    rows = draw(source, 1)
    assert np.abs(z_scores(rows, source.mean, source.covariance)).max() < 4


def test_shapes_and_vmap(source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = jax.vmap(lambda key: source.draw(key, source.arrays, 5))(jax.random.split(jax.random.key(0), 3))
    assert rows.shape == (3, 5, source.dim)
    assert rows.dtype == jnp.zeros(()).dtype
    assert source.mean.shape == (source.dim,)
    assert source.covariance.shape == (source.dim, source.dim)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves((source.arrays, source.mean, source.covariance)))


def test_held_out_rows_are_fixed(source):
    first, again, few = source.held_out(10), source.held_out(10), source.held_out(4)
    assert first.shape == (10, source.dim)
    np.testing.assert_array_equal(first, again)
    if source.independent:
        np.testing.assert_allclose(first[:4], few, rtol=1e-6)  # vectors of another length may round otherwise
    else:
        assert few.shape == (4, source.dim)
    assert np.isfinite(first).all()


def test_arrays_are_arguments(source):
    program = jax.make_jaxpr(lambda key, arrays: source.draw(key, arrays, 5))(jax.random.key(0), source.arrays)
    assert all(np.size(constant) <= 1 for constant in program.consts)


@pytest.mark.parametrize("name", ["normal", "blobs", "circles", "moons", "swiss_roll", "array"])
def test_float64_where_asked_for(name):
    with jax.enable_x64(True):
        source = data.array(ROWS) if name == "array" else registry.factories("source")[name]()
        rows = source.draw(jax.random.key(0), source.arrays, 1000)
        assert rows.dtype == np.float64
        assert np.abs(z_scores(rows, source.mean, source.covariance)).max() < 4


def test_held_out_toy_rows_follow_the_law():
    for name in ("normal", "blobs", "circles", "moons", "swiss_roll"):
        source = registry.factories("source")[name]()
        assert np.abs(z_scores(source.held_out(NUM), source.mean, source.covariance)).max() < 4, name


def test_blobs_of_the_published_variant():
    shared, published = data.blobs(dim=1, std=0.01), data.blobs(dim=1, std=0.01, shared_centers=False)
    np.testing.assert_array_equal(shared.arrays, published.arrays)
    gaps = [np.abs(s.held_out(200) - s.arrays.T).min(1).max() for s in (shared, published)]
    assert gaps[0] < 0.06 < 0.5 < gaps[1]
    assert not np.array_equal(data.blobs(seed=1).arrays, data.blobs(seed=2).arrays)


def test_moments_by_quadrature():
    """The closed forms of the curves against integrals over their parameter, without noise."""
    pi = np.pi
    moons = [lambda t: (np.cos(t), np.sin(t)), lambda t: (1 - np.cos(t), 0.5 - np.sin(t))]
    circles = [lambda t, r=r: (r * np.cos(t), r * np.sin(t)) for r in (1.0, 0.3)]
    roll = [lambda t: (t * np.cos(t), t * np.sin(t))]
    for source, curves, low, high in [
        (data.moons(0.0), moons, 0, pi),
        (data.circles(0.0, 0.3), circles, 0, 2 * pi),
        (data.swiss_roll(0.0), roll, 1.5 * pi, 4.5 * pi),
    ]:
        mean, covariance = np.asarray(source.mean), np.asarray(source.covariance)
        if source.dim == 3:
            mean, covariance = mean[[0, 2]], covariance[np.ix_([0, 2], [0, 2])]

        def expectation(f, curves=curves, low=low, high=high):
            return np.mean([integrate.quad(lambda t, c=c: f(*c(t)), low, high)[0] / (high - low) for c in curves])

        x, y = expectation(lambda x, y: x), expectation(lambda x, y: y)
        xx, yy, xy = (expectation(f) for f in (lambda x, y: x * x, lambda x, y: y * y, lambda x, y: x * y))
        np.testing.assert_allclose(mean, [x, y], atol=1e-9)
        np.testing.assert_allclose(covariance, [[xx - x * x, xy - x * y], [xy - x * y, yy - y * y]], atol=1e-9)


@pytest.mark.parametrize("name", ["circles", "moons", "swiss_roll"])
def test_agrees_with_scikit_learn(name):
    """Kolmogorov-Smirnov along random directions."""
    theirs, _ = getattr(sklearn.datasets, f"make_{name}")(NUM, noise=0.05, random_state=0)
    source = registry.factories("source")[name]()
    ours = draw(source, 2)
    directions = np.random.default_rng(0).normal(size=(12, source.dim))
    worst = min(stats.ks_2samp(ours @ d, theirs @ d).pvalue for d in directions)
    assert worst > 1e-3


def test_curves_without_noise():
    x, y = draw(data.moons(0.0)).T
    upper, lower = np.hypot(x, y), np.hypot(x - 1, y - 0.5)
    assert np.minimum(np.abs(upper - 1) + (y < -1e-6), np.abs(lower - 1) + (y > 0.5 + 1e-6)).max() < 1e-5
    radius = np.linalg.norm(draw(data.circles(0.0, 0.5)), axis=1)
    assert np.minimum(np.abs(radius - 1), np.abs(radius - 0.5)).max() < 1e-5
    x, height, z = draw(data.swiss_roll(0.0)).T
    angle = np.hypot(x, z)
    np.testing.assert_allclose(x, angle * np.cos(angle), atol=1e-3)
    assert 0 <= height.min() < 1 < 20 < height.max() <= 21


# Digits


def test_digits_are_the_same_through_tfds_directly_and_in_scikit_learn(cache, capfd):
    through, directly, theirs = data.load_digits(), bundled.read_digits(), sklearn.datasets.load_digits()
    assert list((cache / "collapse_digits" / "1.0.0").glob("*.array_record*"))  # it did go through tfds
    for digits in (through, directly):
        assert digits.image.dtype == digits.label.dtype == np.uint8
        np.testing.assert_array_equal(digits.image, theirs.images)
        np.testing.assert_array_equal(digits.label, theirs.target)
    assert sorted(p.name for p in cache.iterdir()) == ["collapse_digits"]
    assert capfd.readouterr() == ("", "")


def test_preparing_is_quiet_and_happens_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "new"))
    data.load_digits()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")}
    data.load_digits()
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")} != {}
    assert capfd.readouterr() == ("", "")


def test_digits_without_tfds(monkeypatch):
    with_tfds = data.digits()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "collapse_jax.data.tfds_builders", raising=False)
    monkeypatch.delattr(data, "tfds_builders", raising=False)
    without = data.digits()
    np.testing.assert_array_equal(with_tfds.arrays, without.arrays)
    np.testing.assert_array_equal(with_tfds.held_out(300), without.held_out(300))


@pytest.mark.parametrize("root", ["a_file/below", "gs://bucket/cache"])
def test_digits_where_the_cache_cannot_be_written(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("TFDS_DATA_DIR", root)
    np.testing.assert_array_equal(data.load_digits().image, bundled.read_digits().image)
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_a_damaged_cache_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data.load_digits()
    for path in tmp_path.rglob("*.array_record*"):
        path.write_bytes(path.read_bytes()[:1000])
    np.testing.assert_array_equal(data.load_digits().image, bundled.read_digits().image)


def test_two_processes_may_prepare_at_once(tmp_path):
    code = "import collapse_jax.data as d; print(d.load_digits().image.sum())"
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=-1, text=True) for _ in range(2)]
    expected = str(bundled.read_digits().image.sum())
    assert [process.communicate()[0].strip() for process in both] == [expected, expected]
    assert [path.name for path in tmp_path.iterdir()] == ["collapse_digits"]


def test_principal_components_are_scikit_learns():
    pixels, ours = data.digits(pca=None), data.digits(pca=64)
    theirs = sklearn.decomposition.PCA(10).fit(pixels.arrays)
    for our_rows, rows in [(ours.arrays, pixels.arrays), (ours.held_out(359), pixels.held_out(359))]:
        np.testing.assert_allclose(np.abs(our_rows[:, :10]), np.abs(theirs.transform(rows)), atol=1e-10)
    assert len(pixels.arrays) == 1438
    assert pixels.arrays.min() == 0
    assert pixels.arrays.max() == 1
    variance = np.diag(ours.covariance)
    assert (np.diff(variance) <= 1e-12).all()
    np.testing.assert_allclose(variance.sum(), np.trace(pixels.covariance))
    np.testing.assert_allclose(ours.mean, 0, atol=1e-12)
    np.testing.assert_array_equal(data.digits(pca=8).arrays, ours.arrays[:, :8])


def test_standardised_digits():
    variance = np.diag(data.digits(pca=64, standardize=True).covariance)
    assert ((np.abs(variance - 1) < 1e-9) | (variance == 0)).all()  # null components stay 0
    assert 55 < variance.sum() < 64


def test_nothing_heavy_is_imported():
    code = "import sys, collapse_jax.data; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow_datasets", "tensorflow", "pandas", "pyarrow", "sklearn", "scipy"} & set(loaded)
