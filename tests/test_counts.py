"""Samplers of symbols and of their counts against SciPy's laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracle_helpers import Z_LIMIT, z_score

from collapse_jax.numerics import count_laws

P = np.array([0.001, 0.25, 0.0, 0.4, 0.149, 0.2])  # no power of two, and one that must never come
CHAINS = 4000


def draws(draw, seed, num=CHAINS):
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(seed), num)), np.float64)


def fits(sample, law):
    """Chi squared of whole numbers against a law; values of fewer than 10 expected share a cell at either end."""
    edges = np.arange(law.ppf(10 / sample.size), law.isf(10 / sample.size) + 1)
    expected = np.diff(np.concatenate([[0], law.cdf(edges), [1]])) * sample.size
    observed = np.histogram(sample, np.concatenate([[-np.inf], edges + 0.5, [np.inf]]))[0]
    used = expected > 5
    statistic = ((observed - expected)[used] ** 2 / expected[used]).sum()
    return scipy.stats.chi2.sf(statistic, used.sum() - 1)


AT_NIGHT = [pytest.param(*sizes, marks=pytest.mark.nightly) for sizes in ((1000, 0), (100_000, 100_000))]


@pytest.mark.parametrize(("num", "size"), [(40, 40), (40, 13), (1000, 1000), *AT_NIGHT])
def test_multinomial(num, size):
    sample = draws(
        lambda key: count_laws.draw_multinomial(key, jnp.asarray(P, jnp.float32), num, jnp.int32(size)), num + size
    )
    assert (sample.sum(1) == size).all()
    assert (sample >= 0).all()
    assert (sample == np.round(sample)).all()
    assert (sample[:, 2] == 0).all()
    if size == 0:
        return
    for k in (0, 1, 3, 5):
        if size > 5:
            assert fits(sample[:, k], scipy.stats.binom(size, P[k])) > 1e-4
    for i, j in ((1, 3), (0, 5), (4, 5)):
        product = (sample[:, i] - size * P[i]) * (sample[:, j] - size * P[j])
        assert abs(z_score(product, -size * P[i] * P[j])) < Z_LIMIT


def test_multinomial_of_a_traced_bound_and_of_one_symbol():
    p = jnp.asarray(P, jnp.float32)
    traced = jax.jit(jax.vmap(lambda key, num: count_laws.draw_multinomial(key, p, num, num), (0, None)))
    sample = np.asarray(traced(jax.random.split(jax.random.key(1), CHAINS), 30))
    assert fits(sample[:, 3], scipy.stats.binom(30, P[3])) > 1e-4
    draw = jax.jit(count_laws.draw_multinomial, static_argnums=(2, 3))
    for num in (3, 10_000):
        assert draw(jax.random.key(0), jnp.ones(1), num, num).tolist() == [num]
        assert draw(jax.random.key(0), jnp.eye(3)[1], num, num).tolist() == [0, num, 0]


@pytest.mark.parametrize("length", [6, 200, 100_000])
def test_categorical(length):
    p = np.random.default_rng(0).dirichlet(np.ones(length)) if length > 6 else P
    p = np.where(np.arange(length) % 7 == 2, 0.0, p)
    p = jnp.asarray(p / p.sum(), jnp.float32)
    keys = jax.random.split(jax.random.key(length), 300)
    sample = np.ravel(jax.jit(jax.vmap(lambda key, p: count_laws.draw_categorical(key, p, 1000), (0, None)))(keys, p))
    observed, expected = np.bincount(sample, minlength=length), np.asarray(p, np.float64) * sample.size
    assert observed[expected == 0].sum() == 0
    cells = np.arange(length) * 97 % length % 997  # neighbours in different cells
    observed, expected = (np.bincount(cells, weights=x)[: min(length, 997)] for x in (observed, expected))
    used = expected > 0
    statistic = ((observed - expected)[used] ** 2 / expected[used]).sum()
    assert scipy.stats.chi2.sf(statistic, used.sum() - 1) > 1e-4


@pytest.mark.parametrize("length", [5, 100])
def test_count_obeys_weights(length):
    symbols, weight = jnp.asarray([0, 3, 3, 4, 2]), jnp.asarray([1.0, 0.5, 2.0, 0.0, 1.0])
    seen = np.asarray(count_laws.count_symbols(symbols, weight, length))
    np.testing.assert_array_equal(seen, np.bincount(symbols, weight, length))


def test_part_of_whole_is_hypergeometric():
    whole = jnp.asarray([20.0, 0.0, 5.0, 35.0])
    sample = draws(lambda key: count_laws.draw_part_counts(key, whole, 60, jnp.int32(23)), 3)
    assert (sample.sum(1) == 23).all()
    for k in (0, 2, 3):
        assert fits(sample[:, k], scipy.stats.hypergeom(60, int(whole[k]), 23)) > 1e-4
    with pytest.raises(ValueError, match="num_samples must be a plain number"):
        jax.jit(lambda num: count_laws.draw_part_counts(jax.random.key(0), whole, num, 3))(60)


@pytest.mark.parametrize("rng", ["threefry2x32", "rbg"])
def test_poisson(rng):
    means, keys = [0.02, 1.5, 12.0, 60.0, 30_000.0, 0.0], jax.random.split(jax.random.key(4, impl=rng), CHAINS)
    sample = np.asarray(jax.jit(jax.vmap(count_laws.draw_poisson, (0, None)))(keys, jnp.asarray(means)))
    for i, mean in enumerate(means[:-1]):
        assert fits(sample[:, i], scipy.stats.poisson(mean)) > 1e-4, mean
    assert (sample[:, -1] == 0).all()


def test_poisson_rows_of_one_mean():
    """By a table and by rejection; rows of a chain are independent."""
    means, keys = [0.02, 1.5, 15.9, 16.1, 3000.0, 0.0], jax.random.split(jax.random.key(6), CHAINS)
    go = jax.jit(jax.vmap(lambda key, mean: count_laws.draw_poisson_rows(key, mean, 2), (0, None)))
    for mean in means:
        sample = np.asarray(go(keys, jnp.float32(mean)), np.float64)
        if mean == 0:
            assert (sample == 0).all()
        else:
            assert fits(sample, scipy.stats.poisson(mean)) > 1e-4, mean
            assert abs(z_score((sample - mean).prod(1), 0.0)) < Z_LIMIT


@pytest.mark.parametrize("rng", ["threefry2x32", "rbg"])
def test_binomial(rng):
    cases = [(5, 0.3), (60, 0.9), (40, 0.5), (1000, 0.02), (1000, 0.97), (1_000_000, 0.4)]
    size, p = np.array([*cases, (50, 0.0), (50, 1.0), (0, 0.5)], np.float32).T
    keys = jax.random.split(jax.random.key(5, impl=rng), 4 * CHAINS)
    sample = np.asarray(jax.jit(jax.vmap(count_laws.draw_binomial, (0, None, None)))(keys, size, p))
    for i, case in enumerate(cases):
        assert fits(sample[:, i], scipy.stats.binom(*case)) > 1e-4, case
    assert (sample[:, -3:] == [0, 50, 0]).all()


def test_bernoulli():
    sample = draws(lambda key: count_laws.draw_bernoulli(key, jnp.float32(0.3), 50), 5)
    assert fits(sample.sum(1), scipy.stats.binom(50, 0.3)) > 1e-4
    for p in (0.0, 1.0):
        assert (draws(lambda key, p=p: count_laws.draw_bernoulli(key, jnp.float32(p), 50), 6, 20) == p).all()
