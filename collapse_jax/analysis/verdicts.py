"""Test a run by the eight definitions of model collapse (arXiv 2503.03150): yes, no, or it cannot be told.

A definition has an effect (what it says happens) with a 95% interval over chains, and a margin, below which effects
count as none. The verdict is yes where the whole interval lies above the margin, no where it lies below, and otherwise
the run cannot tell. Definitions of growth have a third answer: still rising at the last generation, without evidence
that it goes on. Each interval is that of one definition at one point, without a correction for the number of tests.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from collapse_jax.analysis.collapse_times import check_run, metrics_with_role, zeros_on_grid
from collapse_jax.analysis.comparisons import MAX_LOST, UNKNOWN, compare, find_primary
from collapse_jax.analysis.growth import MIN_SHARE, unbounded_share
from collapse_jax.numerics.confidence_intervals import MIN_CHAINS, Interval, mean_interval, median_interval
from collapse_jax.results.summary import select_position

YES, NO, RISING = "yes", "no", "still rising"
_UNDECIDED = "the interval holds both effects that count as none and effects that count"
_EXPONENT_MARGIN = 0.1  # smaller changes of an exponent count as none


class Verdict(NamedTuple):
    """A verdict and its evidence.

    Attributes:
      verdict: ``YES``, ``NO``, ``UNKNOWN``, or of growth ``RISING``.
      estimate: the effect; NaN where it cannot be estimated.
      low: the lower 95% limit of the effect.
      high: the upper 95% limit of the effect.
      metric: the metric that was tested, or "".
      reason: why it cannot be told, or what else to know of it, or "".
    """

    verdict: str
    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    metric: str = ""
    reason: str = ""


class MetricSample(NamedTuple):
    """The values of one metric at one point of the grid.

    Attributes:
      metric: the name of the metric.
      values: ``[chain, generation]``.
      generations: ``[generation]``, their numbers.
      baseline: the value of a trivial model, or NaN where none is known.
      is_excess: whether the metric is a risk that is 0 at the truth.
      excluded: why chains are left out, or "": those whose value at fit 1 is not finite.
    """

    metric: str
    values: np.ndarray
    generations: np.ndarray
    baseline: float = np.nan
    is_excess: bool = False
    excluded: str = ""


class Definition(NamedTuple):
    """One definition of collapse.

    Attributes:
      name: its label on the axis ``definition``.
      title: the head of its column in a table.
      test: ``(ds, position) -> Verdict`` at one point of the grid.
      rule: the test in words.
    """

    name: str
    title: str
    test: Callable[[xr.Dataset, dict[str, int]], Verdict]
    rule: str


def score(ds: xr.Dataset) -> xr.Dataset:
    """Return the verdicts of the eight definitions of collapse at each policy and grid point.

    Metrics are found by their attribute ``role``, and the trivial baseline of a risk by ``baseline`` (see
    ``types.Metric``); both may be set on a dataset by hand. The first metric of a role counts. Unfinished chains (NaN)
    are left out, and so are chains in which the metric is not finite at fit 1, which ``reason`` says. Fewer than 6
    chains tell nothing.

    Args:
      ds: a dataset that ``sweep``, ``run`` or ``open`` returned.

    Returns:
      A dataset with the dims of `ds`, but ``definition`` in place of chain and generation. Its variables are
      ``verdict`` ("yes", "no", "still rising", "cannot be told"), ``estimate``, ``low`` and ``high`` (95%, over
      chains), ``metric``,
      ``reason`` (why it cannot be told, or which chains were left out), and ``rule`` along ``definition`` alone.
      Along the grid alone stands the primary comparison of ``compare``: ``difference`` of the risk from the first
      policy's, ``difference_low``, ``difference_high`` and ``comparison``; the attribute ``primary`` names the risk.

    Raises:
      UsageError: `ds` is not the dataset of a run.
    """
    check_run("score", ds)
    grid, names = zeros_on_grid(ds), [definition.name for definition in DEFINITIONS]
    verdicts = np.empty((*grid.shape, len(DEFINITIONS)), object)
    for index in np.ndindex(grid.shape):
        position = dict(zip(map(str, grid.dims), index, strict=True))
        for i, definition in enumerate(DEFINITIONS):
            verdicts[*index, i] = definition.test(ds, position)
    dims, variables = (*grid.dims, "definition"), {}
    for i, field in enumerate(Verdict._fields):
        kind = float if field in ("estimate", "low", "high") else str
        values = np.asarray([verdict[i] for verdict in verdicts.ravel()], kind)
        variables[field] = (dims, values.reshape(verdicts.shape))
    rules = ("definition", [definition.rule for definition in DEFINITIONS])
    result = xr.Dataset({**variables, "rule": rules}, {**grid.coords, "definition": names})
    return result.assign(_take_primary(compare(ds))).assign_attrs(primary=find_primary(ds))


def _take_primary(differences: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the variables of ``compare`` that are about the primary metric, under the names they have in ``score``."""
    if not differences.attrs["primary"]:
        return {}
    chosen = differences.sel(metric=differences.attrs["primary"]).drop_vars(["metric", "units"])
    names = {"difference": "difference", "low": "difference_low", "high": "difference_high", "answer": "comparison"}
    return {name: chosen[key] for key, name in names.items()}


