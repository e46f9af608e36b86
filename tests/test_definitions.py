"""Verdicts on runs whose answer is known: constructed ones, null ensembles, and Gaussian chains."""

import numpy as np
import pytest
import scipy.special
import xarray as xr

import collapse_jax as cj
from collapse_jax import policies, settings
from collapse_jax.analysis import verdicts
from collapse_jax.analysis.verdicts import NO, UNKNOWN, YES, score
from collapse_jax.planning import grid as axes
from collapse_jax.planning import options, plan
from collapse_jax.reporting import tables
from collapse_jax.results.dataset import metric_attributes

NAMES = [definition.name for definition in verdicts.DEFINITIONS]


def dataset(policies=("a",), **metrics):
    """A run with one metric a role: ``role=values`` or ``role=(values, attributes)``, the same under each policy."""
    variables = {}
    for role, given in metrics.items():
        values, attrs = given if isinstance(given, tuple) else (given, {})
        values = np.broadcast_to(values, (len(policies), *np.shape(values)[-2:]))
        variables[f"metric_{role}"] = (("policy", "chain", "generation"), values, {"role": role, **attrs})
    _, chains, generations = next(iter(variables.values()))[1].shape
    coords = {"policy": list(policies), "chain": range(chains), "generation": range(1, generations + 1)}
    return xr.Dataset(variables, coords)


def verdict(name, **metrics):
    return score(dataset(**metrics)).sel(definition=name, policy="a").map(lambda x: x.item())


def noise(chains=200, generations=40, seed=0):
    return np.random.default_rng(seed).normal(size=(chains, generations))


T = np.arange(1, 41.0)


@pytest.mark.fast
def test_each_cell_has_its_evidence():
    found = score(dataset(("a", "b"), risk=(5 + noise(), {"baseline": 3.0}), modes=np.full((200, 40), 4.0)))
    assert found.sizes == {"policy": 2, "definition": 8}
    assert list(found.definition.to_numpy()) == NAMES
    assert set(found) > {"verdict", "estimate", "low", "high", "metric", "reason", "rule", "difference", "comparison"}
    told = found.verdict != UNKNOWN
    assert set(found.definition.to_numpy()[told.isel(policy=0)]) == {"catastrophic_risk", "any_increase", "mode_loss"}
    assert ((found.reason == "") == told).all()  # no chain is left out
    assert (found.low <= found.estimate).where(told, True).all()
    assert found.sel(definition="tail_loss", policy="b").reason.item() == "no metric has the role tail"
    assert found.metric.sel(definition="mode_loss", policy="b").item() == "metric_modes"


@pytest.mark.parametrize(
    ("last", "baseline", "expected"),
    [
        (2.0, 1.0, YES),
        (2.0, 3.0, NO),
        (2.0, 2.0, UNKNOWN),
        (2.0, None, UNKNOWN),
        (np.inf, None, YES),
        (np.inf, 3.0, YES),
    ],
)
def test_catastrophic_risk(last, baseline, expected):
    values = noise()
    values[:, -1] += last
    attrs = {} if baseline is None else {"baseline": baseline}
    assert verdict("catastrophic_risk", risk=(values, attrs)).verdict == expected


def test_a_risk_that_becomes_infinite_for_a_few_chains_is_no_catastrophe():
    values = noise()
    values[:40, 1:] = np.inf
    assert verdict("catastrophic_risk", risk=(values, {"baseline": 3.0})).verdict == NO
    values[:160, 1:] = np.inf
    found = verdict("catastrophic_risk", risk=values, excess_risk=(noise(), {"baseline": 3.0}))
    assert (found.verdict, found.metric) == (YES, "metric_risk")


