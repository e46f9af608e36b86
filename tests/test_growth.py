"""Growth without bound against plateaus: curves of known kinds under noise, and chains that theory bounds."""

import numpy as np
import pytest

import collapse_jax as cj
from collapse_jax.analysis import growth
from collapse_jax.analysis.verdicts import RISING, YES
from experiments.verdict_rates import judge_curves

DRAWS = 60


@pytest.mark.parametrize("num_generations", [8, 30, 100])
@pytest.mark.parametrize("kind", ["two exponentials", "two hyperbolas", "sum of 1/k^2"])
def test_plateaus_seldom_diverge(kind, num_generations):
    """At most 5% of drawn plateaus; 500 of each at five lengths stand in docs/numerics.md, with 1% at most."""
    verdicts = judge_curves(kind, num_generations, DRAWS)
    assert verdicts[YES] <= 0.05 * DRAWS + 4 * np.sqrt(DRAWS * 0.05 * 0.95)


@pytest.mark.parametrize("kind", ["t", "t^0.5"])
def test_powers_diverge_at_50_generations(kind):
    """At least 80%: 100% and 95% of 500."""
    assert judge_curves(kind, 50, DRAWS)[YES] >= 0.8 * DRAWS


def test_a_plateau_that_is_far_away_is_still_rising():
    """A tenth of the way to a plateau at 3 T it is neither level nor known to go on."""
    t = np.arange(1, 31.0)
    curves = 1 + 5 * (1 - np.exp(-t / 60)) * np.exp(0.05 * np.random.default_rng(0).normal(size=(20, 30)))
    share, low, high = growth.unbounded_share(curves, t)
    assert low < growth.MIN_SHARE
    assert low < share < high


@pytest.mark.fast
def test_exact_curves_lie_at_the_ends():
    t, level = np.arange(1, 65.0), np.random.default_rng(0).normal(size=(8, 1))
    for curve, expected in ((np.sqrt(t), 1), (np.log(t), 1), (t, 1), (1 - np.exp(-t / 192), 0)):
        assert growth.unbounded_share(level + curve, t)[0] == pytest.approx(expected, abs=0.02)


@pytest.mark.fast
def test_what_became_infinite_is_unbounded_and_what_falls_is_unknown():
    t = np.arange(1, 17.0)
    curves = t + 0.01 * np.random.default_rng(0).normal(size=(12, 16))
    curves[:4, 9:] = np.inf
    assert growth.unbounded_share(curves, t)[1] > growth.MIN_SHARE
    curves[:, 9:] = np.inf
    assert growth.unbounded_share(curves, t)[1] == np.inf
    assert np.isnan(growth.unbounded_share(-curves[:, :9], t[:9])).all()
    assert np.isnan(growth.unbounded_share(curves[:5, :9], t[:9])).all()


@pytest.mark.parametrize(("share", "num_generations"), [(0.05, 30), (0.05, 60), (0.1, 30)])
def test_a_share_of_real_data_bounds_the_risk(share, num_generations):
    """Theory: the error of the mean stays below 1 / (n (1 - (1 - share)^2)), 10 times fit 1's for a share of 5%."""
    runs = cj.run(cj.settings.gaussian(dim=1), cj.policies.fresh_real(share), num_samples=100,
                  num_generations=num_generations, num_chains=200)  # fmt: skip
    found = cj.score(runs).sel(definition="diverging_risk")
    assert found["verdict"].item() != YES


def test_replacing_data_diverges():
    """Theory: the error of the mean grows as t / n for ever."""
    runs = cj.run(cj.settings.gaussian(dim=1), cj.policies.replace(), num_samples=100, num_generations=60,
                  num_chains=200, metrics=["squared_error_of_mean"])  # fmt: skip
    assert cj.score(runs)["verdict"].sel(definition="diverging_risk").item() in (YES, RISING)
