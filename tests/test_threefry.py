"""Threefry written out gives JAX's own bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from collapse_jax.core.random import chain_keys
from collapse_jax.core.threefry import draw_normals, unroll_rounds


def drawn(key):
    return [jax.random.bits(key, (num,)) for num in (64, 96, 97, 115)] + [
        jax.random.bits(jax.random.fold_in(key, 1), (5, 23)),
        jax.random.bits(key, (100,), jnp.uint8),
        jax.random.normal(key, (200,)),
        jax.random.key_data(jax.random.split(key, 70)),
    ]


@pytest.mark.fast
@pytest.mark.parametrize("x64", [False, True])
def test_what_is_written_out_draws_what_jax_draws(x64):
    with jax.enable_x64(x64), jax.threefry_partitionable(True):
        keys = chain_keys(3, 2)
        assert keys.dtype == jax.random.key(0, impl="threefry2x32").dtype  # as a user's own are
        assert unroll_rounds(keys).dtype != keys.dtype
        for draw, given in ((jax.vmap(drawn), keys), (drawn, keys[1])):
            ours, theirs = (jax.jit(lambda k, f=f, draw=draw: draw(f(k)))(given) for f in (unroll_rounds, lambda k: k))
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        np.testing.assert_array_equal(*(jax.random.bits(f(keys[0]), (200,)) for f in (unroll_rounds, lambda k: k)))


@pytest.mark.fast
@pytest.mark.parametrize("x64", [False, True])
def test_normals_are_those_of_jax(x64, optimised):
    """In float64 too, and of few, and of an odd number of them."""
    with jax.enable_x64(x64), jax.threefry_partitionable(True):
        keys = chain_keys(5, 2)
        many = [
            lambda key, f=f: [f(key, num) for num in (96, 97, 1001)]
            for f in (draw_normals, lambda k, n: jax.random.normal(k, (n,)))
        ]
        for draw, given in ((jax.vmap, keys), (lambda f: f, keys[1])):
            ours, theirs = (jax.jit(draw(f))(given) for f in many)
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_normals_are_worked_out_once(optimised):
    """However many operations read them."""

    def covariance(keys):
        rows = jax.vmap(lambda key: draw_normals(key, 1000).reshape(100, 10))(keys)
        centred = rows - rows.mean(1, keepdims=True)
        return jnp.einsum("cni,cnj->cij", centred, centred), rows.std(1)

    with jax.threefry_partitionable(True):
        text = jax.jit(covariance).lower(chain_keys(3, 4)).compile().as_text()
    assert sum(part.count('/erf_inv"') > 9 for part in text.split("\n\n")) == 1  # one fusion holds its polynomial


@pytest.mark.fast
def test_where_programs_are_taken_apart():
    key = jax.random.key(3, impl="threefry2x32")
    whole = draw_normals(key, 200)
    with jax.disable_jit():
        np.testing.assert_array_equal(draw_normals(key, 200), whole)
    mesh = jax.make_mesh((1,), ("chain",), axis_types=(jax.sharding.AxisType.Auto,))
    drawn = jax.shard_map(
        jax.vmap(lambda k: draw_normals(k, 200)), mesh=mesh, in_specs=P("chain"), out_specs=P("chain")
    )
    np.testing.assert_array_equal(drawn(key[None])[0], whole)


@pytest.mark.fast
def test_other_implementations_are_left_alone():
    key = jax.random.key(0, impl="rbg")
    assert unroll_rounds(key) is key
    np.testing.assert_array_equal(draw_normals(key, 200), jax.random.normal(key, (200,)))
    with jax.threefry_partitionable(False):  # whose counters are others
        key = chain_keys(3, 2)
        assert unroll_rounds(key) is key
        np.testing.assert_array_equal(draw_normals(key[0], 200), jax.random.normal(key[0], (200,)))
    data = jax.random.key_data(jax.random.key(4, impl="threefry2x32"))  # a raw key
    np.testing.assert_array_equal(*(jax.random.bits(k, (200,)) for k in (unroll_rounds(data), data)))
