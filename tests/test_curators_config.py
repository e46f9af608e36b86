"""Curators in plans and in configs."""

import pytest
from laws import SETTINGS

from collapse_jax import config, policies
from collapse_jax.core.errors import UsageError
from collapse_jax.curators import best_of, curate
from collapse_jax.planning.grid import coordinates, make_grid
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan


@pytest.mark.fast
def test_a_grid_of_strengths_is_one_program():
    setting, options = SETTINGS["poisson"](), Options(2)
    sizes = {"num_samples": 5, "num_generations": 3}
    strengths = make_grid(setting, policies.replace(), **sizes, axes={"strength": [0.0, 0.5, 2.0]}, curator=curate)
    assert len(make_plan(strengths, options).programs) == 1
    several = make_grid(setting, policies.replace(), **sizes, curator=[None, best_of(), best_of(3)])
    rewards = make_grid(
        setting, policies.replace(), **sizes, axes={"by": ["value", ["value", "likelihood"]]}, curator=curate
    )
    assert coordinates(rewards.axes[0]) == ["value", "value and likelihood"]
    assert several.dims == ("policy", "curator", "chain", "generation")
    assert coordinates(several.axes[0]) == ["none", "best_of(k=2)", "best_of(k=3)"]
    programs = make_plan(several, options).programs
    assert [program.law for program in programs] == [False] * 3  # all draw rows, to be compared


CONFIG = {"setting": {"kind": "gaussian", "dim": 1}, "policies": ["replace"], "num_samples": 5, "num_generations": 3,
          "num_chains": 4}  # fmt: skip


@pytest.mark.fast
def test_configs_name_curators():
    experiment = config.from_dict({**CONFIG, "curator": {"kind": "curate", "k": 3, "by": ["likelihood", "value"]}})
    assert config.from_dict(config.to_dict(experiment)) == experiment
    assert experiment.grid().point(0, ()).curator.oversample == 3
    several = config.from_dict({**CONFIG, "curator": [{"kind": "verify"}, {"kind": "best_of", "k": 4}]})
    assert several.grid().point(0, ()).curator.oversample == 4
    assert config.from_dict(config.to_dict(several)) == several
    product = {"curator.0.keep_wrong": [0.1, 0.5], "curator.1.k": [2, 3]}
    swept = config.from_dict({**CONFIG, "curator": ["verify", "best_of"], "sweep": {"product": product}})
    assert [axis.traced for axis in swept.grid().axes] == [True, False]
    assert swept.grid().point(0, (0, 1)).curator.oversample == 3
    kinds = config.from_dict({**CONFIG, "sweep": {"product": {"curator": [None, "best_of", "detect"]}}})
    grid = kinds.grid()
    assert grid.dims == ("policy", "curator", "chain", "generation")
    assert coordinates(grid.axes[0]) == ["none", "best_of", "detect"]
    assert config.from_dict(config.to_dict(kinds)) == kinds
    assert all(not p.law for p in make_plan(grid, kinds.options()).programs)  # all of one kind, to be compared


@pytest.mark.fast
@pytest.mark.parametrize(
    ("curator", "message"),
    [
        ({"kind": "best_off"}, "curator.kind: unknown 'best_off'; perhaps you meant 'best_of'"),
        ({"kind": "best_of", "k": 0}, "curator: k must be a whole number of at least 1, not 0"),
        (
            [{"kind": "best_of"}, {"kind": "detect", "accuracy": 2}],
            "curator.1: detect: accuracy must be a number",
        ),
        ([], "curator: the list is empty"),
        (3, "curator: expected a kind among verify, "),
    ],
)
def test_a_mistake_in_a_config_is_told_in_one_line(curator, message):
    with pytest.raises(UsageError, match=message) as error:
        config.from_dict({**CONFIG, "curator": curator}).grid()
    assert "\n" not in str(error.value)
