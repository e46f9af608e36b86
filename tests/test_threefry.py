"""Threefry written out gives JAX's own bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.keys import chain_keys


@pytest.mark.fast
def test_chains_draw_what_jax_draws_with_the_same_key():
    ours = chain_keys(3, 2)
    theirs = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3, impl="threefry2x32"), jnp.arange(2))
    np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))

    def draw(key):
        few, many = jax.random.bits(key, (64,)), jax.random.bits(jax.random.fold_in(key, 1), (5, 23))  # an odd number
        return few, many, jax.random.bits(key, (100,), jnp.uint8), jax.random.key_data(jax.random.split(key, 70))

    jax.tree.map(np.testing.assert_array_equal, *(jax.jit(jax.vmap(draw))(keys) for keys in (ours, theirs)))
