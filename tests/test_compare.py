"""The table of strategies: what it reads off a run, and what they cost."""

import numpy as np
import pytest
import xarray as xr

from collapse_jax import config
from collapse_jax.analysis import strategies
from collapse_jax.cli import main
from collapse_jax.reporting import plot_strategies

RAW = {
    "setting": {"kind": "gaussian", "dim": 1},
    "policies": ["replace", {"kind": "fresh_real", "share": 0.2}],
    "num_samples": 10,
    "num_generations": 5,
    "num_chains": 8,
    "sweep": {"product": {"curator": [None, "best_of", {"kind": "self_correct", "strength": 1.0}]}},
}


def dataset(**roles):
    """What a run would leave: metric m is 2^(g m) for the m-th, the same in all chains."""
    experiment = config.from_dict(RAW)
    grid = experiment.grid()
    shape, g = (2, 3, 8, 5), np.arange(5.0)
    variables = {
        name: (grid.dims, np.broadcast_to(2.0 ** (g * i), shape), {"role": role})
        for i, (name, role) in enumerate(roles.items(), 1)
    }
    coords = {"policy": list(grid.policies), "curator": ["none", "best_of", "self_correct"], "generation": g + 1}
    return xr.Dataset(variables, coords, {"config": config.dumps(experiment)})


@pytest.mark.fast
def test_strategies_and_their_costs():
    rows = strategies.score_strategies(dataset(error="excess_risk", variance="log_variance"))
    assert [(row.real_rows, row.candidates) for row in rows] == [(10, 1), (10, 2), (30, 1), (18, 1), (18, 2), (38, 1)]
    assert {row.risk[0] for row in rows} == {16.0}
    assert {row.diversity[0] for row in rows} == {np.exp(2.0**8 - 1)}
    assert all(row.is_ratio for row in rows)
    assert {row.rest for row in rows} == {"none", "best_of", "self_correct"}
    assert len({(row.policy, row.rest) for row in rows}) == 6


@pytest.mark.fast
def test_what_stands_for_the_risk_and_for_the_diversity():
    (row, *_) = strategies.score_strategies(dataset(loss="risk", alive="tail modes"))
    assert (row.risk[0], row.is_ratio, row.diversity[0]) == (15.0, False, 256.0)
    (row, *_) = strategies.score_strategies(dataset(other=""))
    assert np.isnan([row.risk[0], row.diversity[0]]).all()
    assert row.verdicts == ()
    with pytest.raises(ValueError, match="carries no config"):
        strategies.score_strategies(dataset(loss="risk").drop_attrs())


def test_the_command_runs_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "two.yaml"
    raw = {**RAW, "policies": ["replace"], "sweep": {"product": {"curator": [None, "best_of"]}}, "num_generations": 3}
    file.write_text(config.dumps(config.from_dict({**raw, "metrics": ["wasserstein2_squared", "log_trace_ratio"]})))
    assert main.main(["compare", str(file)]) == 0
    said = capsys.readouterr().out
    assert "Strategies at the last generation" in said
    assert "best_of" in said
    assert main.main(["compare", "results/two"]) == 0
    assert "best_of" in capsys.readouterr().out
    assert (tmp_path / "results" / "two" / "compare.png").exists()
    assert main.main(["compare", "nowhere"]) == 2
    assert main.main(["compare", "results/two", "--out", "nowhere/a.png"]) == 2


@pytest.mark.fast
def test_the_frontier_is_of_what_nothing_cheaper_beats():
    points = [(10, 5.0), (10, 4.0), (20, 4.5), (30, 4.0), (40, 1.0), (5, np.nan), (50, 1.5)]
    assert plot_strategies.find_frontier(points) == [(10, 4.0), (40, 1.0)]
    assert plot_strategies.find_frontier([(1, np.nan)]) == []


@pytest.mark.fast
def test_the_picture_has_a_point_a_strategy():
    roles = {"error": "excess_risk", "variance": "log_variance"}, {"loss": "risk", "alive": "modes"}, {"other": ""}
    groups = [strategies.score_strategies(dataset(**given)) for given in roles]
    figure = plot_strategies.draw_strategies(groups)
    above, below = np.array(figure.axes).reshape(2, 3)
    for ax, rows in zip((*above, *below), 2 * groups, strict=True):
        points = [tuple(np.concatenate(line.get_xydata())) for line in ax.lines if line.get_linestyle() == "None"]
        cost = [(row.diversity[0] if ax in below else row.real_rows, row.risk[0]) for row in rows]
        np.testing.assert_array_equal(points, cost)
    assert [ax.get_yscale() for ax in above] == ["log", "linear", "log"]


@pytest.mark.fast
def test_batches_that_grow_use_as_many_real_rows():
    grown = {"kind": "growing", "sizes": [20, 30], "policy": {"kind": "fresh_real", "share": 0.2}}
    point = config.from_dict({**RAW, "policies": [grown], "sweep": {}, "curator": "self_correct"}).grid().point(0, ())
    assert strategies._count_real_rows(point, 5) == 10 + 4 + 6 + 6 + 6 + 0.5 * (20 + 30 + 30 + 30)
