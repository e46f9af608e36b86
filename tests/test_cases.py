"""What theory says of an experiment that is named as in a config."""

import numpy as np
import pytest

import collapse_jax as cj


def test_predictions_by_name():
    n, found = 20, cj.predict({"kind": "gaussian", "dim": 3}, "replace", num_samples=20, num_generations=5)
    row = found.isel(prediction=list(found.quantity.values).index("trace_ratio"))
    np.testing.assert_allclose(row.low, (1 - 1 / n) ** np.arange(1, 6))
    np.testing.assert_array_equal(row.low, row.high)
    assert (str(row.statistic.values), bool(row.exact)) == ("mean", True)
    assert all(str(source) for source in found.source.values)
    exact = found.exact.values
    assert exact[: exact.sum()].all()  # they come first


def test_of_some_settings_nothing_is_known():
    found = cj.predict("flow_matching", "replace", num_samples=20, num_generations=5)
    assert found.low.shape == (0, 5)


@pytest.mark.parametrize(
    ("setting", "policy", "words"),
    [("gausian", "replace", "perhaps you meant 'gaussian'"), ("gaussian", "replac", "perhaps you meant 'replace'"),
     ({"kind": "gaussian", "dims": 2}, "replace", "dims")],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(setting, policy, words):
    with pytest.raises(ValueError, match=words) as caught:
        cj.predict(setting, policy, num_samples=20, num_generations=5)
    assert "\n" not in str(caught.value)
