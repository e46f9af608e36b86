"""Linear regression: fits against scikit-learn, chains against exact laws, label-only loops row by row."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from laws import POLICIES, chains
from oracle_helpers import POWER, assert_law
from sklearn.linear_model import Ridge

import collapse_jax
from collapse_jax import policies
from collapse_jax.core import batch, registry
from collapse_jax.core.chain import make_chain
from collapse_jax.core.data_plan import plan_data
from collapse_jax.core.random import chain_keys
from collapse_jax.settings.linear_regression import RegressionRows, linear_regression
from collapse_jax.theory.regression import new_inputs_risk
from collapse_jax.types import Batch, Curator

ROWS = {"backend": "rows"}
BLOCKS = {"backend": "rows", "fold": "blocks"}


def bare(setting):
    """`setting`, but one sees its fits."""
    return setting._replace(observe=lambda key, world, params, summary, generated: {"w": params})


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("weigh", ["multiplicities", "fractions"])
def test_a_fit_is_scikit_learns(ridge, weigh):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 4)), rng.normal(size=60)
    weight = rng.integers(0, 4, 60) if weigh == "multiplicities" else rng.uniform(0, 2, 60)
    given = np.where(weight > 0, y, np.nan)  # a row of weight 0 is absent
    items = jax.tree.map(lambda a: a.astype(np.float32).reshape(3, 20, *a.shape[1:]), RegressionRows(x, given))
    fit = jax.jit(lambda train: linear_regression(4, ridge=ridge).fit(None, train, None))
    found = fit(Batch(items, weight.reshape(3, 20)))
    reference = Ridge(alpha=ridge * weight.sum(), fit_intercept=False).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(found, reference.coef_, rtol=1e-4, atol=1e-5)


def risks(policy, n=20, d=5, T=6, num=4000, noise_variance=0.5, **options):
    setting = linear_regression(d, noise_variance, num_test=50)
    seen = chains(setting, policy, n=n, horizon=T, num=num, **options)
    np.testing.assert_allclose(np.log(seen["excess_mse"]), seen["log_excess_mse"], atol=1e-4)
    return seen["excess_mse"] / (noise_variance * d / (n - d - 1))


@POWER
@pytest.mark.parametrize(
    "options", [{"backend": "law"}, *(pytest.param(o, marks=pytest.mark.nightly) for o in (ROWS, BLOCKS))]
)
def test_excess_risk_under_replace_and_accumulate(options, power):
    """sigma^2 d / (n - d - 1) times t, or times sum 1 / k^2 (arXiv 2404.01413); exact where inputs are reused."""
    t = np.arange(1, 7)
    linear, bounded = t.astype(float), np.cumsum(1 / t**2)
    go = partial(risks, num=4000 * power, **options)
    assert_law("replace", go(policies.replace()), linear, bounded, linear * 20 / 14)
    assert_law("accumulate", go(policies.accumulate()), bounded, linear, 1 + 0 * t)


@pytest.mark.nightly
@pytest.mark.parametrize("backend", ["law", "rows"])
def test_excess_risk_where_inputs_are_new(backend):
    """Replace adds the same each time; accumulate less, the more rows there are (exact)."""
    n, d, k = 12, 5, np.arange(1, 5)
    setting = linear_regression(d, reuse_inputs=False, num_test=50)
    go = partial(chains, setting, n=n, horizon=4, num=20_000, backend=backend)
    first = d / (n - d - 1)
    assert_law("replace", go(policies.replace())["excess_mse"], first * k, first * np.cumsum(1 / k**2))
    bounded = new_inputs_risk(n, d, 1.0, len(k))
    assert_law("accumulate", go(policies.accumulate())["excess_mse"], bounded, first * np.cumsum(1 / k**2), first * k)


@pytest.mark.nightly
def test_excess_risk_under_subsampling_is_that_of_a_mean():
    """Large n: A_1 = 1, risk_t = A_t + 1 - 1/t, A_{t+1} = A_t + (2 - 1/t) / (t + 1)^2, -> pi^2/2 - 2 (derived here).

    In units of sigma^2 d / n; A_t is the variance of the pool's own fit.
    """
    n, d, T = 2000, 2, 4
    pool, expected = 1.0, []
    for t in range(1, T + 1):
        expected.append(pool + 1 - 1 / t)
        pool += (2 - 1 / t) / (t + 1) ** 2
    seen = risks(policies.accumulate_subsample(), n=n, d=d, T=T, num=400, noise_variance=1.0)
    t = np.arange(1, T + 1)
    assert_law("subsample", seen, np.array(expected), 4.0 * t)


@pytest.mark.parametrize("options", [{"backend": "law"}, pytest.param(ROWS, marks=pytest.mark.nightly)])
def test_least_norm_where_rows_are_fewer_than_inputs(options):
    """Generation 1 finds the projection of w on n directions: a risk of d - n from bias and sigma^2 n / (d - n - 1)."""
    n, d = 6, 15
    seen = chains(linear_regression(d, 2.0), policies.replace(), n=n, horizon=3, num=4000, **options)["excess_mse"]
    noise = 2.0 * n / (d - n - 1)
    expected = d - n + noise * np.arange(1, 4)
    assert_law("n < d", seen, expected, expected - noise)


FOLDED = [name for name, make in POLICIES.items() if make().resample is None]
SOON = [("accumulate", 0.2)]


@pytest.mark.parametrize(
    ("name", "ridge"),
    [*SOON, *(pytest.param(p, r, marks=pytest.mark.nightly) for p in FOLDED for r in (0.0, 0.2) if (p, r) not in SOON)],
)
def test_statistics_of_labels_are_those_of_rows(name, ridge):
    """The same normals are drawn, so a chain that keeps statistics is the chain that keeps every row."""
    setting, policy = bare(linear_regression(3, ridge=ridge)), POLICIES[name]()
    go = partial(chains, setting, policy, n=7, horizon=4, num=4)
    rows, blocks = go(**ROWS)["w"], go(**BLOCKS)["w"]
    np.testing.assert_allclose(rows, blocks, rtol=2e-3, atol=2e-3)
    assert not np.allclose(rows[:, 0], rows[:, -1], rtol=1e-2)


@pytest.mark.parametrize(
    ("n", "policy", "reuse"),
    [(3, "replace", True), (9, "fresh_real", True),
     *(pytest.param(*case, marks=pytest.mark.nightly)
       for case in ((3, "replace", False), (3, "accumulate", False), (9, "decay", True),
                    (4, "accumulate", True), (9, "decay", False), (9, "fresh_real", False)))],
)  # fmt: skip
def test_drawing_statistics_is_drawing_rows_in_law(n, policy, reuse):
    setting, made = linear_regression(4, reuse_inputs=reuse, ridge=0.01, num_test=20), POLICIES[policy]()
    if not plan_data(setting, made).law:
        with pytest.raises(ValueError, match="policy fresh_real needs other rows than the first"):
            chains(setting, made, n=n, horizon=3, num=2, backend="law")
        return
    go = partial(chains, setting, made, n=n, horizon=3, num=1500)
    law, rows = go(backend="law")["log_excess_mse"], go(**BLOCKS, seed=1)["log_excess_mse"]
    for g in range(3):
        assert scipy.stats.ks_2samp(law[:, g], rows[:, g]).pvalue > 1e-4


def by_hand(policy, n=5, generations=3, **options):
    """The state of one chain that keeps rows, after each generation."""
    setting = linear_regression(2)
    world = setting.world()
    chain = make_chain(setting, policy, num_samples=n, num_generations=generations, fold="blocks", **options)

    @jax.jit
    def step(state, generation):
        state, new, _ = chain.emit(world, state, generation)
        return chain.absorb(world, state, new, generation), new

    states, news = [jax.jit(chain.init)(chain_keys(0, 1)[0], world)], []
    for g in range(1, generations + 1):
        state, new = step(states[-1], jnp.int32(g))
        states.append(state)
        news.append(new)
    return states, news


@pytest.mark.parametrize("name", registry.factories("policy"))
def test_slot_i_keeps_input_i(name):
    policy = POLICIES[name]()
    states, news = by_hand(policy)
    first = jax.tree.map(lambda x: np.asarray(x[0, :5]), states[0].pool.items)
    for new in news:
        bound = new.items.y.shape[-1]  # where batches grow, slots beyond the first batch's start at its inputs again
        np.testing.assert_array_equal(new.items.x[0], first.x[np.arange(bound) % 5])
        assert not np.isin(new.items.y[0], first.y).any()
    pool, weight = batch.weighted_rows(states[-1].pool)
    there = np.asarray(weight) > 0
    slot = np.arange(len(there)) % bound % 5
    same_input = (np.asarray(pool.x) == first.x[slot]).all(1)
    if policy.real != "fresh":
        assert same_input[there].all()
    else:  # new real rows bring inputs of their own, and their labels are nobody's fit
        assert same_input[there].any()
        assert not same_input[there].all()
    if name == "fixed_real":
        kept = np.asarray(pool.y)[there] == first.y[slot[there]]
        assert kept.tolist() == [True] * 3 + [False] * 2


def test_candidates_for_a_slot_lie_side_by_side():
    def apply(setting, key, world, params, candidates, num):
        pairs = jax.tree.map(lambda x: x.reshape(1, num, 2, *x.shape[2:]), candidates.items)
        larger = pairs.y.argmax(2)
        pick = lambda x: jnp.take_along_axis(x, larger.reshape(1, num, *[1] * (x.ndim - 2)), 2)[:, :, 0]  # noqa: E731
        return Batch(jax.tree.map(pick, pairs), candidates.weight)

    curated = by_hand(policies.accumulate(), curator=Curator("larger", 2, apply))
    first = np.asarray(curated[0][0].pool.items.x[0])
    for new in curated[1]:
        np.testing.assert_array_equal(new.items.x[0], first)


def test_a_grid_of_noise_and_n_is_one_program_of_statistics():
    axes = {"noise_variance": [0.1, 10.0], "num_samples": [4, 30]}
    options = {"num_generations": 3, "num_chains": 8, "metrics": ["excess_mse"]}
    swept = collapse_jax.sweep(partial(linear_regression, 3), policies.replace(), axes=axes, **options)
    assert swept.attrs["backend"] == "law"
    # n >= d: there is no bias, and on common random numbers the noise only scales.
    ratio = swept.excess_mse.sel(noise_variance=10.0) / swept.excess_mse.sel(noise_variance=0.1)
    np.testing.assert_allclose(ratio, 100.0, rtol=1e-2)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 0}, "dim must be a whole number of at least 1, not 0"),
        ({"num_test": 0}, "num_test must be a whole number of at least 1"),
        ({"noise_variance": 0.0}, "noise_variance must be a number above 0, not 0.0"),
        ({"ridge": -1e-3}, "ridge must be a number of at least 0, not -0.001"),
        ({"ridge": float("nan")}, "ridge must be a number of at least 0"),
    ],
)
def test_bad_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=message) as error:
        linear_regression(**given)
    assert "\n" not in str(error.value)