def test_the_baseline_is_that_of_the_point():
    values = noise()[None] + np.array([1.0, 2.0])[:, None, None]
    ds = xr.Dataset(
        {
            "risk": (
                ("dim", "chain", "generation"),
                values,
                {"role": "risk", "baseline": [0.0, 4.0], "baseline_dims": ["dim"], "baseline_labels": [[1, 2]]},
            )
        },
        {"dim": [1, 2], "chain": range(200), "generation": range(1, 41)},
    )
    found = score(ds).sel(definition="catastrophic_risk")
    assert list(found.verdict.to_numpy()) == [YES, NO]
    for part in ([1], [1, 0]):  # found by its label, not by its place
        found = score(ds.isel(dim=part)).sel(definition="catastrophic_risk")
        assert list(found.verdict.to_numpy()) == [[YES, NO][i] for i in part]
    elsewhere = score(ds.assign_coords(dim=[3, 4])).sel(definition="catastrophic_risk")
    assert set(elsewhere.verdict.to_numpy()) == {UNKNOWN}


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0.8, YES), (0.3, UNKNOWN), (-0.5, NO), (np.inf, YES)],
    ids=["up", "near the margin", "down", "infinite"],
)
def test_any_increase(step, expected):
    values = noise()
    values[:, -1] += step
    found = verdict("any_increase", risk=values)
    assert found.verdict == expected
    if np.isfinite(step):
        assert found.estimate == pytest.approx((values[:, -1] - values[:, 0]).mean(), abs=0.01)


def test_a_few_infinite_risks_hide_no_rise_and_make_none():
    values = noise()
    values[:3, -1] = np.inf
    assert verdict("any_increase", risk=values).verdict == UNKNOWN  # 3 of 200 could be more
    values[:, -1] += 0.5
    assert verdict("any_increase", risk=values).verdict == YES


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (3 * np.log(T), YES),
        (0.2 * T, YES),
        (T**2, YES),
        (0 * T, NO),
        (3 - 3 / T, NO),
        (3 - 3 / T**2, NO),
        (-np.log(T), NO),
        (np.exp(0.1 * T), YES),
        (np.where(T > 30, np.inf, 0.0), YES),
    ],
    ids=["log", "linear", "square", "flat", "one over t", "one over t^2", "falling", "exponential", "infinite"],
)
def test_diverging_risk(curve, expected):
    level = noise(400, 1, 1)  # a chain's own
    assert verdict("diverging_risk", risk=curve + level + 0.05 * noise(400)).verdict == expected


def test_no_verdict_is_made_of_what_is_not_finite_at_fit_1():
    """Such chains are left out, and the reason counts them; where all are, nothing can be told."""
    values = noise() + 0.2 * T
    some = values.copy()
    some[:20], some[20:25] = np.inf, np.nan
    some[:20, 1:], some[20:25, 1:] = values[:20, 1:], 1.0
    found = verdict("diverging_risk", risk=some)
    assert (found.verdict, found.reason) == (YES, "not finite at fit 1 in 25 of 200 chains")
    left = verdict("diverging_risk", risk=values[25:])
    assert [found[x] for x in ("estimate", "low", "high")] == [left[x] for x in ("estimate", "low", "high")]
    found = verdict("diverging_risk", risk=np.where((np.arange(200)[:, None] < 21) & (T > 10), np.nan, values))
    assert (found.verdict, found.reason.item()[:28]) == (UNKNOWN, "NaN at T in 21 of 200 chains")
    for value in (np.inf, np.nan):
        values[:, 0] = value
        for name in ("catastrophic_risk", "any_increase", "diverging_risk"):
            found = verdict(name, risk=(values, {"baseline": -5.0}))
            assert found.verdict == UNKNOWN
            assert found.reason.item().startswith("not finite at fit 1 in 200 of 200 chains; ")


@pytest.mark.parametrize(
    ("attrs", "margin"), [({}, 0.1349), ({"baseline": 9.0}, 0.05 * 4), ({"role": "excess_risk"}, 0.1 * 5)]
)
def test_the_margin_of_a_rise(attrs, margin):
    """Rises just below count as none, rises just above are seen: with and without a baseline, and of an excess."""
    values = np.quantile(noise(1000).ravel(), (np.arange(200) + 0.5) / 200)[:, None] + 5 + 0 * T[:2]
    for factor, expected in ((0.9, NO), (1.1, YES)):
        risk = values + [0.0, factor * margin] + 1e-3 * noise(200, 2)
        assert verdict("any_increase", risk=(risk, attrs)).verdict == expected


