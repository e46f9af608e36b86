"""What the published figures have in common: claims and their verdicts, runs of a part of a config, curves."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import collapse_jax as cj
from collapse_jax import config
from collapse_jax.execution import resumable
from collapse_jax.numerics.confidence_intervals import Interval
from collapse_jax.reporting.plot_curves import COLOURS, summarize_curve
from collapse_jax.reporting.plot_grid import THEORY
from collapse_jax.results.theory_variables import exact_line

ROOT = Path(__file__).parent.parent
AGREES, DIFFERS, NOT_RUN, UNKNOWN = "agrees", "differs", "not run", "cannot be told"
ERRORS = 4.0  # standard errors on either side: of sixty true claims about one gallery in 260 loses one
FINE = 0.25  # of a published number: an interval wider than that on either side holds too much to agree
FEWEST = 100  # chains, where a config has as many


class Claim(NamedTuple):
    """A published statement, and what came out here.

    Attributes:
      statement: in our words.
      published: a number (equal ends), or the range that a statement in words allows.
      measured: estimate, and 4 standard errors below and above; NaN where it was not run.
      reason: why it was not run.
    """

    statement: str
    published: tuple[float, float]
    measured: Interval = (np.nan, np.nan, np.nan)
    reason: str = ""

    @property
    def verdict(self) -> str:
        """A number agrees where a fine enough interval holds it, a range where it holds the whole interval."""
        (low, high), (estimate, least, most) = self.published, self.measured
        if self.reason:
            return NOT_RUN
        if np.isnan([estimate, least, most]).any():
            return UNKNOWN
        if most < low or least > high:
            return DIFFERS
        inside = most - least <= 2 * FINE * abs(low) if low == high else low <= least and most <= high
        return AGREES if inside else UNKNOWN


class Published(NamedTuple):
    """A published figure or table.

    Attributes:
      title: what is shown.
      source: arXiv number, and where in it.
      configs: paths of what is run, from the root of the repository.
      claims: ``(*datasets) -> claims``.
      draw: ``(*datasets) -> figure``.
      small: overrides for fractions below 1, as on a command line, a tuple a config: which part of a grid is run.
      absent: published results that cannot exist here, and why.
      details: ``(*datasets) -> lines`` of Markdown that the page shows below the claims.
    """

    title: str
    source: str
    configs: tuple[str, ...]
    claims: Callable[..., list[Claim]]
    draw: Callable[..., Figure]
    small: tuple[tuple[str, ...], ...] = ()
    absent: tuple[Claim, ...] = ()
    details: Callable[..., list[str]] | None = None


def absent(statement: str, reason: str) -> Claim:
    """A statement that nothing here can be held to."""
    return Claim(statement, (np.nan, np.nan), reason=reason)


def at_least(low: float) -> tuple[float, float]:
    """A range without an upper end."""
    return low, np.inf


def at_most(high: float) -> tuple[float, float]:
    """A range without a lower end."""
    return -np.inf, high


def number(value: float) -> tuple[float, float]:
    """A range of one number."""
    return value, value


# --- runs -------------------------------------------------------------------------------------------------------------


def run(name: str, published: Published, fraction: float, data: Path) -> list[xr.Dataset]:
    """The datasets of its configs, with that fraction of their chains; what `data` holds already is not run again."""
    found = []
    for path, _, experiment in planned(published, fraction):
        text = config.dumps(experiment)
        out = data / name / f"{Path(path).stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        outcome = resumable.fill_store(experiment.grid(), experiment.options(), out)
        for unit, error in outcome.failures:
            raise RuntimeError(f"{path}: unit {unit} failed: {error}") from error
        found.append(cj.open(out).load())
    return found


def planned(published: Published, fraction: float) -> Iterator[tuple[str, tuple[str, ...], config.Experiment]]:
    """Each config's path, its overrides at a fraction, and what is run of it."""
    small = published.small if fraction < 1 and published.small else ((),) * len(published.configs)
    for path, words in zip(published.configs, small, strict=True):
        experiment = config.load(ROOT / path, words)
        chains = max(round(fraction * experiment.num_chains), min(FEWEST, experiment.num_chains))
        yield path, words, dataclasses.replace(experiment, num_chains=chains)


# --- intervals of 4 standard errors, over chains ----------------------------------------------------------------------


def mean(values: Any) -> Interval:
    """Return the interval of a mean."""
    values = np.asarray(values, float).ravel()
    half = ERRORS * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def ratio(values: Any, first: Any) -> Interval:
    """Return the interval of a ratio of two means that the same chains make (delta method)."""
    values, first = (np.asarray(v, float).ravel() for v in (values, first))
    estimate = values.mean() / first.mean()
    return mean(estimate + (values - estimate * first) / first.mean())


