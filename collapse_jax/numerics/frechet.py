"""The Frechet distance of normal laws that are fitted to features, with no more than products of matrices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Array

_POLAR_STEPS = 24
_HIGHEST = jax.lax.Precision.HIGHEST


def compute_moments(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[F]``, and the symmetric root ``[F, F]`` of the covariance, of rows in parts; in float64, on the host."""
    num = sum(map(len, parts))
    mean = np.sum([part.sum(0, dtype=np.float64) for part in parts], 0) / num
    covariance = np.sum([(part - mean).T @ (part - mean) for part in parts], 0) / num
    variance, axes = np.linalg.eigh(covariance)
    return mean, axes * np.sqrt(np.maximum(variance, 0.0)) @ axes.T


def frechet_distance(features_NxF: Array, mean_F: Array, root_FxF: Array) -> Array:
    """``|m - m_r|^2 + tr S + tr S_r - 2 tr (S_r^1/2 S S_r^1/2)^1/2``, squared as everywhere (arXiv 1706.08500, eq. 6).

    S is the features' covariance over N - 1, S_r that of which `root_FxF` is the symmetric root. The last trace is the
    nuclear norm of the centred features times that root: no eigenvalues are needed.
    """
    num = features_NxF.shape[0]
    mean = features_NxF.mean(0)
    scaled_NxF = (features_NxF - mean) / np.sqrt(max(num - 1, 1))
    across = nuclear_norm(jnp.matmul(scaled_NxF, root_FxF, precision=_HIGHEST))
    return jnp.sum((mean - mean_F) ** 2) + jnp.sum(scaled_NxF**2) + jnp.sum(root_FxF**2) - 2 * across


def nuclear_norm(a_NxF: Array) -> Array:
    """Sum of the singular values, by Newton and Schulz's iteration for the polar factor: products of matrices alone.

    Each singular value s (over the Frobenius norm) grows by 1.5 - s^2 / 2 a step towards 1, so that those below 1e-4 of
    the norm are counted in part. It takes no LAPACK, two batched calls of which can lock up jaxlib 0.10 on a CPU.
    """
    norm = jnp.linalg.norm(a_NxF)
    start_NxF = a_NxF / jnp.where(norm > 0, norm, 1.0)
    product = partial(jnp.matmul, precision=_HIGHEST)

    def step(_: Any, x_NxF: Array) -> Array:
        return 1.5 * x_NxF - 0.5 * product(x_NxF, product(x_NxF.T, x_NxF))

    return jnp.sum(jax.lax.fori_loop(0, _POLAR_STEPS, step, start_NxF) * a_NxF)
