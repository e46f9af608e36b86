"""Models that train on each other's outputs: who reads whom, isolation and full mixing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import POLICIES, chains, z_score

from collapse_jax import policies, settings
from collapse_jax.settings.ecosystem import Coupled, _edges, _sources, ecosystem
from collapse_jax.theory.ecosystem import ecosystem_moments, joint_readings, mixing_matrix
from collapse_jax.theory.moment_recursions import fit_moments as plain_fits
from collapse_jax.types import LabelOnly

MATRIX = np.array([[0.8, 0.2, 0.0], [0.5, 0.3, 0.2], [0.0, 0.1, 0.9]])
COINS = settings.bernoulli(0.4)


def of_models(seen):
    return {name.removesuffix("_by_model"): value for name, value in seen.items() if name.endswith("_by_model")}


@pytest.mark.parametrize(
    ("setting", "policy"),
    [pytest.param(COINS, p, marks=() if p == "fixed_real" else pytest.mark.nightly) for p in POLICIES]
    + [pytest.param(settings.linear_regression(2, num_test=4), "replace", marks=pytest.mark.nightly)],
)
def test_isolated_models_are_chains_of_their_own(setting, policy):
    """The first is the chain that its setting has alone; the others are others."""
    how = {"n": 6, "horizon": 4, "num": 3, "backend": "rows", "fold": "blocks"}
    alone = chains(setting, POLICIES[policy](), **how)
    models = of_models(chains(ecosystem(setting, 2, 0.0), POLICIES[policy](), **how))
    assert models.keys() == alone.keys()
    for name, value in models.items():
        np.testing.assert_allclose(value[..., 0], alone[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert any((value[..., 1] != value[..., 0]).any() for value in models.values())


@pytest.mark.nightly
def test_one_model_is_its_setting():
    how = {"n": 6, "horizon": 4, "num": 3, "backend": "rows", "fold": "blocks"}
    alone = chains(settings.kde(num_test=4), policies.accumulate(), **how)
    one = chains(ecosystem(settings.kde(num_test=4), 1, 0.7), policies.accumulate(), **how)
    for name, value in alone.items():
        np.testing.assert_allclose(one[name], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(one[f"{name}_by_model"][..., 0], value, rtol=1e-5, err_msg=name)


@pytest.mark.fast
@pytest.mark.parametrize("mixing", [MATRIX, 0.0, 0.3, 1.0], ids=str)
def test_a_model_reads_others_as_the_matrix_says(mixing):
    coupled, matrix = Coupled(COINS, 3, _edges(3, mixing)), mixing_matrix(3, mixing)
    source = np.asarray(_sources(coupled, jax.random.key(0), 20_000))
    for i, j in np.ndindex(3, 3):
        read = (source[:, i] == j) * 1.0
        if matrix[i, j] in (0, 1):
            np.testing.assert_array_equal(read, matrix[i, j])
        else:
            assert abs(z_score(read, matrix[i, j])) < 4
    # Whom they read together is what theory says, and nobody's row is read twice where the matrix is circulant.
    for probability, together in joint_readings(matrix):
        same = (source == together).all(1) * 1.0
        assert abs(same.mean() - probability) < 0.015
    if np.ndim(mixing) == 0:
        assert (np.sort(source, 1) == np.arange(3)).all()


@pytest.mark.fast
def test_rows_are_those_that_were_generated():
    """Model p of this setting generates 100 p + the place, and labels an input by 100 p + it."""
    toy = COINS._replace(
        sample=lambda key, params, num: 100 * params + jnp.arange(num),
        label_only=LabelOnly(lambda key, params, items: 100 * params + items),
    )
    made, key, params = ecosystem(toy, 3, MATRIX.tolist()), jax.random.key(1), jnp.arange(3)
    source = np.asarray(_sources(Coupled(toy, 3, _edges(3, MATRIX)), key, 50))
    assert len(np.unique(source, axis=0)) > 2
    np.testing.assert_array_equal(made.sample(key, params, 50), 100 * source + np.arange(50)[:, None])
    inputs = jnp.arange(150).reshape(50, 3) * 1000
    np.testing.assert_array_equal(made.label_only.relabel(key, params, inputs), 100 * source + inputs)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generator": 3}, "generator must be a Setting"),
        ({"generator": ecosystem()}, "an ecosystem is made of models, not of ecosystems"),
        ({"mixing": np.eye(9)}, "mixing must be a share or 2 rows of 2 shares"),
        ({"models": 0}, "models must be a whole number of at least 1"),
        ({"mixing": 1.5}, "mixing must be a number from 0 to 1"),
        ({"mixing": [[1.0, 0.0]]}, "mixing must be a share or 2 rows of 2 shares"),
        ({"mixing": [[1.0, 0.1], [0.0, 1.0]]}, "mixing must be a share or 2 rows of 2 shares"),
        ({"mixing": [[1.1, -0.1], [0.0, 1.0]]}, "mixing must be a share or 2 rows of 2 shares"),
    ],
)
def test_what_is_no_ecosystem_is_refused(given, message):
    with pytest.raises(ValueError, match=message) as error:
        ecosystem(**given)
    assert "\n" not in str(error.value)


@pytest.mark.fast
def test_moments_of_models_meet_those_of_one():
    n, t = 10, 6
    for policy in ({"kind": "replace"}, {"kind": "accumulate"}, {"kind": "contaminated", "share": 0.2},
                   {"kind": "growing", "sizes": (30, 50)}):  # fmt: skip
        alone, isolated = plain_fits(policy, n, t), ecosystem_moments(policy, n, t, np.eye(3))
        np.testing.assert_allclose(isolated.variance, np.repeat(alone.variance[:, None], 3, 1))
        np.testing.assert_allclose(isolated.product, alone.square[:, None, None] * np.eye(3), atol=1e-15)
    left = 1 - (1 - (1 - 1 / n) ** (np.arange(1, 401) + 1.0)) / 3
    np.testing.assert_allclose(ecosystem_moments({"kind": "replace"}, n, 400, np.eye(3)).together, left)
    mixed = ecosystem_moments({"kind": "replace"}, n, 400, mixing_matrix(3, 1.0)).together
    np.testing.assert_allclose(mixed[1:] / mixed[:-1], 1 - (1 - 1 / n) / (3 * n), rtol=2e-3)
    assert mixed[-1] < 1e-5 < left[-1] - 2 / 3 + 1e-4
    with pytest.raises(ValueError, match="no moments are known of 'window'; one of replace"):
        ecosystem_moments({"kind": "window"}, n, t, np.eye(2))


@pytest.mark.fast
def test_metrics_know_their_models():
    made = ecosystem(settings.gaussian(2), 4)
    shapes = {m.name: m.dims for m in made.metrics}
    assert (shapes["trace_ratio"], shapes["trace_ratio_together"]) == ((), ())
    assert shapes["trace_ratio_by_model"] == (("model", 4),)
