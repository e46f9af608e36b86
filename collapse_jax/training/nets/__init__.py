"""Networks as flax nnx modules, which ``nnx_functional.make_functional`` turns into pure functions."""
