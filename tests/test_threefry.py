"""Threefry written out gives JAX's own bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.keys import chain_keys
from collapse_jax.threefry import written_out


def drawn(key):
    return [jax.random.bits(key, (num,)) for num in (64, 96, 97, 115)] + [
        jax.random.bits(jax.random.fold_in(key, 1), (5, 23)),
        jax.random.bits(key, (100,), jnp.uint8),
        jax.random.normal(key, (200,)),
        jax.random.key_data(jax.random.split(key, 70)),
    ]


@pytest.mark.fast
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("partitionable", [True, False])
def test_what_is_written_out_draws_what_jax_draws(partitionable, x64):
    with jax.enable_x64(x64), jax.threefry_partitionable(partitionable):
        keys = chain_keys(3, 2)
        assert keys.dtype == jax.random.key(0, impl="threefry2x32").dtype  # as a user's own are
        ours, theirs = (jax.jit(jax.vmap(lambda k, f=f: drawn(f(k))))(keys) for f in (written_out, lambda k: k))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        jax.tree.map(np.testing.assert_array_equal, drawn(written_out(keys[1])), drawn(keys[1]))


@pytest.mark.fast
def test_other_implementations_are_left_alone():
    key = jax.random.key(0, impl="rbg")
    assert written_out(key) is key
    data = jax.random.key_data(jax.random.key(4, impl="threefry2x32"))  # a raw key
    np.testing.assert_array_equal(*(jax.random.bits(k, (200,)) for k in (written_out(data), data)))
