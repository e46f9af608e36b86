"""One builder of grids: Python and YAML name the same axes, with the same labels, of parts built, named or called."""

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import collapse_jax as cj
from collapse_jax import config, curators, data, policies, settings
from collapse_jax.planning.grid import coordinates, make_grid
from collapse_jax.types import Policy

SMALL = {"num_samples": 6, "num_generations": 2}
RUN = {**SMALL, "num_chains": 3, "metrics": "trace_ratio"}
RAW = {"setting": "gaussian", "policies": ["replace"], **SMALL, "num_chains": 3, "metrics": ["trace_ratio"]}


def axes_of(grid):
    return [(axis.dim, axis.paths, coordinates(axis), axis.traced) for axis in grid.axes]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "raw", "axes", "product"),
    [
        ([policies.fresh_real(), policies.fixed_real()], ["fresh_real", "fixed_real"],
         {"policies.share": [0.1, 0.2]}, {"policies.share": [0.1, 0.2]}),
        ([policies.fresh_real(), policies.replace()], ["fresh_real", "replace"],
         {"share": [0, 1]}, {"share": [0, 1]}),
        ([policies.window, policies.window(k=2)], ["window", {"kind": "window", "k": 2}],
         {"policies.0.k": [3, 4], "dim": [1, 2]}, {"policies.0.k": [3, 4], "setting": {"dim": [1, 2]}}),
        (policies.growing(policy=policies.decay()), [{"kind": "growing", "policy": "decay"}],
         {"policies.policy.gamma": [0.1, 0.5]}, {"policies.policy.gamma": [0.1, 0.5]}),
        (policies.replace(), ["replace"],
         {"setting.source": [data.normal(3), data.normal(2), "moons"], "seed": range(2)},
         {"source": [{"kind": "normal", "dim": 3}, "normal", "moons"], "seed": [0, 1]}),
        (policies.replace, ["replace"], {"num_samples": np.array([5, 9]), "num_generations": (1, 2)},
         {"num_samples": [5, 9], "num_generations": [1, 2]}),
    ],
)  # fmt: skip
def test_python_and_yaml_make_the_same_grid(given, raw, axes, product):
    sizes = {name: size for name, size in SMALL.items() if name not in axes}
    ours = make_grid(settings.gaussian(), given, **sizes, axes=axes)
    theirs = config.from_dict({**RAW, "policies": raw, "sweep": {"product": product}}).grid()
    assert ours.policies == theirs.policies
    assert axes_of(ours) == axes_of(theirs)


@pytest.mark.fast
def test_parts_of_one_kind_are_labelled_by_what_tells_them_apart():
    grid = make_grid("gaussian", [policies.window(2), policies.window(k=3), "replace"], **SMALL)
    assert grid.policies == ("window(k=2)", "window(k=3)", "replace")
    nested = [policies.growing([9, 12]), policies.growing([9], policies.fresh_real(0.1))]
    labels = ("growing(sizes=[9, 12], policy=none)", "growing(sizes=[9], policy=fresh_real(share=0.1))")
    assert make_grid("gaussian", nested, **SMALL).policies == labels
    named = [policies.window(3)._replace(name="three"), policies.window(3)]
    assert make_grid("gaussian", named, **SMALL).policies == ("three", "window")
    grid = make_grid("gaussian", "replace", **SMALL, curator=[None, curators.best_of(), curators.then(
        curators.verify(), curators.best_of(3))])  # fmt: skip
    assert coordinates(grid.axes[0]) == ["none", "best_of", "verify then best_of(k=3)"]
    both = make_grid("gaussian", "replace", num_generations=2, axes={("dim", "num_samples"): [(1, 5), (2, 9)]})
    assert coordinates(both.axes[0]) == ["dim=1, num_samples=5", "dim=2, num_samples=9"]
    for pair in ([policies.window(3)] * 2, [Policy("mine", keep=1), Policy("mine", keep=2)]):
        with pytest.raises(cj.UsageError, match=r"policy: items 0 and 1 are both .*: leave one out, or give it a name"):
            make_grid("gaussian", pair, **SMALL)


@pytest.mark.parametrize("axes", [{"share": [0.1, 0.5]}, {"setting.source.scale": [1.0, 2.0]}, {"k": [1, 2]}])
def test_an_axis_moves_parts_that_are_built_as_it_moves_named_ones(axes):
    policy, curator = policies.fresh_real(), curators.best_of(by="value")
    made = cj.sweep(settings.gaussian(source=data.normal(2)), policy, axes=axes, curator=curator, **RUN)
    setting, curator = {"kind": "gaussian", "source": "normal"}, {"kind": "best_of", "by": "value"}
    named = cj.sweep(setting, "fresh_real", axes=axes, curator=curator, **RUN)
    np.testing.assert_array_equal(made.trace_ratio, named.trace_ratio)
    assert made.dims == named.dims
    assert float(abs(made.trace_ratio.diff(made.trace_ratio.dims[1])).max()) > 0


