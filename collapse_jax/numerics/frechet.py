"""The Frechet distance between normal laws fitted to features, computed with matrix products alone."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.types import Array

_POLAR_STEPS = 24
_HIGHEST = jax.lax.Precision.HIGHEST


def compute_moments(chunks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ``[F]`` and the symmetric square root ``[F, F]`` of the covariance of rows given in chunks.

    They are computed in float64 on the host.
    """
    num = sum(map(len, chunks))
    mean = np.sum([rows.sum(0, dtype=np.float64) for rows in chunks], 0) / num
    covariance = np.sum([(rows - mean).T @ (rows - mean) for rows in chunks], 0) / num
    variance, axes = np.linalg.eigh(covariance)
    return mean, axes * np.sqrt(np.maximum(variance, 0.0)) @ axes.T


def frechet_distance(features_NxF: Array, mean_F: Array, root_FxF: Array) -> Array:
    """Return ``|m - m_r|^2 + tr S + tr S_r - 2 tr (S_r^1/2 S S_r^1/2)^1/2`` (arXiv 1706.08500, eq. 6).

    S is the features' covariance, divided by N - 1, and `root_FxF` is the symmetric root of S_r. The last trace is the
    nuclear norm of the centred features times that root, so no eigenvalues are needed.
    """
    num = features_NxF.shape[0]
    mean_1xF = features_NxF.mean(0, keepdims=True)
    scaled_NxF = (features_NxF - mean_1xF) / np.sqrt(max(num - 1, 1))
    across = nuclear_norm(jnp.matmul(scaled_NxF, root_FxF, precision=_HIGHEST))
    return jnp.sum((mean_1xF[0] - mean_F) ** 2) + jnp.sum(scaled_NxF**2) + jnp.sum(root_FxF**2) - 2 * across


def nuclear_norm(a_NxF: Array) -> Array:
    """Return the sum of the singular values, by Newton and Schulz's iteration for the polar factor.

    Each singular value s (over the Frobenius norm) grows by 1.5 - s^2 / 2 a step towards 1, so values below 1e-4 of the
    norm are counted in part. The iteration needs no LAPACK, two batched calls of which can lock up jaxlib 0.10 on a
    CPU.
    """
    norm = jnp.linalg.norm(a_NxF)
    start_NxF = a_NxF / jnp.where(norm > 0, norm, 1.0)
    product = partial(jnp.matmul, precision=_HIGHEST)

    def step(_: Any, x_NxF: Array) -> Array:
        return 1.5 * x_NxF - 0.5 * product(x_NxF, product(x_NxF.T, x_NxF))

    return jnp.sum(jax.lax.fori_loop(0, _POLAR_STEPS, step, start_NxF) * a_NxF)
