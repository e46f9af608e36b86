"""Mean kernels at every bandwidth of a range, interpolated between known bandwidths with proven bounds.

At a row t, the mean kernel is S(s) = sum_i w_i exp(-s q_i) / sum_i w_i with q_i = |x_i - t|^2 and s = 1 / 2 h^2. It is
known at nodes s_k. For any number c, S(s) exp(c s) is a positive sum of exponentials in s, so all its derivatives of
even order are positive. The error of a polynomial through 2 m nodes is such a derivative times the product of (s - s_k)
over (2 m)!: the polynomial lies below S where an even number of its nodes lies above s, and above S where an odd number
does. Six nodes about s bound S from above and eight from below. Where kernels vary too much for polynomials, a chord of
log S, which is convex, bounds it from above, and the neighbouring chords from below.
"""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Array

_RATIO = 2 ** (1 / 3)  # ratio of neighbouring nodes
_BESIDE = 3  # number of nodes that a polynomial needs on each side of an interval
_STEEP = 8.0  # a window may lie so many nats above its chord: rounding grows by the exponential
_SLACK = 2e-6  # relative tolerance at the ends of a range, because powers round


def interpolation_nodes(smallest: float, largest: float) -> np.ndarray:
    """Return the nodes ``[K]``, in float64, that serve any s from `smallest` to `largest`."""
    intervals = max(int(np.ceil(np.log(largest / smallest) / np.log(_RATIO) - 1e-6)), 1)
    return smallest * _RATIO ** np.arange(-_BESIDE, intervals + _BESIDE + 1)


def interpolate_log_kernel(log_kernels: Array, nodes: np.ndarray, s: Array) -> tuple[Array, Array]:
    """Return the log of the mean kernel at `s`, ``[num_test]``, and how far above it the true value may lie, in nats.

    The true value never lies below. The bound does not include rounding; it is infinite where `s` lies outside the
    range that `nodes` serve.
    """
    width = 2 * (_BESIDE + 1)
    at = jnp.asarray(nodes, log_kernels.dtype)
    inside = (s >= at[_BESIDE] * (1 - _SLACK)) & (s <= at[-_BESIDE - 1] * (1 + _SLACK))
    first = jnp.clip(jnp.searchsorted(at, s, side="right") - 1 - _BESIDE, 0, len(nodes) - width)
    value = jax.lax.dynamic_slice_in_dim(log_kernels, first, width)
    window = jax.lax.dynamic_slice_in_dim(at, first, width)
    low, high = _BESIDE, _BESIDE + 1
    x = (window - window[low]) / (window[high] - window[low])  # nodes in units of the interval that holds s
    place = jnp.clip((s - window[low]) / (window[high] - window[low]), 0.0, 1.0)
    chord = value[low][None] + jnp.outer(x, value[high] - value[low])
    above = (value - chord).at[jnp.array([low, high])].set(0.0)
    smooth = above.max(0) < _STEEP
    kernel = jnp.exp(jnp.minimum(above, _STEEP))
    upper = jnp.where(smooth, jnp.minimum(_evaluate_polynomial(kernel[1:-1], x[1:-1], place), 1.0), 1.0)
    lower = jnp.where(smooth, _evaluate_polynomial(kernel, x, place), 0.0)
    beside = jnp.maximum(above[low - 1] * place / x[low - 1], above[high + 1] * (1 - place) / (1 - x[high + 1]))
    log_lower = jnp.maximum(jnp.log(jnp.maximum(lower, jnp.finfo(at.dtype).tiny)), beside)
    gap = jnp.maximum(jnp.log(upper) - log_lower, 0.0)
    return value[low] + place * (value[high] - value[low]) + log_lower, jnp.where(inside, gap, jnp.inf)


def _evaluate_polynomial(values: Array, x: Array, place: Array) -> Array:
    """Return the polynomial through `values` ``[nodes, num_test]`` at `x`, evaluated at `place`."""
    apart = x[:, None] - x[None] + jnp.eye(len(x))
    ahead = jnp.where(jnp.eye(len(x), dtype=bool), 1.0, place - x)
    return ((ahead / apart).prod(1)[:, None] * values).sum(0)
