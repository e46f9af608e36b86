"""Fits, metrics and whole chains against NumPy, SciPy and scikit-learn, which share no code with them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from oracle_helpers import nll_float64, z_score_of_two
from sklearn.neighbors import KernelDensity as KernelDensityTree

import collapse_jax
from collapse_jax import data, policies
from collapse_jax.core import batch, registry
from collapse_jax.settings import gaussian, kde
from collapse_jax.settings.kde import log_mean_kernel
from collapse_jax.types import Batch, Source

# In one leaf, which is brute force: pruning its trees, scikit-learn 1.9 is off by hundreds of nats at far test points.
KernelDensity = partial(KernelDensityTree, leaf_size=10_000)

D = 4
MEAN = np.array([1.0, -2.0, 0.5, 3.0])
ROOT = np.array([[1.0, 0, 0, 0], [0.5, 0.8, 0, 0], [-0.3, 0.2, 1.5, 0], [0.1, -0.6, 0.4, 0.3]])
COVARIANCE = ROOT @ ROOT.T


def skewed():
    """A normal law with no symmetry that could hide a transpose."""
    draw = lambda key, arrays, num: MEAN + jax.random.normal(key, (num, D)) @ jnp.asarray(ROOT.T, float)  # noqa: E731
    held_out = lambda num: MEAN + np.random.default_rng(0).normal(size=(num, D)) @ ROOT.T  # noqa: E731
    return Source("skewed", D, (), draw, held_out, MEAN, COVARIANCE)


def blocks_of(x, weight):
    """Rows and weights as three blocks, each weight its own."""
    return Batch(x.astype(np.float32).reshape(3, -1, x.shape[1]), np.asarray(weight, np.float32).reshape(3, -1))


def covariance_of(fit):
    lower = np.asarray(fit.factor, float) * np.exp(np.asarray(fit.log_scale, float))
    return lower @ lower.T


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("kind", ["multiplicities", "fractions"])
def test_gaussian_fit_is_numpy_cov(kind, ddof):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, D)) @ ROOT.T + MEAN
    weight = rng.integers(0, 4, 60) if kind == "multiplicities" else rng.uniform(0, 2, 60) * (rng.random(60) > 0.2)
    # A row of weight 0 is absent, whatever it holds.
    given = np.where(weight[:, None] > 0, x, np.nan)
    fit = jax.jit(gaussian(D, ddof).fit)(None, blocks_of(given, weight), None)
    if kind == "multiplicities":
        expected = np.cov(x.T, fweights=weight, ddof=ddof)
        np.testing.assert_allclose(expected, np.cov(np.repeat(x, weight, axis=0).T, ddof=ddof))
    else:
        # NumPy's ddof for aweights is another convention; a weight is a multiplicity here.
        expected = np.cov(x.T, aweights=weight, ddof=0) * weight.sum() / (weight.sum() - ddof)
    np.testing.assert_allclose(fit.mean, np.average(x, axis=0, weights=weight), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(covariance_of(fit), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fit.factor, np.tril(fit.factor))
    np.testing.assert_array_equal(np.diag(fit.factor), np.ones(D))


def root_of(matrix):
    """The symmetric square root, through SciPy."""
    return np.real(scipy.linalg.sqrtm(matrix))


@pytest.mark.parametrize("num", [6, 50, 1000])
def test_gaussian_metrics(num):
    x = (np.random.default_rng(num).normal(size=(num, D)) @ (0.7 * ROOT.T) + MEAN + 0.2).astype(np.float32)
    source = skewed()
    setting = gaussian(source=source, num_test=300)
    world, test = setting.world(), source.held_out(300)
    judge = jax.jit(lambda world, train: setting.observe(None, world, setting.fit(None, train, None), None, None))
    seen = judge(world, batch.make_batch(jnp.asarray(x)))
    mean, covariance = x.astype(float).mean(0), np.cov(x.T.astype(float), ddof=0)
    eigenvalues = np.linalg.eigvalsh(covariance)
    root = root_of(COVARIANCE)
    bures = np.trace(covariance + COVARIANCE - 2 * root_of(root @ covariance @ root))
    error = ((mean - MEAN) ** 2).sum()
    true_scale, scale = np.sqrt(np.diag(COVARIANCE)), np.sqrt(np.diag(covariance))

    def beyond(z):
        edges = [(MEAN + side * z * true_scale - mean) / scale for side in (-1, 1)]
        return scipy.stats.norm.cdf(edges[0]), scipy.stats.norm.sf(edges[1])

    expected = {
        "squared_error_of_mean": error,
        "trace_ratio": np.trace(covariance) / np.trace(COVARIANCE),
        "log_trace_ratio": np.log(np.trace(covariance) / np.trace(COVARIANCE)),
        "log_det_ratio": np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(COVARIANCE)[1],
        "wasserstein2_squared": error + bures,
        "effective_rank": eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
        "test_nll": -scipy.stats.multivariate_normal(mean, covariance).logpdf(test).mean(),
        "tail_mass": 2 * np.minimum(*beyond(scipy.stats.norm.ppf(0.995))).mean(),
        "hallucinated_mass": np.add(*beyond(np.sqrt(scipy.stats.chi2.ppf(0.999, 1)))).mean(),
    }
    assert set(seen) == set(expected)
    for name, value in expected.items():
        assert float(seen[name]) == pytest.approx(value, rel=2e-4, abs=2e-5), name


def test_gaussian_metrics_of_a_singular_fit():
    """Three rows in four columns: rank 2, and an optimal transport distance that is still finite."""
    x = (np.random.default_rng(7).normal(size=(3, D)) @ ROOT.T + MEAN).astype(np.float32)
    setting = gaussian(source=skewed())

    @jax.jit
    def observe(world, x):
        return setting.observe(None, world, setting.fit(None, batch.make_batch(x), None), None, None)

    seen = observe(setting.world(), x)
    covariance, mean = np.cov(x.T.astype(float), ddof=0), x.astype(float).mean(0)
    eigenvalues = np.linalg.eigvalsh(covariance)
    # tr (B^1/2 A B^1/2)^1/2 is the sum of the roots of the eigenvalues of A B.
    roots = np.sqrt(np.clip(np.linalg.eigvals(covariance @ COVARIANCE).real, 0, None)).sum()
    distance = ((mean - MEAN) ** 2).sum() + np.trace(covariance + COVARIANCE) - 2 * roots
    assert float(seen["wasserstein2_squared"]) == pytest.approx(distance, rel=1e-4)
    assert float(seen["effective_rank"]) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-4)
    assert float(seen["log_det_ratio"]) == -np.inf
    assert float(seen["test_nll"]) == np.inf


@pytest.mark.parametrize("d", [1, 3, 8])
def test_kde_is_scikit_learns(d):
    """Log densities and the mean NLL at several bandwidths, with and without weights, and under both of its rules."""
    rng = np.random.default_rng(d)
    x = rng.normal(size=(90, d)).astype(np.float32)
    source = data.normal(d, scale=1.2)
    weight = rng.integers(0, 4, 90)
    fractions = np.where(weight > 0, rng.uniform(0.1, 2.0, 90), 0.0)
    test = jnp.asarray(source.held_out(50))
    density = jax.jit(log_mean_kernel)
    for h in (0.05, 0.4, 3.0):
        for given in (np.ones(90), weight, fractions):
            present = given > 0
            reference = KernelDensity(bandwidth=h).fit(x[present].astype(float), sample_weight=given[present])
            expected = reference.score_samples(np.asarray(test, float))
            rows = np.where(present[:, None], x, np.nan)
            found = np.asarray(density(blocks_of(rows, given), test, jnp.float32(h)), float)
            found = found - d * np.log(h * np.sqrt(2 * np.pi))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
            assert nll_float64(x, given, test, h) == pytest.approx(-expected.mean(), rel=1e-9)
    for rule in ("scott", "silverman"):
        setting = kde(rule, num_test=50, source=source)
        world = setting.world()

        @jax.jit
        def observe(train, setting=setting, world=world):
            params = setting.fit(None, train, None)
            summary = jax.tree.map(lambda a: a[0, 0], setting.extras.summarize(world, train).items)
            return params, setting.observe(None, world, params, summary, None)

        for given in (np.ones(90, int), weight):
            repeated = np.repeat(x, given, axis=0).astype(float)
            reference = KernelDensity(bandwidth=rule).fit(repeated)
            params, seen = observe(blocks_of(x, given))
            assert float(params.bandwidth) == pytest.approx(reference.bandwidth_, rel=1e-5)
            assert float(seen["test_nll"]) == pytest.approx(-reference.score(np.asarray(test, float)) / 50, rel=1e-4)
            assert float(seen["training_variance"]) == pytest.approx(repeated.var(0).mean(), rel=1e-4)


@pytest.mark.parametrize("rule", ["scott", "silverman"])
def test_scaled_rules_are_scipys_in_one_dimension(rule):
    """SciPy scales its rules by the unbiased covariance: ours do, as their mean over columns."""
    source = data.normal(1, mean=1.0, scale=3.0)
    x = np.asarray(source.draw(jax.random.key(3), (), 70))
    setting = kde(f"{rule}_scaled", num_test=60, source=source)
    world, train = setting.world(), batch.make_batch(jnp.asarray(x))
    params = setting.fit(None, train, None)
    reference = scipy.stats.gaussian_kde(x[:, 0].astype(float), bw_method=rule)
    assert float(params.bandwidth) == pytest.approx(reference.factor * x.astype(float).std(ddof=1), rel=1e-5)
    summary = jax.tree.map(lambda a: a[0, 0], setting.extras.summarize(world, train).items)
    seen = setting.observe(None, world, params, summary, None)
    expected = -reference.logpdf(np.asarray(world.test[:, 0], float)).mean()
    assert float(seen["test_nll"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rule", ["scott", "silverman"])
def test_scaled_rules_in_more_dimensions(rule):
    """The rule times the root of the unbiased variance, averaged over columns."""
    x = np.random.default_rng(5).normal(size=(40, 3)) * [1.0, 2.0, 5.0]
    params = kde(f"{rule}_scaled", source=data.normal(3)).fit(None, batch.make_batch(jnp.asarray(x, jnp.float32)), None)
    plain = KernelDensity(bandwidth=rule).fit(x).bandwidth_
    assert float(params.bandwidth) == pytest.approx(plain * np.sqrt(x.var(0, ddof=1).mean()), rel=1e-5)


def numpy_gaussian_chain(rng, n, d, num_generations, ddof, accumulate=False):
    """A user's loop: sample, fit, sample again. Squared error of the mean, log trace and log determinant at the end."""
    pool = rng.normal(size=(n, d))
    for _ in range(num_generations):
        mean, covariance = pool.mean(0), np.cov(pool.T, ddof=ddof)
        new = mean + rng.normal(size=(n, d)) @ np.linalg.cholesky(covariance).T
        pool = np.concatenate([pool, new]) if accumulate else new
    return (mean**2).sum(), np.log(np.trace(covariance) / d), np.linalg.slogdet(covariance)[1]


