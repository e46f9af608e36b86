"""Nearest neighbours and the measures that rest on them, against NumPy; ties against whole numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_helpers import distances
from oracle_helpers import z_score

import collapse_jax.data as data
from collapse_jax.metrics import images
from collapse_jax.numerics import nearest_neighbors
from collapse_jax.numerics.exact_distances import count_steps, find_lattice, rank_distances

pytestmark = pytest.mark.usefixtures("cache")

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _any_order():
    """A test draws the same numbers whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def rows(num, dim, scale=1.0, shift=0.0):
    return (scale * RNG.normal(size=(num, dim)) + shift).astype(np.float32)


def overlap_by_numpy(real, generated, k):
    """Precision, recall, density, coverage, one loop a definition."""
    real_radius = np.sort(distances(real, real), 1)[:, k]
    generated_radius = np.sort(distances(generated, generated), 1)[:, k]
    across = distances(generated, real)
    precision = np.mean([any(across[i, j] <= real_radius[j] for j in range(len(real))) for i in range(len(generated))])
    recall = np.mean(
        [any(across[i, j] <= generated_radius[i] for i in range(len(generated))) for j in range(len(real))]
    )
    density = sum(across[i, j] <= real_radius[j] for i in range(len(generated)) for j in range(len(real)))
    coverage = np.mean([across[:, j].min() <= real_radius[j] for j in range(len(real))])
    return precision, recall, density / (k * len(generated)), coverage


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.3, 0.5), (2.0, 0.0), (0.0, 0.1)])
def test_overlap_is_numpys(scale, shift):
    real, generated = rows(60, 4), rows(45, 4, scale, shift)
    ours = nearest_neighbors.measure_overlap(nearest_neighbors.build_manifold(real, 3), generated, 3)
    np.testing.assert_allclose(ours, overlap_by_numpy(real, generated, 3), rtol=1e-5)


def test_overlap_of_what_is_known():
    """The real law itself against a collapsed and a far one."""
    real = nearest_neighbors.build_manifold(rows(300, 3), 5)
    same, narrow, far = (
        nearest_neighbors.measure_overlap(real, rows(300, 3, s, m), 5) for s, m in ((1, 0), (0.1, 0), (1, 20))
    )
    assert min(same.precision, same.recall, same.coverage) > 0.9
    assert 0.8 < same.density < 1.2
    assert narrow.precision == 1
    assert narrow.recall < 0.05
    assert narrow.coverage < 0.5
    assert max(far) == 0


def test_nearest_and_copied():
    x, y = rows(300, 5), rows(40, 5)
    np.testing.assert_allclose(
        nearest_neighbors.nearest_squared_distances(x, y), distances(x, y).min(1) ** 2, rtol=1e-4
    )
    train, held_out = rows(80, 5), rows(20, 5)
    assert nearest_neighbors.copied_share(train[:30], train, held_out) == 1
    assert nearest_neighbors.copied_share(held_out, train, held_out) == -4  # all nearer to held-out rows: 1 - 100 / 20
    assert nearest_neighbors.copied_share(rows(10, 5), train, train) == 0  # ties count in part


def test_rows_that_owe_nothing_to_the_training_rows_are_not_copies():
    """0 in expectation: also where a law is much narrower, and where it is another."""
    copied, many = jax.jit(jax.vmap(nearest_neighbors.copied_share)), (300, 60, 3)
    train, held_out = RNG.normal(size=many), RNG.normal(size=(300, 20, 3))
    for scale, shift in ((1.0, 0.0), (0.1, 0.0), (1.0, 2.0)):
        seen = copied(scale * RNG.normal(size=(300, 20, 3)) + shift, train, held_out)
        assert abs(z_score(np.asarray(seen), 0.0)) < 4, (scale, shift)
    half = np.concatenate([train[:, :10], RNG.normal(size=(300, 10, 3))], 1)
    assert abs(z_score(np.asarray(copied(half, train, held_out)), 0.5)) < 4


