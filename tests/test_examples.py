"""The examples of how to extend the package: each runs, and obeys the laws that registered parts obey."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import scipy.special
import scipy.stats
from oracle_helpers import assert_law, z_score_of_variance

import collapse_jax as cj
from collapse_jax import config, policies, settings
from collapse_jax.core import batch

FOLDER = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture
def example(own_parts):
    """Loads an example; what it registers does not outlive the test."""
    return lambda name: runpy.run_path(str(FOLDER / f"{name}.py"))


@pytest.fixture
def main(example, monkeypatch, capsys):
    """Runs an example's `main`, with a few chains; returns what it printed and the datasets that it made."""
    made = []

    def of(name, **options):
        for call in ("sweep", "run"):
            whole = getattr(cj, call)
            few = lambda *args, _whole=whole, **own: made.append(_whole(*args, **own | options)) or made[-1]  # noqa: E731
            monkeypatch.setattr(cj, call, few, raising=False)
        example(name)["main"]()
        return capsys.readouterr().out, made

    return of


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("metric")])
def test_examples_run(main, name):
    out, made = main(name, num_chains=8)
    assert out.count("\n") >= 2
    assert "nan" not in out
    assert all(np.isfinite(values).all() for runs in made for values in runs.data_vars.values())


def test_there_is_one_of_each():
    assert {name.partition("_")[0] for name in NAMES} == {"setting", "policy", "curator", "source", "metric"}


def test_the_setting_obeys_the_laws_of_settings(example):
    laplace = example("setting_laplace")["laplace"]
    assert cj.check(laplace()) == ()


@pytest.mark.parametrize("backend", ["law", pytest.param("rows", marks=pytest.mark.nightly)])
def test_the_setting_is_the_random_walk_that_it_says(example, backend):
    laplace, n, horizon = example("setting_laplace")["laplace"], 10, 8
    runs = cj.run(laplace(3.0), policies.replace(), backend=backend, metrics=["log_trace_ratio"], num_samples=n,
                  num_generations=horizon, num_chains=4000)  # fmt: skip
    times, logs = np.arange(1, horizon + 1), runs.log_trace_ratio.to_numpy()
    drift = 2 * (scipy.special.digamma(n) - np.log(n))
    assert_law("mean", logs, drift * times, 0 * times)
    variance = 4 * scipy.special.polygamma(1, n) * times
    assert_law("variance", logs, variance, 4 / n * times**2, z_of=z_score_of_variance)


def test_the_policy_weighs_as_it_says(example):
    distrust = example("policy_distrust")["distrust"]
    seen = laws.record(distrust(0.25))
    assert [[seen.mass(g, b) for b in range(g)] for g in (1, 2, 3, 4)] == [[5, *[1.25] * (g - 1)] for g in (1, 2, 3, 4)]
    accumulated = laws.recorded("accumulate")
    assert [laws.record(distrust(1.0)).seen(g) for g in (1, 2, 3, 4)] == [accumulated.seen(g) for g in (1, 2, 3, 4)]
    with pytest.raises(ValueError, match="trust must be a number from 0 to 1"):
        distrust(2.0)


def test_the_curator_drops_what_it_says(example):
    trim = example("curator_trim")["trim"]
    x = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 5.0]

    def apply(limit, weight):
        return trim(limit).apply(None, None, None, None, batch.make_batch(jnp.asarray(x), weight), 500)

    far = np.sqrt((((x - x.mean(0)) / x.std(0)) ** 2).mean(1))
    for limit in (1.0, 1.5):
        np.testing.assert_array_equal(apply(limit, 1.0).weight[0] > 0, far <= limit)
    np.testing.assert_array_equal(apply(1e6, 1.0).weight, 1.0)
    # A row that is absent decides nothing, whatever it holds.
    weight = np.arange(500) < 400
    x[400:] = np.nan
    first = np.sqrt((((x - x[:400].mean(0)) / x[:400].std(0)) ** 2).mean(1)) <= 1.5
    np.testing.assert_array_equal(apply(1.5, jnp.asarray(weight, float)).weight[0] > 0, first & weight)
    with pytest.raises(ValueError, match="a number of at least 1"):
        trim(0.5)


