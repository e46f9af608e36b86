"""Batches of scheduled sizes: which rows fits see, on rows and by law; moments against theory."""

import jax
import numpy as np
import pytest
from laws import SETTINGS, chains, record
from oracle_helpers import assert_law, policy_moments

from collapse_jax import config, curators, policies, theory
from collapse_jax.analysis.predictions import case_at
from collapse_jax.core import registry
from collapse_jax.core.chain import make_chain
from collapse_jax.core.data_plan import plan_data
from collapse_jax.policies import growing
from collapse_jax.settings import bernoulli, gaussian
from collapse_jax.theory.gaussian import growing_square
from collapse_jax.theory.moment_recursions import GROWING, POLICIES

N, SIZES = 5, (7, 9)
MADE = [
    policies.replace(),
    policies.accumulate(),
    policies.decay(0.5),
    policies.window(2),
    policies.weighted_fresh(0.3),
]


@pytest.mark.fast
@pytest.mark.parametrize("inner", MADE, ids=lambda p: p.name)
def test_fits_see_the_sizes_of_the_schedule(inner):
    seen, plain = record(growing(SIZES, inner)), record(inner)
    for g in (1, 2, 3, 4):
        for b in range(g):
            rows = (seen.birth()[0, g - 1] == b) & (seen.weight[0, g - 1] > 0)
            size = [N, *SIZES, SIZES[-1]][b]
            if plain.mass(g, b) and b:
                assert sorted(seen.number[0, g - 1][rows]) == list(range(size))
                assert seen.mass(g, b) == pytest.approx(plain.mass(g, b) * size / N)


@pytest.mark.fast
def test_shares_are_of_the_sizes():
    fresh = record(growing((10, 20), policies.fresh_real(0.3)))
    assert [fresh.mass(g, 0) for g in (1, 2, 3, 4)] == [N, 3, 6, 6]
    assert [fresh.mass(g, g - 1) for g in (2, 3, 4)] == [7, 14, 14]
    first = record(growing((10, 20), policies.fixed_real(0.6)))
    assert [first.mass(g, 0) for g in (1, 2, 3, 4)] == [N, 3, 3, 3]
    assert [first.mass(g, g - 1) for g in (2, 3, 4)] == [7, 17, 17]
    pool = record(growing((10, 20), policies.contaminated(0.3)))
    assert [pool.mass(g, 0) for g in (1, 2, 3)] == [N, N + 3, N + 9]
    weighed = record(growing((10,), policies.weighted_fresh(0.25)))
    assert [weighed.mass(g, 0) for g in (1, 2)] == [N, 5]
    drawn = record(growing(SIZES, policies.accumulate_subsample()))
    assert [drawn.weight[0, g - 1].sum() for g in (1, 2, 3)] == [N] * 3


@pytest.mark.fast
@pytest.mark.parametrize("curator", [curators.self_correct(3.0), curators.diverse(2), curators.top_fraction(0.5)])
def test_curators_leave_empty_slots_empty(curator):
    setting = SETTINGS["poisson"]()
    chain = make_chain(setting, growing((3, 9)), num_samples=4, num_generations=3, curator=curator)
    world = setting.world()
    new = jax.jit(lambda key: chain.emit(world, chain.init(key, world), 1)[1])(jax.random.key(0))
    weight = np.asarray(new.weight[0])
    assert weight.shape == (9,)
    assert (weight[3:] == 0).all()
    assert weight.sum() == (2 if curator.name == "top_fraction" else 3)


@pytest.mark.parametrize(
    ("backend", "fold"), [("law", "auto"), ("rows", "blocks"), pytest.param("rows", "auto", marks=pytest.mark.nightly)]
)
def test_a_schedule_of_n_is_none(backend, fold):
    how = {"n": N, "horizon": 3, "num": 2, "backend": backend, "fold": fold}
    setting = gaussian(2, num_test=4)
    plain = chains(setting, policies.fresh_real(0.4), **how)
    grown = chains(setting, growing([N, N], policies.fresh_real(0.4)), **how)
    for name, values in plain.items():
        np.testing.assert_array_equal(grown[name], values)


REPLACE, ACCUMULATE, FRESH = {"kind": "replace"}, {"kind": "accumulate"}, {"kind": "fresh_real", "share": 0.2}


