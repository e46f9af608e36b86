"""Laws of chains and of runs: what may and what may not change a result."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from laws import CHAINS, COUNTS, FEW_VALUES, HORIZON, NUM, POLICIES, SETTINGS, chains, floats_of, is_valid, ran, z_score

from collapse_jax import data, policies
from collapse_jax.core import registry
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.core.data_plan import plan_data
from collapse_jax.core.random import chain_keys, stream
from collapse_jax.execution.sweep import run, sweep
from collapse_jax.numerics import gaussian_moments
from collapse_jax.planning.options import RNGS
from collapse_jax.settings.gaussian import gaussian
from collapse_jax.types import Batch, Curator, PartlyReal, Policy

ALWAYS = ("replace", "accumulate", "accumulate_subsample")
TRAINED = ("flow_matching", "diffusion", "language_model", "self_supervised", "vae")  # slow to compile
PAIRS = list(
    dict.fromkeys(
        [("gaussian", p) for p in registry.factories("policy")]
        + [(s, p) for s in registry.factories("setting") for p in ALWAYS[1 : 2 if s in TRAINED else 3]]
    )
)
BY_DAY = ("gaussian", "kde", "linear_regression")  # of each kind one, for laws that chains must obey


def marked(setting, policy):
    """Every setting runs, and every policy, on every change; pools are redrawn for one of each kind."""
    fast = policy == "accumulate" and setting not in TRAINED
    night = policy == "accumulate_subsample" and setting not in BY_DAY
    return pytest.param(setting, policy, marks=[pytest.mark.fast] * fast + [pytest.mark.nightly] * night)


AT_NIGHT = [(s, p) for s in SETTINGS for p in POLICIES if (s, p) not in PAIRS]
POLICY_FLOATS = [(name, p) for name, factory in registry.factories("policy").items() for p in floats_of(factory)]
LOGS = ["log_trace_ratio", "log_det_ratio", "squared_error_of_mean"]
SMALL = {"num_samples": NUM, "num_generations": HORIZON, "num_chains": CHAINS}


def arrays(dataset):
    return {name: np.asarray(variable) for name, variable in dataset.data_vars.items()}


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def close(a, b, rtol=2e-3, atol=2e-4):
    """Equal up to rounding, which a few generations may have amplified."""
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=atol, err_msg=name)


def check_run(setting, policy):
    result = ran(setting, policy)
    declared = SETTINGS[setting]().metrics
    assert list(result.data_vars) == [m.name for m in declared]
    for metric in declared:
        values = result[metric.name]
        assert values.dims == ("chain", "generation", *(dim for dim, _ in metric.dims))
        assert values.shape == (CHAINS, HORIZON, *metric.shape)
        assert is_valid(metric.name, values), metric.name
        constant = metric.name == "effective_rank" and "d1" in setting  # one direction counts as one
        few = metric.units in COUNTS or metric.name in FEW_VALUES
        assert constant or few or len(np.unique(values)) > HORIZON, metric.name
        assert (values.attrs["units"], values.attrs["source"]) == (metric.units, metric.source)
    assert result.generation.values.tolist() == list(range(1, HORIZON + 1))


@pytest.mark.parametrize(("setting", "policy"), [marked(*pair) for pair in PAIRS])
def test_every_pair_runs(setting, policy):
    check_run(setting, policy)


@pytest.mark.nightly
@pytest.mark.parametrize(("setting", "policy"), AT_NIGHT)
def test_every_other_pair_runs(setting, policy):
    check_run(setting, policy)


def some_by_day(pairs):
    return [pair if pair[0] in BY_DAY else pytest.param(*pair, marks=pytest.mark.nightly) for pair in pairs]


@pytest.mark.parametrize(("setting", "policy"), some_by_day([p for p in PAIRS if p[1] != "replace"]))
def test_generation_one_is_the_same_under_all_policies(setting, policy):
    first = lambda p: arrays(ran(setting, p).isel(generation=[0]))  # noqa: E731
    # A redraw gives the same rows with a weight each, of which a fit by gradients draws other minibatches.
    if registry.factories("policy")[policy]().resample is None or registry.factories("setting")[setting]().init is None:
        same = {"backend": "rows"} if registry.factories("policy")[policy]().resample is not None else {}
        close(first(policy), arrays(ran(setting, "replace", **same).isel(generation=[0])))
    last = lambda p: arrays(ran(setting, p).isel(generation=-1))  # noqa: E731
    assert any(not np.allclose(last(policy)[m], last("replace")[m], rtol=1e-2) for m in last(policy))


def loops(setting, policy):
    """A Python loop over generations, and one whose state makes a journey through NumPy between any two."""
    chain = make_chain(setting, policy, num_samples=NUM, num_generations=HORIZON)
    world = setting.world()
    state = jax.jit(jax.vmap(chain.init, (0, None)))(chain_keys(0, CHAINS), world)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, None))
    def step(world, state, generation):
        state, new, observations = chain.emit(world, state, generation)
        return chain.absorb(world, state, new, generation), observations

    def journey(state):
        plain = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
        back = jax.tree.map(jnp.asarray, plain)
        return back._replace(key=jax.random.wrap_key_data(back.key, impl=jax.random.key_impl(state.key)))

    runs = []
    for travel in (lambda s: s, journey):
        now, seen = state, []
        for g in range(1, HORIZON + 1):
            now, observations = step(world, travel(now), jnp.int32(g))
            seen.append(jax.device_get(observations))
        runs.append(jax.tree.map(lambda *x: np.stack(x, 1), *seen))
    return runs


@pytest.mark.parametrize(
    ("setting", "policy"),
    some_by_day([(s, p) for s, p in PAIRS if s == "kde" or p == "accumulate"]),
)
def test_a_scan_is_a_loop_is_an_interrupted_loop(setting, policy):
    looped, interrupted = loops(SETTINGS[setting](), POLICIES[policy]())
    same_bits(looped, interrupted)
    close(arrays(ran(setting, policy)), looped)


@pytest.mark.parametrize(("setting", "policy"), [("gaussian", "accumulate"), ("kde", "accumulate_subsample")])
def test_simulate_is_what_run_runs(setting, policy):
    by_hand = chains(SETTINGS[setting](), POLICIES[policy](), n=NUM, horizon=HORIZON, num=CHAINS)
    close(arrays(ran(setting, policy)), by_hand)


@pytest.mark.fast
def test_the_same_seed_gives_the_same_bits_and_another_does_not(optimised):
    go = partial(run, gaussian(1, num_test=4), policies.replace(), metrics=["trace_ratio"], **SMALL)
    once, again, other = go(), go(), go(seed=1)
    same_bits(arrays(once), arrays(again))
    assert not set(np.ravel(other.trace_ratio)) & set(np.ravel(again.trace_ratio))
    # Chains of one run differ, too, in every generation.
    assert len(np.unique(again.trace_ratio)) == CHAINS * HORIZON


def test_progress_counts_every_chain_generation_once():
    seen = []
    run(
        gaussian(1, num_test=4),
        policies.replace(),
        num_samples=NUM,
        num_generations=50,
        num_chains=10,
        chains_per_block=4,
        metrics=["trace_ratio"],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [total for _, total in seen] == [500] * len(seen)
    assert seen[-1][0] == 500
    assert all(a[0] < b[0] for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("others", [
    (policies.replace, [policies.window(1), policies.decay(0.0), policies.fixed_real(0.0),
                        policies.weighted_fresh(0.0)]),
    (policies.accumulate, [policies.window(HORIZON), policies.decay(1.0), policies.contaminated(0.0)]),
], ids=["replace", "accumulate"])  # fmt: skip
def test_policies_in_disguise_give_the_same_fits(others):
    # On statistics drawn from their law; test_laws_policies does the same on rows.
    result = sweep(gaussian(1, num_test=16), [others[0](), *others[1]], metrics=LOGS, **SMALL)
    assert result.attrs["backend"] == "law"
    for other in result.policy.values[1:]:
        close(arrays(result.sel(policy=other)), arrays(result.isel(policy=0)))


@pytest.mark.parametrize(("policy", "parameter"), POLICY_FLOATS)
def test_a_sweep_over_floats_is_separate_runs(policy, parameter):
    swept = sweep(SETTINGS["kde"](), registry.factories("policy")[policy], axes={parameter: [0.1, 0.5]}, **SMALL)
    assert swept.training_variance.dims == ("policy", parameter, "chain", "generation")
    at = lambda value: arrays(swept.isel(policy=0).sel({parameter: value}))  # noqa: E731
    close(at(0.5), arrays(ran("kde", policy)))
    assert not np.allclose(at(0.1)["training_variance"][:, -1], at(0.5)["training_variance"][:, -1], rtol=1e-3)


def test_a_sweep_over_a_settings_float_and_over_static_axes_is_separate_runs():
    swept = sweep(SETTINGS["kde"], POLICIES["accumulate"](), axes={"bandwidth": [0.1, 0.5]}, **SMALL)
    close(arrays(swept.isel(policy=0).sel(bandwidth=0.5)), arrays(ran("kde", "accumulate")))
    factory, options = partial(gaussian, num_test=16), {"metrics": LOGS, "num_generations": 3, "num_chains": CHAINS}
    axes = {"num_samples": [4, NUM], "gamma": [0.1, 0.5], "dim": [1]}
    swept = sweep(factory, policies.decay, axes=axes, **options)
    assert swept.log_det_ratio.dims == ("policy", "num_samples", "gamma", "dim", "chain", "generation")
    alone = run(factory(dim=1), policies.decay(0.5), num_samples=4, **options)
    close(arrays(swept.isel(policy=0).sel(num_samples=4, dim=1, gamma=0.5)), arrays(alone))


def test_precision():
    def made(precision, n=20, **options):
        return run(
            gaussian(1, num_test=16),
            policies.replace(),
            num_samples=n,
            num_generations=8,
            num_chains=1500,
            precision=precision,
            seed=int(precision == "float64"),
            metrics=["log_trace_ratio", "squared_error_of_mean"],
            **options,
        )

    single, double = made("float32"), made("float64")
    assert (single.log_trace_ratio.dtype, double.log_trace_ratio.dtype) == (np.float32, np.float64)
    for metric in single:
        for g in (0, -1):
            assert scipy.stats.ks_2samp(single[metric][:, g], double[metric][:, g]).pvalue > 1e-4
    # Generation 1 is NumPy's fit in float64 of chain 3's real rows.
    double = made("float64", backend="rows")
    with jax.enable_x64(True):
        source = data.normal(1)
        rows = np.asarray(source.draw(stream(chain_keys(1, 4)[3], "real"), source.arrays, 20))
    assert rows.dtype == np.float64
    np.testing.assert_allclose(double.log_trace_ratio[3, 0], np.log(rows.var()), rtol=1e-12)
    np.testing.assert_allclose(double.squared_error_of_mean[3, 0], rows.mean() ** 2, rtol=1e-11)
    assert jnp.zeros(()).dtype == jnp.float32  # the switch is undone


def test_every_random_number_implementation_runs():
    first = {}
    for rng in RNGS:
        result = run(
            gaussian(1, num_test=16),
            policies.replace(),
            rng=rng,
            num_samples=10,
            num_generations=3,
            num_chains=1500,
            metrics=["trace_ratio"],
        )
        assert result.attrs["rng"] == rng
        assert abs(z_score(result.trace_ratio.values[:, -1].astype(float), 0.9**3)) < 4
        first[rng] = np.asarray(result.trace_ratio[:, 0])
    assert not np.isin(first["rbg"], first["threefry2x32"]).all()


def gauge(setting):
    """The Gaussian setting, but one sees its fits bare."""

    def observe(key, world, params, summary, generated):
        return {
            "mean": params.mean[0],
            "log_trace": gaussian_moments.log_trace(params),
            "log_det": gaussian_moments.log_det(params),
        }

    return setting._replace(observe=observe)


def alike_in_law(a, b):
    """Two-sample Kolmogorov-Smirnov at the first and last generation; as many fits must be singular."""
    for name in a:
        for g in (0, -1):
            x, y = a[name][:, g], b[name][:, g]
            assert not np.isnan(x).any(), name
            assert not np.isnan(y).any(), name
            # A fit is singular where its rows span no more: no chance is in their number.
            assert np.isneginf(x).mean() == np.isneginf(y).mean(), name
            if np.isfinite(x).any():
                assert scipy.stats.ks_2samp(x[np.isfinite(x)], y[np.isfinite(y)]).pvalue > 1e-4, name


@pytest.mark.parametrize(
    ("dim", "n", "policy"),
    [(1, 1, "replace"), (3, 6, "replace"), (3, 3, "replace"), (3, 2, "accumulate"), (3, 3, "accumulate"),
     *[pytest.param(*args, marks=pytest.mark.nightly)
       for args in ((3, 2, "replace"), (3, 3, "fixed_real"), (3, 3, "decay"), (8, 5, "accumulate"))]],
)  # fmt: skip
def test_drawing_statistics_is_drawing_rows_in_law(dim, n, policy):
    setting = gauge(gaussian(dim, num_test=16))
    go = partial(chains, setting, POLICIES[policy](), n=n, horizon=3, num=1500)
    made = {"law": go(backend="law", seed=0), "rows": go(backend="rows", fold="blocks", seed=1)}
    for fits in made.values():  # n rows span n - 1 directions, and what is sampled from them lies there, too
        singular = np.isneginf(fits["log_det"]).mean()
        assert singular == (n <= dim)
    alike_in_law(*made.values())


@pytest.mark.parametrize("policy", registry.factories("policy"))
def test_folded_pools_are_blocks_are_rows(policy):
    setting, made = gauge(gaussian(1, num_test=16)), POLICIES[policy]()
    go = partial(chains, setting, made, **{"n": 5, "horizon": 3, "num": 1500, "seed": 1, "backend": "rows"})
    if not plan_data(setting, made).law:
        with pytest.raises(ValueError, match="backend 'law' is not possible"):
            go(backend="law")
        return
    rows, law, blocks = go(), go(backend="law", seed=0), go(fold="blocks", num=3000)
    first, last = ({name: x[half] for name, x in blocks.items()} for half in (slice(1500), slice(1500, None)))
    if not isinstance(made.batches, PartlyReal):
        close(rows, first, atol=1e-4)  # the same normals are drawn
    else:
        alike_in_law(rows, last)
    alike_in_law(law, last)


def test_a_traced_share_draws_statistics_of_the_same_law():
    # The number of rows is a tracer there, and gamma variates come from another sampler.
    setting = gauge(gaussian(2, num_test=16))
    world = setting.world()

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def go(key, share):
        chain = make_chain(setting, policies.fixed_real(share), num_samples=6, num_generations=3, backend="law")
        return simulate(chain, key, world, 3)

    concrete = chains(setting, policies.fixed_real(0.5), n=6, horizon=3, num=1500, seed=4)
    alike_in_law(jax.device_get(go(chain_keys(3, 1500), 0.5)), concrete)


def best_of_two(setting, key, world, params, candidates, num):
    """Keep, of each pair of candidates, the one with the larger first coordinate."""
    pairs = candidates.items.reshape(1, num, 2, -1)
    best = jnp.argmax(pairs[..., 0], axis=2)
    return Batch(jnp.take_along_axis(pairs, best[:, :, None, None], axis=2)[:, :, 0], candidates.weight)


def test_best_of_two_narrows_the_law_and_moves_its_mean():
    n, horizon, curator = 100, 4, Curator("best_of_two", 2, best_of_two)
    setting = gauge(gaussian(1, num_test=16))
    go = partial(chains, setting, policies.replace(), n=n, horizon=horizon, num=3000)
    seen, plain = go(curator=curator), go(backend="rows")
    np.testing.assert_allclose(seen["mean"][:, 0], plain["mean"][:, 0], atol=1e-6)  # the real rows are not curated
    np.testing.assert_allclose(seen["log_trace"][:, 0], plain["log_trace"][:, 0], atol=1e-5)
    variance = np.exp(seen["log_trace"].astype(float))
    for t in range(1, horizon + 1):
        # Exact at every n: the variance of the larger of two is (1 - 1/pi) s^2, and the MLE has its factor 1 - 1/n.
        expected = (1 - 1 / np.pi) ** (t - 1) * (1 - 1 / n) ** t
        assert abs(z_score(variance[:, t - 1], expected)) < 4
    for t in range(1, horizon):
        step = seen["mean"][:, t] - seen["mean"][:, t - 1] - np.sqrt(variance[:, t - 1] / np.pi)
        assert abs(z_score(step, 0.0)) < 4


@pytest.mark.parametrize("policy", ["accumulate", "fixed_real"])
def test_a_curator_leaves_generation_one_alone(policy):
    result = run(SETTINGS["kde"](), POLICIES[policy](), curator=Curator("best", 2, best_of_two), **SMALL)
    first = lambda x: arrays(x.isel(generation=[0]))  # noqa: E731
    close(first(result), first(ran("kde", policy)))
    assert np.isfinite(result.test_nll).all()
    assert not np.allclose(result.test_nll[:, -1], ran("kde", policy).test_nll[:, -1], rtol=1e-3)


@pytest.mark.parametrize("decay", [policies.decay, lambda gamma: Policy("ring", keep=2, fade=gamma)])
def test_a_chain_can_be_differentiated(decay):
    with jax.enable_x64(True):
        setting = gauge(gaussian(2, num_test=16))
        world, key = setting.world(), chain_keys(0, 1)[0]

        @jax.jit
        @jax.value_and_grad
        def last(gamma):
            chain = make_chain(setting, decay(gamma), num_samples=NUM, num_generations=3)
            return simulate(chain, key, world, 3)["log_trace"][-1]

        slope, step = float(last(0.5)[1]), 1e-5
        difference = float(last(0.5 + step)[0] - last(0.5 - step)[0]) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-5)
    assert abs(slope) > 1e-3
