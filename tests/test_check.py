"""``cj.check`` names each mistake that authors of parts make, and finds none in the parts that are registered."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import EVERY_SETTING, POLICIES, SETTINGS

import collapse_jax as cj
from collapse_jax import data
from collapse_jax.core import batch
from collapse_jax.types import Batch, Curator, Info, Join, Metric, Policy, Setting, SufficientStatistics, World


def mean_of(train):
    x, weight = batch.weighted_rows(train)
    return jnp.where(weight > 0, weight * x, 0.0).sum() / weight.sum()


def compress(train):
    return batch.make_batch(
        mean_of(train)[None], train.weight.sum() * (1 if train.weight.shape[1] > 1 else batch.num_rows(train))
    )


def location(**changed):
    """A setting without a mistake: the mean of numbers around 3, which one change at a time spoils."""
    right = {
        "name": "location",
        "world": lambda: World(real=(), truth=jnp.asarray(3.0), test=None),
        "sample_real": lambda key, world, num: 3 + jax.random.normal(key, (num,)),
        "fit": lambda key, train, start: mean_of(train),
        "sample": lambda key, mean, num: mean + jax.random.normal(key, (num,)),
        "observe": lambda key, world, mean, summary, new: {"squared_error": (mean - world.truth) ** 2},
        "metrics": (Metric("squared_error", "squared error of the mean", "1", "definition", "log", "excess_risk"),),
    }
    return Setting(**right | changed)


def messages(part, **options):
    return [str(problem) for problem in cj.check(part, **options)]


count = itertools.count()
numbers = np.random.default_rng(0)
MISTAKES = {
    "the fit ignores weights": location(fit=lambda key, train, start: train.items.mean()),
    "a row of weight 2 is not the row twice": location(
        fit=lambda key, train, start: jnp.where(train.weight > 0, train.items * jnp.sqrt(train.weight), 0.0).sum()
        / jnp.sqrt(train.weight).sum()
    ),
    "NaN in rows of weight 0 reaches squared_error": location(
        fit=lambda key, train, start: (train.weight * train.items).sum() / train.weight.sum()
    ),
    "asked for 9 rows, sample returns float32[10], not float32[9]": location(
        sample=lambda key, mean, num: mean + jax.random.normal(key, (num + 1,))
    ),
    "observe does not return 'squared_error'; perhaps you meant 'square_error'": location(
        observe=lambda key, world, mean, summary, new: {"square_error": (mean - world.truth) ** 2}
    ),
    "observe returns 'bias', which is not among the setting's metrics": location(
        observe=lambda key, world, mean, summary, new: {"squared_error": mean**2, "bias": mean - world.truth}
    ),
    "metric 'squared_error' has the shape (2,), and its dims say ()": location(
        observe=lambda key, world, mean, summary, new: {"squared_error": jnp.stack([mean, mean])}
    ),
    "metric 'squared_error': role 'exces_risk' is not known; perhaps you meant 'excess_risk'": location(
        metrics=(Metric("squared_error", "squared error of the mean", "1", "definition", role="exces_risk"),)
    ),
    "no metric is computed by default": location(
        metrics=(Metric("squared_error", "squared error of the mean", "1", "definition", default=False),)
    ),
    "fit calls the host (pure_callback)": location(
        fit=lambda key, train, start: jax.pure_callback(np.asarray, jax.ShapeDtypeStruct((), "float32"), mean_of(train))
    ),
    "fit gives another program when it is traced again": location(
        fit=lambda key, train, start: mean_of(train) + 1e-3 * next(count)
    ),
    "sample gives another program when it is traced again": location(
        sample=lambda key, mean, num: mean + jnp.asarray(numbers.normal(size=num), jnp.float32)
    ),
    "fit is called with 3 arguments": location(fit=lambda train: mean_of(train)),
    "it raises TypeError: sub got incompatible shapes": location(
        observe=lambda key, world, mean, summary, new: {"squared_error": jnp.zeros(2) - jnp.zeros(3)}
    ),
    "the fit change with World.truth or World.test": location(
        init=lambda key, world: world.truth, fit=lambda key, train, start: mean_of(train) + 0 * start
    ),
    "a fit to statistics is not the fit to their rows": location(
        statistics=SufficientStatistics(
            lambda train: compress(train)._replace(items=2 * compress(train).items),
            lambda key, mean, num, count, exact: (mean + jax.random.normal(key) / jnp.sqrt(count))[None],
        )
    ),
    "metric 'squared_error' is nan at generation 1": location(
        observe=lambda key, world, mean, summary, new: {"squared_error": jnp.log(-jnp.abs(mean) - 1)}
    ),
    "sample returns the same rows for two keys": location(sample=lambda key, mean, num: mean + jnp.arange(num) * 1.0),
    "world returns something else when it is called again": location(
        world=lambda: World(real=(), truth=jnp.asarray(numbers.normal()), test=None)
    ),
    "init returns float32[2], and fit float32[]": location(init=lambda key, world: jnp.zeros(2)),
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_in_a_setting_is_named(message):
    found = messages(MISTAKES[message])
    assert any(message in line for line in found), found
    assert all("\n" not in line for line in found)


def test_a_right_setting_has_no_problem():
    assert messages(location()) == []
    coarse = location(observe=lambda key, world, mean, summary, new: {"squared_error": (mean > world.truth - 9) * 1.0})
    assert messages(coarse) == []  # a metric that tells nothing of weights
    assert messages(location(info=Info(min_samples=20))) == []
    statistics = SufficientStatistics(
        compress, lambda key, mean, num, count, exact: (mean + jax.random.normal(key) / jnp.sqrt(count))[None]
    )
    assert messages(location(statistics=statistics)) == []


@pytest.mark.fast
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy("negative", fade=-1.0), "a weight is -1"),
        (
            Policy("nothing", keep=1, batches=Join(lambda new, real: batch.scale_weights(new, 0.0))),
            "the fit sees no rows",
        ),
        (Policy("nan", batches=Join(lambda new, real: batch.scale_weights(new, jnp.nan))), "a weight is nan"),
        (
            Policy("counting", batches=Join(lambda new, real: batch.scale_weights(new, float(1 + next(count))))),
            "the policy gives another program when it is traced again",
        ),
        (
            Policy("printing", batches=Join(lambda new, real: (jax.debug.print("here"), new)[1])),
            "the policy calls the host (debug_",
        ),
    ],
    ids=lambda x: x.name if isinstance(x, Policy) else "",
)
def test_a_mistake_in_a_policy_is_named(policy, message):
    assert any(message in line for line in messages(policy))


def keep_with(weight):
    def apply(setting, key, world, params, candidates, num):
        return Batch(jax.tree.map(lambda x: x[:, :num], candidates.items), weight(num))

    return apply


@pytest.mark.fast
@pytest.mark.parametrize(
    ("curator", "message"),
    [
        (Curator("none", 1, keep_with(lambda num: jnp.zeros((1, num)))), "it drops every row"),
        (Curator("minus", 1, keep_with(lambda num: -jnp.ones((1, num)))), "a weight is -1"),
        (
            Curator("all", 2, lambda s, k, w, p, candidates, num: candidates),
            "asked for 6 rows it returns float32[1, 12]",
        ),
        (Curator("half", 1, keep_with(lambda num: jnp.ones((1, num // 2)))), "its weights have the shape (1, 3)"),
        (Curator("counting", 1, keep_with(lambda num: jnp.full((1, num), 1.0 + next(count)))), "another program"),
    ],
    ids=lambda x: x.name if isinstance(x, Curator) else "",
)
def test_a_mistake_in_a_curator_is_named(curator, message):
    assert any(message in line for line in messages(curator))


@pytest.mark.fast
def test_a_mistake_in_a_source_is_named():
    normal = data.normal(dim=2)
    one_more = normal._replace(draw=lambda key, arrays, num: normal.draw(key, arrays, num + 1))
    assert "asked for 5 rows, draw returns the shape (6, 2), not (5, 2)" in messages(one_more)[0]
    assert any("the mean of column 0 is" in line for line in messages(normal._replace(mean=np.full(2, 5.0))))
    assert any("the variance of column 1" in line for line in messages(normal._replace(covariance=np.diag([1.0, 2.0]))))
    fixed = normal._replace(draw=lambda key, arrays, num: normal.draw(jax.random.key(0), arrays, num))
    assert any("two keys give the same rows" in line for line in messages(fixed))
    fresh = normal._replace(held_out=lambda num: numbers.normal(size=(num, 2)))
    assert any("held_out returns other rows" in line for line in messages(fresh))


@pytest.mark.fast
@pytest.mark.parametrize("name", ["poisson", "kde", "linear_regression"])
def test_a_generation_is_traced_once(name):
    setting = SETTINGS[name]()
    chain = cj.make_chain(setting, Policy("accumulate"), num_samples=9, num_generations=3)

    def advance(world, state, generation):
        state, new, _ = chain.emit(world, state, generation)
        return chain.absorb(world, state, new, generation)

    chex.clear_trace_counter()
    world, step = setting.world(), jax.jit(chex.assert_max_traces(advance, n=1))
    state = jax.jit(chain.init)(jax.random.key(0), world)
    for generation in (1, 2, 3):
        state = step(world, state, jnp.int32(generation))


@pytest.mark.fast
def test_only_parts_can_be_checked():
    with pytest.raises(cj.UsageError, match="give a Setting, Policy, Curator or Source, not str"):
        cj.check("gaussian")
    with pytest.raises(cj.UsageError, match="table is called without arguments: missing a required argument"):
        cj.check(data.table)


@pytest.mark.parametrize("name", EVERY_SETTING)
def test_registered_settings_obey_the_laws(name):
    assert messages(SETTINGS[name]()) == []


@pytest.mark.fast
def test_names_of_metrics_stand_alone():
    for name, make in SETTINGS.items():
        for metric in make().metrics:
            assert not metric.long_name.startswith(("of ", "its ", "the same ")), (name, metric.name)


@pytest.mark.fast
@pytest.mark.parametrize("name", POLICIES)
def test_registered_policies_obey_the_laws(name):
    assert messages(POLICIES[name]()) == []
