"""Laws over symbols and of counts against every exact law known of them: Wright-Fisher chains, and their branching."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracle_helpers import POWER, assert_law, policy_moments, subsample_moments, z_score
from test_oracles_gaussian import POLICIES, observing

import collapse_jax
from collapse_jax import policies
from collapse_jax.settings import bernoulli, discrete, poisson
from collapse_jax.theory.discrete import drift_laws, survival_exponents
from collapse_jax.theory.gaussian import accumulate_variance

P = np.array([0.4, 0.3, 0.2, 0.1])
TRUTH = 1 - (P**2).sum()


def binary_chain(n, horizon, start):
    """Law ``[T, n + 1]`` of the count of a symbol at each fit under replace, from probability `start`."""
    return drift_laws(n, scipy.stats.binom.pmf(np.arange(n + 1), n, start), horizon)


ON_EVERY_CHANGE = ("fixed_real",)  # ``collapse-jax verify`` holds each policy to this law
NAMES = [name if name in ON_EVERY_CHANGE else pytest.param(name, marks=pytest.mark.nightly) for name in POLICIES]


@POWER
@pytest.mark.parametrize("name", NAMES)
def test_every_policy_loses_symbols_as_it_loses_variance(name, power):
    """A symbol's indicator has variance p (1 - p) at every fit, so the Gaussian recursions of E V hold here; exact."""
    n, T = 12, 6
    policy, options = POLICIES[name]
    exact = subsample_moments(n, T)[1] if name == "accumulate_subsample" else policy_moments(name, n, T, **options)[1]
    other = policy_moments("accumulate" if name == "replace" else "replace", n, T)[1]
    options = {"num_samples": n, "num_generations": T, "num_chains": 10_000 * power, "seed": 31}
    runs = collapse_jax.run(discrete(P), policy, metrics=["gini_simpson"], **options)
    assert runs.attrs["backend"] == ("rows" if name == "accumulate_subsample" else "law")
    assert_law(f"discrete {name}", runs.gini_simpson.values, TRUTH * exact, TRUTH * other, TRUTH * exact * n / (n - 1))