@pytest.mark.parametrize(
    ("curve", "spread", "expected"),
    [
        (-0.05 * T, 0.3, YES),
        (0 * T, 0.01, NO),
        (0.05 * T, 0.3, NO),
        (0 * T, 3.0, UNKNOWN),
        (np.where(T > 35, -np.inf, 0.0), 0.3, YES),
        (np.where(T > 9, -6.0, 0.0), 0.3, YES),  # collapsed before the last half began
        (np.full(40, -6.0), 0.03, NO),  # fit 1 decides what is lost, not the truth
        (0.3 / T, 0.001, NO),
    ],
    ids=["falls", "flat", "grows", "noisy", "gone", "at the bottom", "small from the first", "settles"],
)
def test_collapsing_variance(curve, spread, expected):
    walk = np.cumsum(noise(), 1) / np.sqrt(40)
    assert verdict("collapsing_variance", log_variance=curve + spread * walk).verdict == expected


def test_a_heavy_tailed_ratio_whose_mean_is_kept_collapses():
    """A lognormal martingale: the mean ratio stays 1 for ever, the median goes to 0."""
    steps = 0.5 * noise(500) - 0.125
    logs = np.cumsum(steps, 1)
    assert np.exp(logs[:, 3]).mean() == pytest.approx(1, abs=0.15)
    assert verdict("collapsing_variance", log_variance=logs).verdict == YES


def grid(exponents, chains=100, spread=0.3, seed=0):
    """Risks c n^-a over generations, with exponent a of each generation."""
    n, rng = np.array([10, 32, 100, 316]), np.random.default_rng(seed)
    scatter = np.exp(spread * rng.normal(size=(len(n), chains, len(exponents))))
    values = scatter * n[:, None, None] ** -np.asarray(exponents, float)
    coords = {"num_samples": n, "chain": range(chains), "generation": range(1, len(exponents) + 1)}
    return xr.Dataset({"error": (("num_samples", "chain", "generation"), values, {"role": "excess_risk"})}, coords)


@pytest.mark.parametrize(("exponents", "expected"), [((1, 1, 1), NO), ((1, 0.8, 0.6), YES), ((1, 1, 1.5), YES)])
def test_scaling_law(exponents, expected):
    found = score(grid(exponents)).sel(definition="scaling_law")
    assert set(found.verdict.to_numpy()) == {expected}
    assert found.estimate[0].item() == pytest.approx(exponents[-1] - exponents[0], abs=0.05)


def test_a_scaling_law_needs_its_axis_and_risks_with_logarithms():
    ds = grid((1, 1, 0.5))
    for part in (ds.isel(num_samples=[0, 1]), ds.isel(num_samples=0), ds.isel(generation=[0])):
        assert (score(part).verdict.sel(definition="scaling_law") == UNKNOWN).all()
    ds["error"][0, :50] = 0.0
    assert "50 of 100 chains" in score(ds).reason.sel(definition="scaling_law")[0].item()


@pytest.mark.parametrize(("lost", "expected"), [(0, NO), (1, NO), (90, YES), (200, YES)])
def test_modes_and_tails_and_hallucinations(lost, expected):
    modes = np.full((200, 40), 5.0)
    modes[:lost, 20:] -= 1
    tail = np.full((200, 40), 0.01)
    tail[:lost, 20:] = 0.0
    found = score(dataset(modes=modes, tail=tail, hallucination=0.001 + (0.01 - tail))).isel(policy=0)
    for name in ("mode_loss", "tail_loss", "hallucination"):
        assert found.verdict.sel(definition=name) == expected, name
    assert found.estimate.sel(definition="mode_loss") == pytest.approx(lost / 200)
    more = score(dataset(modes=10 - modes, tail=0.02 - tail, hallucination=tail)).isel(policy=0)
    for name in ("mode_loss", "tail_loss", "hallucination"):
        assert more.verdict.sel(definition=name) == NO, name


def test_a_sure_effect_that_is_too_small_to_count_is_none():
    tail = 0.01 - np.where(T > 20, 0.0005, 0.0) + 1e-5 * noise()
    found = score(dataset(tail=tail, hallucination=0.02 - tail, modes=5 + 10 * tail)).isel(policy=0)
    found = found.sel(definition=["tail_loss", "hallucination", "mode_loss"])
    assert (found.low > 0).all()
    assert (found.verdict == NO).all()


