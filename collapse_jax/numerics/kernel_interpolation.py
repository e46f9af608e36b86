"""Kernel sums between the bandwidths at which they are known, bounded by proof: a sum at every bandwidth of a range.

At a row t, the mean kernel is S(s) = sum_i w_i exp(-s q_i) / sum_i w_i with q_i = |x_i - t|^2 and s = 1 / 2 h^2. It is
known at nodes s_k. For any number c, S(s) exp(c s) is a positive sum of exponentials in s, so all its derivatives of
even order are positive, and what a polynomial through 2 m nodes lacks of it is such a derivative times the product of
(s - s_k) over (2 m)!: it lies below where an even number of its nodes lies above s, and above where an odd number does.
Six nodes about s bound S from above and eight from below. Where kernels vary too much for polynomials, a chord of
log S, which is convex, bounds it from above and the chords beside that one from below.
"""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Array

_RATIO = 2 ** (1 / 3)  # of neighbouring nodes
_BESIDE = 3  # nodes that a polynomial needs on each side of an interval
_STEEP = 8.0  # nats that a window may lie above its chord: rounding grows by the exponential
_SLACK = 2e-6  # relative, of a range's ends: powers round


def interpolation_nodes(least: float, most: float) -> np.ndarray:
    """``[K]`` values of s, in float64, that serve any s from `least` to `most`."""
    intervals = max(int(np.ceil(np.log(most / least) / np.log(_RATIO) - 1e-6)), 1)
    return least * _RATIO ** np.arange(-_BESIDE, intervals + _BESIDE + 1)


def interpolate_log_kernel(log_kernels: Array, nodes: np.ndarray, s: Array) -> tuple[Array, Array]:
    """Log of the mean kernel at `s`, ``[num_test]``, and how far above it the true one may lie (nats; never below).

    Rounding is not in that bound. It is infinite where `s` lies outside the range that `nodes` are for.
    """
    width = 2 * (_BESIDE + 1)
    at = jnp.asarray(nodes, log_kernels.dtype)
    inside = (s >= at[_BESIDE] * (1 - _SLACK)) & (s <= at[-_BESIDE - 1] * (1 + _SLACK))
    first = jnp.clip(jnp.searchsorted(at, s, side="right") - 1 - _BESIDE, 0, len(nodes) - width)
    value = jax.lax.dynamic_slice_in_dim(log_kernels, first, width)
    window = jax.lax.dynamic_slice_in_dim(at, first, width)
    low, high = _BESIDE, _BESIDE + 1
    x = (window - window[low]) / (window[high] - window[low])  # of nodes, in units of the interval that holds s
    place = jnp.clip((s - window[low]) / (window[high] - window[low]), 0.0, 1.0)
    chord = value[low] + jnp.outer(x, value[high] - value[low])
    above = (value - chord).at[jnp.array([low, high])].set(0.0)
    smooth = above.max(0) < _STEEP
    kernel = jnp.exp(jnp.minimum(above, _STEEP))
    most = jnp.where(smooth, jnp.minimum(_evaluate_polynomial(kernel[1:-1], x[1:-1], place), 1.0), 1.0)
    least = jnp.where(smooth, _evaluate_polynomial(kernel, x, place), 0.0)
    beside = jnp.maximum(above[low - 1] * place / x[low - 1], above[high + 1] * (1 - place) / (1 - x[high + 1]))
    log_least = jnp.maximum(jnp.log(jnp.maximum(least, jnp.finfo(at.dtype).tiny)), beside)
    gap = jnp.maximum(jnp.log(most) - log_least, 0.0)
    return value[low] + place * (value[high] - value[low]) + log_least, jnp.where(inside, gap, jnp.inf)


def _evaluate_polynomial(values: Array, x: Array, place: Array) -> Array:
    """At `place`, the polynomial through `values` ``[nodes, num_test]`` at `x`."""
    apart = x[:, None] - x + jnp.eye(len(x))
    ahead = jnp.where(jnp.eye(len(x), dtype=bool), 1.0, place - x)
    return ((ahead / apart).prod(1)[:, None] * values).sum(0)
