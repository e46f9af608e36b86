"""Objectives of diffusion models: how noise is added to rows, and what a network learns to predict.

A noised row is ``x = a row + b z``, z ~ N(0, I). All is a function of sigma = b / a, the ratio of noise to signal, from
0 (the row) to infinity (noise alone). A network learns ``p row + q z`` by least squares, so its best answer is
``p E[row | x] + q E[z | x]``; with x itself these are two equations for the two expectations, which are all that
samplers need. In these terms all three published losses are plain means of squares.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.validation import require_integer
from collapse_jax.types import Array

Path = Callable[[Array], tuple[Array, Array]]

DDPM_STEPS = 1000
SCHEDULES = ("linear", "cosine")
PROBES_PER_ROW = (
    8  # times (and noises) at which each held-out row is evaluated: keeps the test loss's own noise under 2%
)
_EDM_DEVIATION = 0.5  # standard deviation of the data for which the constants of EDM were published


class DiffusionObjective(NamedTuple):
    """What a diffusion model learns, along which path from rows to noise.

    Attributes:
      name: as a user writes it.
      path: ``sigma -> (a, b)``.
      target: ``sigma -> (p, q)``.
      scalings: ``sigma -> (scale, time)``: the network gets ``scale * x`` and `time`.
      levels: ``u -> sigma``: noise of a row in training, from uniform numbers in [0, 1).
      grid: ``steps -> [steps + 1]``: levels that sampling passes through, falling to 0.
    """

    name: str
    path: Path
    target: Path
    scalings: Path
    levels: Callable[[Array], Array]
    grid: Callable[[int], np.ndarray]


def variance_preserving_path(sigma: Array) -> tuple[Array, Array]:
    """Return a and b with ``a^2 + b^2 = 1``, correct for sigma = 0 and sigma = infinity, too."""
    return 1 / jnp.sqrt(1 + sigma**2), 1 / jnp.sqrt(1 + (1 / sigma) ** 2)


def ddpm_objective(schedule: str = "linear") -> DiffusionObjective:
    """Return the objective that predicts the noise at 1,000 levels (arXiv 2006.11239; cosine schedule: 2102.09672).

    A grid of S steps takes S of the levels, evenly spaced (arXiv 2010.02502).

    Raises:
      UsageError: the grid is asked for more than 1,000 steps.
    """
    all_levels = ddpm_levels(schedule)

    def grid(steps: int) -> np.ndarray:
        require_integer("sampler_steps", steps, 1, DDPM_STEPS)
        chosen = np.round(np.linspace(DDPM_STEPS, 1, steps)).astype(int) - 1
        return np.append(all_levels[chosen], 0.0)

    return DiffusionObjective(
        name="ddpm",
        path=variance_preserving_path,
        target=lambda sigma: (jnp.zeros_like(sigma), jnp.ones_like(sigma)),
        scalings=lambda sigma: (jnp.ones_like(sigma), 2 / jnp.pi * jnp.arctan(sigma)),
        levels=lambda u: jnp.asarray(all_levels, u.dtype)[(u * DDPM_STEPS).astype(int)],
        grid=grid,
    )


def ddpm_levels(schedule: str) -> np.ndarray:
    """Return noise over signal at t = 1 .. 1000, rising, in float64."""
    if schedule == "linear":
        log_kept = np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, DDPM_STEPS)))
    else:
        angle = (np.arange(DDPM_STEPS + 1) / DDPM_STEPS + 0.008) / 1.008 * np.pi / 2
        share = np.minimum(1 - np.cos(angle[1:]) ** 2 / np.cos(angle[:-1]) ** 2, 0.999)
        log_kept = np.cumsum(np.log1p(-share))
    return np.sqrt(np.expm1(-log_kept))


def edm_objective(deviation: float = _EDM_DEVIATION) -> DiffusionObjective:
    """Return the objective of a preconditioned denoiser with log-normal noise levels (arXiv 2206.00364, table 1).

    The published levels are for data of standard deviation 0.5; they scale with that of the data, `deviation`.
    """
    unit = deviation / _EDM_DEVIATION

    def total(sigma: Array) -> Array:
        return jnp.sqrt(sigma**2 + deviation**2)

    def grid(steps: int) -> np.ndarray:
        first, last = (level ** (1 / 7) for level in (80.0, 0.002))
        levels = (first + np.arange(steps) / max(steps - 1, 1) * (last - first)) ** 7
        return np.append(unit * levels, 0.0)

    return DiffusionObjective(
        name="edm",
        path=lambda sigma: (jnp.ones_like(sigma), sigma),
        target=lambda sigma: (sigma / (deviation * total(sigma)), -deviation / total(sigma)),
        scalings=lambda sigma: (1 / total(sigma), jnp.log(sigma / unit) / 4),
        levels=lambda u: unit * jnp.exp(-1.2 + 1.2 * jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))),
        grid=grid,
    )


def flow_objective() -> DiffusionObjective:
    """Return the objective of the velocity along straight lines from noise to row (arXiv 2210.02747, 2209.03003).

    Times a are uniform.
    """

    def path(sigma: Array) -> tuple[Array, Array]:
        return 1 / (1 + sigma), 1 / (1 + 1 / sigma)

    def grid(steps: int) -> np.ndarray:
        done = np.arange(1, steps + 1) / steps
        return np.append(np.inf, (1 - done) / done)

    return DiffusionObjective(
        name="flow",
        path=path,
        target=lambda sigma: (jnp.ones_like(sigma), -jnp.ones_like(sigma)),
        scalings=lambda sigma: (jnp.ones_like(sigma), path(sigma)[0]),
        levels=lambda u: (1 - u) / u,
        grid=grid,
    )


OBJECTIVES = ("ddpm", "edm", "flow")


def make_objective(name: str, schedule: str, deviation: float) -> DiffusionObjective:
    """Return the objective called `name`; `schedule` is an argument of DDPM, `deviation` (of the data) one of EDM."""
    return {"ddpm": lambda: ddpm_objective(schedule), "edm": lambda: edm_objective(deviation), "flow": flow_objective}[
        name
    ]()


def noise_rows(objective: DiffusionObjective, row_BxD: Array, noise_BxD: Array, sigma_B: Array) -> tuple[Array, Array]:
    """Return noised rows ``[B, D]``, and what the network should predict for them ``[B, D]``."""

    def mix(factors: tuple[Array, Array]) -> Array:
        return factors[0][:, None] * row_BxD + factors[1][:, None] * noise_BxD

    return mix(objective.path(sigma_B)), mix(objective.target(sigma_B))


def estimate_row_and_noise(
    objective: DiffusionObjective, x_BxD: Array, predicted_BxD: Array, sigma_B: Array
) -> tuple[Array, Array]:
    """Return E[row | x] and E[z | x], given the network's prediction for x."""
    (a, b), (p, q) = ((u[:, None] for u in pair) for pair in (objective.path(sigma_B), objective.target(sigma_B)))
    determinant = a * q - b * p
    return (q * x_BxD - b * predicted_BxD) / determinant, (a * predicted_BxD - p * x_BxD) / determinant


def draw_probes(num: int, dim: int) -> tuple[Array, Array]:
    """Return noises ``[PROBES_PER_ROW * num, dim]`` and times, the same at every call.

    So test losses differ by the model alone. Times are stratified: each of `num` rows has one in each of
    ``PROBES_PER_ROW`` equal parts of [0, 1].
    """
    # Implementation and precision are fixed, so that all runs are judged at the same points.
    key_time, key_noise = jax.random.split(jax.random.key(0, impl="threefry2x32"))
    jitter_PxN = jax.random.uniform(key_time, (PROBES_PER_ROW, num), jnp.float32)
    time_R = ((jnp.arange(PROBES_PER_ROW, dtype=jitter_PxN.dtype)[:, None] + jitter_PxN) / PROBES_PER_ROW).reshape(-1)
    return jax.random.normal(key_noise, (PROBES_PER_ROW * num, dim), jnp.float32), time_R