@pytest.mark.parametrize(
    ("backend", "accumulate"),
    [
        ("rows", False),
        pytest.param("law", False, marks=pytest.mark.nightly),
        pytest.param("rows", True, marks=pytest.mark.nightly),
        pytest.param("law", True, marks=pytest.mark.nightly),
    ],
)
def test_a_gaussian_chain_is_a_numpy_loop(backend, accumulate):
    """In distribution, whole: Kolmogorov and Smirnov's test of each metric at generation 12; another loop fails."""
    n, d, T, chains = 10, 3, 12, 600
    rng = np.random.default_rng(11)
    loops = [numpy_gaussian_chain(rng, n, d, T, 0, accumulate) for _ in range(chains)]
    # Wrong: the unbiased covariance, or the other policy.
    others = [numpy_gaussian_chain(rng, n, d, T, int(not accumulate), False) for _ in range(chains)]
    policy = policies.accumulate() if accumulate else policies.replace()
    names = ["squared_error_of_mean", "log_trace_ratio", "log_det_ratio"]
    options = {"num_samples": n, "num_generations": T, "num_chains": 2_000, "seed": 12, "metrics": names}
    result = collapse_jax.run(gaussian(d), policy, backend=backend, **options)
    far = []
    for name, loop, other in zip(names, np.transpose(loops), np.transpose(others), strict=True):
        last = result[name].values[:, -1]
        p = scipy.stats.ks_2samp(last, loop).pvalue
        far.append(scipy.stats.ks_2samp(last, other).pvalue)
        print(f"{name}: p = {p:.3g}; against another loop, p = {far[-1]:.3g}")
        assert p > 1e-4, name
    assert min(far) < 1e-8


