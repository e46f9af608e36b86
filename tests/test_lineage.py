"""Real ancestors of rows against the exact law of neutral genealogies, and against rows that are followed by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import POLICIES, chains
from oracle_helpers import POWER, assert_law

import collapse_jax
from collapse_jax import data, policies
from collapse_jax.core import batch
from collapse_jax.core.lineage import Descendant, num_roots, with_ancestors
from collapse_jax.settings import discrete, gaussian, ideal_diffusion, kde

SETTINGS = {
    "kde": lambda lineage=True: kde(0.3, num_test=4, source=data.normal(1), lineage=lineage),
    "discrete": lambda lineage=True: discrete([0.2, 0.5, 0.3], lineage=lineage),
    "ideal_diffusion": lambda lineage=True: ideal_diffusion(num_test=4, lineage=lineage),
}


def neutral(n, horizon):
    """E of the share of founders alive at fit t = 1 .. horizon under replace; exact, by occupancy.

    Seen backwards, j lines of a generation choose parents among n at once: i different ones with probability
    S(j, i) n! / ((n - i)! n^j), built up line by line.
    """
    step = np.zeros((n + 1, n + 1))
    step[0, 0] = 1.0
    for j in range(n):
        i = np.arange(n + 1)
        step[j + 1] = step[j] * i / n + np.append(0, step[j, :-1] * (1 - i[:-1] / n))
    law, out = np.eye(n + 1)[n], []
    for _ in range(horizon):
        out.append(law @ np.arange(n + 1) / n)
        law = law @ step
    return np.array(out)


@POWER
@pytest.mark.parametrize(  # the others, too, are held to theory by ``collapse-jax verify`` on every change
    "name", ["discrete", *(pytest.param(k, marks=pytest.mark.nightly) for k in ("kde", "ideal_diffusion"))]
)
def test_founders_die_out_as_lines_meet(name, power):
    n, T, at = 30, 60, np.array([2, 3, 10, 60])
    exact = neutral(n, T)
    assert exact[1] == pytest.approx(1 - (1 - 1 / n) ** n)
    options = {"num_samples": n, "num_generations": T, "num_chains": 4_000 * power, "seed": 41}
    runs = collapse_jax.run(SETTINGS[name](), policies.replace(), metrics=["ancestors_alive"], **options)
    assert (runs.ancestors_alive[:, 0] == 1).all()
    assert_law(f"ancestors {name}", runs.ancestors_alive.values[:, at - 1], exact[at - 1], exact[at - 2])


def by_hand(policy, n, horizon, num, seed=0):
    """Ancestors alive under some policies, in NumPy, on sets of rows that know their founder: ``[num, horizon]``."""
    rng, out, founders = np.random.default_rng(seed), [], itertools.count()
    fresh = lambda count: np.fromiter(founders, int, count)  # noqa: E731
    for _ in range(num):
        pool, seen = fresh(n), []
        first = pool
        for _ in range(horizon):
            train = rng.choice(pool, n, replace=False) if policy == "accumulate_subsample" else pool
            seen.append(len(set(train)) / n)
            new = rng.choice(train, n)
            match policy:
                case "fixed_real":
                    pool = np.concatenate([first[: n // 2], new[n // 2 :]])
                case "fresh_real":
                    pool = np.concatenate([fresh(n)[: n // 2], new[n // 2 :]])
                case "contaminated":
                    pool = np.concatenate([pool, fresh(n)[: n // 2], new[n // 2 :]])
                case "accumulate_subsample":
                    pool = np.concatenate([pool, new])
        out.append(seen)
    return np.array(out)


@pytest.mark.parametrize(
    "policy",
    ["accumulate_subsample"]
    + [pytest.param(name, marks=pytest.mark.nightly) for name in ("fresh_real", "fixed_real", "contaminated")],
)
def test_ancestors_under_mixtures(policy):
    n, T = 10, 6
    how = {"num_samples": n, "num_generations": T, "num_chains": 2000, "metrics": ["ancestors_alive"]}
    seen = collapse_jax.run(SETTINGS["kde"](), POLICIES[policy](), **how).ancestors_alive.values
    expected = by_hand(policy, n, T, 4000)
    z = (seen.mean(0) - expected.mean(0)) / np.sqrt(seen.var(0) / 2000 + expected.var(0) / 4000 + 1e-12)
    assert np.abs(z).max() < 4, z
    assert np.ptp(expected.mean(0)) > 0.1  # it does change


def test_all_ancestors_stay_in_a_pool_that_keeps_all():
    seen = chains(SETTINGS["discrete"](), policies.accumulate(), n=5, horizon=4, num=20)["ancestors_alive"]
    assert (seen == 1).all()


def test_lineage_only_looks():
    """Rows, and so all other metrics, are the same numbers with lineage and without."""
    options = {"num_samples": 8, "num_generations": 4, "num_chains": 3}
    make = SETTINGS["ideal_diffusion"]
    plain, followed = (collapse_jax.run(make(on), policies.fresh_real(), **options) for on in (False, True))
    assert "ancestors_alive" not in plain
    for metric in plain.data_vars:
        np.testing.assert_allclose(plain[metric], followed[metric], rtol=1e-5)


@pytest.mark.nightly
def test_a_bootstrap_has_the_law_of_frequencies():
    n, T = 12, 6
    seen = chains(SETTINGS["discrete"](), policies.replace(), n=n, horizon=T, num=6000)["gini_simpson"]
    exact = (1 - 0.04 - 0.25 - 0.09) * (1 - 1 / n) ** np.arange(1, T + 1)
    assert_law("gini", seen, exact, exact * n / (n - 1))


def test_roots_are_counted_by_presence():
    root = jnp.asarray([[7, 0], [7, 1], [9, 0], [7, 0], [1, 1]], jnp.uint32)
    count = lambda weight: int(num_roots(batch.make_batch(Descendant(jnp.zeros(5), root), jnp.asarray(weight, float))))  # noqa: E731
    assert count([1, 1, 1, 1, 1]) == 4
    assert count([2, 0, 0, 0.5, 0]) == 1
    assert count([0, 1, 1, 0, 0]) == 2
    assert count([0, 0, 0, 0, 0]) == 0


def test_where_there_are_no_parents():
    with pytest.raises(ValueError, match="setting gaussian has no lineage"):
        with_ancestors(gaussian())
    with pytest.raises(ValueError, match="setting ideal_diffusion has no lineage: its new rows do not each come"):
        ideal_diffusion(solver_steps=4, lineage=True)
    with pytest.raises(ValueError, match="setting discrete knows no law"):
        collapse_jax.run(discrete(lineage=True), policies.replace(), num_samples=5, num_generations=2, num_chains=2,
                         backend="law")  # fmt: skip


def test_dead_code_where_it_is_not_asked_for():
    """Without the metric nothing is sorted."""
    setting = SETTINGS["kde"]()
    chain = collapse_jax.make_chain(setting, policies.replace(), num_samples=8, num_generations=2)
    world = setting.world()
    state = chain.init(jax.random.key(0), world)
    text = lambda name: jax.jit(lambda s: chain.emit(world, s, 1)[2][name]).lower(state).compile().as_text()  # noqa: E731
    assert " sort(" in text("ancestors_alive")
    assert " sort(" not in text("training_variance")
