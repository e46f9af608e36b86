"""Sources as scikit-learn draws them, and as the studies drew them that others published."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import sklearn.datasets
from scipy import stats

import collapse_jax as cj
from collapse_jax import data, policies, settings, theory
from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import chain_keys, stream
from collapse_jax.theory.prediction import make_case

sys.path.insert(0, str(Path(__file__).parent.parent))  # experiments are run from a clone and not installed

from experiments import kde

KEYS = jax.random.split(jax.random.key(0), 400)
EVEN = {
    "moons": data.moons(spacing="even"), "circles": data.circles(spacing="even"), "blobs": data.blobs(counts="equal")
}  # fmt: skip


def ordered(rows):
    rows = np.asarray(rows, float)
    return rows[np.lexsort(rows.round(4).T)]


def draws(source, num):
    return np.asarray(jax.vmap(lambda key: source.draw(key, source.arrays, num))(KEYS), float)


@pytest.mark.parametrize("num", [1, 2, 5, 10, 500])
def test_evenly_spaced_rows_are_those_of_scikit_learn(num):
    key = jax.random.key(num)
    for ours, theirs in (
        (data.moons(0.0, "even"), sklearn.datasets.make_moons(num, shuffle=False)),
        (data.circles(0.0, 0.3, "even"), sklearn.datasets.make_circles(num, shuffle=False, factor=0.3)),
    ):
        np.testing.assert_allclose(ordered(ours.draw(key, (), num)), ordered(theirs[0]), atol=2e-6)


@pytest.mark.parametrize("num", [7, 30])
def test_blobs_count_as_those_of_scikit_learn(num):
    source = data.blobs(num_centers=4, std=1e-3, counts="equal")
    theirs = sklearn.datasets.make_blobs(num, centers=source.arrays, cluster_std=1e-3, random_state=0)[1]
    rows = np.asarray(source.draw(jax.random.key(0), source.arrays, num))
    nearest = np.linalg.norm(rows[:, None] - source.arrays, axis=2).argmin(1)
    np.testing.assert_array_equal(np.bincount(nearest), np.bincount(theirs))


@pytest.mark.parametrize("name", EVEN)
def test_a_row_and_a_mean_of_rows_have_the_law_of_scikit_learn(name):
    """The mean over n rows varies less than that of independent rows: both variances are held to those of NumPy."""
    options = {"noise": 0.05} if name != "blobs" else {"centers": EVEN["blobs"].arrays}
    theirs = [getattr(sklearn.datasets, f"make_{name}")(10, random_state=i, **options)[0] for i in range(len(KEYS))]
    ours, theirs = draws(EVEN[name], 10), np.array(theirs)
    for direction in np.random.default_rng(0).normal(size=(6, 2)):
        assert stats.ks_2samp((ours @ direction)[:, 3], (theirs @ direction)[:, 3]).pvalue > 1e-3
        assert stats.ks_2samp((ours @ direction).mean(1), (theirs @ direction).mean(1)).pvalue > 1e-3
    independent = draws(getattr(data, name)(), 10)
    assert ours.mean(1).var(0).sum() < 0.5 * independent.mean(1).var(0).sum()


@pytest.mark.parametrize("name", EVEN)
def test_rows_come_in_random_order(name):
    """Row i of a draw has the mean of all rows, so that policies which take the first ones take a random part."""
    rows = draws(EVEN[name], 10)
    z = (rows.mean(0) - rows.mean((0, 1))) / (rows.std(0) / len(KEYS) ** 0.5)
    assert np.abs(z).max() < 4


def test_theory_predicts_nothing_about_rows_that_depend_on_each_other():
    made = lambda source: make_case(  # noqa: E731
        settings.kde(source=source), policies.replace(), num_samples=10, num_generations=3
    )
    assert theory.find_predictions(made(data.moons()))
    for source in EVEN.values():
        assert theory.find_predictions(made(source)) == []


@pytest.mark.parametrize("policy", [policies.fresh_real(0.5), policies.contaminated(0.5)])
def test_a_part_of_evenly_spaced_rows_is_refused(policy):
    with pytest.raises(UsageError, match=f"policy {policy.name}: it takes a part .* of source circles are spaced"):
        cj.run(settings.kde(source=EVEN["circles"]), policy, num_samples=10, num_generations=2, num_chains=2)


@pytest.mark.parametrize(
    "policy", [policies.fixed_real(0.5), policies.weighted_fresh(), policies.mix(real=3, synthetic=4)]
)
def test_whole_draws_are_not(policy):
    runs = cj.run(settings.kde(source=EVEN["moons"]), policy, num_samples=10, num_generations=2, num_chains=2)
    assert np.isfinite(runs.test_nll).all()


def test_traced_numbers_of_rows_mean_whole_draws():
    """Where n is an axis and rows are drawn, each n has a program of its own: its chains are those of n alone."""
    options = {"num_generations": 1, "num_chains": 3, "seed": 1}
    setting = settings.kde(source=EVEN["moons"])
    both = cj.sweep(setting, "replace", axes={"num_samples": [6, 11]}, **options)
    for num in (6, 11):
        alone = cj.run(setting, "replace", num_samples=num, **options)
        np.testing.assert_array_equal(both.test_nll.sel(num_samples=num).squeeze(), alone.test_nll.squeeze())


PUBLISHED_DATA = (
    data.blobs(counts="equal", shared_centers=False, per_chain=True), data.circles(spacing="even", per_chain=True),
    data.moons(spacing="even", per_chain=True), data.swiss_roll(per_chain=True)
)  # fmt: skip
OWN = {
    "moons": data.moons(spacing="even", per_chain=True), "circles": data.circles(per_chain=True),
    "swiss_roll": data.swiss_roll(per_chain=True), "blobs": data.blobs(per_chain=True, shared_centers=False)
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_chains_are_held_to_rows_of_their_own(name):
    """The test loss and the variance ratio of three fits, from the chain's own data, by NumPy."""
    setting = settings.kde(0.5, source=OWN[name], num_test=30)
    options = {"num_samples": 12, "num_generations": 3, "seed": 4}
    runs = cj.run(setting, "accumulate", num_chains=5, **options)
    key = chain_keys(4, 5)[2]
    own = setting.extras.chain_world(stream(key, "world"), setting.world())
    rows = np.asarray(setting.sample_real(stream(key, "real"), own, 12), float)
    squared = ((np.asarray(own.test, float)[:, None] - rows) ** 2).sum(2)
    density = np.exp(-squared / (2 * 0.25)).mean(1) / (2 * np.pi * 0.25) ** (rows.shape[1] / 2)
    chain = runs.isel(chain=2).squeeze()
    assert float(chain.test_nll[0]) == pytest.approx(-np.log(density).mean(), rel=1e-4)
    ratio = np.log(rows.var(0).mean() / np.asarray(own.truth))
    assert float(chain.log_training_variance_ratio[0]) == pytest.approx(ratio, abs=1e-4)
    assert len(np.unique(runs.test_nll.values[..., 0])) == 5
    alone = jax.jit(lambda k: cj.simulate(cj.make_chain(setting, policies.accumulate(), **{
        "num_samples": 12, "num_generations": 3}), k, setting.world()))(key)  # fmt: skip
    np.testing.assert_allclose(alone["test_nll"], chain.test_nll, rtol=1e-5)


