"""Networks of images: what they are built of, against JAX's own operations, and what they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from collapse_jax.training.nets.denoiser import make_denoiser
from collapse_jax.training.nets.dit import logistic_gelu, position_waves
from collapse_jax.training.nets.unet import Convolution, fold_pixels, unfold_pixels

KEY, SHAPE = jax.random.key(2), (8, 4, 2)
SIZES = {"mlp": (16, 2, None, None), "dit": (16, 2, 2, 2), "unet": (8, 2, None, None)}


def net(name, classes=3, dtype=jnp.float32, shape=SHAPE):
    given = dict(zip(("width", "depth", "heads", "patch"), SIZES[name], strict=True))
    init, apply = make_denoiser(name, int(np.prod(shape)), shape, given, classes, dtype)
    return init, apply


def moved(params):
    """The same network with nothing at 0."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def test_patches_make_a_convolution():
    layer = Convolution(3, 5, jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (2, 6, 7, 3))
    kernel = layer.map.kernel[...].reshape(3, 3, 3, 5)
    right = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(layer(x), right, rtol=1e-4, atol=1e-5)


def test_folding_halves_and_is_undone():
    x = jax.random.normal(KEY, (2, 6, 4, 3))
    assert fold_pixels(x).shape == (2, 3, 2, 12)
    np.testing.assert_array_equal(unfold_pixels(fold_pixels(x)), x)
    np.testing.assert_array_equal(np.sort(fold_pixels(x)[0, 1, 0]), np.sort(x[0, 2:4, 0:2].reshape(-1)))


def test_gelu_is_the_published_one():
    x = jnp.linspace(-12, 12, 1001)
    np.testing.assert_allclose(logistic_gelu(x), nnx.gelu(x), rtol=1e-5, atol=1e-6)
    slope, right = (jax.vmap(jax.grad(f))(x) for f in (logistic_gelu, nnx.gelu))
    np.testing.assert_allclose(slope, right, rtol=1e-4, atol=1e-5)


def test_each_patch_has_a_place():
    of = position_waves(5, 7, 16)
    assert of.shape == (35, 16)
    assert np.unique(of.round(6), axis=0).shape[0] == 35


@pytest.mark.parametrize("name", SIZES)
def test_what_networks_see(name):
    """The whole image, the time and the label reach every pixel; rows do not see one another."""
    init, apply = net(name)
    params = jax.jit(lambda: moved(init(KEY)))()
    x, t, label = jax.random.normal(KEY, (5, 64)), jnp.linspace(-0.5, 1, 5), jnp.array([0, 1, 2, 3, 3])
    apply = jax.jit(apply)
    said = apply(params, x, t, label)
    assert said.shape == (5, 64)
    assert said.dtype == jnp.float32
    later, other, touched = (
        np.asarray(apply(params, *seen))
        for seen in ((x, t + 0.01, label), (x, t, (label + 1) % 4), (x.at[0, 3].add(3.0), t, label))
    )
    for changed in (later, other, touched[:1]):
        assert (changed != said[: len(changed)]).mean() > 0.9
    np.testing.assert_allclose(touched[1:], said[1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apply(params, x, t, label + 4 * (label == 3)), said, rtol=1e-4, atol=1e-5)  # no class


@pytest.mark.parametrize("name", ["dit", "unet"])
def test_networks_of_images_begin_silent(name):
    init, apply = net(name)
    said = jax.jit(lambda: apply(init(KEY), jnp.ones((1, 64)), jnp.ones(1), jnp.zeros(1, int)))()
    assert not np.asarray(said).any()


@pytest.mark.parametrize("name", ["mlp", "dit", pytest.param("unet", marks=pytest.mark.nightly)])
def test_bfloat16_and_many_chains_compute_the_same(name):
    init, apply = net(name)
    keys, x, t = jax.random.split(KEY, 3), jax.random.normal(KEY, (4, 64)), jnp.linspace(0, 1, 4)
    label = jnp.array([0, 1, 2, 3])
    short = net(name, dtype=jnp.bfloat16)[1]

    @jax.jit
    def go(x):
        params = jax.vmap(lambda key: moved(init(key)))(keys)
        alone = jax.tree.map(lambda leaf: leaf[1], params)
        together = jax.vmap(apply, (0, None, None, None))(params, x, t, label)
        return together, apply(alone, x, t, label), short(alone, x, t, label)

    together, exact, short = go(x)
    np.testing.assert_allclose(together[1], exact, rtol=1e-3, atol=1e-4)
    assert short.dtype == jnp.float32
    assert 1e-5 < float(jnp.abs(short - exact).mean() / jnp.abs(exact).mean()) < 0.05


def test_the_transformer_knows_places():
    """Without places, the same patches in another order would say the same in that order."""
    init, apply = make_denoiser("dit", 16, (4, 4, 1), {"width": 8, "depth": 1, "heads": 2, "patch": 2}, 0, jnp.float32)
    params, apply = jax.jit(lambda: moved(init(KEY)))(), jax.jit(apply)
    x = jax.random.normal(KEY, (1, 4, 4, 1))
    turned = jnp.roll(x, 2, 1)  # patches are 2 x 2: whole ones are moved
    said, other = (apply(params, image.reshape(1, 16), jnp.ones(1)).reshape(1, 4, 4, 1) for image in (x, turned))
    assert not np.allclose(jnp.roll(said, 2, 1), other, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("dit", {"patch": 3}, "patch must divide the 8 x 4 pixels"),
        ("dit", {"heads": 3}, "width must be a multiple of the 3 heads"),
        ("unet", {"width": 12}, "width must be a multiple of 8"),
        ("unet", {"depth": 5}, "depth must be so small"),
        ("mlp", {"width": 0}, "width must be a whole number of at least 1"),
    ],
)
@pytest.mark.fast
def test_sizes_that_do_not_fit(name, given, words):
    with pytest.raises(ValueError, match=words) as error:
        make_denoiser(name, 64, SHAPE, given, 0, jnp.float32)
    assert "\n" not in str(error.value)