def test_arrays_and_single_numbers_are_lists():
    options = {**RUN, "num_samples": np.int64(6), "num_generations": jnp.int32(2), "num_chains": np.int32(3)}
    grids = [
        cj.sweep("gaussian", "fresh_real", axes={"share": shares, "ddof": ddof}, **options)
        for shares, ddof in (
            ([0.1, 0.2], [1]), (np.array([0.1, 0.2]), 1), (jnp.array([0.1, 0.2]), np.array([1])),
            ((0.1, 0.2), range(1, 2)),
        )
    ]  # fmt: skip
    for grid in grids:
        assert (grid.share.values.tolist(), grid.ddof.values.tolist()) == ([0.1, 0.2], [1])
        np.testing.assert_array_equal(grid.trace_ratio, grids[0].trace_ratio)


def test_seeds_and_generations_are_axes():
    axes = {"seed": [0, 7], "num_generations": [1, 3], "policies.share": [0.1, 0.5]}
    options = {"num_samples": 10, "num_chains": 4, "metrics": "trace_ratio"}
    grid = cj.sweep("gaussian", "fresh_real", axes=axes, **options)
    assert np.isnan(grid.trace_ratio.sel(num_generations=1, generation=[2, 3])).all()
    for seed in (0, 7):
        for horizon in (1, 3):
            alone = cj.sweep("gaussian", "fresh_real", axes={"share": [0.1, 0.5]}, seed=seed, num_generations=horizon,
                             **options)  # fmt: skip
            part = grid.trace_ratio.sel(seed=seed, num_generations=horizon)[..., :horizon]
            np.testing.assert_array_equal(part, alone.trace_ratio)
    assert grid.trace_ratio_theory_low.sel(num_generations=1).notnull().sum("generation").max() == 1
    assert not {"seed", "num_generations"} & set(grid.attrs)


def test_n_is_traced_on_request():
    section = {"product": {"num_samples": [5, 40]}, "trace": ["num_samples"]}
    experiment = config.from_dict({**RAW, "sweep": section})
    ours = make_grid("gaussian", "replace", num_generations=2, axes={"num_samples": [5, 40]}, trace="num_samples")
    assert [axis.traced for axis in ours.axes] == [axis.traced for axis in experiment.grid().axes] == [True]
    with pytest.raises(cj.UsageError, match="trace: 'ddof' cannot be traced; num_samples can"):
        make_grid("gaussian", "replace", **SMALL, axes={"ddof": [0, 1]}, trace="ddof")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axes": {"policies.1.k": [1]}}, "axis 'policies.1.k': there are 1 policies, which count from 0"),
        ({"axes": {"policies.0": ["window"]}}, "is a whole policy; give several policies"),
        ({"axes": {"policies.shrae": [0.1]}}, "is no parameter of fresh_real; perhaps you meant 'share'"),
        ({"axes": {"setting.source.dim": [1]}}, "source: it is None, so its arguments cannot be moved; give a source"),
        ({"axes": {"curator.k": [1]}}, "axis 'curator.k': there is no curator to move; give one"),
        ({"axes": {"share": [0.1], "policies.0.share": [0.2]}}, "and 'policies.0.share' move the same thing"),
        ({"axes": {"dim": "12"}}, "axis 'dim' must be a list of one or more values"),
        ({"axes": {"dim": np.ones((2, 2))}}, "axis 'dim': an array of 2 dimensions; give a list of values"),
        ({"axes": {("dim", "ddof"): [(1, 0), (2,)]}}, "each of its values must be 2 values"),
        ({"axes": {"seed": [-1]}}, "seed must be a whole number from 0 to"),
        ({"axes": [0.1]}, "axes must be a mapping of names to lists of values"),
        ({"setting": "gausian"}, "setting: there is no setting 'gausian'; perhaps you meant 'gaussian'"),
        ({"setting": {"kind": "gaussian", "dims": 2}}, "setting.dims: gaussian has no such argument"),
        ({"setting": policies.replace()}, "must be a Setting, the name of one, or a factory of one, not Policy"),
        ({"setting": settings.gaussian()._replace(metrics=()), "axes": {"setting.dim": [1]}},
         "is no parameter of gaussian; it was not made by a registered factory"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments, message):
    given = {"setting": "gaussian", "policy": "fresh_real", **SMALL, **arguments}
    with pytest.raises(cj.UsageError) as error:
        make_grid(given.pop("setting"), given.pop("policy"), **given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.fast
def test_axes_keep_their_order_in_a_config():
    axes = {("dim", "ddof"): [(1, 0), (2, 1)], "policies.share": [0.1, 0.2], "curator": [None, "best_of"]}
    ours = make_grid("gaussian", "fresh_real", **SMALL, axes=axes)
    from collapse_jax.planning.options import Options
    from collapse_jax.results.config_text import write_config

    text = write_config(ours.design, Options(3))
    assert axes_of(config.from_dict(yaml.safe_load(text)).grid()) == axes_of(ours)
