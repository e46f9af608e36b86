"""Logarithms of gamma variates, fast where the shapes are known before compilation."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # imports its submodules where they are used

from collapse_jax.core.errors import UsageError
from collapse_jax.core.random import draw_normals, draw_uniforms, key_per_chain, stream
from collapse_jax.types import Array, Key

# The error allowed in log X lies far below the Monte Carlo error of any run that could finish.
_TOLERANCE = 1e-7
_DEGREES = (6, 8, 10, 12, 16, 20, 24, 32, 48, 64)


def draw_log_gamma_ratio(key: Key, z: Array, shape: Array) -> Array:
    """Draw log(X / shape), X ~ Gamma(`shape`, 1), one for each entry of `shape` ``[d]``, which may be traced.

    The logarithm of a large X alone would round away how far X lies from its mean. Draws are by the rejection of
    Marsaglia and Tsang (doi:10.1145/358407.358414), which is exact wherever shape - 1/3 is above 0, because its bound
    does not depend on the shape. The result is NaN at other shapes.

    Args:
      key: draws further proposals where one is rejected, and the decisions.
      z: standard normals ``[d]``, the first proposals; derivatives with respect to them are 0.
      shape: above 1/3; derivatives with respect to it are those of the gamma quantile at a fixed probability.
    """
    fixed = jax.lax.stop_gradient(shape)
    rate = fixed - 1 / 3
    key = key_per_chain(key)

    def propose(key: Key, z: Array) -> tuple[Array, Array]:
        w = z / jnp.sqrt(9 * rate)
        inside, log_v = w > -1, jnp.log1p(jnp.where(w > -1, w, 0.0))
        log_ratio = rate * (3 * log_v - w * (3 - w * (1.5 - w)))  # the log ratio of two densities, of order w ** 4
        is_done = inside & (jnp.log(draw_uniforms(stream(key, "accept"), z.shape, z.dtype)) < log_ratio)
        return 3 * log_v, is_done | ~(rate > 0)

    def propose_again(state: tuple[Key, Array, Array]) -> tuple[Key, Array, Array]:
        key, log_v, is_done = state
        key = stream(key, "again")
        new, is_new = propose(key, draw_normals(stream(key, "z"), fixed.shape))
        return key, jnp.where(is_done, log_v, new), is_done | is_new

    _, log_v, _ = jax.lax.while_loop(lambda state: ~state[2].all(), propose_again, (key, *propose(key, z)))
    return _at_its_probability(shape, log_v + jnp.log1p(-1 / (3 * fixed)))


@jax.custom_jvp
def _at_its_probability(shape: Array, log_over_shape: Array) -> Array:
    return log_over_shape


@_at_its_probability.defjvp
def _at_its_probability_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    shape, log_over_shape = primals
    drawn = shape * jnp.exp(log_over_shape)
    return log_over_shape, (jax.lax.random_gamma_grad(shape, drawn) / drawn - 1 / shape) * tangents[0]


def log_gamma_ratio_at_normal(z: Array, shape: np.ndarray) -> Array:
    """Return log(X / shape) as a function of standard normals `z` ``[d]``, for shapes known before compilation.

    The quantile goes through a Chebyshev interpolant that is exact to 1e-7 over all values that `z` can take. It needs
    no rejection and is some five times faster than ``jax.random.loggamma`` (``benchmarks/gamma.py``).

    Raises:
      UsageError: no interpolant is exact enough for these shapes.
    """
    limit = 5.6 if z.dtype == jnp.float32 else 8.4  # the largest |z| that this precision can give
    coefficients = _quantile_coefficients(tuple(shape.tolist()), limit)
    return _evaluate_chebyshev(jnp.asarray(coefficients, z.dtype), jnp.clip(z / limit, -1.0, 1.0))


def _evaluate_chebyshev(coefficients: Array, x: Array) -> Array:
    """Return the Chebyshev series ``[degree + 1, d]`` at `x` ``[d]``, by Clenshaw's rule, stable in float32."""
    ahead, behind = jnp.zeros_like(x), jnp.zeros_like(x)
    for c in coefficients[:0:-1]:
        ahead, behind = c + 2 * x * ahead - behind, ahead
    return coefficients[0] + x * ahead - behind


@lru_cache(maxsize=64)
def _quantile_coefficients(shapes: tuple[float, ...], limit: float) -> np.ndarray:
    """Return Chebyshev coefficients ``[degree + 1, len(shapes)]`` of z -> log quantile, on [-limit, limit]."""
    nodes = np.polynomial.chebyshev.chebpts1(256)
    values = np.stack([_log_quantile(shape, limit * nodes) for shape in shapes], 1)
    check = np.linspace(-1, 1, 999)
    truth = np.stack([_log_quantile(shape, limit * check) for shape in shapes], 1)
    for degree in _DEGREES:
        fit = np.polynomial.chebyshev.chebfit(nodes, values, degree)
        if np.abs(np.polynomial.chebyshev.chebval(check, fit).T - truth).max() < _TOLERANCE:
            return fit
    raise UsageError(f"no gamma interpolant for shapes {min(shapes):g} to {max(shapes):g}: take another num_samples")


def _log_quantile(shape: float, z: np.ndarray) -> np.ndarray:
    """Return the log of (gamma quantile / shape) at the normal quantile z; each tail keeps its digits."""
    special = scipy.special
    low, high = special.gammaincinv(shape, special.ndtr(z)), special.gammainccinv(shape, special.ndtr(-z))
    return np.log(np.where(z < 0, low, high) / shape)