def test_blobs_of_a_chain_have_centres_of_its_own():
    keys = jax.random.split(jax.random.key(3), 2000)
    for shared in (True, False):
        source = data.blobs(num_centers=3, std=0.01, box=2.0, per_chain=True, shared_centers=shared)
        own = jax.vmap(lambda key, draw=source.draw_own: draw(key, 20))(keys)
        centers = np.asarray(own.arrays, float)
        assert np.abs(centers).max() <= 2.0
        assert stats.kstest(centers[:, 0, 0], "uniform", (-2, 4)).pvalue > 1e-3
        for i in range(5):
            exact = np.cov(centers[i].T, bias=True) + 1e-4 * np.eye(2)
            np.testing.assert_allclose(own.covariance[i], exact, rtol=1e-4, atol=1e-6)
        gap = np.linalg.norm(np.asarray(own.test)[:, :, None] - centers[:, None], axis=3).min(2).max(1)
        assert (gap < 0.1).all() if shared else (gap > 0.1).mean() > 0.99


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_mixture", "ideal_diffusion", "flow_matching"])
def test_settings_of_one_world_refuse_data_of_a_chain(kind):
    setting = getattr(settings, kind)(source=data.swiss_roll(per_chain=True))
    with pytest.raises(
        UsageError, match=f"setting {kind}: source swiss_roll draws data for each chain, .* \\(kde can\\)"
    ):
        cj.run(setting, "replace", num_samples=10, num_generations=2, num_chains=2)