def _test_roles(
    roles: tuple[str, ...], test: Callable[[list[MetricSample]], Verdict], min_generations: int = 1
) -> Callable[..., Verdict]:
    """Return a test of the metrics of some roles, for runs of at least `min_generations`."""

    def test_position(ds: xr.Dataset, position: dict[str, int]) -> Verdict:
        names = [name for role in roles for name in metrics_with_role(ds, role)]
        if not names:
            return Verdict(UNKNOWN, reason=f"no metric has the role {' or '.join(roles)}")
        if (number := ds.sizes["generation"]) < min_generations:
            reason = f"the run has {number} generations, and {min_generations} are needed"
            return Verdict(UNKNOWN, metric=names[0], reason=reason)
        samples = [_take_sample(ds, name, position) for name in names]
        verdict = test(samples)
        excluded = next((sample.excluded for sample in samples if sample.metric == verdict.metric), "")
        return verdict._replace(reason="; ".join(filter(None, [excluded, verdict.reason])))

    return test_position


def _take_sample(ds: xr.Dataset, name: str, position: dict[str, int]) -> MetricSample:
    values = select_position(ds[name], position).transpose("chain", "generation").to_numpy().astype(float)
    attrs = ds[name].attrs
    baselines = np.asarray(attrs.get("baseline", np.nan), float)
    index = _baseline_index(ds, position, attrs)
    baseline = np.nan if index is None else float(baselines[index])
    values = values[~np.isnan(values).all(1)]
    begins = np.isfinite(values[:, 0])
    excluded = "" if begins.all() else f"not finite at fit 1 in {(~begins).sum():,} of {len(values):,} chains"
    lost = begins & np.isnan(values[:, -1])
    if lost.any():
        excluded += f"{'; ' if excluded else ''}NaN at T in {lost.sum():,} of {begins.sum():,} chains"
    if lost.sum() > MAX_LOST * begins.sum():
        begins = np.zeros_like(begins)  # what survives is no fair sample
    generations, is_excess = ds["generation"].to_numpy().astype(float), name in metrics_with_role(ds, "excess_risk")
    return MetricSample(name, values[begins], generations, baseline, is_excess, excluded)


def _baseline_index(ds: xr.Dataset, position: dict[str, int], attrs: dict[Any, Any]) -> tuple[int, ...] | None:
    """Return the index of a point among a metric's baselines, by its labels; None where it is not among them."""
    dims, all_labels = attrs.get("baseline_dims", []), attrs.get("baseline_labels", [])
    point = [select_position(ds[dim], position).item() if dim in ds.coords else None for dim in dims]
    index = [labels.index(label) for labels, label in zip(all_labels, point, strict=False) if label in labels]
    return tuple(index) if len(index) == len(dims) else None


def _decide(metric: str, interval: Interval, chains: int, margin: float = 0.0) -> Verdict:
    estimate, low, high = interval
    if chains < MIN_CHAINS or np.isnan(low) or np.isnan(high):
        reason = f"{chains} chains have numbers to compare, and {MIN_CHAINS} are needed"
        return Verdict(UNKNOWN, estimate, np.nan, np.nan, metric, reason)
    if high <= margin:
        return Verdict(NO, *interval, metric)
    if low > margin:
        return Verdict(YES, *interval, metric)
    return Verdict(UNKNOWN, *interval, metric, _UNDECIDED)


def _test_catastrophic_risk(samples: list[MetricSample]) -> Verdict:
    """Test whether a risk became infinite, which is above any baseline, or is above the first known baseline."""
    verdict = None
    for metric, values, _, baseline, *_ in samples:
        last = values[:, -1][~np.isnan(values[:, -1])]
        if len(last) >= MIN_CHAINS and median_interval(last)[1] == np.inf:
            return _decide(metric, median_interval(last), len(last))
        if verdict is None and not np.isnan(baseline):
            verdict = _decide(metric, median_interval(last - baseline), len(last))
    return verdict or Verdict(UNKNOWN, metric=samples[0].metric, reason="no trivial baseline is known")


