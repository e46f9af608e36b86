"""The condition of image networks: the noise level, as a time, and the class."""

import jax.numpy as jnp
from flax import nnx

from collapse_jax.types import Array

FREQUENCIES = 32
MAX_FREQUENCY = 1000.0  # radians a unit of time: levels 1/1000 apart differ


class TimeAndLabel(nnx.Module):
    """A vector of `width` columns for a time (about 1 in size), plus one for a label, where there are `classes`.

    A label of no class, `classes` and above, has a vector, too: that of rows whose class is not given.
    """

    def __init__(self, width: int, classes: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.classes = classes
        self.up = nnx.Linear(2 * FREQUENCIES, width, dtype=dtype, rngs=rngs)
        self.mix = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        if classes:
            self.embedding = nnx.Param(jnp.zeros((classes + 1, width)))

    def __call__(self, t_B: Array, label_B: Array | None) -> Array:
        """Return the vectors ``[B, width]``."""
        angle_BxF = t_B[:, None] * jnp.geomspace(1.0, MAX_FREQUENCY, FREQUENCIES)[None]
        waves_BxF = jnp.concatenate([jnp.cos(angle_BxF), jnp.sin(angle_BxF)], 1)
        time_BxD = self.mix(nnx.silu(self.up(waves_BxF)))
        if label_B is None:
            return time_BxD
        return time_BxD + self.embedding[...].astype(time_BxD.dtype)[jnp.minimum(label_B, self.classes)]
