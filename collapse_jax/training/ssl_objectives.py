"""Objectives of self-supervised learning: pretext tasks of an encoder of images, one factory each of a ``Pretext``.

All but masked autoencoding compare two random views of each image of a minibatch. An encoder that gives every image the
same features would agree with itself best; each factory says what keeps its task from that.
"""

from collections.abc import Callable
from functools import partial
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
_MIN_VARIANCE = 1e-4  # it is added to variances before their root, as in VICReg's code


@register_objective
def simclr(temperature: float = 0.2, width: int = 128) -> Pretext:
    """Find the other view of the same image among all views in a minibatch (NT-Xent, arXiv 2002.05709, eq. 1).

    The other images push features apart. Rows are drawn with replacement, so an image may meet itself, which is rare
    where minibatches are small beside the pool.

    Args:
      temperature: divides the cosines.
      width: number of columns of the head and of the embedding that is compared.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.training import ssl_objectives
      >>> ssl_objectives.simclr(temperature=0.1).name
      'simclr'
    """
    require_positive("temperature", temperature)
    return _make_two_view_pretext("simclr", width, partial(nt_xent_loss, temperature=temperature))


@register_objective
def vicreg(invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, width: int = 128) -> Pretext:
    """Make two views alike, keep every column of the embedding alive, and decorrelate columns (arXiv 2105.04906).

    The variance term keeps columns away from 0; without it (0) the embedding dies.

    Args:
      invariance: weight of the squared distance of the views, averaged over columns.
      variance: weight of the amount by which standard deviations are below 1, averaged over columns and views.
      covariance: weight of squared covariances of different columns, summed over both views, per column.
      width: number of columns of the head and of the embedding that is compared.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.training import ssl_objectives
      >>> ssl_objectives.vicreg(variance=10.0).name
      'vicreg'
    """
    weights: dict[str, Any] = {"invariance": invariance, "variance": variance, "covariance": covariance}
    for name, weight in weights.items():
        require_number(name, weight, 0)
    return _make_two_view_pretext("vicreg", width, partial(vicreg_loss, **weights))


@register_objective
def barlow_twins(redundancy: float = 0.005, width: int = 128) -> Pretext:
    """Make the correlations of one view's columns with the other's the identity (arXiv 2103.03230, eq. 1).

    Columns are standardised over the minibatch, so that constant ones cannot agree.

    Args:
      redundancy: weight of the squared correlations of different columns.
      width: number of columns of the head and of the embedding that is compared.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.training import ssl_objectives
      >>> ssl_objectives.barlow_twins(width=64).name
      'barlow_twins'
    """
    require_number("redundancy", redundancy, 0)
    return _make_two_view_pretext("barlow_twins", width, partial(barlow_loss, redundancy=redundancy))


@register_objective
def byol(momentum: float = 0.99, width: int = 128) -> Pretext:
    """Predict the projection of the other view by a moving average of the network (arXiv 2006.07733).

    Projections are standardised over the minibatch, as the paper does with a hidden layer, so an image cannot have the
    same projection as all others. Without this, only the predictor and the slow target keep features from dying, and
    hardly do.

    Args:
      momentum: decay of the moving average.
      width: number of columns of the heads and of the prediction.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.training import ssl_objectives
      >>> ssl_objectives.byol(momentum=0.9).name
      'byol'
    """
    require_integer("width", width, 1)
    require_share("momentum", momentum)

    def loss(nets: Any, params: Tree, target: Tree, key: Key, x_BxD: Array, view: View) -> Array:
        both = _draw_two_views(key, x_BxD, view)

        def project(params: Tree) -> Array:
            return standardise_columns(nets.head(params, "project", nets.encode(params["encoder"], both)))

        targets = jax.lax.stop_gradient(project(target))
        return byol_loss(nets.head(params, "predict", project(params)), jnp.roll(targets, x_BxD.shape[0], 0))

    def heads(features: int, pixels: int) -> dict[str, tuple[int, ...]]:
        return {"project": (features, width, width), "predict": (width, width, width)}

    return Pretext("byol", heads, loss, momentum)