def _risk_margin(sample: MetricSample) -> float:
    """Return the rise of a risk that counts as none.

    It is a tenth of an excess risk at fit 1; of another risk a twentieth of what fit 1 gains over the trivial model;
    where neither is known, a tenth of fit 1's interquartile range over chains.
    """
    first = sample.values[:, 0]
    if not len(first):
        return 0.0
    if sample.is_excess:
        return 0.1 * float(first.mean())
    gain = sample.baseline - float(np.median(first))
    return 0.05 * gain if gain > 0 else 0.1 * float(np.subtract(*np.quantile(first, [0.75, 0.25])))


def _test_any_increase(samples: list[MetricSample]) -> Verdict:
    """Test whether the mean risk rises; outliers are lowered, which keeps the lower limit valid for heavy tails."""
    sample = samples[0]
    rise = _total_change(sample)
    if not len(rise):
        return _decide(sample.metric, (np.nan, np.nan, np.nan), 0)
    finite, margin = rise[np.isfinite(rise)], _risk_margin(sample)
    if not len(finite):
        return _decide(sample.metric, (rise[0], rise[0], rise[0]), len(rise), margin)
    first, third = np.quantile(finite, [0.25, 0.75])
    fence = third + 3 * (third - first) if third > first else finite.max()
    estimate, low, _ = mean_interval(np.minimum(rise, fence))
    high = mean_interval(rise)[2] if len(finite) == len(rise) else np.inf
    return _decide(sample.metric, (estimate, low, high), len(rise), margin)


def _test_diverging_risk(samples: list[MetricSample]) -> Verdict:
    return _test_growth(samples[0], _risk_margin(samples[0]) / np.log(2))


def _test_collapsing_variance(samples: list[MetricSample]) -> Verdict:
    """Test the loss of log variance; with a slope b against log t, the variance halves in t log(2) / b."""
    sample = samples[0]
    verdict = _test_growth(sample._replace(values=-sample.values), np.log(2) / 10)
    _, _, highest = median_interval(_total_change(sample))
    if highest < np.log(0.01):
        return verdict._replace(verdict=YES, reason="")
    return verdict


def _test_growth(sample: MetricSample, margin: float) -> Verdict:
    """Test whether a metric grows with log t over the last doubling of t, and whether that goes on without bound.

    A chain that became infinite has an infinite slope.
    """
    metric, values, t = sample.metric, sample.values, sample.generations
    late = t > t[-1] / 2
    slope = np.where(values[:, -1] == np.inf, np.inf, _fit_slopes(np.log(t[late]), values[:, late]))
    slope = slope[~np.isnan(slope)]
    grows = _decide(metric, median_interval(slope), len(slope), margin)
    if grows.verdict != YES:
        return grows
    share, low, high = unbounded_share(values, t)
    if low > MIN_SHARE:
        return grows
    if np.isnan(share):
        return grows._replace(verdict=RISING, reason="its way to the end is neither a plateau nor steady growth")
    way = f"from the best plateau to growth without bound it is {share:.2f} of the way (95% {low:.2f} to {high:.2f})"
    return grows._replace(verdict=RISING, reason=way)


def _test_scaling_law(ds: xr.Dataset, position: dict[str, int]) -> Verdict:
    """Test whether the exponent of the risk in n changes; a chain's values at different n are paired."""
    names = metrics_with_role(ds, "excess_risk")
    if not names:
        return Verdict(UNKNOWN, reason="no metric has the role excess_risk")
    name, axis = names[0], "num_samples"
    sizes = ds[axis].to_numpy() if axis in ds.dims else np.zeros(0)
    if len(set(sizes)) < 3:
        return Verdict(UNKNOWN, metric=name, reason="a sweep over at least 3 values of num_samples is needed")
    if ds.sizes["generation"] < 2:
        return Verdict(UNKNOWN, metric=name, reason="the run has 1 generation, and 2 are needed")
    chosen = select_position(ds[name], {dim: i for dim, i in position.items() if dim != axis}).isel(generation=[0, -1])
    risk = chosen.transpose("generation", "chain", axis).to_numpy().astype(float)
    risk = risk[:, ~np.isnan(risk).all((0, 2))]
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = (-_fit_slopes(np.log(sizes.astype(float)), np.log(r)) for r in risk)
    change = (last - first)[~np.isnan(last - first)]
    if len(change) < max(MIN_CHAINS, 0.9 * risk.shape[1]):
        reason = f"{len(change)} of {risk.shape[1]} chains have finite risks above 0"
        return Verdict(UNKNOWN, metric=name, reason=reason)
    estimate, low, high = median_interval(change)
    if low > _EXPONENT_MARGIN or high < -_EXPONENT_MARGIN:
        return Verdict(YES, estimate, low, high, name)
    if low >= -_EXPONENT_MARGIN and high <= _EXPONENT_MARGIN:
        return Verdict(NO, estimate, low, high, name)
    return Verdict(UNKNOWN, estimate, low, high, name, _UNDECIDED)


