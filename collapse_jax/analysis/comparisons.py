"""Compare policies: their chains share random numbers, so differences are taken chain by chain.

One comparison is primary: the risk, of each policy against the first. Its intervals hold together at 95% (Bonferroni).
All other metrics are explored: their p-values are adjusted over the whole table by Holm's method (Holm 1979,
Scandinavian Journal of Statistics 6, 65), so that under equal laws 5% of tables have any difference marked.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
import yaml

from collapse_jax.analysis.collapse_times import check_run, metrics_with_role
from collapse_jax.numerics.confidence_intervals import LEVEL, MIN_CHAINS, drop_nans, student_interval
from collapse_jax.results.summary import curve_positions, select_position
from collapse_jax.results.variables import grid_dims, select_scalars

WORSE, BETTER, HIGHER, LOWER = "worse", "better", "higher", "lower"
UNSEEN, REFERENCE, UNKNOWN = "smaller than this run can see", "reference", "cannot be told"
MAX_LOST = 0.1  # of the chains: what survives more losses is no fair sample
_ROUNDING = 1e-7  # of float32: smaller scatter, relative to the values, is that of equal differences
_SAME = ("seed", "rng", "precision", "backend", "device", "num_samples", "num_generations", "num_chains", "version_jax",
         "jax_threefry_partitionable")  # fmt: skip


class Difference(NamedTuple):
    """How one metric differs between two curves at one generation.

    Attributes:
      estimate: the mean difference: positive where the metric is larger than under the reference.
      low: the lower end of the interval.
      high: the upper end of the interval.
      p_value: of Student's test that the means are equal.
      freedom: degrees of freedom of the interval.
      chains: the number of pairs, or of values of the smaller sample.
      paired: whether the difference is taken chain by chain.
    """

    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p_value: float = np.nan
    freedom: float = np.nan
    chains: int = 0
    paired: bool = True


def compare(ds: xr.Dataset, generation: int = -1) -> xr.Dataset:
    """Compare each policy with the first one, in each metric and at each grid point, chain by chain.

    Chains of a run share their random numbers over policies, and so differences in pairs are far more precise than
    those of two summaries. Two chains are enough for an interval. Chains in which a metric is not finite at fit 1 are
    left out of its differences.

    Args:
      ds: a dataset that ``sweep``, ``run`` or ``open`` returned.
      generation: a position on the generation axis.

    Returns:
      A dataset with the dims of the grid and ``metric``. Its variables are ``difference`` (policy minus first policy,
      mean over chains), ``low`` and ``high`` (Student's interval: at 95%; of the primary metric at 95% for all policies
      and points together), ``p_value``, ``adjusted_p_value`` (Bonferroni's for the primary metric, Holm's over all
      other cells), ``chains``, and ``answer``: "worse", "better", "higher", "lower", "smaller than this run can see",
      "reference" or "cannot be told". The attribute ``primary`` names the primary metric (a risk), or is "".

    Raises:
      UsageError: `ds` is not the dataset of a run.

    Example:
      >>> import collapse_jax as cj
      >>> runs = cj.sweep(cj.settings.gaussian(dim=1), [cj.policies.replace(), cj.policies.accumulate()],
      ...                 num_samples=20, num_generations=20, num_chains=16)
      >>> cj.compare(runs)["answer"].sel(policy="accumulate", metric="test_nll").item()
      'better'
    """
    check_run("compare", ds)
    scalars, dims = select_scalars(ds), grid_dims(ds)
    names = [str(name) for name in scalars.data_vars]
    primary = find_primary(scalars)
    shape = (*(ds.sizes[dim] for dim in dims), len(names))
    cells = np.empty(shape, object)
    policy = dims.index("policy") if "policy" in dims else None
    is_reference = np.zeros(shape, bool)
    for *point, i in np.ndindex(shape):
        cells[*point, i] = Difference()
        if policy is None or point[policy] == 0:
            is_reference[*point, i] = True
            continue
        position = dict(zip(dims, point, strict=True))
        metric = scalars[names[i]]
        values, reference = (_take_values(metric, where, generation) for where in (position, {**position, "policy": 0}))
        cells[*point, i] = subtract(values, reference)
    return _judge(ds, cells, is_reference, dims, names, primary)


def _judge(
    ds: xr.Dataset, cells: np.ndarray, is_reference: np.ndarray, dims: Sequence[str], names: list[str], primary: str
) -> xr.Dataset:
    """Return the dataset of ``compare``: differences with adjusted p-values and answers."""
    fields = {field: np.array([cell[i] for cell in cells.ravel()]).reshape(cells.shape) for i, field in
              enumerate(Difference._fields)}  # fmt: skip
    is_primary = np.broadcast_to(np.array([name == primary for name in names], bool), cells.shape)
    p_values, family = fields["p_value"], is_primary & ~np.isnan(fields["p_value"])
    adjusted = np.where(family, np.minimum(1, p_values * max(family.sum(), 1)), np.nan)
    adjusted[~is_primary] = adjust_by_holm(p_values[~is_primary])
    level = 1 - (1 - LEVEL) / max(family.sum(), 1)
    for index in zip(*np.nonzero(family), strict=True):
        widened = _replace_ends(cells[index], level)
        fields["low"][index], fields["high"][index] = widened.low, widened.high
    answers = np.full(cells.shape, UNKNOWN, object)
    seen, rises = adjusted <= 1 - LEVEL, fields["estimate"] > 0
    answers[~np.isnan(adjusted)] = UNSEEN
    answers[seen] = np.where(rises, np.where(is_primary, WORSE, HIGHER), np.where(is_primary, BETTER, LOWER))[seen]
    answers[is_reference] = REFERENCE
    axes = (*dims, "metric")
    variables = {
        "difference": (axes, fields["estimate"]),
        **{field: (axes, fields[field]) for field in ("low", "high", "p_value", "chains")},
        "adjusted_p_value": (axes, adjusted),
        "answer": (axes, answers.astype(str)),
    }
    coords = {name: c for name, c in ds.coords.items() if set(c.dims) <= set(dims)}
    units = ("metric", [str(ds[name].attrs.get("units", "1")) for name in names])
    return xr.Dataset(variables, {**coords, "metric": names, "units": units}, {"primary": primary})


def subtract(values: np.ndarray, reference: np.ndarray, paired: bool = True) -> Difference:
    """Return the mean difference of two samples over chains, with Student's interval and test (Welch's, unpaired).

    Args:
      values: ``[chain]``; NaN where a chain is not finished.
      reference: ``[chain]``, of the same chains where `paired`.
      paired: whether value i of both samples was made with the same random numbers.

    Returns:
      The difference. Where a pair's difference is infinite, the estimate is the median, without an interval, and the
      p-value that of the sign test.
    """
    from scipy.special import bdtr, stdtr

    if paired:
        with np.errstate(invalid="ignore"):
            differences = drop_nans(values - reference)
        n = len(differences)
        if n and not np.isfinite(differences).all():
            smaller = min(np.sum(differences > 0), np.sum(differences < 0))
            count = int(np.sum(differences != 0))
            p_value = min(1.0, 2 * float(bdtr(smaller, count, 0.5))) if count else 1.0
            return Difference(float(np.median(differences)), p_value=p_value, chains=n)
        estimate, low, high = student_interval(differences)
        error, freedom = _standard_error(differences), n - 1.0
    else:
        samples = [drop_nans(values), drop_nans(reference)]
        n = min(map(len, samples))
        if n < MIN_CHAINS or not all(np.isfinite(sample).all() for sample in samples):
            return Difference(chains=n, paired=False)
        errors = np.array([_standard_error(sample) for sample in samples])
        estimate, error = float(samples[0].mean() - samples[1].mean()), float(np.hypot(*errors))
        shares = errors**4 / [len(sample) - 1 for sample in samples]
        freedom = float(error**4 / shares.sum()) if error > 0 else float(n)
        low, high = _student_ends(estimate, error, freedom, LEVEL)
    if n < 2:
        return Difference(estimate, chains=n, paired=paired)
    finite = np.concatenate([values[np.isfinite(values)], reference[np.isfinite(reference)]])
    rounding = _ROUNDING * np.abs(finite).max()
    if error > rounding or (np.isnan(error) and n < 2):
        p_value = 2 * float(stdtr(freedom, -abs(estimate) / error))
    else:  # all differences are the same, as counts may be: as improbable as equal signs
        p_value = 1.0 if abs(estimate) <= rounding else 2.0 ** (1 - n)
    return Difference(estimate, low, high, p_value, freedom, n, paired)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def _student_ends(estimate: float, error: float, freedom: float, level: float) -> tuple[float, float]:
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    return estimate - half, estimate + half


def _replace_ends(difference: Difference, level: float) -> Difference:
    """Return a difference with its interval at another level."""
    if np.isnan(difference.low):
        return difference
    from scipy.special import stdtrit

    quantiles = stdtrit(difference.freedom, [(1 + LEVEL) / 2, (1 + level) / 2])
    half = float((difference.high - difference.estimate) * quantiles[1] / quantiles[0])
    return difference._replace(low=difference.estimate - half, high=difference.estimate + half)


def adjust_by_holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values, in the order of `p_values`; NaNs stay and do not count."""
    result, known = np.full(p_values.shape, np.nan), np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    result[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return result


def find_primary(ds: xr.Dataset) -> str:
    """Return the name of the metric that decides: the first risk, else the first excess risk, else "".

    A metric that is finite at fit 1 in no chain, as a likelihood of rows without a density, does not decide.
    """
    names = [name for role in ("risk", "excess_risk") for name in metrics_with_role(ds, role)]
    begun = [name for name in names if np.isfinite(ds[name].isel(generation=0)).any()]
    return next(iter(begun or names), "")


def can_pair(first: xr.Dataset, second: xr.Dataset) -> bool:
    """Return whether chains of two runs share their random numbers: seed, generator, flags, backend and sizes agree."""
    recorded = [{key: ds.attrs.get(key) for key in _SAME} for ds in (first, second)]
    return recorded[0] == recorded[1] and None not in recorded[0].values()


def _take_values(metric: xr.DataArray, position: dict[str, int], generation: int = -1) -> np.ndarray:
    """Return the values of each chain; NaN where fit 1 is not finite, and where more than a tenth became NaN since."""
    rows = select_position(metric, position).transpose("chain", "generation").to_numpy().astype(float)
    begun = np.isfinite(rows[:, 0])
    values = np.where(begun, rows[:, generation], np.nan)
    is_told = begun.any() and np.isnan(values[begun]).mean() <= MAX_LOST
    return values if is_told else np.full(len(values), np.nan)


class CurveComparison(NamedTuple):
    """The primary comparison of a curve with the first curve of the first run.

    Attributes:
      label: the label of the curve.
      difference: of the primary metric.
      adjusted_p_value: Bonferroni's over all curves compared.
      answer: "worse", "better", "smaller than this run can see" or "cannot be told".
    """

    label: str
    difference: Difference
    adjusted_p_value: float
    answer: str


def compare_runs(datasets: Sequence[xr.Dataset], names: Sequence[str] = ()) -> list[CurveComparison]:
    """Compare the risk of each curve of several runs with the first curve of the first run, at the last generation.

    Chains are compared in pairs where both runs agree in seed, generator, precision, backend, device and sizes, and
    the curves in their number of rows; else as two samples (Welch's interval, from 6 chains). Runs whose risk is
    another metric, or that have another setting (in any argument) or number of generations, are left out. The family of
    intervals that hold together is larger than that of one run, so that less may be seen.

    Args:
      datasets: what ``sweep``, ``run`` or ``open`` returned.
      names: what to call them in labels, where there are several.
    """
    first = datasets[0]
    primary = find_primary(select_scalars(first))
    if not primary:
        return []
    (start, *_), found = curve_positions(first).values(), []
    reference = _take_values(first[primary], start)
    for number, ds in enumerate(datasets):
        if primary not in ds or _describe_setting(ds) != _describe_setting(first):
            continue
        for label, position in curve_positions(ds).items():
            if number == 0 and position == start:
                continue
            paired = ds is first or can_pair(first, ds)
            paired &= _num_samples(ds, position) == _num_samples(first, start)
            named = f"{names[number]}: {label}" if len(datasets) > 1 and names else label
            found.append((named, subtract(_take_values(ds[primary], position), reference, paired)))
    count = sum(not np.isnan(difference.p_value) for _, difference in found)
    level = 1 - (1 - LEVEL) / max(count, 1)
    return [_answer(label, _replace_ends(difference, level), count) for label, difference in found]


def _describe_setting(ds: xr.Dataset) -> list[object]:
    """Return what two runs must have in common to be compared."""
    config = yaml.safe_load(str(ds.attrs.get("config", "")))
    setting = config.get("setting") if isinstance(config, dict) else None
    return [ds.attrs.get("setting"), setting, ds.attrs.get("num_generations")]


def _answer(label: str, difference: Difference, count: int) -> CurveComparison:
    adjusted = min(1.0, difference.p_value * count) if not np.isnan(difference.p_value) else np.nan
    if np.isnan(adjusted):
        return CurveComparison(label, difference, adjusted, UNKNOWN)
    seen = WORSE if difference.estimate > 0 else BETTER
    return CurveComparison(label, difference, adjusted, seen if adjusted <= 1 - LEVEL else UNSEEN)


def _num_samples(ds: xr.Dataset, position: dict[str, int]) -> object:
    """Return the number of rows of a curve's batches."""
    if "num_samples" in position:
        return ds["num_samples"].to_numpy()[position["num_samples"]].item()
    return ds.attrs.get("num_samples")
