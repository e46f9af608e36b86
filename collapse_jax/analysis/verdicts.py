"""The eight definitions of model collapse (arXiv 2503.03150), each a test on a run: yes, no, or it cannot be told.

A definition has an effect (what it says happens) with a 95% interval over chains. No: the whole interval lies below a
margin, where effects count as none. Yes: it reaches beyond the margin, and lies above 0. Otherwise the run cannot tell.
The intervals are of one definition at one point each, with no allowance for how many are looked at.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from collapse_jax.analysis.collapse_times import check_run, points, with_role
from collapse_jax.numerics.confidence_intervals import Interval, mean_interval, median_interval
from collapse_jax.results.summary import select_position

if TYPE_CHECKING:
    pass

YES, NO, UNKNOWN = "yes", "no", "cannot be told"
FEWEST = 6  # chains: the range of fewer is no 95% interval of their median
_BETWEEN = "the interval holds both none of it and enough of it"
_KEPT = 2**-0.5  # of the slope one doubling of t earlier: a + b t^c keeps 2^c of it, a logarithm all
_EXPONENT = 0.1  # the smallest change of one that counts


class Finding(NamedTuple):
    """A verdict and its evidence.

    Attributes:
      verdict: ``YES``, ``NO`` or ``UNKNOWN``.
      estimate: the effect; NaN where there is none to tell.
      low: lower 95% limit.
      high: upper one.
      metric: what was looked at, or "".
      reason: why it cannot be told, or "".
    """

    verdict: str
    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    metric: str = ""
    reason: str = ""


class Sample(NamedTuple):
    """One metric at one point: values ``[chain, generation]`` and the generations' numbers; a baseline, or NaN."""

    metric: str
    values: np.ndarray
    generations: np.ndarray
    baseline: float = np.nan


class Definition(NamedTuple):
    """One definition.

    Attributes:
      name: as on the axis ``definition``.
      title: over its column of the table.
      test: ``(ds, position) -> Finding`` at one point of the grid.
      rule: the test in words.
    """

    name: str
    title: str
    test: Callable[[xr.Dataset, dict[str, int]], Finding]
    rule: str


def score(ds: xr.Dataset) -> xr.Dataset:
    """The eight definitions as verdicts, at each policy and grid point.

    Metrics are found by their attribute ``role``, and the trivial baseline of a risk by ``baseline`` (see
    ``types.Metric``); both may be set on a dataset by hand. Of several metrics of a role the first counts. Unfinished
    chains (NaN) are left out. Fewer than 6 chains tell nothing.

    Args:
      ds: what ``sweep``, ``run`` or ``open`` gave.

    Returns:
      Dims as of `ds`, with ``definition`` in place of chain and generation. Variables ``verdict`` ("yes", "no", "cannot
      be told"), ``estimate``, ``low`` and ``high`` (95%, over chains), ``metric``, ``reason`` (why it cannot be told),
      and ``rule`` along ``definition`` alone.

    Raises:
      UsageError: `ds` is not the dataset of a run.
    """
    check_run("score", ds)
    grid, names = points(ds), [definition.name for definition in DEFINITIONS]
    found = np.empty((*grid.shape, len(DEFINITIONS)), object)
    for index in np.ndindex(grid.shape):
        position = dict(zip(map(str, grid.dims), index, strict=True))
        for i, definition in enumerate(DEFINITIONS):
            found[*index, i] = definition.test(ds, position)
    dims, made = (*grid.dims, "definition"), {}
    for i, field in enumerate(Finding._fields):
        kind = float if field in ("estimate", "low", "high") else str
        made[field] = (dims, np.asarray([finding[i] for finding in found.ravel()], kind).reshape(found.shape))
    rules = ("definition", [definition.rule for definition in DEFINITIONS])
    return xr.Dataset({**made, "rule": rules}, {**grid.coords, "definition": names})


def _reading(roles: tuple[str, ...], test: Callable[[list[Sample]], Finding], least: int = 1) -> Callable[..., Finding]:
    """A test of the metrics of some roles, in runs of at least so many generations."""

    def look(ds: xr.Dataset, position: dict[str, int]) -> Finding:
        names = [name for role in roles for name in with_role(ds, role)]
        if not names:
            return Finding(UNKNOWN, reason=f"no metric has the role {' or '.join(roles)}")
        if (number := ds.sizes["generation"]) < least:
            return Finding(UNKNOWN, metric=names[0], reason=f"{number} of at least {least} generations")
        return test([_sample(ds, name, position) for name in names])

    return look


def _sample(ds: xr.Dataset, name: str, position: dict[str, int]) -> Sample:
    values = select_position(ds[name], position).transpose("chain", "generation").to_numpy().astype(float)
    attrs = ds[name].attrs
    baseline = np.asarray(attrs.get("baseline", np.nan), float)
    place = _place(ds, position, attrs)
    here = np.nan if place is None else float(baseline[place])
    return Sample(name, values[~np.isnan(values).all(1)], ds["generation"].to_numpy().astype(float), here)