def numpy_moons(rng, num, noise=0.05):
    """Independent rows of the two half circles."""
    upper, angle = rng.random(num) < 0.5, np.pi * rng.random(num)
    x, y = np.cos(angle), np.sin(angle)
    rows = np.stack([np.where(upper, x, 1 - x), np.where(upper, y, 0.5 - y)], 1)
    return rows + noise * rng.normal(size=(num, 2))


@pytest.mark.parametrize("policy", ["accumulate", pytest.param("replace", marks=pytest.mark.nightly)])
def test_a_kde_chain_is_a_scikit_learn_loop(policy):
    """Mean test NLL of every generation, two samples of chains; first and last generation differ by |z| > 10."""
    n, h, T, chains = 30, 0.3, 5, 200
    setting = kde(h, num_test=100)
    test, rng = np.asarray(setting.world().test, float), np.random.default_rng(21)
    loops = np.empty((chains, T))
    for chain in range(chains):
        pool = numpy_moons(rng, n)
        for t in range(T):
            model = KernelDensity(bandwidth=h).fit(pool)
            loops[chain, t] = -model.score(test) / len(test)
            new = model.sample(n, random_state=int(rng.integers(2**31)))
            pool = np.concatenate([pool, new]) if policy == "accumulate" else new
    options = {"num_samples": n, "num_generations": T, "num_chains": 2_000, "seed": 22, "metrics": ["test_nll"]}
    result = collapse_jax.run(setting, registry.factories("policy")[policy](), **options).test_nll.values
    z = z_score_of_two(result, loops)
    print(f"z = {z}; first against last generation {z_score_of_two(result[:, 0], loops[:, -1]):.0f}")
    assert np.abs(z).max() < 4
    assert abs(z_score_of_two(result[:, 0], loops[:, -1])) > 10


