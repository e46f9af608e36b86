"""The Frechet distance between normal laws fitted to features, computed with matrix products alone."""

import jax.numpy as jnp
import numpy as np

from collapse_jax.numerics.polar import covariance_distance
from collapse_jax.types import Array


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

    S is the features' covariance, divided by N - 1, and `root_FxF` is the symmetric root of S_r. The traces are
    computed as the square of a difference, from the features themselves, since a difference of traces in float32, or
    roots of a product of covariances, lose the digits of small distances and of narrow directions. It has first
    derivatives.
    """
    num, width = features_NxF.shape
    shifted_NxF = features_NxF - mean_F[None]
    mean_1xF = shifted_NxF.mean(0, keepdims=True)
    scaled_NxF = (shifted_NxF - mean_1xF) / np.sqrt(max(num - 1, 1))
    filled_NxF = jnp.pad(scaled_NxF, ((0, max(width - num, 0)), (0, 0)))  # rows of 0 change no covariance
    return jnp.sum(mean_1xF**2) + covariance_distance(filled_NxF.T, root_FxF)
