"""Networks of images: what they are built of, against JAX's own operations, and what they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from collapse_jax.training.nets import convolution
from collapse_jax.training.nets.denoiser import make_denoiser
from collapse_jax.training.nets.dit import logistic_gelu, position_waves
from collapse_jax.training.nets.unet import fold_pixels, unfold_pixels

KEY, SHAPE = jax.random.key(2), (8, 4, 2)
SIZES = {"mlp": (16, 2, None, None), "dit": (16, 2, 2, 2), "unet": (8, 2, None, None)}


def net(name, classes=3, dtype=jnp.float32, shape=SHAPE):
    given = dict(zip(("width", "depth", "heads", "patch"), SIZES[name], strict=True))
    init, apply = make_denoiser(name, int(np.prod(shape)), shape, given, classes, dtype)
    return init, apply


def moved(params):
    """Return the network with no parameter at 0."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def correlate(x, kernel):
    """A convolution of images by SciPy."""
    by_channel = lambda image, k: sum(signal.correlate2d(image[..., c], k[..., c], "same") for c in range(k.shape[-1]))  # noqa: E731
    return np.stack([np.stack([by_channel(image, k) for k in np.moveaxis(kernel, -1, 0)], -1) for image in x])


@pytest.mark.parametrize("convolve", [convolution.convolve_by_products, convolution.convolve_by_xla])
@pytest.mark.parametrize(
    ("size", "before", "after"), [((6, 7), 3, 5), ((4, 8), 1, 16), ((5, 1), 16, 1), ((1, 2), 4, 4)]
)
def test_convolutions_and_their_slopes_are_those_of_scipy(convolve, size, before, after):
    """Each way to shift images (inputs, outputs, some of both), odd sizes, and single rows and columns."""
    random = np.random.default_rng(before)
    x, kernel, slope = (random.normal(size=s) for s in ((2, *size, before), (3, 3, before, after), (2, *size, after)))

    @jax.jit
    def differentiate(x, kernel, slope):
        made, pull = jax.vjp(convolve, x, kernel)
        return made, pull(slope), jax.jvp(convolve, (x, kernel), (x, 2 * kernel))[1]

    with jax.enable_x64(True):
        made, pulled, along = differentiate(x, kernel, slope)
    np.testing.assert_allclose(made, correlate(x, kernel), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(along, 3 * correlate(x, kernel), rtol=1e-11, atol=1e-12)
    back = correlate(slope, kernel[::-1, ::-1].swapaxes(2, 3))
    np.testing.assert_allclose(pulled[0], back, rtol=1e-11, atol=1e-12)
    around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i, j in np.ndindex(3, 3):
        seen = around[:, i : i + size[0], j : j + size[1]]
        expected = np.einsum("bhwc,bhwk->ck", seen, slope)
        np.testing.assert_allclose(pulled[1][i, j], expected, rtol=1e-11, atol=1e-12)


def test_convolutions_of_many_chains_and_of_few_bits():
    """Each chain has a kernel of its own; bfloat16 rounds inputs and the output, not the sums between them."""
    x, kernel = jax.random.normal(KEY, (2, 6, 6, 32)), jax.random.normal(KEY, (3, 3, 3, 32, 32)) / 17
    together = jax.vmap(convolution.convolve_by_products, (None, 0))(x, kernel)
    for made, k in zip(together, kernel, strict=True):
        np.testing.assert_allclose(made, correlate(np.asarray(x), np.asarray(k)), rtol=1e-4, atol=1e-5)
    short = x.astype(jnp.bfloat16), kernel[0].astype(jnp.bfloat16)
    made = convolution.convolve_by_products(*short)
    assert made.dtype == jnp.bfloat16
    exact = correlate(*(np.asarray(v, np.float64) for v in short))
    np.testing.assert_allclose(np.asarray(made, np.float64), exact, rtol=2**-8, atol=1e-5)


def test_convolutions_are_products_on_a_cpu_alone(monkeypatch):
    layer = convolution.Convolution(3, 5, jnp.float32, rngs=nnx.Rngs(0))
    layer.map.bias[...] = jnp.arange(5.0)
    x = jax.random.normal(KEY, (2, 6, 7, 3))
    made = []
    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=platform: name)
        assert ("conv_general_dilated" in str(jax.make_jaxpr(lambda x: layer(x))(x))) == (platform != "cpu")
        made.append(layer(x))
    expected = correlate(np.asarray(x), np.asarray(layer.map.kernel[...]).reshape(3, 3, 3, 5)) + np.arange(5.0)
    for each in made:
        np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-5)


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
