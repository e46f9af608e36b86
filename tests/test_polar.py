"""The polar factor and the distance of covariances, beside SciPy in float64; near 0, singular, and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from collapse_jax import policies, settings
from collapse_jax.core.errors import UsageError
from collapse_jax.execution.programs import BlockShape, as_inputs, trace_block
from collapse_jax.numerics.polar import covariance_distance, either_gram, polar_factor
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan

EACH_DIM = pytest.mark.parametrize("d", [1, 2, 3, 10, 16, 17, 31, 64])
BOTH_TYPES = pytest.mark.parametrize("x64", [False, True])
NUM = 8
distances = jax.jit(jax.vmap(covariance_distance))
polar_factors = jax.jit(jax.vmap(polar_factor))


def rooted(d, seed=0, num=NUM):
    """Lower-triangular factors of covariances of 3 d + 5 rows, ``[num, d, d]``."""
    rows = np.random.default_rng(seed).normal(size=(num, 3 * d + 5, d))
    return np.linalg.cholesky(np.einsum("nki,nkj->nij", rows, rows) / (3 * d + 5))


def exact(a, b):
    """The distance of two factors in float64: the traces, and SciPy's singular values."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return (a**2).sum() + (b**2).sum() - 2 * scipy.linalg.svdvals(b.T @ a).sum()