@pytest.mark.parametrize(
    ("inner", "backend"),
    [(REPLACE, "law"), (ACCUMULATE, "rows"), (FRESH, "rows"),
     *(pytest.param(*pair, marks=pytest.mark.nightly)
       for pair in ((REPLACE, "rows"), (ACCUMULATE, "law"), (FRESH, "law")))],
)  # fmt: skip
def test_moments_are_those_of_theory(inner, backend):
    n, sizes, horizon = 10, (20, 25), 4
    made = registry.factories("policy")[inner["kind"]](**{k: v for k, v in inner.items() if k != "kind"})
    seen = chains(gaussian(1, num_test=4), growing(sizes, made), n=n, horizon=horizon, num=20_000, backend=backend)
    square, variance = policy_moments("growing", n, horizon, sizes=sizes, policy=inner)
    wrong = policy_moments(
        n=n, num_generations=horizon, name=inner["kind"], **{k: v for k, v in inner.items() if k != "kind"}
    )
    assert_law(
        "squared error", seen["squared_error_of_mean"], square, *([] if inner["kind"] == "accumulate" else [wrong[0]])
    )
    assert_law("variance", seen["trace_ratio"], variance)


@pytest.mark.parametrize("backend", ["law", "rows"])
def test_symbols_live_longer_in_growing_batches(backend):
    n, sizes, horizon, p = 10, (30, 60), 4, 0.3
    seen = chains(bernoulli(p), growing(sizes), n=n, horizon=horizon, num=20_000, backend=backend)
    share = p * np.exp(seen["log_probability_ratio"])
    exact = p * (1 - p) * np.cumprod(1 - 1 / np.array([n, *sizes, sizes[-1]]))
    assert_law("p (1 - p)", share * (1 - share), exact, p * (1 - p) * (1 - 1 / n) ** np.arange(1, horizon + 1))


@pytest.mark.fast
def test_errors_add_up_as_the_sum_of_inverse_sizes():
    n, horizon = 50, 400
    sizes = [round(n * t**1.5) for t in range(2, horizon + 1)]
    square, variance = policy_moments("growing", n, horizon, sizes=sizes)
    np.testing.assert_allclose(variance, np.cumprod(1 - 1 / np.array([n, *sizes])))
    np.testing.assert_allclose(square, 1 - variance)
    low, high = growing_square(n, sizes, horizon)
    assert (low <= square + 1e-12).all()
    assert (square <= high).all()
    np.testing.assert_allclose(high[-1], 2.5123753486 / n, rtol=1e-2)  # zeta(3/2) less its tail 2 / sqrt(T)
    np.testing.assert_allclose(policy_moments("growing", n, 9), policy_moments("replace", n, 9))
    for kind in GROWING:
        grown = policy_moments("growing", n, 9, sizes=[n], policy={"kind": kind})
        np.testing.assert_allclose(grown, policy_moments(kind, n, 9))


@pytest.mark.fast
def test_a_schedule_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="sizes must be a whole number of at least 1, not 0"):
        growing([5, 0])
    for counted in (policies.mix(), policies.weighted_fresh(0.5, real=3)):
        with pytest.raises(ValueError, match=f"policy {counted.name} says how many rows each batch has"):
            growing([9], counted)
    with pytest.raises(ValueError, match="policy growing fixed_real: sizes must be a whole number from 5 to"):
        make_chain(gaussian(), growing([3], policies.fixed_real()), num_samples=N, num_generations=3)
    with pytest.raises(ValueError, match="num_samples is traced"):
        jax.eval_shape(lambda n: make_chain(gaussian(), growing([9]), num_samples=n, num_generations=3) and n, N)
    assert not plan_data(SETTINGS["linear_regression"](), growing([9])).law


@pytest.mark.fast
def test_configs_name_what_grows():
    grown = {"kind": "growing", "sizes": [7, 9], "policy": {"kind": "decay", "gamma": 0.3}}
    raw = {"setting": {"kind": "gaussian", "dim": 1}, "policies": [grown, "growing"], "num_samples": N,
           "num_generations": 3, "num_chains": 4}  # fmt: skip
    experiment = config.from_dict(raw)
    assert config.from_dict(config.to_dict(experiment)) == experiment
    (made, plain) = experiment.build()[1]
    assert (made.sizes, made.fade, plain.sizes) == ((7, 9), 0.3, ())
    assert theory.find_predictions(case_at(experiment.grid()))
    window = config.from_dict({**raw, "policies": [{**grown, "policy": "window"}]})
    assert not theory.find_predictions(case_at(window.grid()))
    with pytest.raises(config.ConfigError, match="unknown 'growing'"):
        config.from_dict({**raw, "policies": [{"kind": "growing", "policy": "growing"}]})
    swept = config.from_dict({**raw, "policies": [grown], "sweep": {"product": {"policies.policy.gamma": [0.1, 0.2]}}})
    assert swept.grid().point(0, (1,)).policy.fade == 0.2
    assert set(GROWING) <= set(POLICIES)
