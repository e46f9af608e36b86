"""Objectives of diffusion models: how rows are noised, and what a network is asked to say about them.

A noised row is ``x = a row + b z``, z ~ N(0, I). All is a function of sigma = b / a, the ratio of noise to signal, from
0 (the row) to infinity (noise alone). A network learns ``p row + q z`` by least squares, so its best answer is
``p E[row | x] + q E[z | x]``; with x itself these are two equations for the two expectations, the only things that
samplers see. In these terms all three published losses are plain means of squares.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.core.errors import UsageError
from collapse_jax.types import Array

Path = Callable[[Array], tuple[Array, Array]]

DDPM_STEPS = 1000
SCHEDULES = ("linear", "cosine")
PROBES_PER_ROW = (
    8  # times (and noises) at which each held-out row is evaluated: keeps the test loss's own noise under 2%
)
_EDM_SPREAD = 0.5  # of the data that the published constants of EDM are for


class DiffusionObjective(NamedTuple):
    """What is learned along which path.

    Attributes:
      name: as a user writes it.
      path: ``sigma -> (a, b)``.
      target: ``sigma -> (p, q)``.
      scalings: ``sigma -> (into, time)``: the network sees ``into * x`` and `time`.
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
    """``a^2 + b^2 = 1``, right at both ends."""
    return 1 / jnp.sqrt(1 + sigma**2), 1 / jnp.sqrt(1 + (1 / sigma) ** 2)


def ddpm_objective(schedule: str = "linear") -> DiffusionObjective:
    """The noise is learned, at 1,000 levels (arXiv 2006.11239; cosine schedule: 2102.09672).

    A grid of S steps takes S of the levels, evenly spaced (2010.02502).
    """
    table = ddpm_levels(schedule)

    def grid(steps: int) -> np.ndarray:
        if steps > DDPM_STEPS:
            raise UsageError(f"sampler_steps must be <= {DDPM_STEPS}, the levels of ddpm, not {steps}")
        chosen = np.round(np.linspace(DDPM_STEPS, 1, steps)).astype(int) - 1
        return np.append(table[chosen], 0.0)

    return DiffusionObjective(
        name="ddpm",
        path=variance_preserving_path,
        target=lambda sigma: (jnp.zeros_like(sigma), jnp.ones_like(sigma)),
        scalings=lambda sigma: (jnp.ones_like(sigma), 2 / jnp.pi * jnp.arctan(sigma)),
        levels=lambda u: jnp.asarray(table, u.dtype)[(u * DDPM_STEPS).astype(int)],
        grid=grid,
    )


def ddpm_levels(schedule: str) -> np.ndarray:
    """Noise over signal at t = 1 .. 1000, rising; in float64."""
    if schedule == "linear":
        log_kept = np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, DDPM_STEPS)))
    else:
        angle = (np.arange(DDPM_STEPS + 1) / DDPM_STEPS + 0.008) / 1.008 * np.pi / 2
        share = np.minimum(1 - np.cos(angle[1:]) ** 2 / np.cos(angle[:-1]) ** 2, 0.999)
        log_kept = np.cumsum(np.log1p(-share))
    return np.sqrt(np.expm1(-log_kept))


def edm_objective(spread: float = _EDM_SPREAD) -> DiffusionObjective:
    """A preconditioned denoiser, noise levels log-normal (arXiv 2206.00364, table 1).

    The published levels are for data of standard deviation 0.5; they scale with `spread`, that of the data.
    """
    unit = spread / _EDM_SPREAD

    def total(sigma: Array) -> Array:
        return jnp.sqrt(sigma**2 + spread**2)

    def grid(steps: int) -> np.ndarray:
        first, last = (level ** (1 / 7) for level in (80.0, 0.002))
        levels = (first + np.arange(steps) / max(steps - 1, 1) * (last - first)) ** 7
        return np.append(unit * levels, 0.0)

    return DiffusionObjective(
        name="edm",
        path=lambda sigma: (jnp.ones_like(sigma), sigma),
        target=lambda sigma: (sigma / (spread * total(sigma)), -spread / total(sigma)),
        scalings=lambda sigma: (1 / total(sigma), jnp.log(sigma / unit) / 4),
        levels=lambda u: unit * jnp.exp(-1.2 + 1.2 * jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))),
        grid=grid,
    )


def flow_objective() -> DiffusionObjective:
    """The velocity along straight lines from noise to row, at uniform times a (arXiv 2210.02747, 2209.03003)."""

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


def make_objective(name: str, schedule: str, spread: float) -> DiffusionObjective:
    """The objective called `name`; `schedule` is DDPM's, `spread` (of the data) EDM's."""
    return {"ddpm": lambda: ddpm_objective(schedule), "edm": lambda: edm_objective(spread), "flow": flow_objective}[
        name
    ]()


def noise_rows(how: DiffusionObjective, row_BxD: Array, noise_BxD: Array, sigma_B: Array) -> tuple[Array, Array]:
    """A noised row, and what the network should say of it: ``[B, D]`` each."""
    mix = lambda pair: pair[0][:, None] * row_BxD + pair[1][:, None] * noise_BxD  # noqa: E731
    return mix(how.path(sigma_B)), mix(how.target(sigma_B))


def estimate_row_and_noise(
    how: DiffusionObjective, x_BxD: Array, said_BxD: Array, sigma_B: Array
) -> tuple[Array, Array]:
    """E[row | x] and E[z | x], from what the network says of x."""
    (a, b), (p, q) = ((u[:, None] for u in pair) for pair in (how.path(sigma_B), how.target(sigma_B)))
    whole = a * q - b * p
    return (q * x_BxD - b * said_BxD) / whole, (a * said_BxD - p * x_BxD) / whole


def draw_probes(num: int, dim: int) -> tuple[Array, Array]:
    """Noises ``[PROBES * num, dim]`` and times, the same at every call: test losses differ by the model alone.

    Times are stratified: each of `num` rows has one in each of ``PROBES_PER_ROW`` equal parts of [0, 1].
    """
    # Implementation and precision are named, so that runs with others are judged at the same points.
    key_time, key_noise = jax.random.split(jax.random.key(0, impl="threefry2x32"))
    jitter_PxN = jax.random.uniform(key_time, (PROBES_PER_ROW, num), jnp.float32)
    time_R = ((jnp.arange(PROBES_PER_ROW, dtype=jitter_PxN.dtype)[:, None] + jitter_PxN) / PROBES_PER_ROW).reshape(-1)
    return jax.random.normal(key_noise, (PROBES_PER_ROW * num, dim), jnp.float32), time_R
