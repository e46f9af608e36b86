"""Attention's products with values, as all networks here compute them: heads first, normalised at the end."""

import jax
import jax.numpy as jnp

from collapse_jax.types import Array


def weigh_values(score_xLxM: Array, value_xMxK: Array, visible_LxM: Array | None = None) -> Array:
    """Return the mean ``[..., L, K]`` of the values, weighted by the softmax of the scores over M.

    The sum of the weights divides the product with the values, which has fewer numbers than the weights. The largest
    score is taken off first, so that no exponential overflows; what is taken off cancels, and so do its slopes.

    Args:
      score_xLxM: scores, in float32.
      value_xMxK: values; the product with them has their dtype, and its sums are in float32.
      visible_LxM: which values have a weight; each row of it needs one. None: all.
    """
    if visible_LxM is not None:
        score_xLxM = jnp.where(jnp.broadcast_to(visible_LxM, score_xLxM.shape), score_xLxM, -jnp.inf)
    largest_xLx1 = jax.lax.stop_gradient(score_xLxM.max(-1, keepdims=True))
    weight_xLxM = jnp.exp(score_xLxM - largest_xLx1)
    total_xLx1 = weight_xLxM.sum(-1, keepdims=True)
    product_xLxK = jnp.einsum(
        "...lm,...mk->...lk", weight_xLxM.astype(value_xMxK.dtype), value_xMxK, preferred_element_type=score_xLxM.dtype
    )
    return (product_xLxK / total_xLx1).astype(value_xMxK.dtype)