@pytest.mark.nightly
def test_the_curator_costs_the_variance_that_it_says(example):
    trim, limit = example("curator_trim")["trim"], 2.0
    runs = cj.run(settings.gaussian(1), policies.replace(), curator=trim(limit), metrics=["trace_ratio"],
                  num_samples=2000, num_generations=2, num_chains=200)  # fmt: skip
    kept = 1 - 2 * limit * scipy.stats.norm.pdf(limit) / (2 * scipy.stats.norm.cdf(limit) - 1)
    ratio = (runs.trace_ratio.sel(generation=2) / runs.trace_ratio.sel(generation=1)).to_numpy()
    assert_law("variance kept", ratio, kept, 1.0)


def test_the_source_has_the_law_that_it_says(example):
    source = example("source_outliers")["outliers"](dim=2, share=0.2, scale=3.0)
    rows = np.asarray(source.draw(jax.random.key(0), source.arrays, 20_000), np.float64)
    assert_law("mean", rows, source.mean, source.mean + 1)
    products = rows[:, :, None] * rows[:, None, :]
    assert_law("covariance", products.reshape(-1, 4), source.covariance.ravel(), np.eye(2).ravel())
    density = lambda x, s: scipy.stats.norm.pdf(x, scale=s).prod(1)  # noqa: E731
    expected = np.log(0.8 * density(rows[:50], 1.0) + 0.2 * density(rows[:50], 3.0))
    np.testing.assert_allclose(source.log_density(source.arrays, jnp.asarray(rows[:50])), expected, rtol=1e-5)
    np.testing.assert_array_equal(source.held_out(5), source.held_out(5))
    assert not np.isin(source.held_out(5), rows).any()


def test_configs_name_what_examples_register(example):
    for name in NAMES:
        example(name)
    experiment = config.from_dict({
        "setting": {"kind": "kde", "source": {"kind": "outliers", "scale": 4.0}},
        "policies": [{"kind": "distrust", "trust": 0.1}], "curator": {"kind": "trim", "limit": 2.0},
        "num_samples": 5, "num_generations": 2, "num_chains": 1,
        "sweep": {"product": {"policies.trust": [0.1, 0.2], "curator.limit": [1.5, 2.0]}},
    })  # fmt: skip
    assert all(axis.traced for axis in experiment.grid().axes)  # floats of one's own share a program, too
    assert config.from_dict({"setting": "laplace", "policies": ["replace"], "num_samples": 5, "num_generations": 2,
                             "num_chains": 1}).build()[0].name == "laplace"  # fmt: skip


def test_the_metric_is_the_divergence(main, example):
    out, (runs,) = main(
        "metric_divergence", num_chains=8, metrics=["forward_kl", "squared_error_of_mean", "log_trace_ratio"]
    )
    assert out.count(" nats\n") == 3
    log_variance, error = (np.asarray(runs[name], np.float64) for name in ("log_trace_ratio", "squared_error_of_mean"))
    expected = 0.5 * (np.exp(-log_variance) * (1 + error) - 1 + log_variance)
    np.testing.assert_allclose(runs.forward_kl, expected, rtol=1e-3, atol=1e-6)
    assert runs.forward_kl.attrs["role"] == "excess_risk"
    # Of several columns, by NumPy.
    divergence, moments = (example("metric_divergence")[name] for name in ("divergence", "gaussian_moments"))
    of_laws = jax.jit(
        lambda m, s, k, f: divergence(moments.moments_from_covariance(m, s), moments.moments_from_covariance(k, f))
    )
    rng = np.random.default_rng(0)
    roots, (m, k) = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 3))
    s, f = roots @ roots.transpose(0, 2, 1) + np.eye(3)
    inverse = np.linalg.inv(f)
    expected = np.trace(inverse @ s) + (m - k) @ inverse @ (m - k) - 3 + np.linalg.slogdet(f)[1]
    assert float(of_laws(m, s, k, f)) == pytest.approx(0.5 * (expected - np.linalg.slogdet(s)[1]), rel=1e-4)
    assert float(of_laws(m, s, k, np.diag([1.0, 1.0, 0.0]))) == np.inf
