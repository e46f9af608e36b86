"""Kernel sums between bandwidths: the certificate holds at every row, and an ordinary run's lies below 1e-3 nats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import collapse_jax
from collapse_jax import data, policies
from collapse_jax.numerics.kernel_interpolation import interpolate_log_kernel, interpolation_nodes
from collapse_jax.settings import kde

LEAST, MOST = 2.0, 50.0
NODES = interpolation_nodes(LEAST, MOST)
RNG = np.random.default_rng(0)
FAR = np.array([[0.3, 0.0], [3.0, -2.0], [40.0, 0.0], [1000.0, 1000.0]])
# Rows, their weights and test rows: what people have, and what is meant to break a bound.
CASES = {
    "normal": (RNG.normal(size=(300, 2)), np.ones(300), np.vstack([RNG.normal(size=(40, 2)), FAR])),
    "one row": (np.zeros((1, 2)), np.ones(1), FAR),
    "a light row before heavy ones": (np.array([[0.0, 0], [1.1, 0]]), np.array([1.0, 1e6]), FAR),
    "three scales": (np.array([[0.0, 0], [0.4, 0], [1.0, 0]]), np.array([1.0, 50.0, 1e5]), FAR),
    "a shell": (np.stack([np.cos(np.arange(99)), np.sin(np.arange(99))], 1), np.arange(99.0), 0.1 * FAR),
    "powers": (np.stack([2.0 ** np.arange(-9, 9), np.zeros(18)], 1), 4.0 ** np.arange(18), FAR),
}


def exact(rows, weight, test, s):
    """Log of the mean kernel in float64."""
    square = ((rows[:, None] - test) ** 2).sum(2)
    with np.errstate(divide="ignore"):
        return scipy.special.logsumexp(-s * square + np.log(weight)[:, None], axis=0) - np.log(weight.sum())


@pytest.fixture(scope="module")
def certified():
    """``(rows, weight, test, s [many]) -> (log kernel, certificate)``, ``[many, num_test]``, in float64."""

    def go(rows, weight, test, s):
        with jax.enable_x64(True):
            kernels = jnp.asarray(np.stack([exact(rows, weight, test, node) for node in NODES]))
            found = jax.jit(jax.vmap(lambda s: interpolate_log_kernel(kernels, NODES, s)))(jnp.asarray(s))
            return tuple(np.asarray(x) for x in found)

    return go


@pytest.mark.parametrize("name", CASES)
def test_the_certificate_holds(certified, name):
    rows, weight, test = CASES[name]
    s = np.geomspace(LEAST, MOST, 61)
    found, error = certified(rows, weight, test, s)
    truth = np.stack([exact(rows, weight, test, one) for one in s])
    rounding = 1e-12 * np.abs(truth) + 1e-9
    assert (found <= truth + rounding).all()
    assert (truth <= found + error + rounding).all()
    assert np.isfinite(error).all()
    if name == "normal":
        assert error.mean(1).max() < 1e-3
        assert 0 < (truth - found).mean() < 0.6 * error.mean()  # polynomials are at work
    if name == "a light row before heavy ones":
        assert error.max() > 0.01  # here the bound is needed


@pytest.mark.fast
def test_nodes_serve_their_range():
    for least, most in ((1.0, 1.0), (0.3, 0.31), (LEAST, MOST), (1e-3, 1e4)):
        nodes = interpolation_nodes(least, most)
        assert nodes[3] == pytest.approx(least)
        assert nodes[-4] >= most * (1 - 1e-6)
        assert len(nodes) <= 9 + 3 * np.log2(most / least)
        np.testing.assert_allclose(nodes[3:], 2 * nodes[:-3])


def test_outside_of_the_range_nothing_is_certified(certified):
    rows, weight, test = CASES["normal"]
    _, error = certified(rows, weight, test, np.array([0.9 * LEAST, LEAST, MOST, 1.3 * MOST]))
    assert np.isinf(error[[0, -1]]).all()
    assert np.isfinite(error[1:-1]).all()


@pytest.mark.parametrize(
    ("rule", "policy"),
    [
        ("scott", policies.accumulate()),
        pytest.param("scott", policies.contaminated(), marks=pytest.mark.nightly),
        pytest.param("silverman", policies.decay(0.9), marks=pytest.mark.nightly),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_chains_of_a_rule_keep_the_certificate(rule, policy):
    """Evaluate the same rows with the same keys at birth, or all anew in each generation."""
    n, generations = 20, 30
    common = {"num_test": 50, "source": data.normal(2)}
    sizes = {"num_samples": n, "num_generations": generations, "num_chains": 8}
    fast = collapse_jax.run(kde(rule, pool_rows=(n, n * generations), **common), policy, **sizes)
    slow = collapse_jax.run(kde(rule, **common), policy, **sizes)
    np.testing.assert_allclose(fast.training_variance, slow.training_variance, rtol=1e-5)
    above, certificate = (fast.test_nll - slow.test_nll).values, fast.certified_error.values
    assert (above > -1e-5).all()
    assert (above < certificate + 1e-5).all()
    assert certificate.max() < 1e-3
    assert certificate[:, 0].max() < 1e-5  # the first pool's bandwidth is a node


@pytest.mark.fast
@pytest.mark.parametrize(
    ("bandwidth", "pool_rows", "match"),
    [
        (0.5, [10, 100], "bandwidth must be scott or silverman, not 0.5"),
        ("scott_scaled", [10, 100], "bandwidth must be scott or silverman, not 'scott_scaled'"),
        ("scott", [10], "two numbers"),
        ("scott", 10, "two numbers"),
        ("scott", [0, 10], r"pool_rows\[0\] must be a whole number of at least 1"),
        ("scott", [10, 9], r"pool_rows\[1\] must be a whole number of at least 10"),
        ("scott", [10, 20.5], "whole number"),
    ],
)
def test_refused(bandwidth, pool_rows, match):
    with pytest.raises(ValueError, match=match):
        kde(bandwidth, pool_rows=pool_rows)
