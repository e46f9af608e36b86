"""Estimate how long chains last: the generations until collapse, censored where a run ends before it."""

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import require_number
from collapse_jax.numerics.confidence_intervals import LEVEL, MIN_CHAINS
from collapse_jax.results.variables import grid_dims

if TYPE_CHECKING:
    from scipy.stats._survival import EmpiricalDistributionFunction


class Survival(NamedTuple):
    """The median time until an event, by Kaplan and Meier.

    Attributes:
      median: the median time; infinite where it is not reached.
      low: the lower 95% limit; NaN for fewer than 6 chains.
      high: the upper 95% limit; NaN for fewer than 6 chains.
      events: the number of chains in which the event came.
      chains: the number of chains.
    """

    median: float
    low: float
    high: float
    events: int
    chains: int


def collapse_times(ds: xr.Dataset, threshold: float = 0.01) -> xr.Dataset:
    """Estimate the generations until collapse: a small variance, or at most one symbol left.

    A chain has collapsed when the metric of the role ``log_variance`` is under the log of `threshold` (the total
    variance over the truth's), or the metric of the role ``modes`` says that at most one mode is alive; where both were
    recorded, the first to come counts. A chain that has not collapsed is censored at its last finished generation.

    Args:
      ds: a dataset that ``sweep`` or ``open`` returned.
      threshold: a share of the truth's total variance, above 0 and below 1.

    Returns:
      The dims of `ds` without chain and generation; the variables are the fields of ``Survival``. They are NaN, with 0
      chains, where no metric has such a role.

    Raises:
      UsageError: `ds` is not the dataset of a run, or the threshold is out of range.
    """
    check_run("collapse_times", ds)
    require_number("collapse_times: threshold", threshold, above=0, below=1)
    names = [(name, np.log(threshold)) for name in metrics_with_role(ds, "log_variance")[:1]]
    names += [(name, 1.5) for name in metrics_with_role(ds, "modes")[:1]]  # below: one mode alive, or none
    return _survival_times(ds, names)


def half_life(ds: xr.Dataset) -> xr.Dataset:
    """Estimate the generations until half of the real information is lost.

    Where a metric of the role ``ancestors`` was recorded, half is lost when under half of the real rows have
    descendants; else when the total variance is under half of the truth's (role ``log_variance``). The variance of a
    kernel density grows, so it never is. Arguments, result and errors are those of ``collapse_times``. Under *replace*
    the logarithm of a Gaussian's variance, fitted by maximum likelihood, falls by about 2/n nats a generation.
    """
    check_run("half_life", ds)
    ancestors = [(name, 0.5) for name in metrics_with_role(ds, "ancestors")[:1]]
    return _survival_times(ds, ancestors or [(name, np.log(0.5)) for name in metrics_with_role(ds, "log_variance")[:1]])


def estimate_survival(times: np.ndarray, observed: np.ndarray) -> Survival:
    """Estimate the median of censored times and its 95% interval.

    The interval comes from Greenwood's variance on the log-log scale (Brookmeyer and Crowley 1982). Where the last
    chains at risk all fall at once that variance says nothing; the upper limit then is the exact binomial limit of that
    step times the limit before.

    Args:
      times: ``[chains]``, the time of the event, or the last time at which it had not come.
      observed: ``[chains]``, whether the event came. Censored chains count as at risk at their own time.
    """
    from scipy.stats import CensoredData, ecdf

    times, observed = np.asarray(times, float), np.asarray(observed, bool)
    if not observed.any():
        nothing, limit = np.inf if len(times) else np.nan, np.inf if len(times) >= MIN_CHAINS else np.nan
        return Survival(nothing, limit, limit, 0, len(times))
    survival: EmpiricalDistributionFunction = ecdf(CensoredData.right_censored(times, ~observed)).sf
    with warnings.catch_warnings():  # where nothing has fallen yet, or everything has
        warnings.simplefilter("ignore", RuntimeWarning)
        limits = survival.confidence_interval(LEVEL, method="log-log")
    alive = np.asarray(survival.probabilities)
    low, high = (np.where(alive == 1, 1.0, np.asarray(x.probabilities)) for x in (limits.low, limits.high))
    if alive[-1] == 0:
        before = high[-2] if len(high) > 1 else 1.0
        at_risk = int((times >= survival.quantiles[-1]).sum())
        low[-1], high[-1] = 0.0, before * (1 - ((1 - LEVEL) / 2) ** (1 / at_risk))
    below_half = [survival.quantiles[p <= 0.5] for p in (alive, low, high)]
    median, earliest, latest = (float(t[0]) if len(t) else np.inf for t in below_half)
    if len(times) < MIN_CHAINS:
        earliest = latest = np.nan
    return Survival(median, earliest, latest, int(observed.sum()), len(times))


def metrics_with_role(ds: xr.Dataset, role: str) -> list[str]:
    """Return the names of the metrics that have `role` among their roles, in order."""
    return [str(name) for name, values in ds.data_vars.items() if role in str(values.attrs.get("role", "")).split()]


def zeros_on_grid(ds: xr.Dataset) -> xr.DataArray:
    """Return zeros at the policies and grid points of a run, with their labels."""
    dims = grid_dims(ds)
    coords = {name: c for name, c in ds.coords.items() if set(c.dims) <= set(dims)}
    return xr.DataArray(np.zeros([ds.sizes[dim] for dim in dims]), coords, dims)


def check_run(where: str, ds: xr.Dataset) -> None:
    """Refuse what cannot be the dataset of a run.

    Raises:
      UsageError: `ds` is no dataset, or has no dimension ``chain`` or ``generation``.
    """
    if not isinstance(ds, xr.Dataset):
        raise UsageError(f"{where}: ds must be a dataset of a run, not {type(ds).__name__}")
    for dim in ("chain", "generation"):
        if dim not in ds.dims:
            raise UsageError(f"{where}: ds has no dimension {dim!r}; give what sweep or open returned")


def _survival_times(ds: xr.Dataset, names: list[tuple[str, float]]) -> xr.Dataset:
    """Estimate the generations until the first of some metrics is under its limit."""
    if not names:
        nothing = zeros_on_grid(ds) * np.nan
        result = xr.Dataset({field: nothing for field in Survival._fields})
        return _with_integer_counts(result.fillna({"events": 0, "chains": 0}))
    generations = ds["generation"].to_numpy()
    fallen = xr.concat([ds[name] < limit for name, limit in names], "metric").any("metric")
    known = xr.concat([ds[name].notnull() for name, _ in names], "metric").all("metric")

    def estimate(fallen: np.ndarray, known: np.ndarray) -> np.ndarray:
        begun = known.any(1)
        fallen, known = fallen[begun] & known[begun], known[begun]
        observed = np.asarray(fallen.any(1))
        last = len(generations) - 1 - known[:, ::-1].argmax(1)
        times = generations[np.where(observed, fallen.argmax(1), last)]
        return np.asarray(estimate_survival(times, observed), float)

    core = ["chain", "generation"]
    fields = xr.apply_ufunc(estimate, fallen, known, input_core_dims=[core, core], output_core_dims=[["field"]],
                            vectorize=True)  # fmt: skip
    result = xr.Dataset({field: fields.isel(field=i) for i, field in enumerate(Survival._fields)})
    return _with_integer_counts(result.drop_attrs())


def _with_integer_counts(result: xr.Dataset) -> xr.Dataset:
    return result.assign({field: result[field].astype(int) for field in ("events", "chains")})