def test_theory_predicts_nothing_about_data_of_a_chain():
    setting = settings.kde(source=data.swiss_roll(per_chain=True))
    assert theory.find_predictions(make_case(setting, policies.replace(), num_samples=10, num_generations=3)) == []


def test_an_ecosystem_and_a_lineage_share_the_data_of_their_chain():
    for setting in (
        settings.ecosystem(settings.kde(source=OWN["blobs"]), models=2),
        settings.kde(source=OWN["blobs"], lineage=True),
    ):
        runs = cj.run(setting, "replace", num_samples=6, num_generations=2, num_chains=3)
        assert len(np.unique(runs.test_nll.values[..., 0])) == 3


@pytest.mark.parametrize("source", ["blobs", "circles", "moons", "swiss_roll"])
def test_published_test_losses_of_the_first_fit(source):
    """The means of arXiv 2410.16713 over 100 runs against 400 chains; rows of the default sources are told apart."""
    (published,) = [made for made in PUBLISHED_DATA if made.name == source]
    cell = {"source": source, "bandwidth": 0.5, "policy": "replace", "num_samples": 10, "generation": 1}
    (expected,) = [(mean, error) for found, mean, error in kde.read_published() if found == cell]
    z = []
    for made in (published, getattr(data, source)()):
        setting = settings.kde(0.5, source=made)
        runs = cj.run(setting, "replace", num_samples=10, num_generations=1, num_chains=400, metrics=["test_nll"])
        chains = runs.test_nll.values.astype(float).ravel()
        z.append((chains.mean() - expected[0]) / np.hypot(expected[1], chains.std(ddof=1) / 20))
    assert abs(z[0]) < 4
    assert abs(z[1]) > 4 or source == "swiss_roll"  # whose rows are the same


@pytest.mark.parametrize("policy", ["replace", "accumulate", "accumulate_subsample"])
def test_published_test_losses_of_the_twentieth_fit(policy):
    axes = {"source": [PUBLISHED_DATA[2]], "bandwidth": [0.5], "num_samples": [10]}
    options = {"num_generations": 20, "num_chains": 400, "metrics": ["test_nll"]}
    compared = kde.compare(cj.sweep(settings.kde, [policy], axes=axes, **options))
    assert [c.cell["generation"] for c in compared] == [1, 20]
    assert max(abs(c.z) for c in compared) < 4


def test_published_figures_read_as_they_are_drawn():
    """Means lie in their bands, and fit 1 is the same under all policies, but for a few runs that did not end."""
    published = kde.read_published()
    assert len(published) == 4 * 3 * 3 * 5 * 3
    assert all(0 < error < 0.3 * mean for _, mean, error in published)
    first = {tuple(c.values()): (mean, error) for c, mean, error in published if c["generation"] == 1}
    for (source, bandwidth, _, *rest), (mean, error) in first.items():
        assert abs(mean - first[source, bandwidth, "accumulate", *rest][0]) < 0.5 * error