def test_entropy_of_normal_rows():
    for dim, scale, k, bias in ((1, 2.0, 3, 0.0), (2, 1e-6, 5, 0.02)):
        exact = dim * (0.5 * np.log(2 * np.pi * np.e) + np.log(scale))
        x = (scale * RNG.normal(size=(50, 400, dim))).astype(np.float32)
        seen = np.asarray(jax.jit(jax.vmap(lambda x, k=k: nearest_neighbors.differential_entropy(x, k)))(x))
        assert abs(seen.mean() - exact) < 4 * seen.std() / np.sqrt(50) + bias, (dim, seen.mean(), exact)
    assert nearest_neighbors.differential_entropy(np.zeros((8, 2), np.float32), 3) == -np.inf


# Ties


def exact_distances(x, y):
    """Squared distances of rows of whole numbers, as whole numbers."""
    x, y = x.astype(np.int64), y.astype(np.int64)
    return (x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)


def exact_overlap(real, generated, k):
    real_radius = np.sort(exact_distances(real, real), 1)[:, k]
    generated_radius = np.sort(exact_distances(generated, generated), 1)[:, k]
    across = exact_distances(generated, real)
    in_real = across <= real_radius
    in_generated = across <= generated_radius[:, None]
    return in_real.any(1).mean(), in_generated.any(0).mean(), in_real.sum(1).mean() / k, in_real.any(0).mean()


def exact_copies(generated, train, held_out):
    across = exact_distances(generated, np.concatenate([train, held_out]))
    is_nearest = across == across.min(1, keepdims=True)
    share = (is_nearest[:, len(train) :].sum(1) / is_nearest.sum(1)).mean()
    return 1 - share * (len(train) + len(held_out)) / len(held_out)


def pixels(num, dim, white, levels=3):
    """Images of few levels, which have many equal distances, and some images twice."""
    few = RNG.integers(0, levels, (num, dim)) * (white // (levels - 1))
    few[: num // 4] = few[num // 4 : 2 * (num // 4)]
    return few


def test_chance_ties_of_black_and_white_images_are_no_copies():
    """0 in expectation where nearest rows tie, and nine of ten rows are training rows."""
    train, held_out, generated = (RNG.integers(0, 2, (300, num, 6)).astype(np.float32) for num in (90, 10, 20))
    seen = jax.jit(jax.vmap(nearest_neighbors.copied_share))(generated, train, held_out)
    assert abs(z_score(np.asarray(seen), 0.0)) < 4
    assert (exact_distances(generated[0], train[0]).min(1) == 0).any()


@pytest.mark.parametrize(("white", "unit"), [(255, 255), (16, 16), (15, 15), (255, 1), (1, 1)])
@pytest.mark.parametrize("dim", [4, 64, 300, 2500])
def test_equal_distances_of_pixels_compare_as_equal(white, unit, dim):
    """In 0..1, or as they are stored; in one matrix product and in several."""
    levels = 2 if white == 1 else 4 if white < 255 else 6
    real, generated, held_out = (pixels(num, dim, white, levels) for num in (60, 45, 20))
    generated[:5] = real[:5]
    x, y, z = (jnp.asarray(pixel / np.float32(unit), jnp.float32) for pixel in (real, generated, held_out))
    balls = jax.jit(nearest_neighbors.build_manifold, static_argnums=1)(x, 3)
    ours = jax.jit(nearest_neighbors.measure_overlap, static_argnums=2)(balls, y, 3)
    np.testing.assert_allclose(ours, exact_overlap(real, generated, 3), rtol=1e-6)
    copied = jax.jit(nearest_neighbors.copied_share)(y, x, z)
    np.testing.assert_allclose(copied, exact_copies(generated, real, held_out), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 784, 3072, 16384])
def test_steps_are_exact_to_the_last_unit(dim):
    """Also where they are more than float32 can count; distances one unit apart are told apart."""
    x, y = RNG.integers(0, 256, (20, dim)), RNG.integers(0, 256, (30, dim))
    x[0], y[0] = 0, 255  # the farthest of all
    a, b = (jnp.asarray(z / np.float32(255), jnp.float32) for z in (x, y))
    lattice = find_lattice(a, b)
    assert int(lattice.unit) == 255
    rank = jax.jit(rank_distances)(lattice, a, b)
    np.testing.assert_array_equal(count_steps(rank), exact_distances(x, y))
    assert (np.argsort(rank, 1, kind="stable") == np.argsort(exact_distances(x, y), 1, kind="stable")).all()


def test_real_pixels_of_a_coarser_unit_than_the_generated():
    """Radii of black and white images are compared with distances of grey ones."""
    real, generated = 255 * RNG.integers(0, 2, (60, 9)), 51 * RNG.integers(0, 6, (45, 9))
    x, y = (jnp.asarray(z / np.float32(255), jnp.float32) for z in (real, generated))
    balls = nearest_neighbors.build_manifold(x, 3)
    assert int(balls.unit) == 1
    np.testing.assert_allclose(
        nearest_neighbors.measure_overlap(balls, y, 3), exact_overlap(real, generated, 3), rtol=1e-6
    )
    z = rows(45, 9, 0.3, 0.5)  # on no lattice
    seen = nearest_neighbors.measure_overlap(balls, z, 3)
    np.testing.assert_allclose(seen, overlap_by_numpy(np.asarray(x), z, 3), rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1e-6])
