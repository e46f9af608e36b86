"""Samplers of diffusion models, which carry ``x = a row + b z`` from noise to rows, level by level.

A model enters only through `estimate`, E[row | x] and E[z | x]: a network's, or exact ones. As sigma = b / a falls, x
follows dx = E[row | x] da + E[z | x] db, whatever the path (a, b). So DDIM's step is Euler's rule for all of them
(arXiv 2010.02502), and one rule of second order serves for all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax.core.random import draw_normals
from collapse_jax.core.sharding import shard_rows
from collapse_jax.training.diffusion_objectives import Path
from collapse_jax.types import Array, Key

Estimate = Callable[[Array, Array], tuple[Array, Array]]  # (x [N, D], sigma) -> E[row | x], E[z | x], [N, D] each
SAMPLERS = ("ancestral", "ddim", "heun", "midpoint")


def sample_rows(
    estimate: Estimate,
    path: Path,
    key: Key,
    shape: tuple[int, int],
    sigma_S: Array,
    sampler: str,
    stop: Array | float = 0.0,
    temperature: Array | float = 1.0,
) -> Array:
    """Draw rows of `shape` ``[N, D]``.

    Args:
      estimate: the model's estimates.
      path: the model's ``sigma -> (a, b)``.
      key: draws all noise.
      shape: shape of the rows.
      sigma_S: falling levels, the first one (nearly) all noise.
      sampler: ``"ancestral"`` draws each level given the one before and the expected row (DDPM, arXiv 2006.11239, with
        its smaller variance); ``"ddim"`` is deterministic, of first order; ``"heun"`` and ``"midpoint"`` are of second
        order, at two evaluations a step (Heun's as in arXiv 2206.00364).
      stop: time of an Ornstein-Uhlenbeck process that starts at the rows, at which sampling stops early. The noise that
        is left stays: rows follow the law of ``exp(-stop) row + sqrt(1 - exp(-2 stop)) z``.
      temperature: multiplies all noise that is drawn.
    """
    sigma_S = jnp.maximum(sigma_S, jnp.sqrt(jnp.expm1(2 * jnp.asarray(stop, sigma_S.dtype))))
    key_first, key_steps = jax.random.split(key)
    rule = {"ancestral": _ancestral_step, "ddim": _ddim_step, "heun": _heun_step, "midpoint": _midpoint_step}[sampler]

    def draw_noise(key: Key) -> Array:
        return temperature * draw_normals(key, shape)

    def step(x_NxD: Array, scanned: tuple[Array, Array, Key]) -> tuple[Array, None]:
        now, then, key = scanned
        moved = rule(estimate, path, x_NxD, now, then, lambda: draw_noise(key))
        return jnp.where(then < now, moved, x_NxD), None  # levels below the stop are all equal

    steps = sigma_S[:-1], sigma_S[1:], jax.random.split(key_steps, sigma_S.shape[0] - 1)
    x_NxD = jax.lax.scan(step, shard_rows(path(sigma_S[0])[1] * draw_noise(key_first)), steps)[0]
    a, b = path(sigma_S[-1])
    return x_NxD / jnp.sqrt(a**2 + b**2)


def _ddim_step(estimate: Estimate, path: Path, x: Array, now: Array, then: Array, fresh: Callable[[], Array]) -> Array:
    row, noise = estimate(x, now)
    a, b = path(then)
    return a * row + b * noise


def _ancestral_step(
    estimate: Estimate, path: Path, x: Array, now: Array, then: Array, fresh: Callable[[], Array]
) -> Array:
    """Keep the share (then / now)^2 of the noise's variance, and draw the rest anew."""
    row, noise = estimate(x, now)
    a, b = path(then)
    kept = then / now
    return a * row + b * (kept * noise + jnp.sqrt(1 - kept**2) * fresh())


def _heun_step(estimate: Estimate, path: Path, x: Array, now: Array, then: Array, fresh: Callable[[], Array]) -> Array:
    """Average the estimates at both ends; where the noise ends and a network may have no estimate, use Euler's rule."""
    row, noise = estimate(x, now)
    (a, b), (a_then, b_then) = path(now), path(then)
    euler = a_then * row + b_then * noise
    row_then, noise_then = estimate(euler, jnp.where(then > 0, then, now))
    mean = x + 0.5 * (a_then - a) * (row + row_then) + 0.5 * (b_then - b) * (noise + noise_then)
    return jnp.where(then > 0, mean, euler)


def _midpoint_step(
    estimate: Estimate, path: Path, x: Array, now: Array, then: Array, fresh: Callable[[], Array]
) -> Array:
    row, noise = estimate(x, now)
    (a, b), (a_then, b_then) = path(now), path(then)
    middle = (b + b_then) / (a + a_then)
    a_middle, b_middle = path(middle)
    row, noise = estimate(a_middle * row + b_middle * noise, middle)
    return x + (a_then - a) * row + (b_then - b) * noise
