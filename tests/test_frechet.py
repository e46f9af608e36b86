"""The Frechet distance of features, against SciPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_helpers import frechet_by_scipy
from oracle_helpers import z_score

from collapse_jax.numerics.frechet import compute_moments, frechet_distance

pytestmark = pytest.mark.usefixtures("cache")

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _any_order():
    """A test draws the same numbers whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def rows(num, dim, scale=1.0, shift=0.0):
    return (scale * RNG.normal(size=(num, dim)) + shift).astype(np.float32)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(("num", "dim"), [(200, 12), (9, 12), (300, 1)])
def test_frechet_distance_is_scipys(num, dim, decay):
    """Wide, narrow and singular covariances; fewer rows than features."""
    scale = np.exp(-decay * np.arange(dim))
    real, x = rows(400, dim) * scale + 1, rows(num, dim) * scale[::-1]
    mean, root = compute_moments([real[:150], real[150:]])
    np.testing.assert_allclose(root @ root, np.cov(real.T.astype(float), ddof=0).reshape(dim, dim), atol=1e-6)
    ours = jax.jit(frechet_distance)(x, jnp.asarray(mean, jnp.float32), jnp.asarray(root, jnp.float32))
    theirs = frechet_by_scipy(x, mean, np.atleast_2d(root @ root)) if dim > 1 else _frechet_of_one(x, mean, root)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)


def _frechet_of_one(x, mean, root):
    return ((x.mean() - mean) ** 2 + (x.std(ddof=1) - root[0]) ** 2).item()


def test_frechet_distance_of_the_real_law_itself():
    """Its bias, to first order in 1 / N: the mean's tr S / N, and half the sum of Var(S_ij) / (l_i + l_j)."""
    x = RNG.normal(size=(400, 1000, 6)).astype(np.float32)
    seen = jax.jit(jax.vmap(frechet_distance, (0, None, None)))(x, jnp.zeros(6), jnp.eye(6))
    assert abs(z_score(np.asarray(seen), 6 * (6 + 5) / (4 * 1000))) < 4


def frechet_by_singular_values(x, real):
    """The distance and the two traces in float64, without a square root of a product."""
    x, real = x.astype(float), real.astype(float)
    a = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    b = (real - real.mean(0)) / np.sqrt(len(real))
    traces = (a**2).sum() + (b**2).sum()
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return ((x.mean(0) - real.mean(0)) ** 2).sum() + traces - 2 * nuclear, traces


SPECTRA = {
    "decaying": lambda dim: np.exp(-0.5 * np.arange(dim)),
    "decaying slowly": lambda dim: (1.0 + np.arange(dim)) ** -2,
    "unlike units": lambda dim: 10.0 ** (np.arange(dim) % 9 - 4),
    "flat": np.ones,
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dim", [2, 8, 64])
@pytest.mark.parametrize("num", [1000, 40])
def test_frechet_distance_is_float64s(spectrum, dim, num):
    """Within the larger of 1% and 1e-6 of the traces: of a sample of the real law, of a narrower one, of another."""
    scale, turn = SPECTRA[spectrum](dim), np.linalg.qr(RNG.normal(size=(dim, dim)))[0]
    turn = np.eye(dim) if spectrum == "unlike units" else turn
    real = ((RNG.normal(size=(1500, dim)) * scale) @ turn + 3).astype(np.float32)
    mean, root = (jnp.asarray(moment, jnp.float32) for moment in compute_moments([real]))
    for other in (scale, 0.9 * scale, RNG.permutation(scale)):
        x = ((RNG.normal(size=(num, dim)) * other) @ turn + 3).astype(np.float32)
        exact, traces = frechet_by_singular_values(x, real)
        assert abs(float(jax.jit(frechet_distance)(x, mean, root)) - exact) < max(0.01 * exact, 1e-6 * traces)


def test_frechet_distance_of_collapsed_rows_and_its_gradient():
    """One point alone is as far as the mean and the whole trace; a shift changes the distance by twice itself."""
    real = rows(500, 5)
    mean, root = (jnp.asarray(moment, jnp.float32) for moment in compute_moments([real]))
    trace = real.astype(float).var(0).sum()
    point = jnp.full((20, 5), 2.0)
    expected = trace + ((2 - real.mean(0, dtype=float)) ** 2).sum()
    np.testing.assert_allclose(frechet_distance(point, mean, root), expected, rtol=1e-5)
    x = rows(300, 5, shift=0.5)
    slope = jax.grad(lambda shift: frechet_distance(x + shift, mean, root))(jnp.zeros(5))
    np.testing.assert_allclose(slope, 2 * (x.mean(0) - mean), atol=1e-5)
