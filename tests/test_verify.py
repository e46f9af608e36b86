"""``collapse-jax verify`` and the dashed lines of pictures: right formulas pass, wrong ones are found."""

from functools import partial

import numpy as np
import pytest
import xarray as xr

import collapse_jax as cj
from collapse_jax import config, curators, data, policies, settings, theory
from collapse_jax.analysis import theory_check
from collapse_jax.cli import main
from collapse_jax.reporting import plot_curves
from collapse_jax.results.theory_variables import exact_line, theory_variables
from collapse_jax.theory import (
    FitMoments,
    VarianceMap,
    diffusion,
    discrete,
    ecosystem,
    gaussian,
    kde,
    markov,
    mixture,
    regression,
    selection,
)
from collapse_jax.theory.prediction import ratio_to_first

SMALL = {
    "setting": {"kind": "gaussian", "dim": 1},
    "policies": [{"kind": "replace"}, {"kind": "accumulate"}],
    "num_samples": 20,
    "num_generations": 4,
    "num_chains": 4_000,
}


def test_a_wrong_formula_is_found(monkeypatch, capsys):
    monkeypatch.setattr(theory_check, "EXPERIMENTS", (SMALL,))
    assert main.main(["verify"]) == 0
    said = capsys.readouterr().out
    assert "FAILS" not in said
    assert "Bonferroni" in said
    assert said.count("gaussian, d = 1") == 14

    right = gaussian.fit_moments
    wrong = lambda *given: FitMoments(right(*given).square, right(*given).variance * 20 / 19)  # noqa: E731
    monkeypatch.setattr(gaussian, "fit_moments", wrong)
    assert main.main(["verify", "--setting", "gaussian"]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("FAILS") == 3  # trace_ratio twice, and Wasserstein's
    assert captured.err.splitlines()[-1] == "error: 3 of 14 predictions differ from the chains"


# T is the third argument, or the last of two.
LATER = lambda right, *given: right(*given[:3][:-1], given[:3][-1] + 1, *given[3:])[1:]  # noqa: E731
WRONG = [  # what differs from SMALL, formulas and what they are changed into
    ({}, [
        (gaussian, "c4", lambda right, n: 1.0),
        (gaussian, "log_variance_drift", lambda right, n, ddof, column: right(n, ddof + 1, column)),
        (gaussian, "variance_of_log_variance", lambda right, n, column: right(n - 5, column)),
        (gaussian, "accumulate_limit", lambda right, n, t: right(n // 2, t)),
        (gaussian, "accumulate_square", lambda right, n, t: right(n // 2, t)),
    ]),
    ({"policies": [{"kind": "weighted_fresh", "weight": 0.618}], "num_generations": 8}, [
        (gaussian, "golden_ratio_error", lambda right, weight, *given: right(1 - weight, *given)),
    ]),
    ({"setting": {"kind": "kde", "bandwidth": 0.6, "num_test": 1}, "policies": ["accumulate"], "num_chains": 1_000}, [
        (kde, "fit_moments", lambda right, policy, n, t, spread: right(policy, n, t, spread._replace(noise=0.6))),
        (kde, "accumulate_growth", lambda right, n, t, bandwidth, truth: right(n, t, 0.0, truth)),
    ]),
    ({"setting": {"kind": "discrete", "lineage": True}, "policies": ["replace"]}, [
        (discrete, "diversity_ratio", LATER), (discrete, "drift_laws", LATER), (discrete, "ancestor_share", LATER),
    ]),
    ({"setting": {"kind": "discrete", "probabilities": [0.9, 0.1]}, "policies": ["replace"]}, [
        (discrete, "fixation_probability", LATER), (discrete, "fixation_time", lambda right, *given: right(*given) - 1),
    ]),
    ({"setting": {"kind": "discrete", "probabilities": [0.6, 0.4], "temperature": 0.8}, "policies": ["replace"]}, [
        (discrete, "sharpen_share", lambda right, share, temperature: share),
        (discrete, "expected_gini_simpson", LATER),
    ]),
    ({"setting": {"kind": "ecosystem", "models": 3}, "policies": ["replace"]}, [
        (ecosystem, "ecosystem_moments",
         lambda right, policy, n, t, matrix, *given: right(policy, n, t, np.eye(3), *given)),
    ]),
    ({"policies": [{"kind": "mix", "real": 14, "synthetic": 30}]}, [
        (gaussian, "fit_moments", lambda right, policy, *given: right({**policy, "nested": False}, *given)),
    ]),
    ({"policies": ["replace"], "num_samples": 50, "curator": {"kind": "best_of", "by": "value"}}, [
        (selection, "best_of_variance", lambda right, k: right(k + 1)),
    ]),
    ({"policies": ["replace"], "num_generations": 2, "curator": {"kind": "best_of", "by": "value"}}, [
        (selection, "best_of_mean", lambda right, k: 0.9 * right(k)),
    ]),
    ({"policies": ["replace"], "num_generations": 2, "curator": {"kind": "verifier", "bias": 1.0, "by": "value"}}, [
        (selection, "judged_variance", lambda right, n, judge, noise: right(n, 1.0, noise)),
    ]),
    ({"policies": [{"kind": "growing", "sizes": [30, 60, 90]}]}, [
        (gaussian, "fit_moments", lambda right, policy, *given: right({**policy, "sizes": [30]}, *given)),
        (gaussian, "growing_square", lambda right, n, sizes, t: 1.5 * right(n, sizes, t)),
    ]),
    ({"policies": ["replace"], "num_samples": 50, "curator": {"kind": "top_fraction", "by": "value"}}, [
        (selection, "top_variance", lambda right, n, kept: 1 - 2 / np.pi),
    ]),
    ({"setting": {"kind": "bernoulli", "p": 0.3}, "policies": ["replace"], "num_generations": 3,
      "curator": {"kind": "curate", "k": 3}}, [
        (selection, "chosen_probability", lambda right, p, k, strength: right(p, 2, strength)),
        (selection, "chosen_mean", lambda right, p, n, *given: right(p, n // 2, *given)),
    ]),
    ({"setting": {"kind": "bernoulli", "p": 0.3}, "policies": ["replace"], "num_generations": 2, "num_samples": 60,
      "curator": {"kind": "verify", "keep_right": 0.8, "keep_wrong": 0.3, "by": "value"}}, [
        (selection, "verified_share", lambda right, p, *given: right(p, *given[::-1])),
        (selection, "majority_probability", lambda right, p, n, *given: right(p, 2 * n, *given)),
    ]),
    ({"setting": {"kind": "bernoulli", "p": 0.1}, "policies": ["replace"]}, [
        (discrete, "diversity_ratio", lambda right, _, n, t: right({"kind": "accumulate"}, n, t)),
        (discrete, "fixation_probability", LATER),
    ]),
    ({"setting": {"kind": "poisson", "rate": 0.4}, "policies": ["replace"]}, [
        (discrete, "zero_rate_probability", LATER),
        (discrete, "rate_variance", lambda right, *given: 1.5 * right(*given)),
    ]),
    ({"setting": {"kind": "linear_regression"}, "policies": ["decay"]}, [
        (regression, "first_risk", lambda right, n, dim, noise: noise * dim / n),
        (regression, "log_first_risk", lambda right, n, dim, noise: right(n - 5, dim, noise)),
        (regression, "log_risk_variance", lambda right, n, dim: right(n, dim + 1)),
    ]),
    ({"setting": {"kind": "logistic_regression", "dim": 1, "steps": 6}, "policies": ["replace"], "num_samples": 200,
      "num_chains": 400}, [
        (regression, "risk_ratio", lambda right, _, n, t: right({"kind": "accumulate"}, n, t)),
    ]),
    ({"setting": {"kind": "ideal_diffusion", "num_test": 1, "lineage": True}, "policies": ["replace"]}, [
        (diffusion, "hermite_factor", lambda right, degree, delta, *given: right(degree, 2 * delta, *given)),
        (diffusion, "hermite_coefficient", lambda right, source, degree: right(source, degree) + 0.05),
        (diffusion, "kept_expectation", lambda right, _, *given: right({"kind": "accumulate"}, *given)),
        (discrete, "ancestor_share", LATER),
    ]),
    ({"setting": {"kind": "gaussian_mixture", "components": 2, "steps": 2, "floor": 0.1, "num_test": 1,
                  "source": {"kind": "normal", "dim": 1}}, "policies": ["replace"], "num_chains": 2_000}, [
        (mixture, "fit_moments", lambda right, policy, n, t, spread: right(policy, n, t, spread._replace(noise=0.0))),
        (mixture, "fit_moments", lambda right, _, *given: right({"kind": "accumulate"}, *given)),
    ]),
    ({"setting": {"kind": "markov", "order": 1, "smoothing": 0.0, "length": 2}, "policies": ["replace"]}, [
        (markov, "diversity_ratio", lambda right, _, n, t: right({"kind": "accumulate"}, n, t)),
        (markov, "expected_symbols_alive", LATER),
    ]),
    ({"setting": {"kind": "markov", "order": 0, "smoothing": 0.0, "length": 4}, "policies": ["accumulate"],
      "num_samples": 5}, [
        (markov, "diversity_over_first", lambda right, policy, draws, t: right(policy, 5, t)),
        (markov, "diversity_over_first", lambda right, _, *given: right({"kind": "replace"}, *given)),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "formulas"), WRONG, ids=[f"{f[0][0].__name__.rpartition('.')[2]}-{f[0][1]}" for _, f in WRONG]
)
def test_wrong_formulas_of_each_setting_are_found(changed, formulas, monkeypatch):
    simulate, simulated = theory_check.sweep, []

    def once(*given, **options):
        if not simulated:
            simulated.append(simulate(*given, **options))
        return simulated[0]

    monkeypatch.setattr(theory_check, "sweep", once)
    experiment = config.from_dict({**SMALL, **changed})
    rows = theory_check.check_experiment(experiment)
    assert rows
    assert not theory_check.find_failures(rows)
    for module, name, change in formulas:
        with monkeypatch.context() as patched:
            patched.setattr(module, name, partial(change, getattr(module, name)))
            assert theory_check.find_failures(theory_check.check_experiment(experiment)), name


@pytest.mark.fast
def test_settings_without_predictions_are_refused(capsys):
    assert main.main(["verify", "--setting", "gausian"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: setting must be one that theory predicts something about (gaussian, kde, discrete, ")
    assert said.count("\n") == 1


@pytest.mark.fast
def test_z_scores():
    one = lambda *values: [np.array([v]) for v in values]  # noqa: E731
    assert theory_check.compute_z_scores(*one(3.0, 0.5, 1.0, 2.0)) == 2.0  # above the interval
    assert theory_check.compute_z_scores(*one(0.5, 0.25, 1.0, 2.0)) == -2.0
    assert theory_check.compute_z_scores(*one(1.5, 0.1, 1.0, 2.0)) == 0.0
    assert theory_check.compute_z_scores(*one(1.0, 0.0, 1.0, 1.0)) == 0.0  # no spread and no difference
    assert abs(theory_check.compute_z_scores(*one(0.9, 0.0, 1.0, 1.0))) == np.inf
    assert theory_check.compute_z_scores(*one(np.nan, np.nan, 1.0, 1.0)) == np.inf


@pytest.mark.fast
def test_the_error_of_a_ratio_counts_its_unit():
    """Over many repeats the ratio of two means scatters as its error says, tied together or not."""
    assert [p.setting for p in theory.TABLE if p.samples is ratio_to_first] == ["logistic_regression", "markov"]
    first, own = np.random.default_rng(0).exponential(size=(2, 1_000, 400))
    for risk in (own, 2 * first + own):
        repeats = [ratio_to_first(None, {"excess_risk": pair}) for pair in np.stack([first, risk], -1)]
        ratio, error = np.moveaxis([theory_check._estimate_mean(samples) for samples in repeats], 1, 0)[..., 1]
        np.testing.assert_allclose(ratio, risk.mean(1) / first.mean(1))
        np.testing.assert_allclose(ratio.std(), error.mean(), rtol=0.1)  # alone: 0.7 and 1.6 times


@pytest.mark.fast
def test_the_limit_grows_with_the_looks():
    row = theory_check.TheoryCheck("", "", theory.TABLE[0], 1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 1)
    assert theory_check.z_limit([row]) == pytest.approx(3.2905, abs=1e-4)
    assert theory_check.z_limit([row] * 100) == pytest.approx(4.4172, abs=1e-4)
    assert theory_check.find_failures([row, row._replace(z=9.0), row._replace(z=np.nan)])[0].z == 9.0
    assert len(theory_check.find_failures([row, row._replace(z=np.nan)])) == 1


def dataset(raw, *metrics):
    """What a run of a config would leave, all ones."""
    experiment = config.from_dict(raw)
    grid, t = experiment.grid(), experiment.num_generations
    coords = {"policy": list(grid.policies), "generation": np.arange(1, t + 1)}
    coords |= {axis.dim: [v[0] for v in axis.values] for axis in grid.axes}
    shape = [len(coords.get(dim, range(2))) for dim in grid.dims]
    described = {metric.name: metric for metric in experiment.build()[0].metrics if metric.name in metrics}
    variables = {name: (grid.dims, np.ones(shape)) for name in metrics}
    return xr.Dataset(variables, coords | theory_variables(grid, described))


def drawn(ds):
    return [line for ax in plot_curves.draw_curves(ds).axes for line in ax.lines if line.get_label() == "_theory"]


def test_pictures_show_what_is_exact():
    ds = dataset({**SMALL, "num_generations": 30}, "trace_ratio", "effective_rank")
    replace, accumulate = drawn(ds)
    exact = (1 - 1 / 20) ** np.arange(1, 31)
    np.testing.assert_allclose(replace.get_ydata(), np.where(exact >= np.exp(-0.5), exact, np.nan))
    np.testing.assert_allclose(accumulate.get_ydata(), gaussian.accumulate_variance(20, 30))
    part = ds.sel(policy=["accumulate"], generation=[2, 5])
    np.testing.assert_allclose(drawn(part)[0].get_ydata(), gaussian.accumulate_variance(20, 30)[[1, 4]])
    assert not drawn(ds.drop_vars([name for name in ds.coords if "theory_of" in ds[name].attrs]))
    ds = dataset({**SMALL, "setting": {"kind": "gaussian", "dim": 6}, "num_samples": 4}, "effective_rank")
    low, high = (ds[f"effective_rank_theory_{end}"].sel(policy="replace") for end in ("low", "high"))
    assert (low < high).any()  # a bound stands beside its metric, too, and is no line
    assert not drawn(ds)


def test_grids_show_what_medians_follow():
    sweep = {"product": {"setting.dim": [1, 2, 3], "num_samples": [5, 10, 20, 40, 80]}}
    ds = dataset({**SMALL, "setting": {"kind": "gaussian"}, "sweep": sweep}, "log_det_ratio", "trace_ratio")
    lines = drawn(ds)
    assert len(lines) == 15
    n, columns = 40, np.array([1, 2])
    exact = gaussian.log_variance_drift(n, 0, columns).sum() * np.arange(1, 5)
    np.testing.assert_allclose(lines[5 + 3].get_ydata(), exact)
    at = {"policy": 1, "dim": 2, "num_samples": 0}
    np.testing.assert_allclose(exact_line(ds, "trace_ratio", at), gaussian.accumulate_variance(5, 4))


def test_pictures_of_sweeps_in_memory():
    """What was called is kept, whatever factories and axes; of what was changed by hand nothing is said."""
    options = {"num_generations": 4, "num_chains": 2, "metrics": ["training_variance"], "num_samples": 20}
    moved = lambda source, h=0.5: settings.kde(bandwidth=h, num_test=1, source=source)  # noqa: E731
    axes = {"source": [data.normal(1, scale=2.0), data.moons()], "h": [0.1, 0.3]}
    runs = cj.sweep(moved, [policies.replace(), policies.window(k=2)], axes=axes, **options)
    found = drawn(runs.isel(source=[0], policy=[1]))
    exact = [
        theory.fit_moments({"kind": "window", "k": 2}, 20, 4, VarianceMap(4.0, noise=h**2)).variance for h in axes["h"]
    ]
    np.testing.assert_allclose([line.get_ydata() for line in found], exact)
    assert len(drawn(runs)) == 8


def test_of_what_is_not_registered_theory_alone_is_missing():
    """Nothing is said of a part that was changed by hand; the other parts of the sweep keep their theory."""
    options = {"num_samples": 20, "num_generations": 3, "num_chains": 2, "metrics": ["trace_ratio"]}
    by_hand = policies.replace()._replace(fade=0.5, name="by hand")
    runs = cj.sweep(settings.gaussian(), [by_hand, policies.accumulate()], **options)
    known = runs.trace_ratio_theory_low.notnull().all("generation")
    assert known.values.tolist() == [False, True]
    table = settings.gaussian(num_test=5, source=data.array(np.random.default_rng(0).normal(size=(50, 1))))
    assert runs.attrs["config_missing"] == "policies.0: by hand was not made by a registered factory"
    found = cj.sweep(table, policies.replace(), **options)  # a law that is given as rows has a covariance all the same
    assert found.trace_ratio_theory_low.notnull().all()
    assert found.attrs["config_missing"] == "setting.source: array was not made by a registered factory"


def test_theory_follows_every_axis():
    axes = {("dim", "num_samples"): [(1, 5), (2, 9)], "k": [2, 4]}
    runs = cj.sweep(
        settings.gaussian, policies.window, axes=axes, num_generations=4, num_chains=2, metrics="trace_ratio"
    )
    for i, n in enumerate((5, 9)):
        for j, k in enumerate((2, 4)):
            exact = theory.fit_moments({"kind": "window", "k": k}, n, 4).variance
            np.testing.assert_allclose(runs.trace_ratio_theory_low[0, i, j], exact)
    tied = lambda dim, ddof: settings.gaussian(dim, ddof=dim * ddof)  # noqa: E731
    runs = cj.sweep(tied, policies.replace(), axes={"dim": [2], "ddof": [0, 1]}, num_samples=9, num_generations=2,
                    num_chains=2, metrics="trace_ratio")  # fmt: skip
    np.testing.assert_allclose(runs.trace_ratio_theory_low[0, 0, 1], [8 / 7, 64 / 49])


def test_theory_knows_some_curators():
    options = {"num_samples": 50, "num_generations": 4, "num_chains": 2, "metrics": "trace_ratio"}
    several = [None, curators.best_of(by="value"), curators.diverse()]
    runs = cj.sweep(settings.gaussian, policies.replace, curator=several, **options)
    assert runs.curator.values.tolist() == ["none", "best_of", "diverse"]
    none, best, other = runs.trace_ratio_theory_low[0]
    np.testing.assert_allclose(none, 0.98 ** np.arange(1, 5))
    np.testing.assert_allclose(best, 0.98 ** np.arange(1, 5) * (1 - 1 / np.pi) ** np.arange(4))
    assert other.isnull().all()
