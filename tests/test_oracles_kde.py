"""KDE chains of fixed bandwidth against the exact variance of their training rows.

On every change ``collapse-jax verify`` holds chains under each policy to these laws; here other parameters wait for the
night.
"""

import numpy as np
import pytest
from oracle_helpers import MIXTURES, POWER, assert_law, policy_moments, subsample_moments

import collapse_jax
from collapse_jax import data, policies
from collapse_jax.settings import kde
from collapse_jax.theory.kde import accumulate_growth

SOURCES = {"normal1": data.normal(1, mean=2.0), "normal2": data.normal(2, scale=1.5), "moons": data.moons()}


def variances(policy, source, h, n, num_generations, power, seed):
    """MLE variance of the rows each fit saw, mean over columns: ``[chains, T]``; and the truth's."""
    setting = kde(h, num_test=1, source=SOURCES[source])
    options = {"num_samples": n, "num_generations": num_generations, "num_chains": 10_000 * power, "seed": seed}
    result = collapse_jax.run(setting, policy, metrics=["training_variance"], **options)
    return result.training_variance.values.astype(float), np.trace(SOURCES[source].covariance) / SOURCES[source].dim


@POWER
@pytest.mark.parametrize(("source", "h"), [("normal1", 0.5), pytest.param("moons", 0.3, marks=pytest.mark.nightly)])
def test_replace_spreads_out(source, h, power):
    """At fit T: q^T s^2 + h^2 (n - 1)(1 - q^(T-1)), q = 1 - 1/n: it spreads (protocol of 2410.16713, derived here).

    E V_{T+1} = q (E V_T + h^2), since the n rows sampled at T have variance V_T + h^2 about their centre: solved.
    """
    n, T = 40, np.array([1, 2, 5, 10, 20])
    measured, s2 = variances(policies.replace(), source, h, n, 20, power, seed=81)
    q = 1 - 1 / n
    exact = q**T * s2 + h**2 * (n - 1) * (1 - q ** (T - 1))
    np.testing.assert_allclose(policy_moments("replace", n, 20, h=h, s2=s2)[1][T - 1], exact, rtol=1e-12)
    unbiased = s2 + h**2 * (T - 1)
    assert_law(f"KDE replace {source}", measured[:, T - 1], exact, q**T * s2, unbiased, s2 + np.zeros(5))


@pytest.mark.nightly
@POWER
@pytest.mark.parametrize(("source", "h"), [("moons", 0.3), ("normal2", 0.5)])
def test_accumulate_grows_as_a_logarithm(source, h, power):
    """W_1 = (1 - 1/n) s^2, W_t+1 = W_t (1 - 1/(n(t+1)^2)) + h^2 [1/(t+1) - 1/(n(t+1)^2)], exact (derived here)."""
    n, T = 20, np.array([1, 2, 5, 20])
    measured, s2 = variances(policies.accumulate(), source, h, n, 20, power, seed=82)
    exact = [(1 - 1 / n) * s2]
    for t in range(1, 20):
        growth = 1 / (t + 1) - 1 / (n * (t + 1) ** 2)
        exact.append(exact[-1] * (1 - 1 / (n * (t + 1) ** 2)) + h**2 * growth)
    exact = np.array(exact)
    np.testing.assert_allclose(policy_moments("accumulate", n, 20, h=h, s2=s2)[1], exact, rtol=1e-12)
    low, high = accumulate_growth(n, 20, h, s2)
    assert (low <= exact * (1 + 1e-9)).all()
    assert (exact <= high).all()
    replace = policy_moments("replace", n, 20, h=h, s2=s2)[1]
    wrong = replace, policy_moments("accumulate", n, 20, s2=s2)[1], exact * n / (n - 1)
    assert_law(f"KDE accumulate {source}", measured[:, T - 1], exact[T - 1], *(w[T - 1] for w in wrong))


@pytest.mark.nightly
@POWER
@pytest.mark.parametrize("name", MIXTURES)
def test_every_mixture(name, power):
    """The variance is a sum of uncorrelated noises for any weights on batches: exact (derived here)."""
    n, h, (policy, options) = 20, 0.5, MIXTURES[name]
    measured, s2 = variances(policy, "moons", h, n, 8, power, seed=83)
    exact = policy_moments(name, n, 8, h=h, s2=s2, **options)[1]
    wrong = [policy_moments(other, n, 8, h=h, s2=s2)[1] for other in ("replace", "accumulate")]
    assert_law(f"KDE {name}", measured, exact, *wrong, exact * n / (n - 1))


@pytest.mark.nightly
@POWER
@pytest.mark.parametrize("replacement", [False, True])
def test_accumulate_subsample(replacement, power):
    """The recursion of the pool's moments, with the kernel's noise: exact (derived here)."""
    n, h, T = 20, 0.5, np.array([1, 2, 5, 20])
    measured, s2 = variances(policies.accumulate_subsample(replacement=replacement), "moons", h, n, 20, power, seed=84)
    exact, other = (subsample_moments(n, 20, None, r, h, s2)[1] for r in (replacement, not replacement))
    whole = policy_moments("accumulate", n, 20, h=h, s2=s2)[1]
    wrong = other, whole if replacement else exact * n / (n - 1)
    assert_law(f"KDE subsample, {replacement}", measured[:, T - 1], exact[T - 1], *(w[T - 1] for w in wrong))


@POWER
def test_mixtures_do_not_conserve(power):
    """One traced program: accumulate's over-dispersion grows as h^2 does, from none."""
    n, bandwidths = 20, [0.01, 0.3, 1.0]
    options = {"num_samples": n, "num_generations": 10, "num_chains": 5_000 * power, "seed": 85}
    options |= {"axes": {"bandwidth": bandwidths}, "metrics": ["training_variance"]}
    result = collapse_jax.sweep(
        lambda bandwidth: kde(bandwidth, 1, SOURCES["normal2"]), policies.accumulate(), **options
    )
    measured = result.training_variance.values[0, :, :, -1].T
    s2 = np.trace(SOURCES["normal2"].covariance) / 2
    exact = np.array([policy_moments("accumulate", n, 10, h=h, s2=s2)[1][-1] for h in bandwidths])
    assert_law("KDE sweep of h", measured, exact, exact[::-1])