def draws(law, shape, rng):
    return {"normal": rng.normal(size=shape), "exponential": rng.exponential(size=shape),
            "lognormal": rng.lognormal(0, 2, shape), "cauchy": rng.standard_cauchy(shape)}[law]  # fmt: skip


@pytest.mark.parametrize(
    "law", ["normal", "cauchy", *(pytest.param(x, marks=pytest.mark.nightly) for x in ("exponential", "lognormal"))]
)
def test_null_ensembles_are_seldom_called_collapsed(law):
    """No generation differs in law. 2.5% of the intervals may lie above 0; 6.5% is four standard errors more."""
    rng, runs = np.random.default_rng(1), 250
    calls = dict.fromkeys(NAMES, 0)
    for _ in range(runs):
        values = draws(law, (20, 16), rng)
        roles = {role: values for role in ("risk", "log_variance", "modes", "tail", "hallucination")}
        found = score(dataset(**roles)).isel(policy=0)
        for name, word in zip(NAMES, found.verdict.to_numpy(), strict=True):
            calls[name] += word == YES
    calls.pop("catastrophic_risk"), calls.pop("scaling_law")
    assert max(calls.values()) <= 0.065 * runs, calls


def test_the_exponents_of_null_ensembles_do_not_change():
    found = [score(grid((1, 1), chains=30, seed=i)).sel(definition="scaling_law").verdict[0].item() for i in range(100)]
    assert found.count(YES) == 0
    assert found.count(NO) > 20


def test_a_rise_four_standard_errors_above_the_margin_is_seen():
    """Power: an effect of four standard errors passes 1.96 of them with probability 0.98."""
    calls = 0
    for seed in range(100):
        values = noise(50, 2, seed)
        values[:, 1] += 4 * np.sqrt(2 / 50) + 0.1349
        calls += verdict("any_increase", risk=values).verdict == YES
    assert calls >= 92


def test_four_percent_of_the_modes_lost_are_none():
    """Below the margin of 5%, an effect that is surely above 0 is seldom called: 2.5% by the interval."""
    draws = (np.random.default_rng(seed).binomial(25, [[0.0, 0.04]] * 20) for seed in range(200))
    calls = sum(verdict("mode_loss", modes=25.0 - lost).verdict == YES for lost in draws)
    assert calls <= 0.025 * 200 + 4 * np.sqrt(200 * 0.025)


