"""Bad input: one line, before any compute."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from laws import SETTINGS, chains

from collapse_jax import policies
from collapse_jax.checking.recorder import make_recorder
from collapse_jax.core import batch
from collapse_jax.core.chain import make_chain
from collapse_jax.core.random import chain_keys
from collapse_jax.execution.sweep import sweep
from collapse_jax.settings import bernoulli, gaussian, poisson
from collapse_jax.types import Batch, Curator, Join, Policy

SMALL = {"num_samples": 4, "num_generations": 3, "num_chains": 2}


def shared(share: float = 0.5):
    """A setting's factory with a parameter that policies have, too."""
    return make_recorder()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("setting", "policy", "options", "message"),
    [
        (gaussian, policies.replace, {"num_samples": 0}, "num_samples must be a whole number from 1 to"),
        (gaussian, policies.replace, {"num_samples": 2**40}, "num_samples must be a whole number from 1 to 2147483647"),
        (
            partial(gaussian, ddof=2),
            policies.replace,
            {"num_samples": 2},
            "num_samples must be a whole number from 3",
        ),
        (gaussian, policies.replace, {"num_generations": 0}, "num_generations must be a whole number of at least 1"),
        (gaussian, policies.replace, {"num_chains": 2.5}, "num_chains must be a whole number of at least 1, not 2.5"),
        (gaussian, policies.replace, {"seed": -1}, "seed must be a whole number from 0 to"),
        (gaussian, policies.replace, {"precision": "float16"}, "precision must be one of"),
        (gaussian, policies.replace, {"rng": "philox"}, "rng must be one of threefry2x32"),
        (gaussian, policies.replace, {"backend": "exact"}, "backend must be one of auto, each, rows, law"),
        (gaussian, policies.replace, {"chains_per_block": 0}, "chains_per_block must be a whole number of at least 1"),
        (gaussian, policies.accumulate_subsample, {"backend": "law"}, "accumulate_subsample draws rows from its pool"),
        (SETTINGS["kde"], policies.replace, {"backend": "law"}, "setting kde knows no law"),
        (
            gaussian,
            policies.replace,
            {"backend": "law", "curator": Curator("best", 2, lambda *_: None)},
            "rows are curated",
        ),
        (gaussian, policies.replace, {"metrics": ["trace_ration"]}, "perhaps you meant 'trace_ratio'"),
        (gaussian, policies.replace, {"axes": {"gama": [0.1]}}, "axis 'gama' is no parameter"),
        (gaussian, policies.decay, {"axes": {"gama": [0.1]}}, "perhaps you meant 'gamma'"),
        (gaussian, policies.decay, {"axes": {"gamma": []}}, "must be a list of one or more values"),
        (gaussian, policies.decay, {"axes": {"gamma": [0.5, 1.5]}}, "gamma must be a number from 0 to 1, not 1.5"),
        (gaussian, policies.decay, {"axes": {"gamma": [0.5, float("nan")]}}, "gamma must be a number from 0 to 1"),
        (gaussian, policies.window, {"axes": {"k": [1, 0]}}, "k must be a whole number of at least 1, not 0"),
        (shared, policies.fixed_real, {"axes": {"share": [0.1]}}, "'setting.share' or 'policies.share'"),
        (gaussian, policies.replace, {"axes": {"num_samples": [2]}}, "both as an argument and as an axis"),
        (gaussian, policies.replace, {"num_samples": None}, "num_samples is needed"),
        (partial(gaussian, dim=0), policies.replace, {}, "dim must be a whole number of at least 1"),
        (partial(SETTINGS["kde"], bandwidth=0.0), policies.replace, {}, "bandwidth must be a number above 0"),
        (partial(poisson, rate=0.0), policies.replace, {}, "rate must be a number above 0"),
        (partial(bernoulli, p=1.0), policies.replace, {}, "p must be a number above 0 and below 1, not 1.0"),
        (poisson, policies.replace, {"axes": {"rate": [1.0, -1.0]}}, "rate must be a number above 0"),
        (gaussian, [], {}, "policy: an empty list"),
    ],
)
def test_bad_input_is_one_line_before_any_compute(setting, policy, options, message, monkeypatch):
    monkeypatch.setattr("collapse_jax.execution.runner.run_blocks", lambda *_, **__: pytest.fail("it computed"))
    with pytest.raises(ValueError) as error:
        sweep(setting, policy, **({**SMALL, **options}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        (policies.fixed_real, {"share": -0.1}), (policies.fresh_real, {"share": 1.01}),
        (policies.contaminated, {"share": "half"}), (policies.weighted_fresh, {"weight": float("nan")}),
        (policies.decay, {"gamma": True}), (policies.window, {"k": 0}), (policies.window, {"k": 1.0}),
        (policies.accumulate_subsample, {"num": 0}),
    ],
)  # fmt: skip
def test_policies_check_their_arguments(factory, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        factory(**arguments)


@pytest.mark.fast
def test_a_join_of_another_shape_is_refused():
    double = Policy(
        "double",
        keep=1,
        batches=Join(lambda new, real: Batch(jax.tree.map(lambda x: jnp.repeat(x, 2, 1), new.items), new.weight)),
    )
    chain = make_chain(make_recorder(), double, num_samples=4, num_generations=2)
    with pytest.raises(ValueError, match="policy double: join must stack blocks of n rows, or weigh each row"):
        chain.init(chain_keys(0, 1)[0], make_recorder().world())
    weighed = double._replace(
        batches=Join(lambda new, real: batch.Batch(double.batches.function(new, real).items, jnp.ones((1, 8))))
    )
    seen = chains(make_recorder(), weighed, n=4, horizon=2, num=1)
    assert seen["weight"].sum(-1).tolist() == [[4.0, 8.0]]
