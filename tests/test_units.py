"""Plans of sweeps: axes that move together, n as a traced number, boxes of work, what they weigh."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import obstore.store
import pytest
import scipy.stats
import yaml

from collapse_jax import config, policies, results, settings
from collapse_jax.config.yaml_io import ConfigError
from collapse_jax.core import registry
from collapse_jax.core.errors import UsageError
from collapse_jax.execution import resumable
from collapse_jax.execution.estimate import estimate_sweep
from collapse_jax.execution.programs import BlockShape, as_inputs, compile_block, trace_block
from collapse_jax.execution.sweep import run, sweep
from collapse_jax.planning import block_size, cost
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.memory_estimate import estimate_block_bytes
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.types import Metric

BASE = {
    "setting": {"kind": "gaussian", "num_test": 8},
    "policies": ["replace", "decay"],
    "num_samples": 5,
    "num_generations": 3,
    "num_chains": 4,
    "metrics": ["trace_ratio"],
}


def swept(**sections):
    return config.from_dict({**BASE, "sweep": sections})


def test_axes_that_move_together_are_separate_runs():
    found = sweep(
        partial(settings.gaussian, num_test=8),
        policies.replace(),
        axes={("dim", "ddof"): [(1, 0), (2, 1)]},
        num_samples=6,
        num_generations=3,
        num_chains=5,
        metrics=["trace_ratio"],
    )
    assert found.dim_ddof.values.tolist() == ["dim=1, ddof=0", "dim=2, ddof=1"]
    for i, (dim, ddof) in enumerate([(1, 0), (2, 1)]):
        alone = run(settings.gaussian(dim, ddof, num_test=8), policies.replace(), num_samples=6, num_generations=3,
                    num_chains=5, metrics=["trace_ratio"])  # fmt: skip
        np.testing.assert_array_equal(found.trace_ratio[0, i], alone.trace_ratio)


@pytest.mark.parametrize("policy", [policies.contaminated, pytest.param(policies.replace, marks=pytest.mark.nightly)])
def test_a_traced_n_has_the_law_of_a_static_one(policy):
    experiment = config.from_dict({
        **BASE, "policies": [policy().name], "num_generations": 4, "num_chains": 1500, "setting": {"kind": "gaussian",
        "num_test": 8, "source": {"kind": "normal", "dim": 2}}, "metrics": ["log_trace_ratio"],
        "sweep": {"product": {"num_samples": [5, 40]}, "trace": ["num_samples"]},
    })  # fmt: skip
    plan = make_plan(experiment.grid(), experiment.options())
    assert len(plan.programs) == 1

    bucket = obstore.store.MemoryStore()
    resumable.fill_store(experiment.grid(), experiment.options(), bucket)
    traced = results.open(bucket).log_trace_ratio
    for n in (5, 40):
        static = run(settings.gaussian(2, num_test=8), policy(), num_samples=n, num_generations=4, num_chains=1500,
                     metrics=["log_trace_ratio"], seed=1)  # fmt: skip
        for g in (1, 4):
            a, b = traced.sel(num_samples=n, generation=g)[0], static.log_trace_ratio.sel(generation=g)
            assert scipy.stats.ks_2samp(a, b).pvalue > 1e-4


def test_n_stays_static_where_real_rows_are_drawn():
    section = {"product": {"num_samples": [4, 5]}, "trace": ["num_samples"]}
    experiment = config.from_dict({**BASE, "setting": {**BASE["setting"], "source": "moons"}, "sweep": section})
    plan = make_plan(experiment.grid(), experiment.options())
    assert [(p.law, p.traced) for p in plan.programs] == [(True, (False,))] * 4


def test_checkpoints_beyond_the_horizon_cost_nothing():
    grid = make_grid(settings.gaussian(), policies.replace(), num_samples=5, num_generations=7)
    plan = make_plan(grid, Options(2, checkpoint_every=1000))
    assert plan.generations_per_call(plan.programs[0]) == 7


def test_metrics_that_nobody_asked_for_are_no_work():
    grid = make_grid(settings.gaussian(20), policies.replace(), num_samples=50, num_generations=7)
    few, whole = (
        make_plan(grid, Options(2, metrics=asked)).programs[0].operations for asked in (["trace_ratio"], None)
    )
    assert few < whole / 1.5  # Wasserstein distances need a loop, of which one turn counts


@pytest.mark.fast
def test_dear_metrics_are_computed_where_they_are_asked_for():
    """A distance of 65 columns costs many generations."""
    asked = lambda dim, metrics: (  # noqa: E731
        set(make_plan(make_grid(settings.gaussian(dim), policies.replace(), num_samples=99, num_generations=2),
                      Options(1, metrics=metrics)).metrics)
    )  # fmt: skip
    everything = {metric.name for metric in settings.gaussian(2).metrics}
    assert asked(64, None) == asked(2, None) == everything
    assert asked(65, None) == everything - {"wasserstein2_squared"}
    assert asked(65, ["all"]) == everything
    assert asked(65, ["wasserstein2_squared"]) == {"wasserstein2_squared"}
    with pytest.raises(UsageError, match="has no 'all'"):
        asked(65, ["all", "trace_ratio"])


def test_a_block_is_as_wide_whatever_is_asked_for():
    """Bits may depend on it."""
    setting = settings.gaussian(1)
    pictures = Metric("pictures", "pictures", "1", "here", dims=(("pixel", 100_000),))
    observe = lambda *given: {**setting.observe(*given), "pictures": jnp.zeros(100_000)}  # noqa: E731
    drawing = setting._replace(metrics=(*setting.metrics, pictures), observe=observe)
    grid = make_grid(drawing, policies.replace(), num_samples=5, num_generations=64)
    programs = [make_plan(grid, Options(2, metrics=asked)).programs[0] for asked in (["trace_ratio"], None)]
    assert programs[0].chains_per_block == programs[1].chains_per_block < 1024
    assert programs[0].bytes_per_chain < programs[1].bytes_per_chain


def test_chains_that_train_are_as_many_as_memory_allows(monkeypatch):
    setting = settings.flow_matching(width=8, depth=1, steps=4, batch_size=1000, num_test=4)

    def chains_per_block(memory):
        monkeypatch.setattr(block_size, "device_memory", lambda: memory)
        grid = make_grid(setting, policies.replace(), num_samples=8, num_generations=2)
        return make_plan(grid, Options(2)).programs[0].chains_per_block

    activations = 4 * 1000 * 8
    assert chains_per_block(2**40) == setting.info.largest_block
    assert chains_per_block(40 * activations) in (2, 4)
    assert chains_per_block(activations) == 1


def test_each_policy_may_take_its_own_backend():
    experiment = swept(product={"num_samples": [4, 5, 6]}, trace=["num_samples"])
    changed = {"backend": "each", "policies": ["replace", "accumulate_subsample"]}
    each = config.from_dict({**config.to_dict(experiment), **changed})
    plan = make_plan(each.grid(), each.options())
    assert [p.law for p in plan.programs] == [True, False, False, False]
    assert [p.traced for p in plan.programs] == [(True,), (False,), (False,), (False,)]


@pytest.mark.parametrize("operations", [1.0, 1e5, 1e6, 1e7, 1e12])
@pytest.mark.parametrize("width", [1, 2, 64])
def test_units_tile_the_results_and_are_whole_chunks(monkeypatch, operations, width):
    monkeypatch.setattr("collapse_jax.planning.units._UNIT_OPERATIONS", operations)
    grid = make_grid(
        partial(settings.gaussian, num_test=8), policies.decay, num_generations=3,
        axes={"gamma": [0.1, 0.2, 0.3, 0.4, 0.5], "dim": [1, 8], "num_samples": [4, 5]},
    )  # fmt: skip
    plan = make_plan(grid, Options(7, chains_per_block=width))
    seen = np.zeros(plan.shape[:-1], int)
    for unit in plan.units:
        seen[unit.where] += 1
        for cut, chunk, length in zip(unit.where, plan.chunk_shape, plan.shape, strict=False):
            assert cut.start % chunk == 0
            assert cut.stop % chunk == 0 or cut.stop == length
    assert (seen == 1).all()
    assert len(plan.programs) == 4


def test_operations_count_loops_as_often_as_they_turn():
    matmul = cost.MATMUL_OPERATIONS * 8**3
    loop = lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=5)[0]  # noqa: E731
    of = lambda f: cost.count_operations(jax.make_jaxpr(f)(jnp.eye(8)).jaxpr)  # noqa: E731
    assert of(lambda x: x @ x) == matmul
    assert of(loop) == 5 * matmul
    assert of(jax.jit(loop)) == 5 * matmul
    assert of(jax.vmap(lambda x: x + 1)) == 64


MEMORY = [
    ("gaussian", {"dim": 1}, policies.replace(), 100, "auto"),
    ("gaussian", {"dim": 10}, policies.accumulate_subsample(), 1000, "auto"),
    ("gaussian", {"dim": 100}, policies.accumulate_subsample(), 100, "auto"),
    ("kde", {"bandwidth": 0.1}, policies.replace(), 1000, "auto"),
    ("kde", {"bandwidth": 0.1}, policies.accumulate(), 1000, "auto"),
    ("flow_matching", {}, policies.replace(), 200, "auto"),
    ("flow_matching", {}, policies.accumulate(), 200, "auto"),
]


@pytest.mark.parametrize(
    ("name", "options", "policy", "n", "backend"),
    [case if i in (0, 4, 6) else pytest.param(*case, marks=pytest.mark.nightly) for i, case in enumerate(MEMORY)],
)
def test_bytes_are_predicted_within_a_fifth(optimised, name, options, policy, n, backend):
    grid = make_grid(registry.factories("setting")[name](**options), policy, num_samples=n, num_generations=20)
    plan = make_plan(grid, Options(64, backend=backend))
    program = plan.programs[0]
    programs = compile_block(trace_block(
        lambda values: plan.build_chain(program, values), program.world, plan.unit_chains(plan.units[0])[0],
        metrics=program.metrics, floats=as_inputs(program.floats),
        shape=BlockShape(program.chains_per_block, plan.generations_per_call(program), program.blocks_per_call),
    ))  # fmt: skip
    m = programs.advance[0].memory_analysis()
    true = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    assert estimate_block_bytes(plan, program) == pytest.approx(true, rel=0.2)


def test_a_forecast_says_what_will_be_done():
    experiment = swept(product={"num_samples": [4, 5, 6], "setting.ddof": [0, 1]})
    rows, total = estimate_sweep(experiment.grid(), experiment.options())
    assert len(rows) == 2 * 3 * 2
    assert {row.chains for row in rows} == {4}
    assert f"{12} compiles, {12 * 4 * 3:,} chain-generations" in total
    assert all(math.isfinite(row.seconds) and row.megabytes > 0 for row in rows)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"product": {"num_sample": [1]}}, "perhaps you meant 'num_samples'"),
        ({"product": {"num_samples": []}}, "sweep.product.num_samples: expected a list of one or more"),
        ({"product": {"num_samples": "3"}}, "sweep.product.num_samples: expected a list"),
        ({"product": {"num_samples": [3, "x"]}}, "num_samples: expected a whole number, got 'x'"),
        ({"product": {"num_samples": [3, 0]}}, "num_samples: must be at least 1"),
        ({"zip": {"num_samples": [3, 4], "setting.ddof": [0]}}, "sweep.zip: its lists must be equally long"),
        ({"zip": {"num_samples": [3]}, "product": {"num_samples": [3]}}, "num_samples is there twice"),
        ({"trace": ["setting.ddof"], "product": {"setting.ddof": [0]}}, "cannot be traced"),
        ({"grid": {}}, "sweep.grid: unknown key"),
        ({"product": {"policies.gamma": [0.1], "policies.1.gamma": [0.2]}}, "move the same thing"),
        ({"product": {"setting.source.dim": [1], "setting.source": ["moons"]}}, "move the same thing"),
        ({"product": {"num_chains": [1, 2]}}, "num_chains cannot be an axis"),
        ({"product": {"setting.kind": ["kde"]}}, "setting cannot be an axis"),
        ({"product": {"policies.gamma": [0.1]}}, "policies.0.gamma: unknown key of replace"),
    ],
)
def test_a_bad_sweep_section_is_one_line(sections, message):
    with pytest.raises(ConfigError) as error:
        swept(**sections)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sweep_section_survives_its_yaml():
    experiment = swept(product={"policies.1.gamma": [0.1, 0.9]}, zip={"num_samples": [4, 5], "setting.ddof": [0, 1]})
    assert config.from_dict(yaml.safe_load(config.dumps(experiment))) == experiment
    grid = experiment.grid()
    assert [(a.dim, a.traced) for a in grid.axes] == [("gamma", True), ("num_samples_ddof", False)]
    for i, j in itertools.product(range(2), range(2)):
        setting, policy, _, num, *_ = grid.point(1, (i, j))
        assert (policy.fade, num, setting.info.min_samples) == ([0.1, 0.9][i], [4, 5][j], [1, 2][j])