def _test_loss(share: float) -> Callable[[list[MetricSample]], Verdict]:
    """Return a test of the mean loss since fit 1; losses below a `share` of the first value count as none."""

    def test(samples: list[MetricSample]) -> Verdict:
        sample = samples[0]
        loss = -_total_change(sample)
        first = sample.values[:, 0]
        margin = share * np.nanmean(first) if np.isfinite(first).any() else 0.0
        return _decide(sample.metric, mean_interval(loss), len(loss), margin)

    return test


def _test_hallucination(samples: list[MetricSample]) -> Verdict:
    growth = _total_change(samples[0])
    return _decide(samples[0].metric, mean_interval(growth), len(growth), 0.001)


def _total_change(sample: MetricSample) -> np.ndarray:
    """Return the last generation minus the first, for chains that have both."""
    with np.errstate(invalid="ignore"):
        change = sample.values[:, -1] - sample.values[:, 0]
    return change[~np.isnan(change)]


def _fit_slopes(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the least-squares slope of each row; NaN where a value is not finite."""
    finite = np.isfinite(values).all(1)
    centred = x - x.mean()
    return np.where(finite, np.where(finite[:, None], values, 0.0) @ centred / (centred @ centred), np.nan)


_RISKS = ("risk", "excess_risk")
DEFINITIONS = (
    Definition(
        "catastrophic_risk",
        "catastrophic\nrisk",
        _test_roles(_RISKS, _test_catastrophic_risk),
        "yes: the median risk at T is above that of a trivial model, or infinite; no: it is below",
    ),
    Definition(
        "any_increase",
        "any rise\nof risk",
        _test_roles(_RISKS, _test_any_increase, 2),
        "yes: the mean of R_T - R_1 (upper outliers are lowered to Tukey's far fence) is above the margin, no: below; "
        "the margin is a tenth of an excess risk at fit 1, else a twentieth of what fit 1 gains over the trivial "
        "model, else a tenth of fit 1's interquartile range",
    ),
    Definition(
        "diverging_risk",
        "diverging\nrisk",
        _test_roles(_RISKS, _test_diverging_risk, 8),
        "no (levels off): over the last doubling of t the median slope of R against log t adds less than the margin "
        "of any rise; yes: it adds more, and the curve is nearer to unbounded growth (a power or the logarithm of t) "
        "than to a plateau of a scale up to 3 T; still rising: it adds more, without that evidence",
    ),
    Definition(
        "collapsing_variance",
        "collapsing\nvariance",
        _test_roles(("log_variance",), _test_collapsing_variance, 8),
        "yes: minus the log variance grows in the same way, or the median variance at T is under 1% of fit 1's; "
        "no: at that pace the variance does not halve in 10 T",
    ),
    Definition(
        "scaling_law",
        "changed\nscaling",
        _test_scaling_law,
        "yes: the median change since fit 1 of the exponent of R in 1/n is above 0.1 or below -0.1; no: it lies "
        "between",
    ),
    Definition(
        "mode_loss",
        "modes\nlost",
        _test_roles(("modes",), _test_loss(0.05), 2),
        "yes: the mean loss of modes alive from fit 1 to T is above 5% of them; no: it is below",
    ),
    Definition(
        "tail_loss",
        "tails\nlost",
        _test_roles(("tail",), _test_loss(0.1), 2),
        "yes: the mean loss of the tails' mass from fit 1 to T is above 10% of it; no: it is below",
    ),
    Definition(
        "hallucination",
        "halluci-\nnation",
        _test_roles(("hallucination",), _test_hallucination, 2),
        "yes: the mean growth since fit 1 of the share below the truth's 0.1% quantile of density is above 0.001; no: "
        "it is below",
    ),
)
