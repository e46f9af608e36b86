"""Networks as flax nnx modules, which ``nnx_functional.make_functional`` turns into pure functions.

Modules load on first use, as ``nets.mlp``: flax and optax take nearly as long to import as JAX, and most settings train
no network.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from collapse_jax.training.nets import (
        classifier,
        denoiser,
        encoders,
        mlp,
        sampling,
        sequence_model,
        transformer,
        vae,
    )

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, ["classifier", "denoiser", "encoders", "mlp", "sampling", "sequence_model", "transformer", "vae"]
)

__all__ = ["classifier", "denoiser", "encoders", "mlp", "sampling", "sequence_model", "transformer", "vae"]