@POWER
@pytest.mark.parametrize(("policy", "backend"), [
    ("replace", "law"), *[pytest.param(*case, marks=pytest.mark.nightly) for case in
    (("fixed_real", "law"), ("fixed_real", "rows"), ("accumulate", "law"), ("accumulate", "rows"),
     ("replace", "rows"))],
])  # fmt: skip
def test_many_rows(policy, backend, power):
    """Counts are split by binomials here; E[1 - sum p^2] = (1 - 1/n)^T and prod (1 - 1 / (n t^2))."""
    n, T, (made, options) = 400, 60 if policy == "replace" else 10, POLICIES[policy]
    at = np.array([1, 2, T // 2, T]) - 1
    exact = policy_moments(policy, n, T, **options)[1]
    if policy == "replace":
        np.testing.assert_allclose(exact, (1 - 1 / n) ** np.arange(1, T + 1))
    if policy == "accumulate":
        np.testing.assert_allclose(exact, accumulate_variance(n, T))
    options = {"num_samples": n, "num_generations": T, "num_chains": 2_000 * power, "seed": 32, "backend": backend}
    runs = collapse_jax.run(discrete(P), made, metrics=["gini_simpson"], **options)
    wrong = [TRUTH * 0.8 ** np.arange(1, 5)]
    assert_law(f"{policy} {backend}", runs.gini_simpson.values[:, at], TRUTH * exact[at], *wrong)


@POWER
def test_a_symbol_stays_alive_as_its_binary_chain_does(power):
    """P(alive at t): exactly, by the two-symbol chain; never below 1 - exp(-n p g_t), and near it where p is small."""
    n, T, p = 200, 30, np.array([0.005, 0.02, 0.2, 0.775])
    runs = collapse_jax.run(
        observing(discrete(p), **{f"a{k}": lambda fit, k=k: (fit.share[k] > 0) * 1.0 for k in range(3)}),
        policies.replace(), num_samples=n, num_generations=T, num_chains=6_000 * power, seed=33,
    )  # fmt: skip
    at = np.array([1, 2, 10, 30]) - 1
    for k in range(3):
        exact = 1 - binary_chain(n, T, p[k])[at, 0]
        bound = 1 - np.exp(-n * p[k] * survival_exponents(T)[at])
        assert (exact >= bound - 1e-12).all()
        if k == 0:
            np.testing.assert_allclose(exact, bound, rtol=0.03)
        alive = runs[f"a{k}"].values
        if k < 2:
            assert_law(f"alive {k}", alive[:, at], exact, np.append(exact[1:], exact[-1]))
        else:
            assert np.abs(alive[:, at].mean(0) - exact).max() < 0.01


@pytest.mark.nightly
@POWER
def test_time_to_one_symbol(power):
    """Exactly, for two symbols, by their chain; the diffusion's -2 n sum (1 - x) ln(1 - x) is some percent too long."""
    n, T = 20, 400
    options = {"num_samples": n, "num_generations": T, "num_chains": 4_000 * power, "seed": 34}

    def time(p):
        runs = collapse_jax.run(discrete(p), policies.replace(), metrics=["symbols_alive"], **options)
        return (runs.symbols_alive > 1).sum("generation").values + 1.0

    alive = 1 - binary_chain(n, T, 0.3)[:, [0, n]].sum(1)
    exact = 1 + alive.sum()
    two, four = time([0.3, 0.7]), time(P)
    assert max(two.max(), four.max()) < T  # none is censored
    assert_law("two symbols", two, exact, exact - 5)
    diffusion = -2 * n * ((1 - P) * np.log(1 - P)).sum()
    assert 0.92 < four.mean() / diffusion < 0.98


@POWER
@pytest.mark.parametrize(
    ("backend", "rate"), [("rows", 0.05), *[pytest.param("law", r, marks=pytest.mark.nightly) for r in (0.05, 0.5)]]
)
def test_a_poisson_rate_dies(backend, rate, power, optimised):
    """P(rate = 0 at fit k) = exp(-n rate g_k); the rate is a martingale whose variance grows by rate / n; exact."""
    n, T = 40, 30
    runs = collapse_jax.run(
        observing(poisson(rate), dead=lambda fit: (fit == 0) * 1.0, rate=lambda fit: fit), policies.replace(),
        num_samples=n, num_generations=T, num_chains=10_000 * power, seed=35, backend=backend,
    )  # fmt: skip
    dies = np.exp(-n * rate * survival_exponents(T))
    at = np.array([1, 2, 10, 30]) if rate < 0.1 else np.array([20, 30])
    assert_law(f"dead {backend}", runs.dead.values[:, at - 1], dies[at - 1], dies[at - 1] ** 2)
    time = np.array([1, 3, 10])
    square = (runs.rate.values[:, time - 1].astype(float) - rate) ** 2
    assert_law(f"Var rate {backend}", square, time * rate / n, (time + 1) * rate / n * 2)


@POWER
@pytest.mark.parametrize(
    "policy", ["fixed_real", *[pytest.param(name, marks=pytest.mark.nightly) for name in ("accumulate", "fresh_real")]]
)
def test_poisson_pools(policy, power):
    """A Poisson fit's law has the variance of its mean, whose own variance is that of its batches; exact."""
    n, T, rate = 20, 8, 3.0
    made, options = POLICIES[policy]
    share = options.get("share", 0.0)
    exact = {
        "accumulate": np.cumsum(1 / np.arange(1, T + 1) ** 2),
        "fixed_real": np.array([1.0, *[np.nan] * (T - 1)]),
        "fresh_real": np.array([1.0]),
    }[policy]
    if policy == "fresh_real":  # m = share real + (1 - share) new; each batch adds its own noise
        for _ in range(T - 1):
            exact = np.append(exact, share + (1 - share) ** 2 * exact[-1] + (1 - share))
    if policy == "fixed_real":  # the real rows' mean stays; what moves is the rest
        a, b, c = share, (1 - share), [1 / share, 1 / (1 - share), 0.0]  # real, rest, their covariance; times rate / n
        exact = []
        for _ in range(T):
            exact.append(a * a * c[0] + b * b * c[1] + 2 * a * b * c[2])
            c = [c[0], exact[-1] + 1 / b, a * c[0] + b * c[2]]
        exact = np.array(exact)
    options = {"num_samples": n, "num_generations": T, "num_chains": 10_000 * power, "seed": 36}
    runs = collapse_jax.run(observing(poisson(rate), rate=lambda fit: fit), made, **options)
    square = (runs.rate.values.astype(float) - rate) ** 2
    assert_law(f"Var rate {policy}", square, exact * rate / n, np.arange(1, T + 1) * rate / n)


@POWER
@pytest.mark.parametrize(("backend", "policy"), [("law", "replace"), ("rows", "replace"), ("law", "fixed_real")])
def test_bernoulli_is_a_law_of_two_symbols(backend, policy, power):
    n, T, p = 30, 20, 0.2
    options = {"num_samples": n, "num_generations": T, "num_chains": 8_000 * power, "seed": 37, "backend": backend}
    setting = observing(bernoulli(p), variance=lambda fit: fit * (1 - fit), dead=lambda fit: jnp.float32(fit == 0))
    runs = collapse_jax.run(setting, POLICIES[policy][0], **options)
    exact = policy_moments(policy, n, T, **POLICIES[policy][1])[1] * p * (1 - p)
    assert_law(f"bernoulli {policy} {backend}", runs.variance.values, exact, np.full(T, p * (1 - p)))
    if policy == "replace":
        dies = binary_chain(n, T, p)[:, 0]
        assert_law("p = 0", runs.dead.values[:, [1, 9, 19]], dies[[1, 9, 19]], dies[[2, 10, 18]] * 0.8)


def test_metrics_are_their_definitions():
    seen = collapse_jax.run(
        observing(discrete(P), **{f"p{k}": lambda fit, k=k: fit.share[k] for k in range(4)}), policies.replace(),
        num_samples=8, num_generations=6, num_chains=50,
    )  # fmt: skip
    runs = collapse_jax.run(discrete(P), policies.replace(), num_samples=8, num_generations=6, num_chains=50)
    share = np.stack([seen[f"p{k}"].values for k in range(4)], -1).astype(float)
    expected = {
        "entropy": scipy.stats.entropy(share, axis=-1),
        "gini_simpson": 1 - (share**2).sum(-1),
        "symbols_alive": (share > 0).sum(-1),
        "missing_mass": ((share == 0) * P).sum(-1),
        "total_variation": 0.5 * np.abs(share - P).sum(-1),
    }
    assert set(expected) == set(runs.data_vars)
    for name, values in expected.items():
        np.testing.assert_allclose(runs[name], values, atol=1e-6, err_msg=name)
    assert (share == 0).any()


@pytest.mark.parametrize(("made", "law"), [(poisson, scipy.stats.poisson), (bernoulli, scipy.stats.bernoulli)])
def test_divergence_is_a_sum_over_values(made, law):
    setting, value = made(0.4), np.arange(60)
    for fit in (0.9, 0.2, 0.0):
        seen = setting.observe(None, setting.world(), jnp.float32(fit), None, None)
        p, q = law(fit).pmf(value), law(0.4).pmf(value)
        assert float(seen["reverse_kl"]) == pytest.approx(scipy.stats.entropy(p[q > 0], q[q > 0]), rel=1e-4, abs=1e-6)
        assert float(seen["dead"]) == (fit == 0)
        assert float(next(iter(seen.values()))) == pytest.approx(np.log(fit / 0.4) if fit else -np.inf, rel=1e-5)


def test_rates_of_a_grid_share_a_program():
    runs = collapse_jax.sweep(poisson, policies.replace(), axes={"rate": [0.5, 4.0]}, num_samples=10,
                              num_generations=2, num_chains=2000)  # fmt: skip
    dead = runs.dead.isel(policy=0, generation=0).values
    assert abs(z_score(dead[0], np.exp(-5.0))) < 4
    assert dead[1].sum() == 0