def _place(ds: xr.Dataset, position: dict[str, int], attrs: dict[Any, Any]) -> tuple[int, ...] | None:
    """Of a point, among a metric's baselines: by its labels, for `ds` may be a part of a grid. None: not there."""
    dims, known = attrs.get("baseline_dims", []), attrs.get("baseline_labels", [])
    here = [select_position(ds[dim], position).item() if dim in ds.coords else None for dim in dims]
    found = [labels.index(label) for labels, label in zip(known, here, strict=False) if label in labels]
    return tuple(found) if len(found) == len(dims) else None


def _decide(metric: str, interval: Interval, chains: int, margin: float = 0.0) -> Finding:
    estimate, low, high = interval
    if chains < FEWEST or np.isnan(low) or np.isnan(high):
        reason = f"{chains} chains with numbers to compare, of at least {FEWEST}"
        return Finding(UNKNOWN, estimate, np.nan, np.nan, metric, reason)
    if high <= max(margin, 0.0):
        return Finding(NO, *interval, metric)
    if low > 0:
        return Finding(YES, *interval, metric)
    return Finding(UNKNOWN, *interval, metric, _BETWEEN)


def _catastrophic_risk(samples: list[Sample]) -> Finding:
    """An infinite risk passes any baseline, so every risk is asked for one; then the first that has a baseline."""
    found = None
    for metric, values, _, baseline in samples:
        last = values[:, -1][~np.isnan(values[:, -1])]
        if len(last) >= FEWEST and median_interval(last)[1] == np.inf:
            return _decide(metric, median_interval(last), len(last))
        if found is None and not np.isnan(baseline):
            found = _decide(metric, median_interval(last - baseline), len(last))
    return found or Finding(UNKNOWN, metric=samples[0].metric, reason="no trivial baseline is known")


def _any_increase(samples: list[Sample]) -> Finding:
    """Risks have heavy upper tails. Drawing them in only lowers the mean, so that its lower limit still holds."""
    sample = samples[0]
    rise = _change(sample)
    if not len(rise):
        return _decide(sample.metric, (np.nan, np.nan, np.nan), 0)
    finite = rise[np.isfinite(rise)]
    if not len(finite):
        return _decide(sample.metric, (rise[0], rise[0], rise[0]), len(rise))
    first, third = np.quantile(finite, [0.25, 0.75])
    fence = third + 3 * (third - first) if third > first else finite.max()
    estimate, low, _ = mean_interval(np.minimum(rise, fence))
    high = mean_interval(rise)[2] if len(finite) == len(rise) else np.inf
    return _decide(sample.metric, (estimate, low, high), len(rise))


def _diverging_risk(samples: list[Sample]) -> Finding:
    values = samples[0].values
    first = values[:, 0][np.isfinite(values[:, 0])]
    margin = 0.1 * np.subtract(*np.quantile(first, [0.75, 0.25])) / np.log(2) if len(first) else 0.0
    return _growth(samples[0], margin)


def _collapsing_variance(samples: list[Sample]) -> Finding:
    """The effect is the loss of log variance. A slope b against log t halves the variance in t log(2) / b."""
    sample = samples[0]
    found = _growth(sample._replace(values=-sample.values), np.log(2) / 10)
    _, _, highest = median_interval(sample.values[:, -1])
    if len(sample.values) >= FEWEST and highest < np.log(0.01):
        return found._replace(verdict=YES, reason="")
    return found


def _growth(sample: Sample, margin: float) -> Finding:
    """Slopes a chain against log t, over the last doubling of t and the one before: what levels off has grown too.

    A chain that became infinite has an infinite slope.
    """
    metric, values, t, _ = sample
    late, early = t > t[-1] / 2, (t > t[-1] / 4) & (t <= t[-1] / 2)
    slope, before = (_slopes(np.log(t[part]), values[:, part]) for part in (late, early))
    became = np.isfinite(values[:, 0]) & (values[:, -1] == np.inf)
    slope, before = np.where(became, np.inf, slope), np.where(became, 0.0, before)
    both = ~np.isnan(slope + before)
    found = _decide(metric, median_interval(slope[both]), both.sum(), margin)
    kept = _decide(metric, median_interval((slope - _KEPT * before)[both]), both.sum())
    if NO in (found.verdict, kept.verdict):
        return found._replace(verdict=NO, reason="")
    if found.verdict == kept.verdict:
        return found
    return found._replace(verdict=UNKNOWN, reason="it may go on or level off")


