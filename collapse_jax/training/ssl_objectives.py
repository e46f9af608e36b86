"""What an encoder of images learns without labels: pretext tasks, one factory each of a ``Pretext``.

All but masked autoencoding compare two random views of each image of a minibatch. An encoder that gives every image the
same features would agree with itself best; what keeps each task from that is said at its factory.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from collapse_jax.core.random import stream
from collapse_jax.core.registry import register_objective
from collapse_jax.core.validation import require_integer, require_number, require_positive, require_share
from collapse_jax.numerics.nearest_neighbors import normalise_rows
from collapse_jax.types import Array, Key, Pretext, Tree

View = Callable[[Key, Array], Array]

_HIGHEST = jax.lax.Precision.HIGHEST
_LEAST_VARIANCE = 1e-4  # added to variances before their root, as in VICReg's code


@register_objective
def simclr(temperature: float = 0.2, width: int = 128) -> Pretext:
    """Of all views in a minibatch, find the other one of the same image (NT-Xent, arXiv 2002.05709, eq. 1).

    The other images push features apart. Rows are drawn with replacement, so that an image may meet itself: rarely,
    where minibatches are small beside the pool.

    Args:
      temperature: that cosines are divided by.
      width: of the head and of the embedding that is compared.

    Raises:
      UsageError: a number out of range.
    """
    require_positive("temperature", temperature)
    compare = lambda a_BxE, b_BxE: nt_xent_loss(a_BxE, b_BxE, temperature)  # noqa: E731
    return _make_two_view_pretext("simclr", width, compare)


@register_objective
def vicreg(invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, width: int = 128) -> Pretext:
    """Two views alike, every column of the embedding alive, no two of them correlated (arXiv 2105.04906).

    The term of the variance keeps columns apart from 0; without it (0) the embedding dies.

    Args:
      invariance: weight of the squared distance of the views, mean over columns.
      variance: of what standard deviations lack of 1, mean over columns and views.
      covariance: of squared covariances of different columns, summed over both views, a column.
      width: of the head and of the embedding that is compared.

    Raises:
      UsageError: a number out of range.
    """
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    for name, weight in weights.items():
        require_number(name, weight, 0)
    compare = lambda a_BxE, b_BxE: vicreg_loss(a_BxE, b_BxE, **weights)  # noqa: E731
    return _make_two_view_pretext("vicreg", width, compare)


@register_objective
def barlow_twins(redundancy: float = 0.005, width: int = 128) -> Pretext:
    """The correlations of one view's columns with the other's are the identity (arXiv 2103.03230, eq. 1).

    Columns are standardised over the minibatch, so that constant ones cannot agree.

    Args:
      redundancy: weight of the squared correlations of different columns.
      width: of the head and of the embedding that is compared.

    Raises:
      UsageError: a number out of range.
    """
    require_number("redundancy", redundancy, 0)
    compare = lambda a_BxE, b_BxE: barlow_loss(a_BxE, b_BxE, redundancy)  # noqa: E731
    return _make_two_view_pretext("barlow_twins", width, compare)


@register_objective
def byol(momentum: float = 0.99, width: int = 128) -> Pretext:
    """Predict what a moving average of the network says of the other view (arXiv 2006.07733).

    Projections are standardised over the minibatch (the paper normalises a hidden layer so): an image cannot have the
    same one as all others. Else the predictor and the slow target alone keep features from dying, and hardly do.

    Args:
      momentum: decay of the average (``sgd.average_params``).
      width: of the heads and of what is predicted.

    Raises:
      UsageError: a number out of range.
    """
    require_integer("width", width, 1)
    require_share("momentum", momentum)

    def loss(nets: Any, params: Tree, target: Tree, key: Key, x_BxD: Array, view: View) -> Array:
        both = _draw_two_views(key, x_BxD, view)
        embedded = lambda p: standardise_columns(nets.head(p, "project", nets.encode(p["encoder"], both)))  # noqa: E731
        seen = jax.lax.stop_gradient(embedded(target))
        return byol_loss(nets.head(params, "predict", embedded(params)), jnp.roll(seen, x_BxD.shape[0], 0))

    def heads(features: int, pixels: int) -> dict[str, tuple[int, ...]]:
        return {"project": (features, width, width), "predict": (width, width, width)}

    return Pretext("byol", heads, loss, momentum)


@register_objective
def masked(share: float = 0.5, cells: int = 4, width: int = 128) -> Pretext:
    """Say what is hidden: a share of an image's cells is grey, and a decoder restores them (arXiv 2111.06377).

    Here the encoder sees the whole image with its hidden cells, and the decoder is a perceptron. Nothing makes features
    linear in what an image shows.

    Args:
      share: of the cells that are hidden, at least one.
      cells: a side of the grid that an image is divided into.
      width: of the decoder's hidden layer.

    Raises:
      UsageError: a number out of range.
    """
    require_integer("width", width, 1)
    require_integer("cells", cells, 2)
    require_share("share", share)

    def loss(nets: Any, params: Tree, target: Tree, key: Key, x_BxD: Array, view: View) -> Array:
        shown_BxD = view(stream(key, "view"), x_BxD)
        hidden_BxD = draw_hidden_pixels(stream(key, "cells"), nets.shape, x_BxD.shape[0], share, cells)
        features = nets.encode(params["encoder"], jnp.where(hidden_BxD, 0.5, shown_BxD))
        return masked_loss(nets.head(params, "decode", features), shown_BxD, hidden_BxD)

    return Pretext("masked", lambda features, pixels: {"decode": (features, width, pixels)}, loss)


def _make_two_view_pretext(name: str, width: int, compare: Callable[[Array, Array], Array]) -> Pretext:
    """Embeddings of two views, by one head, are compared."""
    require_integer("width", width, 1)

    def loss(nets: Any, params: Tree, target: Tree, key: Key, x_BxD: Array, view: View) -> Array:
        both = _draw_two_views(key, x_BxD, view)
        embedded = nets.head(params, "project", nets.encode(params["encoder"], both))
        return compare(*jnp.split(embedded, 2))

    return Pretext(name, lambda features, pixels: {"project": (features, width, width)}, loss)


def _draw_two_views(key: Key, x_BxD: Array, view: View) -> Array:
    """Of each row, and then again of each: ``[2 B, D]``."""
    return jnp.concatenate([view(stream(key, name), x_BxD) for name in ("first view", "second view")])


def nt_xent_loss(a_BxE: Array, b_BxE: Array, temperature: Array | float) -> Array:
    """Cross-entropy of each view's partner among all 2 B - 1 other views, by cosine; mean over views."""
    z_VxE = normalise_rows(jnp.concatenate([a_BxE, b_BxE]))
    logit_VxV = jnp.matmul(z_VxE, z_VxE.T, precision=_HIGHEST) / temperature
    views = z_VxE.shape[0]
    others_VxV = jnp.where(jnp.eye(views, dtype=bool), -jnp.inf, logit_VxV)
    partner_V = jnp.sum(z_VxE * jnp.roll(z_VxE, views // 2, 0), 1) / temperature
    return jnp.mean(jax.nn.logsumexp(others_VxV, axis=1) - partner_V)


def vicreg_loss(
    a_BxE: Array, b_BxE: Array, invariance: Array | float, variance: Array | float, covariance: Array | float
) -> Array:
    """See ``vicreg``; covariances are over B - 1."""
    loss, columns = invariance * jnp.mean((a_BxE - b_BxE) ** 2), a_BxE.shape[1]
    for z_BxE in (a_BxE, b_BxE):
        near_BxE = z_BxE - z_BxE.mean(0, keepdims=True)
        covariance_ExE = jnp.matmul(near_BxE.T, near_BxE, precision=_HIGHEST) / max(z_BxE.shape[0] - 1, 1)
        lacking_E = jax.nn.relu(1 - jnp.sqrt(jnp.diagonal(covariance_ExE) + _LEAST_VARIANCE))
        loss += variance * lacking_E.mean() / 2 + covariance * _sum_off_diagonal(covariance_ExE**2) / columns
    return loss


def barlow_loss(a_BxE: Array, b_BxE: Array, redundancy: Array | float) -> Array:
    """See ``barlow_twins``."""
    a_BxE, b_BxE = (standardise_columns(z_BxE) for z_BxE in (a_BxE, b_BxE))
    correlation_ExE = jnp.matmul(a_BxE.T, b_BxE, precision=_HIGHEST) / a_BxE.shape[0]
    return jnp.sum((1 - jnp.diagonal(correlation_ExE)) ** 2) + redundancy * _sum_off_diagonal(correlation_ExE**2)


def standardise_columns(z_BxE: Array) -> Array:
    """Columns of mean 0 and variance 1 (1e-5 is added to variances, as in batch normalisation)."""
    near_BxE = z_BxE - z_BxE.mean(0, keepdims=True)
    return near_BxE * jax.lax.rsqrt((near_BxE**2).mean(0, keepdims=True) + 1e-5)


def byol_loss(said_BxE: Array, seen_BxE: Array) -> Array:
    """Squared distance of rows at length 1, 2 - 2 cos: mean over rows."""
    return jnp.mean(2 - 2 * jnp.sum(normalise_rows(said_BxE) * normalise_rows(seen_BxE), 1))


def masked_loss(said_BxD: Array, shown_BxD: Array, hidden_BxD: Array) -> Array:
    """Mean squared error of hidden pixels."""
    return jnp.sum(jnp.where(hidden_BxD, (said_BxD - shown_BxD) ** 2, 0.0)) / jnp.maximum(hidden_BxD.sum(), 1)


def draw_hidden_pixels(key: Key, shape: tuple[int, int, int], rows: int, share: Array | float, cells: int) -> Array:
    """Which pixels ``[rows, D]`` of images are hidden: of each, the same number of a grid's cells, at least one."""
    order = jax.random.uniform(key, (rows, cells * cells))
    count = jnp.clip(jnp.round(share * cells * cells), 1, cells * cells).astype(int)
    edge = jnp.take_along_axis(jnp.sort(order, axis=1), jnp.full((rows, 1), count - 1), 1)
    grid = (order <= edge).reshape(rows, cells, cells)
    row, column = (jnp.arange(n) * cells // n for n in shape[:2])
    return jnp.repeat(grid[:, row][:, :, column].reshape(rows, -1), shape[2], axis=1)


def _sum_off_diagonal(x_ExE: Array) -> Array:
    return jnp.sum(x_ExE) - jnp.trace(x_ExE)


__all__ = [
    "barlow_twins",
    "byol",
    "masked",
    "simclr",
    "vicreg",
]
