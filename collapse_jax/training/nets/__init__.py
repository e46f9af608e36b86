"""Networks as flax nnx modules; ``collapse_jax.functional`` makes pure functions of them."""