def _scaling_law(ds: xr.Dataset, position: dict[str, int]) -> Finding:
    """Exponents a chain: its numbers at different n are paired."""
    names = with_role(ds, "excess_risk")
    if not names:
        return Finding(UNKNOWN, reason="no metric with the role excess_risk")
    name, axis = names[0], "num_samples"
    numbers = ds[axis].to_numpy() if axis in ds.dims else np.zeros(0)
    if len(set(numbers)) < 3:
        return Finding(UNKNOWN, metric=name, reason="needs a sweep over num_samples, of at least 3 values")
    if ds.sizes["generation"] < 2:
        return Finding(UNKNOWN, metric=name, reason="1 generations, of at least 2")
    chosen = select_position(ds[name], {dim: i for dim, i in position.items() if dim != axis}).isel(generation=[0, -1])
    risk = chosen.transpose("generation", "chain", axis).to_numpy().astype(float)
    risk = risk[:, ~np.isnan(risk).all((0, 2))]
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = (-_slopes(np.log(numbers.astype(float)), np.log(r)) for r in risk)
    change = (last - first)[~np.isnan(last - first)]
    if len(change) < max(FEWEST, 0.9 * risk.shape[1]):
        return Finding(UNKNOWN, metric=name, reason=f"{len(change)} of {risk.shape[1]} chains have finite risks > 0")
    estimate, low, high = median_interval(change)
    if low > _EXPONENT or high < -_EXPONENT:
        return Finding(YES, estimate, low, high, name)
    if low >= -_EXPONENT and high <= _EXPONENT:
        return Finding(NO, estimate, low, high, name)
    return Finding(UNKNOWN, estimate, low, high, name, _BETWEEN)


def _loss(share: float) -> Callable[[list[Sample]], Finding]:
    """The mean loss since fit 1; it counts from a `share` of what there was."""

    def test(samples: list[Sample]) -> Finding:
        sample = samples[0]
        loss = -_change(sample)
        first = sample.values[:, 0]
        margin = share * np.nanmean(first) if np.isfinite(first).any() else 0.0
        return _decide(sample.metric, mean_interval(loss), len(loss), margin)

    return test


def _hallucination(samples: list[Sample]) -> Finding:
    growth = _change(samples[0])
    return _decide(samples[0].metric, mean_interval(growth), len(growth), 0.001)


def _change(sample: Sample) -> np.ndarray:
    """Last generation minus the first, for chains that have both."""
    with np.errstate(invalid="ignore"):
        change = sample.values[:, -1] - sample.values[:, 0]
    return change[~np.isnan(change)]


def _slopes(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least-squares slope of each row; NaN where a value is not finite."""
    finite = np.isfinite(values).all(1)
    centred = x - x.mean()
    return np.where(finite, np.where(finite[:, None], values, 0.0) @ centred / (centred @ centred), np.nan)


_RISKS = ("risk", "excess_risk")
DEFINITIONS = (
    Definition(
        "catastrophic_risk",
        "catastrophic\nrisk",
        _reading(_RISKS, _catastrophic_risk),
        "median risk at T, minus that of a trivial model, > 0; or infinite",
    ),
    Definition(
        "any_increase",
        "any rise\nof risk",
        _reading(_RISKS, _any_increase, 2),
        "mean of R_T - R_1 > 0, with upper outliers drawn in to Tukey's far fence (t interval)",
    ),
    Definition(
        "diverging_risk",
        "diverging\nrisk",
        _reading(_RISKS, _diverging_risk, 8),
        "median slope of R against log t over the last doubling of t > 0, and > 0.71 times that over the doubling "
        "before; no where a doubling adds less than a tenth of fit 1's interquartile range",
    ),
    Definition(
        "collapsing_variance",
        "collapsing\nvariance",
        _reading(("log_variance",), _collapsing_variance, 8),
        "the same of minus the log variance, no where it would not halve in 10 T at that pace; or median variance at T "
        "under 1% of the truth's",
    ),
    Definition(
        "scaling_law",
        "changed\nscaling",
        _scaling_law,
        "median change since fit 1 of the exponent of R in 1/n is beyond 0.1 either way; no where within",
    ),
    Definition(
        "mode_loss",
        "modes\nlost",
        _reading(("modes",), _loss(0.05), 2),
        "mean of modes alive at fit 1 minus at T > 0 (t interval); no below 5% of them",
    ),
    Definition(
        "tail_loss",
        "tails\nlost",
        _reading(("tail",), _loss(0.1), 2),
        "mean of the tails' mass at fit 1 minus at T > 0 (t interval); no below 10% of it",
    ),
    Definition(
        "hallucination",
        "halluci-\nnation",
        _reading(("hallucination",), _hallucination, 2),
        "mean growth since fit 1 of the share below the truth's 0.1% quantile of density > 0 (t interval); no below "
        "0.001",
    ),
)
