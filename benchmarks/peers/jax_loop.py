"""JAX as one would first write it: a jitted generation, a Python loop over generations and seeds, no vmap.

Each returns ``[generations, metrics]`` of one chain.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def _gaussian(key: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, covariance = rows.mean(0), jnp.cov(rows.T, bias=True)
    new = jax.random.multivariate_normal(key, mean, covariance, rows.shape[:1])
    return new, jnp.stack([(mean**2).sum(), jnp.trace(covariance) / len(mean), jnp.linalg.slogdet(covariance)[1]])


def gaussian(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Squared error of the mean, trace and log determinant ratios under replace."""
    return _loop(_gaussian, seed, jax.random.normal(jax.random.key(seed), (n, dim)), generations)


@partial(jax.jit, static_argnums=0)
def _kde(bandwidth: float, key: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[tuple, jax.Array]:
    rows, test = given
    squares = ((test[:, None] - rows) ** 2).sum(2)
    log_kernel = jax.nn.logsumexp(-squares / (2 * bandwidth**2), axis=1) - jnp.log(len(rows))
    row_key, noise_key = jax.random.split(key)
    new = jax.random.choice(row_key, rows, (len(rows),)) + bandwidth * jax.random.normal(noise_key, rows.shape)
    return (new, test), (jnp.log(2 * jnp.pi * bandwidth**2) - log_kernel.mean())[None]


def kde(seed: int, test: np.ndarray, n: int, generations: int, bandwidth: float) -> np.ndarray:
    """Test NLL under replace, rows of two columns."""
    rows = jax.random.normal(jax.random.key(seed), (n, 2))
    return _loop(partial(_kde, bandwidth), seed, (rows, jnp.asarray(test)), generations)


@partial(jax.jit, static_argnums=0)
def _discrete(n: int, key: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    share = jax.random.multinomial(key, n, share) / n
    return share, jnp.stack([jax.scipy.special.entr(share).sum(), (share > 0).sum()])


def discrete(seed: int, num: int, n: int, generations: int) -> np.ndarray:
    """Entropy and symbols alive under replace."""
    return _loop(partial(_discrete, n), seed, jnp.full(num, 1 / num), generations)


@jax.jit
def _linear(key: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[tuple, jax.Array]:
    x, fit = given
    fit = jnp.linalg.lstsq(x, x @ fit + jax.random.normal(key, (len(x),)))[0]
    return (x, fit), ((fit - 1) ** 2).sum()[None]


def linear_regression(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Excess risk of a label-only chain under replace."""
    x = jax.random.normal(jax.random.key(seed), (n, dim))
    return _loop(_linear, seed, (x, jnp.ones(dim)), generations)


@jax.jit
def _logistic(key: jax.Array, given: tuple[jax.Array, ...]) -> tuple[tuple, jax.Array]:
    x, test, truth, w = given
    label = jax.random.bernoulli(key, jax.nn.sigmoid(x @ w))
    ridge = jnp.full(len(w), 1e-4).at[-1].set(0.0)  # none for the intercept

    def newton(_: int, w: jax.Array) -> jax.Array:
        p = jax.nn.sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(x) + jnp.diag(ridge)
        return w - jnp.linalg.solve(hessian, x.T @ (p - label) / len(x) + ridge * w)

    w = jax.lax.fori_loop(0, 8, newton, jnp.zeros_like(w))
    fit = jax.nn.sigmoid(test @ w)
    risk = jax.scipy.special.rel_entr(truth, fit) + jax.scipy.special.rel_entr(1 - truth, 1 - fit)
    return (x, test, truth, w), risk.mean()[None]


def logistic_regression(seed: int, dim: int, n: int, generations: int) -> np.ndarray:
    """Excess risk of a label-only chain under replace, by eight Newton steps."""
    x = jax.random.normal(jax.random.key(seed), (n + 300, dim + 1)).at[:, -1].set(1.0)
    w = jnp.full(dim + 1, dim**-0.5).at[-1].set(0.0)
    return _loop(_logistic, seed, (x[:n], x[n:], jax.nn.sigmoid(x[n:] @ w), w), generations)


def _loop(step: object, seed: int, state: object, generations: int) -> np.ndarray:
    key, out = jax.random.key(seed + 1_000_000), []
    for generation in range(generations):
        state, seen = step(jax.random.fold_in(key, generation), state)
        out.append(seen)
    return np.asarray(jax.device_get(out))