MERGED = [policies.window(3), policies.decay(0.6), policies.weighted_fresh(0.3), policies.contaminated(0.25)]
MERGED_NIGHTLY = [(policies.accumulate(), 0.3), (policies.fixed_real(0.25), 0.3), *((p, 0.01) for p in MERGED)]


@pytest.mark.parametrize(
    ("policy", "h"),
    [
        (policies.accumulate(), 0.01),
        *((policy, 0.3) for policy in MERGED),
        *(pytest.param(*case, marks=pytest.mark.nightly) for case in MERGED_NIGHTLY),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_kernels_merged_at_birth_are_those_of_the_whole_pool(policy, h):
    """A chain by hand: each generation's NLL, merged from batches, is that of all rows of its pool at once."""
    n, generations = 12, 5
    setting = kde(h, num_test=30)
    world = setting.world()
    chain = collapse_jax.make_chain(setting, policy, num_samples=n, num_generations=generations)
    emit, absorb = jax.jit(chain.emit), jax.jit(chain.absorb)

    @jax.jit
    def look(pool):
        rows, weight = batch.weighted_rows(pool)
        return rows, weight, log_mean_kernel(batch.make_batch(rows, weight), world.test, jnp.float32(h))

    state = jax.jit(chain.init)(jax.random.key(31), world)
    batches, weights = [np.asarray(state.pool.items[0])], [1.0]
    for generation in range(1, generations + 1):
        rows, weight, whole = map(np.asarray, look(state.pool))
        state, new, seen = emit(world, state, jnp.int32(generation))
        direct = 2 * np.log(h * np.sqrt(2 * np.pi)) - whole.mean()
        assert float(seen["test_nll"]) == pytest.approx(float(direct), rel=1e-5)
        assert float(seen["test_nll"]) == pytest.approx(nll_float64(rows, weight, world.test, h), rel=1e-5)
        weight, rows = np.asarray(weight, float), np.asarray(rows, float)
        variance = np.cov(rows[weight > 0].T, aweights=weight[weight > 0], ddof=0)
        assert float(seen["training_variance"]) == pytest.approx(np.trace(variance) / 2, rel=1e-4)
        if policy.name in ("accumulate", "window", "decay"):
            # These pools can be kept by hand.
            kept = nll_float64(np.concatenate(batches), np.repeat(weights, n), world.test, h)
            assert float(seen["test_nll"]) == pytest.approx(kept, rel=1e-5)
            batches, weights = [*batches, np.asarray(new.items[0])], [*weights, 1.0]
            if policy.name == "decay":
                weights = [0.6 ** (len(weights) - 1 - i) for i in range(len(weights))]
            if policy.name == "window":
                batches, weights = batches[-3:], weights[-3:]
        state = absorb(world, state, new, jnp.int32(generation))
