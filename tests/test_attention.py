"""Attention against the softmax written out in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.training.nets import transformer
from collapse_jax.training.nets.attention import weigh_values
from collapse_jax.training.nets.dit import attend_heads

CAUSAL = np.tril(np.ones((6, 6), bool))


def softmax(score, visible):
    """The weights, normalised before any product."""
    score = np.where(visible, score, -np.inf)
    exponential = np.exp(score - score.max(-1, keepdims=True))
    return exponential / exponential.sum(-1, keepdims=True)


@pytest.mark.parametrize("visible", [None, CAUSAL, np.eye(6, dtype=bool)])
def test_means_by_softmax_and_their_slopes(visible):
    """Scores reach 4,000, so that exponentials of the scores themselves would overflow, even in float64."""
    random = np.random.default_rng(0)
    score, value, slope = (random.normal(size=s) for s in ((2, 3, 6, 6), (2, 3, 6, 5), (2, 3, 6, 5)))
    score[0] *= 1_000
    score[1, 0] += 4_000

    @jax.jit
    def differentiate(score, value, slope):
        mean, pull = jax.vjp(lambda s, v: weigh_values(s, v, visible), score, value)
        return (
            mean,
            pull(slope),
            jax.jvp(lambda s: weigh_values(s, value, visible), (score,), (jnp.ones_like(score),))[1],
        )

    with jax.enable_x64(True):
        mean, slopes, along = differentiate(score, value, slope)
    share = softmax(score, True if visible is None else visible)
    np.testing.assert_allclose(mean, share @ value, rtol=1e-11, atol=1e-12)
    to_share = slope @ value.swapaxes(2, 3)
    expected = share * (to_share - (share * to_share).sum(-1, keepdims=True))
    np.testing.assert_allclose(slopes[0], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slopes[1], share.swapaxes(2, 3) @ slope, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(along, 0, atol=1e-12)  # what all scores share changes nothing


def test_hidden_scores_do_not_matter():
    """Even where they are the largest by far: nothing overflows, and their slopes are 0."""
    random = np.random.default_rng(1)
    score, value = random.normal(size=(1, 6, 6)).astype(np.float32), random.normal(size=(1, 6, 4)).astype(np.float32)
    loud = np.where(CAUSAL, score, 3e38).astype(np.float32)
    mean, pull = jax.vjp(lambda s: weigh_values(s, value, CAUSAL), jnp.asarray(loud))
    np.testing.assert_allclose(mean, softmax(score.astype(float), CAUSAL) @ value, rtol=1e-5, atol=1e-6)
    slopes = np.asarray(pull(jnp.ones_like(mean))[0])
    assert (slopes[:, ~CAUSAL] == 0).all()
    assert np.isfinite(slopes).all()


def test_heads_in_groups_and_their_caches():
    """Query head h of group g attends to the keys of group g, in whole rows and in a cache with room to spare."""
    random = np.random.default_rng(2)
    query, key, value = (random.normal(size=s) for s in ((2, 2, 3, 6, 4), (2, 2, 6, 4), (2, 2, 6, 4)))
    expected = np.zeros(query.shape)
    for b, g, h in np.ndindex(2, 2, 3):
        expected[b, g, h] = softmax(query[b, g, h] @ key[b, g].T, CAUSAL) @ value[b, g]
    short = [jnp.asarray(x, jnp.float32) for x in (query, key, value)]
    np.testing.assert_allclose(transformer._attend_rows(*short), expected, rtol=1e-4, atol=1e-5)
    room = [np.concatenate([x, np.full((2, 2, 3, 4), 7.0)], 2) for x in (key, value)]  # places not yet written
    cached = transformer._attend_cached(
        short[0][:, :, :, 2:], jnp.asarray(room[0], jnp.float32).swapaxes(2, 3), jnp.asarray(room[1], jnp.float32), 2
    )
    np.testing.assert_allclose(cached, expected[:, :, :, 2:], rtol=1e-4, atol=1e-5)


def test_patches_attend_to_all_patches():
    heads = np.random.default_rng(3).normal(size=(2, 5, 3, 2, 4))
    query, key, value = (heads[:, :, i].swapaxes(1, 2) for i in range(3))
    expected = (softmax(query @ key.swapaxes(2, 3) / 2, True) @ value).swapaxes(1, 2)
    np.testing.assert_allclose(attend_heads(jnp.asarray(heads, jnp.float32)), expected, rtol=1e-4, atol=1e-5)


def test_weights_of_few_bits_are_added_in_float32():
    """The mean of 4,096 equal values is that value: sums of weights in bfloat16 would stop at 256."""
    mean = weigh_values(jnp.zeros((1, 1, 4096)), jnp.ones((1, 4096, 2), jnp.bfloat16))
    assert mean.dtype == jnp.bfloat16
    np.testing.assert_array_equal(mean.astype(jnp.float32), 1.0)
