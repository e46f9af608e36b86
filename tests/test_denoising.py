"""Objectives and samplers of diffusion models, held against a Gaussian mixture whose score is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from collapse_jax.training import diffusion_objectives, diffusion_samplers
from collapse_jax.training.diffusion_objectives import estimate_row_and_noise, noise_rows

CENTRES, SHARE, SPREAD = np.array([-1.2, 0.3, 1.5]), np.array([0.5, 0.2, 0.3]), 0.3
OBJECTIVES = {
    "ddpm": diffusion_objectives.ddpm_objective(),
    "ddpm-cosine": diffusion_objectives.ddpm_objective("cosine"),
    "edm": diffusion_objectives.edm_objective(0.8),
    "flow": diffusion_objectives.flow_objective(),
}
NIGHT = pytest.param("ddpm-cosine", marks=pytest.mark.nightly)
EVERY = pytest.mark.parametrize("name", ["ddpm", "edm", "flow", NIGHT])


def exact(path):
    """E[row | x] and E[z | x] of the mixture, columns independent, along a path."""

    def estimate(x, sigma):
        a, b = path(jnp.asarray(sigma))
        variance = a**2 * SPREAD**2 + b**2
        log_share = jnp.log(SHARE) - 0.5 * (x[..., None] - a * CENTRES) ** 2 / variance
        apart = x[..., None] - a * CENTRES
        share = jax.nn.softmax(log_share)
        row = (share * (CENTRES + a * SPREAD**2 / variance * apart)).sum(-1)
        return row, (share * b / variance * apart).sum(-1)

    return estimate


def quantile(u):
    """Return quantiles of the mixture, by bisection."""
    low, high = np.full_like(u, -9.0), np.full_like(u, 9.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = (SHARE * scipy.stats.norm.cdf(middle[:, None], CENTRES, SPREAD)).sum(1) < u
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def draw_rows(rng, num):
    return rng.choice(CENTRES, num, p=SHARE) + SPREAD * rng.normal(size=num)


def levels_of(how, rng, num):
    return how.levels(jnp.asarray(rng.uniform(size=num), jnp.float32))


@pytest.mark.fast
@EVERY
def test_what_is_said_gives_row_and_noise_back(name):
    how, rng = OBJECTIVES[name], np.random.default_rng(0)
    row, noise = rng.normal(size=(2, 50, 3)).astype(np.float32)
    sigma = jnp.asarray(np.append(np.geomspace(0.01, 80, 49), 150), jnp.float32)
    x, said = noise_rows(how, row, noise, sigma)
    a, b = (np.asarray(part, float)[:, None] for part in how.path(sigma))
    np.testing.assert_allclose(x, a * row + b * noise, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(b / a, np.asarray(sigma)[:, None], rtol=1e-4)
    found_row, found_noise = estimate_row_and_noise(how, x, said, sigma)
    np.testing.assert_allclose(a * found_row, a * row, atol=2e-5)  # as well as x tells it
    np.testing.assert_allclose(b * found_noise, b * noise, atol=2e-5 * (1 + b.max()))


@EVERY
def test_the_best_answer_is_the_exact_score(name):
    """Least squares leaves errors that no function of x can tell: so are those of the exact row and noise."""
    how, rng = OBJECTIVES[name], np.random.default_rng(1)
    num = 40_000
    row, noise, sigma = draw_rows(rng, num)[:, None], rng.normal(size=(num, 1)), levels_of(how, rng, num)
    x, target = noise_rows(how, jnp.asarray(row), jnp.asarray(noise), sigma)
    a, b = (np.asarray(part, float) for part in how.path(sigma))
    p, q = (np.asarray(part, float) for part in how.target(sigma))
    # E[row | x] once more, by NumPy and from the density alone.
    density = SHARE * scipy.stats.norm.pdf(x, a[:, None] * CENTRES, np.sqrt(a**2 * SPREAD**2 + b**2)[:, None])
    of_each = (CENTRES * b[:, None] ** 2 + a[:, None] * SPREAD**2 * np.asarray(x)) / (a**2 * SPREAD**2 + b**2)[:, None]
    expected = (density * of_each).sum(1) / density.sum(1)
    x = np.asarray(x, float)[:, 0]
    best = p * expected + q * (x - a * expected) / b
    by_path = jax.vmap(lambda x, s: exact(how.path)(x, s))(jnp.asarray(x), sigma)
    np.testing.assert_allclose(p * by_path[0] + q * by_path[1], best, atol=2e-3)
    wrong = p * 0.8 * expected + q * (x - a * 0.8 * expected) / b
    z_scores = lambda said: [  # noqa: E731
        np.sqrt(num) * product.mean() / product.std()
        for product in (
            (np.asarray(target)[:, 0] - said) * np.cos(k * np.pi * np.clip(x / 4, -1, 1) + k) for k in range(5)
        )
    ]
    assert np.abs(z_scores(best)).max() < 4
    assert np.abs(z_scores(wrong)).max() > 10


def test_ddpm_is_as_published():
    """Each ancestral step has the mean and variance of arXiv 2006.11239, equations 6 and 7."""
    how, path = OBJECTIVES["ddpm"], OBJECTIVES["ddpm"].path
    beta = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - beta)
    sigma = how.grid(1000)
    np.testing.assert_allclose(sigma[:-1][::-1], np.sqrt((1 - kept) / kept), rtol=1e-9)
    for t in (999, 500, 1):
        now, then = jnp.asarray(sigma[999 - t]), jnp.asarray(sigma[1000 - t])
        row, x = 0.7, -0.4
        a, b = (np.asarray(part, float) for part in path(now))
        estimate = lambda x, s: (jnp.asarray(row), (x - a * row) / b)  # noqa: B023, E731
        step = lambda fresh: float(diffusion_samplers._ancestral_step(estimate, path, x, now, then, lambda: fresh))  # noqa: B023, E731
        before = kept[t - 1]
        mean = np.sqrt(before) * beta[t] / (1 - kept[t]) * row + np.sqrt(1 - beta[t]) * (1 - before) / (1 - kept[t]) * x
        np.testing.assert_allclose(step(0.0), mean, rtol=1e-3)
        np.testing.assert_allclose((step(1.0) - step(0.0)) ** 2, (1 - before) / (1 - kept[t]) * beta[t], rtol=1e-2)
    np.testing.assert_array_equal(how.levels(jnp.array([0.0, 0.0015, 0.9999])), np.float32(sigma[[999, 998, 0]]))


def test_edm_is_as_published():
    """Preconditioning and levels of arXiv 2206.00364, table 1, at a spread of 0.5; another spread is another unit."""
    how, sigma = diffusion_objectives.edm_objective(), np.geomspace(0.002, 80, 7)
    x, said = np.random.default_rng(0).normal(size=(2, 7, 1))
    total = sigma**2 + 0.25
    denoised = 0.25 / total[:, None] * x + (sigma * 0.5 / np.sqrt(total))[:, None] * said
    found = estimate_row_and_noise(how, jnp.asarray(x), jnp.asarray(said), jnp.asarray(sigma))[0]
    np.testing.assert_allclose(found, denoised, rtol=1e-4, atol=1e-5)
    into, time = how.scalings(jnp.asarray(sigma))
    np.testing.assert_allclose(into, total**-0.5, rtol=1e-5)
    np.testing.assert_allclose(time, np.log(sigma) / 4, rtol=1e-4)
    grid = how.grid(18)
    i = np.arange(18)
    np.testing.assert_allclose(grid[:-1], (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)
    assert grid[-1] == 0
    log_level = np.log(how.levels(jnp.linspace(0.005, 0.995, 100)))
    np.testing.assert_allclose(log_level.mean(), -1.2, atol=0.01)
    np.testing.assert_allclose((log_level[84] - log_level[15]) / 2, 1.2, rtol=0.02)
    np.testing.assert_allclose(diffusion_objectives.edm_objective(2.0).grid(5), 4 * how.grid(5))
    np.testing.assert_allclose(
        diffusion_objectives.edm_objective(2.0).scalings(jnp.asarray(4 * sigma))[1], time, rtol=1e-4
    )


NUM = 3000


def ends(how, sampler, steps, **options):
    """End points from the same noises; `steps` may be levels."""
    sigma = jnp.asarray(how.grid(steps) if isinstance(steps, int) else steps, jnp.float32)
    go = jax.jit(
        lambda key: diffusion_samplers.sample_rows(exact(how.path), how.path, key, (NUM, 1), sigma, sampler, **options)
    )
    return np.asarray(go(jax.random.key(3)), float)[:, 0]


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        (name, sampler) if name.startswith("ddpm") == (sampler == "ancestral")
        else pytest.param(name, sampler, marks=pytest.mark.nightly)
        for name in OBJECTIVES for sampler in diffusion_samplers.SAMPLERS
    ],
)  # fmt: skip
def test_samples_follow_the_mixture(name, sampler):
    x = ends(OBJECTIVES[name], sampler, 400 if sampler in ("ancestral", "ddim") else 100)
    distribution = lambda x: (SHARE * scipy.stats.norm.cdf(np.asarray(x)[:, None], CENTRES, SPREAD)).sum(1)  # noqa: E731
    assert scipy.stats.kstest(x, distribution).pvalue > 1e-4
    assert scipy.stats.kstest(x, lambda x: distribution(x - 0.12)).pvalue < 1e-4


@pytest.mark.parametrize("name", ["edm", pytest.param("flow", marks=pytest.mark.nightly)])
def test_deterministic_samplers_agree_as_steps_grow(name):
    """All solve one equation, whose solution in one column keeps ranks: noise of rank u ends at the u-quantile."""
    how = OBJECTIVES[name]
    first = how.grid(1)[0]
    a, b = (np.asarray(part, float) for part in how.path(jnp.asarray(first)))
    begin = ends(how, "ddim", [first, first]) * np.sqrt(a**2 + b**2)  # no step is taken: scaled noise
    rank = (SHARE * scipy.stats.norm.cdf(begin[:, None], a * CENTRES, np.sqrt(a**2 * SPREAD**2 + b**2))).sum(1)
    right = quantile(rank)
    error = {(s, n): np.abs(ends(how, s, n) - right).mean() for s in ("ddim", "heun", "midpoint") for n in (32, 64)}
    print(name, error)
    assert 1.6 < error["ddim", 32] / error["ddim", 64] < 2.6
    for sampler in ("heun", "midpoint"):
        assert 2.8 < error[sampler, 32] / error[sampler, 64] < 7
        assert error[sampler, 64] < 0.1 * error["ddim", 64]


def test_one_equation_on_every_path():
    """DDIM's step, between the same levels, is Euler's rule for a flow and for EDM: end points are the same."""
    sigma = np.append(np.geomspace(60, 0.01, 30), 0)
    first, *others = (ends(how, "ddim", sigma) for how in OBJECTIVES.values())
    for other in others:
        np.testing.assert_allclose(other, first, atol=2e-2)


@pytest.mark.parametrize(("name", "sampler"), [("ddpm", "ancestral"), ("edm", "heun"), ("flow", "midpoint")])
def test_a_stopped_sampler_leaves_its_noise(name, sampler):
    x = ends(OBJECTIVES[name], sampler, 200, stop=0.2)
    shrink = np.exp(-0.2)
    spread = np.sqrt(shrink**2 * SPREAD**2 + 1 - shrink**2)
    distribution = lambda x: (SHARE * scipy.stats.norm.cdf(np.asarray(x)[:, None], shrink * CENTRES, spread)).sum(1)  # noqa: E731
    assert scipy.stats.kstest(x, distribution).pvalue > 1e-4
    assert scipy.stats.kstest(x / shrink, distribution).pvalue < 1e-4


@pytest.mark.parametrize(
    ("name", "sampler", "gain"),
    [("ddpm", "midpoint", 0), ("edm", "midpoint", 0), ("flow", "midpoint", 0), ("ddpm", "ddim", -0.111),
     ("ddpm", "ancestral", -0.209), ("edm", "heun", 0.032)],
)  # fmt: skip
def test_what_few_steps_do_to_the_variance(name, sampler, gain):
    """In 32 steps with the exact score of N(0, 1), as the setting's documentation says."""
    how = diffusion_objectives.edm_objective(1.0) if name == "edm" else OBJECTIVES[name]

    def estimate(x, sigma):
        a, b = how.path(sigma)
        return a * x / (a**2 + b**2), b * x / (a**2 + b**2)

    sigma = jnp.asarray(how.grid(32), jnp.float32)
    draw = jax.jit(
        lambda s: diffusion_samplers.sample_rows(estimate, how.path, jax.random.key(1), (40_000, 1), s, sampler)
    )
    begin, end = (np.asarray(draw(s), float) for s in (jnp.full(33, min(sigma[0], 1e6)), sigma))
    found = end.var() / begin.var() - 1
    assert abs(found - gain) < (0.002 if sampler == "midpoint" else 0.02)


def test_no_temperature_no_noise():
    how = OBJECTIVES["ddpm"]
    model, sigma = (exact(how.path), how.path, jax.random.key(3), (NUM, 1)), jnp.asarray(how.grid(50), jnp.float32)
    go = jax.jit(lambda t: diffusion_samplers.sample_rows(*model, sigma, "ancestral", temperature=t))
    cold, cool, usual = (np.asarray(go(t)) for t in (0.0, 0.7, 1.0))
    assert np.ptp(cold) == 0
    assert 0.1 < cool.std() < usual.std()


@pytest.mark.fast
def test_too_many_levels_of_ddpm():
    with pytest.raises(ValueError, match="sampler_steps must be a whole number from 1 to 1000"):
        OBJECTIVES["ddpm"].grid(1001)