def aligned(a, b):
    """Return the distance without a difference of traces: it keeps its digits where it is small."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return ((a - b @ scipy.linalg.polar(b.T @ a)[0]) ** 2).sum()


@EACH_DIM
@BOTH_TYPES
def test_polar_factor_is_scipys(d, x64):
    matrices = np.random.default_rng(d).normal(size=(NUM, d, d)) + 2 * np.eye(d)
    with jax.enable_x64(x64):
        found = np.asarray(polar_factors(matrices.astype(float if x64 else np.float32)))
        eps = np.finfo(found.dtype).eps
    expected = np.stack([scipy.linalg.polar(matrix)[0] for matrix in matrices])
    for q, matrix, best in zip(found, matrices, expected, strict=True):
        np.testing.assert_allclose(q @ q.T, np.eye(d), atol=20 * eps)
        np.testing.assert_allclose(q, best, atol=20 * eps * np.linalg.cond(matrix))


@pytest.mark.parametrize("d", [1, 2, 10, 17, 64])
@pytest.mark.parametrize("rank", [None, 1])
def test_polar_factor_of_a_wide_matrix(d, rank):
    """Its rows are orthonormal, and it gives the sum of singular values, also where most of them are 0."""
    matrices = np.random.default_rng(d).normal(size=(NUM, d, 3 * d + 1)).astype(np.float32)
    matrices[:, rank:] = matrices[:, :1] if rank else matrices[:, rank:]
    found = np.asarray(polar_factors(matrices))
    for q, matrix in zip(found, matrices, strict=True):
        np.testing.assert_allclose(q @ q.T, np.eye(d), atol=3e-6)
        assert (q * matrix).sum() == pytest.approx(scipy.linalg.svdvals(matrix.astype(float)).sum(), rel=1e-5)


@EACH_DIM
@BOTH_TYPES
def test_distance_is_that_of_scipys_square_roots(d, x64):
    a, b = rooted(d), rooted(d, seed=1)
    with jax.enable_x64(x64):
        found = np.asarray(distances(jnp.asarray(a), jnp.asarray(b)))
    for x, y, distance in zip(a, b, found, strict=True):
        root = np.real(scipy.linalg.sqrtm(y @ y.T))
        across = np.real(scipy.linalg.sqrtm(root @ x @ x.T @ root))
        expected = np.trace(x @ x.T) + np.trace(y @ y.T) - 2 * np.trace(across)
        assert distance == pytest.approx(expected, rel=1e-9 if x64 else 2e-6)


@EACH_DIM
@pytest.mark.parametrize("singular", ["one", "half", "most", "all", "graded", "graded both", "tiny"])
def test_distance_of_singular_and_collapsed_covariances(d, singular):
    """Directions may be empty or down to 1e-20 of the largest; the difference of traces in float64 is the reference."""
    a, b = (rooted(d, seed).astype(np.float32) for seed in (2, 3))
    empty = {"one": 1, "half": d // 2, "most": d - 1, "all": d}.get(singular, 0)
    a[:, :, np.random.default_rng(d).permutation(d)[:empty]] = 0
    graded = np.geomspace(1, 1e-20, d).astype(np.float32)
    if singular.startswith("graded"):
        a *= graded
    if singular.endswith("both"):
        b *= np.random.default_rng(d).permutation(np.sqrt(graded))
    if singular == "tiny":
        a *= np.float32(1e-20)
    found = np.asarray(distances(a, b))
    scale = np.array([(x.astype(float) ** 2).sum() + (y.astype(float) ** 2).sum() for x, y in zip(a, b, strict=True)])
    expected = np.array([exact(x, y) for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-6)


def test_distance_of_two_columns_where_a_row_is_empty():
    """In so many chains some products of factors are as singular as float32 can be."""
    num = 100_000
    a, b = (np.tril(np.random.default_rng(seed).normal(size=(num, 2, 2))).astype(np.float32) for seed in (7, 8))
    a[: num // 2, 0] = 0
    a[num // 2 :, 0] *= np.float32(1e-9)
    x, y = a.astype(float), b.astype(float)
    squares = (x**2).sum((1, 2)) + (y**2).sum((1, 2))
    product = np.swapaxes(y, 1, 2) @ x
    nuclear = np.sqrt((product**2).sum((1, 2)) + 2 * np.abs(np.linalg.det(product)))  # of two singular values
    np.testing.assert_allclose(distances(a, b) / squares, (squares - 2 * nuclear) / squares, rtol=0, atol=2e-6)


@pytest.mark.parametrize("d", [3, 10, 31])
@pytest.mark.parametrize("narrow", [False, True])
def test_distance_keeps_its_digits_near_the_truth(d, narrow):
    """Fits to 1,000 rows: a difference of traces in float32 is off by some 1e-3 of it."""
    rng = np.random.default_rng(d)
    truth = rooted(d, seed=4, num=1)[0] if narrow else np.eye(d)
    white = [np.linalg.cholesky(np.cov(rng.normal(size=(d, 1000))).reshape(d, d)) for _ in range(NUM)]
    a = np.stack([truth @ x for x in white]).astype(np.float32)
    b = np.broadcast_to(truth.astype(np.float32), a.shape)
    expected = [aligned(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(distances(a, b), expected, rtol=1e-5)


@EACH_DIM
def test_distance_to_itself_is_nothing_and_rotations_do_not_count(d):
    a, b = (rooted(d, seed).astype(np.float32) for seed in (5, 6))
    half = a.copy()
    half[:, :, d // 2 :] = 0
    for x in (a, half):
        assert (np.asarray(distances(x, x)) <= 1e-12 * (x**2).sum((1, 2))).all()
    rotation, right = np.linalg.qr(np.random.default_rng(d).normal(size=(2, d, d)))[0].astype(np.float32)
    np.testing.assert_allclose(distances(rotation @ a, rotation @ b @ right), distances(a, b), rtol=1e-4)
    np.testing.assert_allclose(distances(b, a), distances(a, b), rtol=1e-4)
    np.testing.assert_allclose(distances(3 * a, 3 * b), 9 * distances(a, b), rtol=1e-4)


def test_a_lane_does_not_depend_on_its_neighbours():
    """Hard matrices take more steps; the easy ones beside them stay as they are, bit by bit, under two vmaps, too."""
    a, b = rooted(10).astype(np.float32), rooted(10, seed=1).astype(np.float32)
    hard = a.copy()
    hard[1:] *= np.geomspace(1, 1e-20, 10).astype(np.float32)
    np.testing.assert_array_equal(distances(a, b)[0], distances(hard, b)[0])
    twice = jax.jit(jax.vmap(jax.vmap(covariance_distance, (0, None)), (None, 0)))(a, b)
    np.testing.assert_allclose(np.diagonal(twice), distances(a, b), rtol=1e-5)


gradients = jax.jit(jax.grad(covariance_distance, (0, 1)))


@pytest.mark.parametrize("d", [1, 2, 5, 20])
@pytest.mark.parametrize("apart", [1.0, 1e-3])
def test_gradients_are_finite_differences(d, apart):
    with jax.enable_x64(True):
        a = rooted(d, num=1)[0]
        b = a + apart * np.tril(np.random.default_rng(1).normal(size=(d, d))) * 0.3
        towards = np.tril(np.random.default_rng(2).normal(size=(2, d, d)))
        by_a, by_b = gradients(a, b)
        slope = (np.asarray(by_a) * towards[0]).sum() + (np.asarray(by_b) * towards[1]).sum()
        h = 1e-5 * apart
        ends = [aligned(a + s * h * towards[0], b + s * h * towards[1]) for s in (1, -1)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


@EACH_DIM
def test_gradients_at_equal_and_singular_laws(d):
    a = rooted(d, num=1)[0].astype(np.float32)
    for gradient in gradients(a, a):
        np.testing.assert_allclose(gradient, 0, atol=1e-5)
    a[:, d // 2 :] = 0
    for gradient in gradients(a, np.eye(d, dtype=np.float32)):
        assert np.isfinite(gradient).all()


def test_second_derivatives_are_refused_rather_than_wrong():
    a, b = rooted(3, num=2).astype(np.float32)
    with pytest.raises(UsageError, match="first derivatives only"):
        jax.hessian(covariance_distance)(a, b)


def test_nan_stays_nan():
    a = rooted(3).astype(np.float32)
    a[0, 1, 0] = np.nan
    assert np.isnan(distances(a, rooted(3, seed=1).astype(np.float32))).tolist() == [True] + [False] * (NUM - 1)


@pytest.mark.parametrize("d", [3, 20])
def test_either_gram_has_the_squared_singular_values(d):
    x = rooted(d, num=1)[0].astype(np.float32)
    found = np.sort(np.linalg.eigvalsh(either_gram(jnp.asarray(x))))[::-1]
    np.testing.assert_allclose(found, scipy.linalg.svdvals(x.astype(float)) ** 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["replace", "accumulate"])
@EACH_DIM
def test_programs_of_a_gaussian_call_no_lapack(d, policy):
    """Such calls would keep other blocks from running at the same time."""
    grid = make_grid(settings.gaussian(d), getattr(policies, policy)(), num_samples=100, num_generations=3)
    plan = make_plan(grid, Options(2))
    (program,) = plan.programs
    assert "wasserstein2_squared" in program.metrics
    traced = trace_block(
        lambda values: plan.build_chain(program, values), program.world, plan.unit_chains(plan.units[0])[0],
        metrics=program.metrics, floats=as_inputs(program.floats), shape=BlockShape(2, 3, 1),
    )  # fmt: skip
    assert not any("lapack" in of.lower().as_text() for of in traced.traced)
