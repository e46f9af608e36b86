"""Sources with closed forms: each mean and covariance below is exact and derived next to it."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core import random
from collapse_jax.core.registry import register_source
from collapse_jax.core.validation import (
    MAX_SEED,
    require_choice,
    require_flag,
    require_integer,
    require_number,
    require_positive,
)
from collapse_jax.types import Array, DrawOwnFn, DrawRowsFn, Key, OwnData, Source, Tree

HELD_OUT_SEED = 0x5EED_7E57  # far from the small seeds that chains are given
_MIN_NOISE, _NODES = 0.01, 5.0  # the moons' density is integrated from this noise on; nodes for noise 1


def make_held_out(where: str, draw: Callable[[Key, Tree, int], Array], arrays: Tree, seed: int = 0):
    """Return the ``held_out`` function of a source: its draws at a fixed key that no chain uses."""

    def held_out(num: int) -> np.ndarray:
        num = require_integer(f"{where}.held_out: num", num, 0)
        # The implementation is fixed, so that jax_default_prng_impl does not change the test rows.
        key = jax.random.fold_in(jax.random.key(HELD_OUT_SEED, impl="threefry2x32"), seed)
        return np.asarray(draw(key, arrays, num))

    return held_out


def _own_rows(draw: DrawRowsFn, covariance: np.ndarray) -> DrawOwnFn:
    """Return the ``draw_own`` of a law without arrays: each chain has held-out rows of its own."""
    return lambda key, num: OwnData((), jnp.asarray(covariance), draw(key, (), num))


def _log_normal_density(squared: Array, scale: float, dim: int) -> Array:
    """Return the log density of isotropic normal rows, given squared distances from their centre."""
    return -0.5 * squared / scale**2 - dim * (math.log(scale) + 0.5 * math.log(2 * math.pi))


Spacing = Literal["random", "even"]
Counts = Literal["random", "equal"]


def _draw_halves(
    key_half: Key, key_angle: Key, num: int, turn: float, ends: bool, spacing: Spacing
) -> tuple[Array, Array]:
    """Return which of `num` rows lie on the first of two curves, and the angle of each, from 0 to `turn`.

    Evenly spaced rows are those of scikit-learn in random order: num // 2 on the first curve and the rest on the
    second, with equal steps between the angles of a curve, one of which is `turn` where the curve has `ends`.
    """
    if spacing == "random":
        first = jax.random.bernoulli(key_half, shape=(num,))
        return first, turn * random.draw_uniforms(key_angle, (num,))
    place, half = jax.random.permutation(key_half, num), num // 2
    first = place < half
    steps = jnp.where(first, half, num - half) - (1 if ends else 0)
    return first, turn * jnp.where(first, place, place - half) / jnp.maximum(steps, 1)


@register_source
def normal(dim: int = 2, mean: float = 0.0, scale: float = 1.0) -> Source:
    """Draw isotropic normal rows: N(mean, scale^2) in each of dim columns.

    Args:
      dim: number of columns.
      mean: mean of every column.
      scale: standard deviation of every column.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax import data
      >>> data.normal(dim=2, scale=3.0).covariance.tolist()
      [[9.0, 0.0], [0.0, 9.0]]
    """
    dim = require_integer("normal: dim", dim, 1)
    mean = require_number("normal: mean", mean)
    scale = require_positive("normal: scale", scale)

    def draw(key: Key, arrays: Tree, num: int) -> Array:
        del arrays
        return mean + scale * random.draw_normals(key, (num, dim))

    def log_density(arrays: Tree, rows: Array) -> Array:
        del arrays
        return _log_normal_density(jnp.sum((rows - mean) ** 2, axis=1), scale, dim)

    return Source(
        name="normal",
        dim=dim,
        arrays=(),
        draw=draw,
        held_out=make_held_out("normal", draw, ()),
        mean=np.full(dim, mean),
        covariance=scale**2 * np.eye(dim),
        is_normal=True,
        log_density=log_density,
    )


@register_source
def blobs(
    num_centers: int = 3,
    dim: int = 2,
    std: float = 1.0,
    box: float = 10.0,
    seed: int = 0,
    shared_centers: bool = True,
    counts: Counts = "random",
    per_chain: bool = False,
) -> Source:
    """Draw rows from Gaussian blobs of equal weight around centres that are uniform in a box.

    The mean and covariance are those of the mixture that the training rows come from, given its centres c_k: the mean
    of the c_k, and std^2 I plus the covariance (divided by the number of centres) of the c_k.

    Args:
      num_centers: number of blobs.
      dim: number of columns.
      std: standard deviation of a blob, in every direction.
      box: the centres are uniform in [-box, box] in every column.
      seed: draws the centres and the held-out rows.
      shared_centers: False gives the held-out rows other random centres, as in the code published with
        arXiv 2410.16713, and no density; True gives them those of the training rows.
      counts: "random" gives each row a blob of its own, so that rows are independent; "equal" gives all blobs as many
        rows of a draw, but for one, as scikit-learn's make_blobs does.
      per_chain: whether each chain has centres and held-out rows of its own, drawn by its key, as in that code. Mean,
        covariance and modes are then those of no chain. Settings that cannot use them are refused.

    Raises:
      UsageError: a number is out of range, or `counts` is another word.

    Example:
      >>> from collapse_jax import data
      >>> data.blobs(num_centers=5, dim=3).modes.shape
      (5, 3)
    """
    num_centers = require_integer("blobs: num_centers", num_centers, 1)
    dim = require_integer("blobs: dim", dim, 1)
    std = require_positive("blobs: std", std)
    box = require_positive("blobs: box", box)
    seed = require_integer("blobs: seed", seed, 0, MAX_SEED)
    shared_centers = require_flag("blobs: shared_centers", shared_centers)
    require_choice("blobs: counts", counts, get_args(Counts))
    per_chain = require_flag("blobs: per_chain", per_chain)

    def centers_of(stream: int) -> np.ndarray:
        return np.random.default_rng([seed, stream]).uniform(-box, box, (num_centers, dim))

    def draw(key: Key, arrays: Tree, num: int) -> Array:
        key_center, key_noise = jax.random.split(key)
        centers = jnp.asarray(arrays, dtype=float)
        if counts == "equal":
            which = jax.random.permutation(key_center, num) % centers.shape[0]
        else:
            which = random.draw_integers(key_center, num, centers.shape[0])
        return centers[which] + std * random.draw_normals(key_noise, (num, dim))

    def log_density(arrays: Tree, rows: Array) -> Array:
        centers = jnp.asarray(arrays, dtype=float)
        squared = jnp.sum((rows[:, None] - centers) ** 2, axis=2)
        return jax.nn.logsumexp(_log_normal_density(squared, std, dim), axis=1) - math.log(num_centers)

    def draw_own(key: Key, num: int) -> OwnData:
        keys, shape = jax.random.split(key, 3), (num_centers, dim)
        real, other = (box * (2 * random.draw_uniforms(k, shape) - 1) for k in keys[:2])
        test = draw(keys[2], real if shared_centers else other, num)
        return OwnData(real, std**2 * jnp.eye(dim) + jnp.cov(real.T, bias=True).reshape(dim, dim), test)

    centers = centers_of(0)
    centred = centers - centers.mean(0)
    return Source(
        name="blobs",
        dim=dim,
        arrays=centers,
        draw=draw,
        held_out=make_held_out("blobs", draw, centers if shared_centers else centers_of(1), seed),
        mean=centers.mean(0),
        covariance=std**2 * np.eye(dim) + centred.T @ centred / num_centers,
        modes=centers,
        log_density=log_density if shared_centers else None,
        independent=counts == "random",
        draw_own=draw_own if per_chain else None,
    )


@register_source
def circles(noise: float = 0.05, factor: float = 0.8, spacing: Spacing = "random", per_chain: bool = False) -> Source:
    """Draw rows from two concentric circles with normal noise, as scikit-learn's make_circles does.

    By symmetry the mean is 0 and the columns are uncorrelated; with r^2 = 1 or factor^2 at equal
    odds, E x^2 = E r^2 E cos^2 = (1 + factor^2) / 4, plus noise^2.

    Args:
      noise: standard deviation of the noise on each column.
      factor: radius of the inner circle; the outer radius is 1.
      spacing: "random" draws circles and angles, so that rows are independent; "even" spaces the rows of a draw evenly,
        half of them on each circle, before the noise, as scikit-learn does. Mean and covariance are the same (of "even"
        where their number is even and at least 6).
      per_chain: whether each chain has held-out rows of its own, drawn by its key, as in the code published with
        arXiv 2410.16713. Settings that cannot use them are refused.

    Raises:
      UsageError: a number is out of range, or `spacing` is another word.

    Example:
      >>> from collapse_jax import data
      >>> data.circles(noise=0.0, factor=0.5).covariance.tolist()
      [[0.3125, 0.0], [0.0, 0.3125]]
    """
    noise = require_number("circles: noise", noise, 0)
    factor = require_number("circles: factor", factor, 0, below=1)
    require_choice("circles: spacing", spacing, get_args(Spacing))
    per_chain = require_flag("circles: per_chain", per_chain)

    def draw(key: Key, arrays: Tree, num: int) -> Array:
        del arrays
        key_half, key_angle, key_noise = jax.random.split(key, 3)
        outer, angle = _draw_halves(key_half, key_angle, num, 2 * math.pi, False, spacing)
        radius = jnp.where(outer, 1.0, factor)
        rows = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=-1)
        return rows + noise * random.draw_normals(key_noise, (num, 2))

    def log_density(arrays: Tree, rows: Array) -> Array:
        del arrays
        far, radius = jnp.linalg.norm(rows, axis=1, keepdims=True), jnp.asarray([1.0, factor])
        around = jnp.log(jax.scipy.special.i0e(far * radius / noise**2))  # the mean of exp(a cos t) over t is I_0(a)
        return jax.nn.logsumexp(_log_normal_density((far - radius) ** 2, noise, 2) + around, axis=1) - math.log(2)

    covariance = ((1 + factor**2) / 4 + noise**2) * np.eye(2)
    return Source(
        name="circles",
        dim=2,
        arrays=(),
        draw=draw,
        held_out=make_held_out("circles", draw, ()),
        mean=np.zeros(2),
        covariance=covariance,
        log_density=log_density if noise > 0 else None,
        independent=spacing == "random",
        draw_own=_own_rows(draw, covariance) if per_chain else None,
    )


@register_source
def moons(noise: float = 0.05, spacing: Spacing = "random", per_chain: bool = False) -> Source:
    """Draw rows from two interleaving half circles with normal noise, as scikit-learn's make_moons does.

    With c = cos t, s = sin t and t uniform on [0, pi]: E c = E cs = 0, E s = 2/pi, E c^2 = E s^2
    = 1/2. At equal odds a row is (c, s) or (1 - c, 1/2 - s), so E x = 1/2, E y = 1/4, E x^2 = (1/2 + 3/2) / 2, E y^2 =
    (1/2 + 3/4 - 2/pi) / 2 and E xy = (0 + 1/2 - 2/pi) / 2.

    Args:
      noise: standard deviation of the noise on each column.
      spacing: "random" draws moons and angles, so that rows are independent; "even" spaces the rows of a draw evenly,
        half of them on each moon, ends included, before the noise, as scikit-learn does. The mean and covariance of
        "even" tend to those above as rows are added.
      per_chain: whether each chain has held-out rows of its own, drawn by its key, as in the code published with
        arXiv 2410.16713. Settings that cannot use them are refused.

    Raises:
      UsageError: the noise is negative, or `spacing` is another word.

    Example:
      >>> from collapse_jax import data
      >>> data.moons(noise=0.1).mean.tolist()
      [0.5, 0.25]
    """
    noise = require_number("moons: noise", noise, 0)
    require_choice("moons: spacing", spacing, get_args(Spacing))
    per_chain = require_flag("moons: per_chain", per_chain)

    def draw(key: Key, arrays: Tree, num: int) -> Array:
        del arrays
        key_half, key_angle, key_noise = jax.random.split(key, 3)
        upper, angle = _draw_halves(key_half, key_angle, num, math.pi, True, spacing)
        x, y = jnp.cos(angle), jnp.sin(angle)
        rows = jnp.stack([jnp.where(upper, x, 1 - x), jnp.where(upper, y, 0.5 - y)], axis=-1)
        return rows + noise * random.draw_normals(key_noise, (num, 2))

    def log_density(arrays: Tree, rows: Array) -> Array:
        del arrays
        squared = (rows[:, :1] - curve[None, :, 0]) ** 2 + (rows[:, 1:] - curve[None, :, 1]) ** 2
        return jax.nn.logsumexp(_log_normal_density(squared, noise, 2) + log_weight[None], axis=1)

    nodes = 32 + math.ceil(
        _NODES / max(noise, _MIN_NOISE)
    )  # Gauss-Legendre nodes that are closer than the noise is wide
    node, weight = np.polynomial.legendre.leggauss(nodes)
    t = 0.5 * math.pi * (node + 1)
    both = [np.stack([np.cos(t), np.sin(t)], 1), np.stack([1 - np.cos(t), 0.5 - np.sin(t)], 1)]
    curve, log_weight = np.concatenate(both), np.log(np.tile(weight / 4, 2))
    cross = 1 / 8 - 1 / math.pi
    covariance = np.array([[3 / 4, cross], [cross, 9 / 16 - 1 / math.pi]]) + noise**2 * np.eye(2)
    return Source(
        name="moons",
        dim=2,
        arrays=(),
        draw=draw,
        held_out=make_held_out("moons", draw, ()),
        mean=np.array([0.5, 0.25]),
        covariance=covariance,
        log_density=log_density if noise >= _MIN_NOISE else None,
        independent=spacing == "random",
        draw_own=_own_rows(draw, covariance) if per_chain else None,
    )


@register_source
def swiss_roll(noise: float = 0.05, per_chain: bool = False) -> Source:
    """Draw rows from a rolled-up sheet with normal noise, in three columns, as scikit-learn's make_swiss_roll does.

    A row is (t cos t, 21 u, t sin t) with t uniform on [a, b] = [3 pi/2, 9 pi/2] and u on [0, 1]. Integrating by parts
    over t: E x = 2, E z = 2 / (3 pi), E x^2 = (b^3 - a^3) / (18 pi) - 1/4, E z^2 = (b^3 - a^3) / (18 pi) + 1/4 and E xz
    = (b^2 - a^2) / (12 pi), where b^3 - a^3 = 87.75 pi^3 and b^2 - a^2 = 18 pi^2; 21 u has variance 21^2 / 12.

    Args:
      noise: standard deviation of the noise on each column.
      per_chain: whether each chain has held-out rows of its own, drawn by its key, as in the code published with
        arXiv 2410.16713. Settings that cannot use them are refused.

    Raises:
      UsageError: the noise is negative.

    Example:
      >>> from collapse_jax import data
      >>> data.swiss_roll().mean.round(3).tolist()
      [2.0, 10.5, 0.212]
    """
    noise = require_number("swiss_roll: noise", noise, 0)
    per_chain = require_flag("swiss_roll: per_chain", per_chain)

    def draw(key: Key, arrays: Tree, num: int) -> Array:
        del arrays
        key_angle, key_height, key_noise = jax.random.split(key, 3)
        angle = 1.5 * math.pi * (1 + 2 * random.draw_uniforms(key_angle, (num,)))
        height = 21 * random.draw_uniforms(key_height, (num,))
        rows = jnp.stack([angle * jnp.cos(angle), height, angle * jnp.sin(angle)], axis=-1)
        return rows + noise * random.draw_normals(key_noise, (num, 3))

    mean = np.array([2, 21 / 2, 2 / (3 * math.pi)])
    square = 87.75 * math.pi**2 / 18
    covariance = np.diag([square - 1 / 4 - mean[0] ** 2, 21**2 / 12, square + 1 / 4 - mean[2] ** 2])
    covariance[0, 2] = covariance[2, 0] = 1.5 * math.pi - mean[0] * mean[2]
    covariance += noise**2 * np.eye(3)
    return Source(
        name="swiss_roll",
        dim=3,
        arrays=(),
        draw=draw,
        held_out=make_held_out("swiss_roll", draw, ()),
        mean=mean,
        covariance=covariance,
        draw_own=_own_rows(draw, covariance) if per_chain else None,
    )