@pytest.mark.parametrize("chains", [1, 2, 5, 6])
@pytest.mark.parametrize("generations", [1, 2, 3, 9])
def test_small_and_unfinished_runs(chains, generations, recwarn):
    roles = ("risk", "excess_risk", "log_variance", "modes", "tail", "hallucination")
    values = 1 + 0.1 * noise(chains, generations)
    whole = dataset(("a", "b"), **{role: (values, {"baseline": 1.5}) for role in roles})
    blank = whole * np.nan
    for name in blank:
        blank[name].attrs = whole[name].attrs
    half = whole.where(whole.policy == "a")
    for ds in (whole, blank, half, whole.isel(policy=0)):
        found = score(ds)
        if chains < verdicts.MIN_CHAINS or ds is blank:
            assert (found.verdict == UNKNOWN).all()
        if ds is half:
            assert (found.verdict.sel(policy="b") == UNKNOWN).all()
            xr.testing.assert_equal(found.sel(policy="a"), score(whole).sel(policy="a"))
        assert tables.render_verdicts(ds).row_count == ds.sizes.get("policy", 1)
    assert not [str(w.message) for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_what_is_no_run_is_refused():
    with pytest.raises(ValueError, match="score: ds must be a dataset"):
        score(3)
    with pytest.raises(ValueError, match="score: ds has no dimension 'chain'"):
        score(dataset(risk=noise()).isel(chain=0))


@pytest.fixture(scope="module")
def gaussian():
    return cj.sweep(
        settings.gaussian(dim=1, ddof=0, num_test=2000),
        [policies.replace(), policies.accumulate(), policies.fresh_real(0.5)],
        num_samples=20,
        num_generations=60,
        num_chains=400,
    )


def test_gaussian_chains(gaussian):
    found = score(gaussian)
    words = found.verdict.to_dataframe()["verdict"].unstack("definition")
    expected = {
        "replace": {"catastrophic_risk": YES, "any_increase": YES, "diverging_risk": YES, "collapsing_variance": YES,
                    "tail_loss": YES},
        "accumulate": {"catastrophic_risk": NO, "any_increase": YES, "diverging_risk": NO, "collapsing_variance": NO},
        "fresh_real": {"catastrophic_risk": NO},
    }  # fmt: skip
    for policy, answers in expected.items():
        for name, word in answers.items():
            assert words.loc[policy, name] == word, (policy, name, found.sel(policy=policy, definition=name))
    assert YES not in list(words.loc["fresh_real", ["diverging_risk", "collapsing_variance"]])
    pace = found.estimate.sel(policy="replace", definition="collapsing_variance")
    t = np.arange(gaussian.sizes["generation"] // 2 + 1, gaussian.sizes["generation"] + 1)
    per_generation = float(np.log(10) - scipy.special.digamma(19 / 2))
    assert float(pace) == pytest.approx(np.polyfit(np.log(t), per_generation * t, 1)[0], rel=0.1)


def test_roles_and_baselines_travel_with_a_run(gaussian, tmp_path):
    from collapse_jax import results

    back = results.open(results.save(gaussian, tmp_path / "out"))
    xr.testing.assert_identical(score(back), score(gaussian))
    assert back.test_nll.attrs["role"] == "risk"
    assert back.wasserstein2_squared.attrs["baseline"] == 1.0
    assert "baseline" not in back.test_nll.attrs


def test_a_swept_dimension_has_a_baseline_a_point():
    moved = {"ddof": [0, 1], "dim": [1, 3]}
    grid = axes.make_grid(settings.gaussian, policies.replace(), num_samples=8, num_generations=2, axes=moved)
    attrs = metric_attributes(plan.make_plan(grid, options.Options(2)))["squared_error_of_mean"]
    assert (attrs["baseline"], attrs["baseline_dims"]) == ([1.0, 3.0], ["dim"])


@pytest.mark.parametrize("dim", [1, 3])
def test_the_mass_of_a_fit_beyond_the_truth(dim):
    """Against SciPy's normal laws, coordinate by coordinate."""
    import jax.numpy as jnp
    from scipy import stats

    from collapse_jax.numerics import gaussian_moments
    from collapse_jax.settings.gaussian import _TAIL, _UNLIKELY, _mass_beyond

    rng = np.random.default_rng(dim)
    root = rng.normal(size=(dim, dim))
    fit, mean = root @ root.T, 0.5 * rng.normal(size=dim)
    truth = np.diag(rng.uniform(0.5, 2, dim))
    one = gaussian_moments.moments_from_covariance(jnp.zeros(dim), jnp.eye(dim))
    laws = stats.norm(mean, np.sqrt(np.diag(fit)))
    for z, share in ((_TAIL, 0.01), (_UNLIKELY, 0.001)):
        assert 2 * stats.norm.sf(z) == pytest.approx(share, rel=1e-6)
        edge = z * np.sqrt(np.diag(truth))
        for both, expected in ((jnp.add, np.add), (jnp.minimum, np.minimum)):
            got = _mass_beyond(
                z,
                gaussian_moments.moments_from_covariance(mean, fit),
                gaussian_moments.moments_from_covariance(0 * mean, truth),
                both,
            )
            assert float(got) == pytest.approx(expected(laws.sf(edge), laws.cdf(-edge)).mean(), rel=1e-4)
        assert float(_mass_beyond(z, one, one, jnp.add)) == pytest.approx(share, rel=1e-4)
    point = gaussian_moments.moments_from_covariance(jnp.zeros(dim), jnp.zeros((dim, dim)))
    assert float(_mass_beyond(_TAIL, point, one, jnp.add)) == 0.0