@register_objective
def masked(share: float = 0.5, cells: int = 4, width: int = 128) -> Pretext:
    """Restore hidden parts of an image: a share of its cells is grey, and a decoder predicts them (arXiv 2111.06377).

    Here the encoder gets the whole image with its hidden cells, and the decoder is a perceptron. Nothing makes features
    linear in what an image shows.

    Args:
      share: share of the cells that are hidden; at least one cell is.
      cells: number of cells along a side of the grid that an image is divided into.
      width: number of columns of the decoder's hidden layer.

    Raises:
      UsageError: a number is out of range.

    Example:
      >>> from collapse_jax.training import ssl_objectives
      >>> ssl_objectives.masked(share=0.75).name
      'masked'
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
    """Return a pretext task that compares the embeddings of two views by one head."""
    require_integer("width", width, 1)

    def loss(nets: Any, params: Tree, target: Tree, key: Key, x_BxD: Array, view: View) -> Array:
        both = _draw_two_views(key, x_BxD, view)
        embedded = nets.head(params, "project", nets.encode(params["encoder"], both))
        return compare(*jnp.split(embedded, 2))

    return Pretext(name, lambda features, pixels: {"project": (features, width, width)}, loss)


def _draw_two_views(key: Key, x_BxD: Array, view: View) -> Array:
    """Draw one view of each row, and then another of each: ``[2 B, D]``."""
    return jnp.concatenate([view(stream(key, name), x_BxD) for name in ("first view", "second view")])


def nt_xent_loss(a_BxE: Array, b_BxE: Array, temperature: Array | float) -> Array:
    """Return the cross-entropy of each view's partner among all 2 B - 1 other views, by cosine, averaged over views."""
    z_VxE = normalise_rows(jnp.concatenate([a_BxE, b_BxE]))
    logit_VxV = jnp.matmul(z_VxE, z_VxE.T, precision=_HIGHEST) / temperature
    views = z_VxE.shape[0]
    others_VxV = jnp.where(jnp.eye(views, dtype=bool), -jnp.inf, logit_VxV)
    partner_V = jnp.sum(z_VxE * jnp.roll(z_VxE, views // 2, 0), 1) / temperature
    return jnp.mean(jax.nn.logsumexp(others_VxV, axis=1) - partner_V)


def vicreg_loss(
    a_BxE: Array, b_BxE: Array, invariance: Array | float, variance: Array | float, covariance: Array | float
) -> Array:
    """Return the loss of ``vicreg``; covariances are divided by B - 1."""
    loss, columns = invariance * jnp.mean((a_BxE - b_BxE) ** 2), a_BxE.shape[1]
    for z_BxE in (a_BxE, b_BxE):
        near_BxE = z_BxE - z_BxE.mean(0, keepdims=True)
        covariance_ExE = jnp.matmul(near_BxE.T, near_BxE, precision=_HIGHEST) / max(z_BxE.shape[0] - 1, 1)
        lacking_E = jax.nn.relu(1 - jnp.sqrt(jnp.diagonal(covariance_ExE) + _MIN_VARIANCE))
        loss += variance * lacking_E.mean() / 2 + covariance * _sum_off_diagonal(covariance_ExE**2) / columns
    return loss


def barlow_loss(a_BxE: Array, b_BxE: Array, redundancy: Array | float) -> Array:
    """Return the loss of ``barlow_twins``."""
    a_BxE, b_BxE = (standardise_columns(z_BxE) for z_BxE in (a_BxE, b_BxE))
    correlation_ExE = jnp.matmul(a_BxE.T, b_BxE, precision=_HIGHEST) / a_BxE.shape[0]
    return jnp.sum((1 - jnp.diagonal(correlation_ExE)) ** 2) + redundancy * _sum_off_diagonal(correlation_ExE**2)


def standardise_columns(z_BxE: Array) -> Array:
    """Return columns of mean 0 and variance 1; 1e-5 is added to variances, as in batch normalisation."""
    near_BxE = z_BxE - z_BxE.mean(0, keepdims=True)
    return near_BxE * jax.lax.rsqrt((near_BxE**2).mean(0, keepdims=True) + 1e-5)


def byol_loss(predicted_BxE: Array, target_BxE: Array) -> Array:
    """Return the squared distance of rows at length 1, 2 - 2 cos, averaged over rows."""
    return jnp.mean(2 - 2 * jnp.sum(normalise_rows(predicted_BxE) * normalise_rows(target_BxE), 1))


def masked_loss(predicted_BxD: Array, shown_BxD: Array, hidden_BxD: Array) -> Array:
    """Return the mean squared error of hidden pixels."""
    return jnp.sum(jnp.where(hidden_BxD, (predicted_BxD - shown_BxD) ** 2, 0.0)) / jnp.maximum(
        hidden_BxD.sum(dtype=float), 1.0
    )


def draw_hidden_pixels(key: Key, shape: tuple[int, int, int], rows: int, share: Array | float, cells: int) -> Array:
    """Draw which pixels ``[rows, D]`` of images are hidden: the same number of cells of each grid, at least one."""
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
