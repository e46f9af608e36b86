"""Triangles and least squares in float32 against NumPy's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.numerics import least_squares

reduce_to_triangle = jax.jit(least_squares.reduce_to_triangle, static_argnums=1)


@jax.jit
@jax.vmap
def fitted(x, y):
    d = x.shape[1]
    reduced = least_squares.reduce_to_triangle(jnp.concatenate([x, y[:, None]], 1), d)
    return least_squares.solve_triangle(reduced[:, :d], reduced[:, d:])[:, 0]


def problems(n, d, num, repeated=False):
    """Normal inputs, drawn anew for each row or with repetitions among n, and labels of noise 1."""
    rng = np.random.default_rng(1000 * n + d)
    x = rng.normal(size=(num, n, d)).astype(np.float32)
    if repeated:
        x = np.take_along_axis(x, rng.integers(0, n, (num, n, 1)), axis=1)
    return x, (x.sum(2) + rng.normal(size=(num, n))).astype(np.float32)


AT_NIGHT = [pytest.param(*size, marks=pytest.mark.nightly) for size in ((10, 10), (20, 20), (60, 17), (12, 30))]


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (40, 3), (3, 5), (9, 10), *AT_NIGHT])
def test_least_squares_is_numpys(n, d, repeated):
    """Off by a multiple of eps times the condition number; normal equations, off by its square, would fail.

    Of repeated rows, the first columns alone may be worse conditioned than all.
    """
    x, y = problems(n, d, 20, repeated)
    found = np.asarray(fitted(x, y), float)
    assert np.isfinite(found).all()
    for one, label, coefficients in zip(x.astype(float), y.astype(float), found, strict=True):
        expected, _, rank, singular = np.linalg.lstsq(one, label, rcond=1e-9)
        assert repeated or rank == min(n, d)
        # The residual of an inconsistent system enters with the square of the condition, for any backward stable way.
        condition = singular[0] / singular[rank - 1]
        residual = np.linalg.norm(label - one @ expected) / (singular[0] * np.linalg.norm(expected))
        bound = (3000 if repeated else 30) * np.finfo(np.float32).eps * condition * (1 + condition * residual)
        assert np.linalg.norm(coefficients - expected) <= bound * np.linalg.norm(expected)


@pytest.mark.parametrize(("m", "num"), [(5, 3), (3, 5), pytest.param(40, 20, marks=pytest.mark.nightly)])
def test_a_triangle_keeps_all_products(m, num):
    rows = np.random.default_rng(m).normal(size=(m, num + 2)).astype(np.float32)
    reduced = np.asarray(reduce_to_triangle(rows, num), float)
    np.testing.assert_array_equal(reduced[:, :num], np.triu(reduced[:, :num]))
    expected = rows.astype(float).T @ rows
    np.testing.assert_allclose((reduced.T @ reduced)[:num], expected[:num], atol=2e-5 * m)


@pytest.mark.parametrize("d", [4, pytest.param(12, marks=pytest.mark.nightly)])
def test_repeated_rows_count_once(d):
    distinct = np.random.default_rng(1).normal(size=(d - 1, d))
    reduced = np.asarray(reduce_to_triangle(np.repeat(distinct, 5, axis=0).astype(np.float32), d))
    assert (np.diagonal(reduced) != 0).tolist() == [True] * (d - 1) + [False]
    assert not reduced[-1].any()