def share(flags: Any) -> Interval:
    """Return the interval of a probability (Wilson's interval, which a share of 0 or 1 has too)."""
    flags = np.asarray(flags, float).ravel()
    n, p = len(flags), float(flags.mean())
    centre = (p + ERRORS**2 / (2 * n)) / (1 + ERRORS**2 / n)
    half = ERRORS / (1 + ERRORS**2 / n) * np.sqrt(p * (1 - p) / n + ERRORS**2 / (4 * n**2))
    return p, float(centre - half), float(centre + half)


def statistic(function: Callable[[np.ndarray], float], values: np.ndarray) -> Interval:
    """Return the interval of any function of ``[chains, ...]``, by the jackknife over 20 groups of chains."""
    groups = np.array_split(np.arange(len(values)), min(20, len(values)))
    left = np.array([function(np.delete(values, group, 0)) for group in groups])
    half = ERRORS * np.sqrt((len(groups) - 1) / len(groups) * ((left - left.mean()) ** 2).sum())
    estimate = float(function(values))
    return estimate, estimate - float(half), estimate + float(half)


# --- pictures ---------------------------------------------------------------------------------------------------------


def panels(width: int, height: int = 1, size: tuple[float, float] = (3.3, 2.9), **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes ``[height, width]``."""
    figure = Figure(figsize=(size[0] * width, size[1] * height), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False, **options)
    for ax in axes.ravel():
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(which="both", labelsize=8)
        ax.title.set_size(10)
        ax.xaxis.label.set_size(9)
        ax.yaxis.label.set_size(9)
    return figure, axes


def lines(ax: Axes, ds: xr.Dataset, name: str, curves: Mapping[str, Mapping[str, Any]], centre: str = "mean") -> None:
    """A metric along generations: mean and 95% interval of each curve, and the exact mean dashed.

    Args:
      ax: where to draw.
      ds: a run.
      name: of the metric.
      curves: of each label the point of the grid, as labels of its dimensions: ``{"n = 10": {"num_samples": 10}}``.
      centre: ``"mean"`` or ``"median"`` over chains; with medians only exact means of logarithms are drawn.
    """
    for colour, (label, point) in zip(COLOURS, curves.items(), strict=False):
        position = {dim: place(ds, dim, value) for dim, value in point.items()}
        found = summarize_curve(ds[name].assign_attrs(summary=centre), position)
        generations = ds["generation"].to_numpy()
        ax.plot(generations, found.centre, color=colour, linewidth=1.6, label=label)
        ax.fill_between(generations, found.low, found.high, color=colour, alpha=0.22, linewidth=0)
        exact = exact_line(ds, name, {"policy": 0, **position}, follows_median=centre == "median")
        if exact is not None:
            ax.plot(generations, exact, **THEORY)
    ax.set_xlabel("generation")


def place(ds: xr.Dataset, dim: str, value: Any) -> int:
    """Index of a label."""
    return ds[dim].to_numpy().tolist().index(value)


def over(ds: xr.Dataset, dim: str, words: str, /, **point: Any) -> dict[str, dict[str, Any]]:
    """Curves for `lines`: one a label of `dim`, written ``words.format(label)``."""
    return {words.format(value): {**point, dim: value} for value in ds[dim].to_numpy().tolist()}


def legend(ax: Axes, **options: Any) -> None:
    """A small one, with an entry for the lines of theory where there are some."""
    handles, labels = ax.get_legend_handles_labels()
    dashed = [line for line in ax.lines if line.get_label() == THEORY["label"]][:1]
    handles, labels = [*handles, *dashed], [*labels, *("exact" for _ in dashed)]
    ax.legend(handles, labels, frameon=False, fontsize=8, **options)


def values(ds: xr.Dataset, name: str, generation: int = -1, **point: Any) -> np.ndarray:
    """A metric of each chain at a generation (counted as a list is) and a point of the grid."""
    return ds[name].sel(point).isel(generation=generation).to_numpy().astype(float)


# --- what is said of it -----------------------------------------------------------------------------------------------


def rows(claims: Sequence[Claim]) -> list[tuple[str, str, str, str]]:
    """Statement, published, measured and verdict of each, in words."""
    return [(c.statement, _allowed(c), c.reason or _interval(c.measured), c.verdict) for c in claims]


def _allowed(claim: Claim) -> str:
    low, high = claim.published
    if np.isnan(low):
        return ""
    if low == high:
        return f"{low:.4g}"
    if np.isinf(low):
        return f"at most {high:.4g}"
    return f"at least {low:.4g}" if np.isinf(high) else f"{low:.4g} to {high:.4g}"


def _interval(measured: Interval) -> str:
    estimate, low, high = measured
    if low == high:
        return f"{estimate:.4g}"
    return f"{estimate:.4g} ({low:.4g}, {high:.4g})"
