"""Policies compared in pairs of chains: against SciPy's tests, under the null, and where pairs are none."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import collapse_jax as cj
from collapse_jax.analysis import comparisons
from collapse_jax.analysis.comparisons import BETTER, HIGHER, LOWER, REFERENCE, UNKNOWN, UNSEEN, WORSE
from collapse_jax.reporting import tables
from collapse_jax.reporting.html import text


def dataset(values, names=None, roles=("risk",), **attrs):
    """A run of metrics ``[metric, policy, chain]`` at two generations, the first of them of a role."""
    names = names or [f"metric_{i}" for i in range(len(values))]
    roles = [*roles, *[""] * (len(names) - len(roles))]
    variables = {
        name: (("policy", "chain", "generation"), np.stack([value, value], -1), {"role": role, "units": "nats"})
        for name, value, role in zip(names, values, roles, strict=True)
    }
    coords = {"policy": [f"policy_{i}" for i in range(len(values[0]))], "generation": [1, 2]}
    return xr.Dataset(variables, coords, attrs)


def cell(ds, metric="metric_0", policy="policy_1"):
    return {name: values.item() for name, values in cj.compare(ds).sel(metric=metric, policy=policy).items()}


@pytest.mark.fast
@pytest.mark.parametrize("n", [2, 3, 6, 40])
def test_a_difference_is_scipy_s_paired_one(n):
    first, second = np.random.default_rng(n).normal(size=(2, n)) + np.linspace(0, 5, n)
    found, expected = cell(dataset([[first, second]])), scipy.stats.ttest_rel(second, first)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    limits = expected.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((limits.low, limits.high))
    assert found["chains"] == n


@pytest.mark.fast
def test_two_samples_are_compared_by_welch_s_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=12), 3 * rng.normal(size=8)
    found = comparisons.subtract(second, first, paired=False)
    expected = scipy.stats.ttest_ind(second, first, equal_var=False)
    limits = expected.confidence_interval(0.95)
    assert found[:4] == pytest.approx((second.mean() - first.mean(), limits.low, limits.high, expected.pvalue))
    assert np.isnan(comparisons.subtract(second[:5], first, paired=False).low)


@pytest.mark.fast
def test_three_chains_in_pairs_tell_what_their_summaries_cannot():
    """The level of a chain is common to its policies: 100 times the effect, and gone in the pairs."""
    rng = np.random.default_rng(0)
    level = 100 * rng.normal(size=3)
    base, small = level + 0.01 * rng.normal(size=3), level + 1 + 0.01 * rng.normal(size=3)
    noise = 0.01 * rng.normal(size=(2, 3))
    ds = dataset([[base, small, base - 1 + noise[0], base + noise[1]]])
    answers = cj.compare(ds)["answer"].isel(metric=0).to_numpy().tolist()
    assert answers == [REFERENCE, WORSE, BETTER, UNSEEN]


@pytest.mark.fast
def test_the_intervals_of_the_risk_hold_together():
    """Each of three policies has the interval at 1 - 5%/3; an answer is given exactly where it leaves out 0."""
    values = np.random.default_rng(0).normal(size=(4, 8)) + np.array([0, 0.2, 1.2, 3])[:, None]
    found = cj.compare(dataset([values])).isel(metric=0)
    for i in (1, 2, 3):
        limits = scipy.stats.ttest_rel(values[i], values[0]).confidence_interval(1 - 0.05 / 3)
        here = found.isel(policy=i)
        assert (here["low"].item(), here["high"].item()) == pytest.approx((limits.low, limits.high))
        assert (here["answer"].item() != UNSEEN) == (limits.low > 0 or limits.high < 0)
    assert {REFERENCE, WORSE} < set(found["answer"].to_numpy())


@pytest.mark.fast
def test_holm_adjusts_as_by_hand():
    given = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(comparisons.adjust_by_holm(given), [0.03, np.nan, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("law", ["normal", "cubed"])
def test_tables_without_a_difference_seldom_have_a_mark(law):
    """Five policies, ten metrics, 8 chains, all equal in law: 5% of tables have any mark, of the risk or elsewhere."""
    rng, marked, decided, runs = np.random.default_rng(1), 0, 0, 300
    for _ in range(runs):
        values = rng.normal(size=(10, 1, 8)) + rng.normal(size=(10, 5, 8))
        answers = cj.compare(dataset(values**3 if law == "cubed" else values))["answer"]
        decided += bool(answers.sel(metric="metric_0").isin([WORSE, BETTER]).any())
        marked += bool(answers.isin([HIGHER, LOWER]).any())
    limit = 0.05 * runs + 4 * np.sqrt(runs * 0.05 * 0.95)
    assert decided <= limit
    assert marked <= limit


@pytest.mark.fast
def test_what_cannot_be_compared_and_what_is_infinite():
    rng = np.random.default_rng(0)
    base = rng.normal(size=12)
    worse = np.where(np.arange(12) < 4, np.inf, base + 1)
    ds = dataset([[base, worse]])
    ds["metric_0"][..., 0] = 0.0  # finite at fit 1
    found = cell(ds)
    assert found["answer"] == WORSE
    assert found["p_value"] == pytest.approx(2 * 0.5**12)  # by the signs of all twelve
    assert np.isnan(found["low"])
    assert cell(dataset([[base, np.full(12, np.nan)]]))["answer"] == UNKNOWN
    assert cell(dataset([[base[:1], base[1:2]]]))["answer"] == UNKNOWN
    assert cell(dataset([[base, base]]))["answer"] == UNSEEN
    assert cell(dataset([[base[:3], base[:3] + 1]]))["p_value"] == 0.25  # three equal differences are no proof
    assert cell(dataset([[base, base + 1]]))["answer"] == WORSE
    with pytest.raises(cj.UsageError, match="compare: ds must be a dataset"):
        cj.compare(3)


@pytest.mark.fast
def test_rounding_is_no_difference_and_an_infinite_pair_hides_none():
    rng = np.random.default_rng(0)
    base = rng.normal(3, 0.1, 64).astype(np.float32).astype(float)
    rounded = base * (1 + 6e-8 * rng.choice([-1, 0, 1], 64))
    assert cell(dataset([[base, rounded + 1e-7]]))["answer"] == UNSEEN
    noisy = base + 0.1 * rng.normal(size=64)
    both = base.copy()
    both[0] = noisy[0] = np.inf
    ds = dataset([[both, noisy]])
    ds["metric_0"][..., 0] = 0.0  # finite at fit 1
    expected = scipy.stats.ttest_rel(noisy[1:], both[1:]).pvalue
    assert cell(ds)["p_value"] == pytest.approx(expected)


@pytest.mark.fast
def test_survivors_of_a_heavy_loss_are_not_compared():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(1, 2, 100)) + np.array([[0], [3]])
    for lost, expected in ((10, WORSE), (11, UNKNOWN)):
        ds = dataset(base)
        ds["metric_0"][1, :lost, -1] = np.nan
        assert cell(ds)["answer"] == expected


@pytest.mark.fast
def test_what_is_not_finite_at_fit_1_is_not_compared():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2, 1, 12)) + 0.1 * rng.normal(size=(2, 2, 12)) + np.array([[0], [1]])
    ds = dataset(base, roles=("risk", "excess_risk"))
    ds["metric_0"][:, :4, 0] = np.inf
    found = cj.compare(ds).sel(policy="policy_1")
    assert found["chains"].to_numpy().tolist() == [8, 12]
    assert found.attrs["primary"] == "metric_0"
    ds["metric_0"][:, :, 0] = np.nan
    found = cj.compare(ds).sel(policy="policy_1")
    assert found["answer"].to_numpy().tolist() == [UNKNOWN, WORSE]
    assert found.attrs["primary"] == "metric_1"
    assert comparisons.compare_runs([ds])[0].answer == WORSE


@pytest.mark.fast
def test_score_and_the_tables_and_the_page_say_the_same():
    rng = np.random.default_rng(0)
    level = rng.normal(size=(2, 1, 7))
    values = level + np.array([[[0.0], [1.0], [0.0]], [[0.0], [-2.0], [0.0]]]) + 0.1 * rng.normal(size=(2, 3, 7))
    ds = dataset(values)
    scored = cj.score(ds)
    assert scored.attrs["primary"] == "metric_0"
    assert scored["comparison"].to_numpy().tolist() == [REFERENCE, WORSE, UNSEEN]
    first, second, *_ = text.write_answer(ds, scored)
    keys = ("difference", "difference_low", "difference_high")
    estimate, low, high = (scored[key].sel(policy="policy_1").item() for key in keys)
    assert f"policy_1 is worse than policy_0 ({estimate:+.3g} nats, 95% {low:+.3g} to {high:+.3g})" in first
    assert "policy_2 differs from policy_0 by less than this run can see" in first
    assert "7 chains in pairs" in first
    assert second.startswith("What moved most is metric_1: lower under policy_1 by")
    table = tables.render_differences(ds)
    assert table.row_count == 2
    risk, other = map(str, table.columns[1].cells)
    assert "worse" in risk
    assert other.split("\n")[0].endswith(" *")
    assert tables.render_differences(ds.isel(policy=[0])) is None


@pytest.mark.fast
def test_runs_are_paired_where_their_random_numbers_are_the_same():
    facts = {"setting": "s", "rng": "threefry2x32", "precision": "float32", "backend": "rows", "device": "cpu",
             "num_samples": 10, "num_generations": 2, "num_chains": 8, "seed": 0, "version_jax": "0.10.2",
             "jax_threefry_partitionable": "True", "config": "setting: {kind: s, dim: 1}"}  # fmt: skip
    rng = np.random.default_rng(0)
    level = 10 * rng.normal(size=(1, 1, 8))
    first = dataset(level + 0.1 * rng.normal(size=(1, 1, 8)), **facts)
    second = dataset(level + 1 + 0.1 * rng.normal(size=(1, 1, 8)), **facts)
    (row,) = comparisons.compare_runs([first, second])
    assert (row.answer, row.difference.paired) == (WORSE, True)
    for changed in ({"seed": 1}, {"rng": "rbg"}, {"precision": "float64"}, {"backend": "law"}, {"num_samples": 20},
                    {"jax_threefry_partitionable": "False"}):  # fmt: skip
        (row,) = comparisons.compare_runs([first, second.assign_attrs(changed)])
        assert (row.answer, row.difference.paired) == (UNSEEN, False)
    for other in ({"setting": "other"}, {"config": "setting: {kind: s, dim: 2}"}):
        assert comparisons.compare_runs([first, second.assign_attrs(other)]) == []
    (row,) = comparisons.compare_runs([first, second], ["one", "two"])
    assert row.label == "two: policy_0"
    assert comparisons.compare_runs([first, second.assign_attrs(num_generations=3)]) == []


def test_chains_of_a_real_run_are_pairs():
    """Replace and accumulate fit the same first batch, so that nothing differs at fit 1, and everything at fit 20."""
    runs = cj.sweep(cj.settings.gaussian(dim=1), [cj.policies.replace(), cj.policies.accumulate()], num_samples=20,
                    num_generations=20, num_chains=16)  # fmt: skip
    first = cj.compare(runs, generation=0).sel(policy="accumulate")
    assert (first["difference"] == 0).all()
    assert (first["answer"] == UNSEEN).all()
    last = cj.compare(runs).sel(policy="accumulate")
    assert last["answer"].sel(metric="test_nll") == BETTER
    assert last["answer"].sel(metric="log_trace_ratio") == HIGHER