def test_rows_near_a_lattice_are_not_on_it(shift):
    """Distances of collapsed rows, 1e-5 apart around a pixel's value, are still those of rows."""
    x = jnp.asarray(0.5 + 1e-5 * RNG.normal(size=(30, 4)) + shift, jnp.float32)
    lattice = find_lattice(x)
    assert int(lattice.unit) == 0
    expected = distances(np.asarray(x), np.asarray(x)) ** 2
    np.testing.assert_allclose(rank_distances(lattice, x, x), expected, rtol=1e-3, atol=1e-14)
    assert int(find_lattice(x.at[0, 0].set(jnp.nan)).unit) == 0
    assert int(find_lattice(jnp.full((3, 2), 70_000.0)).unit) == 1
    assert int(find_lattice(jnp.asarray([[0.0], [70_000.0]])).unit) == 0  # its squares are more than float32 counts


def test_rows_that_coincide_are_no_distance_apart():
    """The nearest row of a copy is its original, at the distance 0, whatever the values."""
    x = rows(200, 50, 3.0, 1.0)
    assert (np.diagonal(rank_distances(find_lattice(x), x, x)) == 0).all()
    twice = np.concatenate([x, x])
    seen = nearest_neighbors.measure_overlap(nearest_neighbors.build_manifold(twice, 1), x, 1)
    assert tuple(map(float, seen)) == (1, 1, 2, 1)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_kth_smallest_counts_ties(k):
    x = RNG.integers(0, 5, (50, 9)).astype(np.float32)
    x[:10, 0] = np.inf
    np.testing.assert_array_equal(nearest_neighbors.find_kth_smallest(jnp.asarray(x), k), np.sort(x, 1)[:, k - 1])


def test_small_images_without_labels_are_their_own_features():
    """All principal components are a rotation, which would round ties away."""
    source = data.digits(pca=None)
    judge = images.image_judge(source, num_test=100)
    truth = judge.truth()
    assert truth.net is None
    held_out, generated = (
        np.round(16 * source.held_out(359)[part]).astype(int) for part in (slice(100), slice(100, 300))
    )
    seen = jax.jit(judge.observe)(truth, jnp.asarray(generated / 16, jnp.float32))
    ours = [float(seen[name]) for name in ("precision", "recall", "density", "coverage")]
    np.testing.assert_allclose(ours, exact_overlap(held_out, generated, 5), rtol=1e-6)
    train = np.round(16 * source.arrays).astype(int)
    assert abs(float(seen["copied"]) - exact_copies(generated, train, held_out)) < 1e-5
