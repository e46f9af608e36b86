"""How long chains last: generations until collapse, censored where a run ends before it."""

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import require_number
from collapse_jax.numerics.confidence_intervals import LEVEL
from collapse_jax.results.variables import grid_dims

if TYPE_CHECKING:
    from scipy.stats._survival import EmpiricalDistributionFunction


class Survival(NamedTuple):
    """Kaplan-Meier's median time, its 95% limits (inf: not reached), and of how many chains how many got there."""

    median: float
    low: float
    high: float
    events: int
    chains: int


def collapse_times(ds: xr.Dataset, threshold: float = 0.01) -> xr.Dataset:
    """Generations until collapse: total variance under `threshold` of the truth's, or one symbol left.

    Reads the metrics of roles ``log_variance`` and ``modes`` (at most one alive); where both were recorded, the first
    to come counts. A chain that has not collapsed at the run's end is censored there, one of unfinished results at its
    last finished generation.

    Args:
      ds: what ``sweep`` or ``open`` gave.
      threshold: share of the truth's total variance, above 0 and below 1.

    Returns:
      Dims as of `ds` without chain and generation; the variables are the fields of ``Survival``. NaN, and 0 chains,
      where no metric has such a role.

    Raises:
      UsageError: a threshold out of range.
    """
    check_run("collapse_times", ds)
    require_number("collapse_times: threshold", threshold, above=0, below=1)
    names = [(name, np.log(threshold)) for name in with_role(ds, "log_variance")[:1]]
    return _times(ds, names + [(name, 1.5) for name in with_role(ds, "modes")[:1]])  # under it: one alive, or none


def half_life(ds: xr.Dataset) -> xr.Dataset:
    """Generations until half of the real information is lost.

    Under half of the real rows have descendants, where a metric of the role ``ancestors`` was recorded; else the total
    variance is under half of the truth's (role ``log_variance``), which a kernel density's, widening, never is. The
    rest is as of ``collapse_times``. Under *replace* the logarithm of a Gaussian's variance, fitted by maximum
    likelihood, falls by about 2/n nats a generation.
    """
    check_run("half_life", ds)
    ancestors = [(name, 0.5) for name in with_role(ds, "ancestors")[:1]]
    return _times(ds, ancestors or [(name, np.log(0.5)) for name in with_role(ds, "log_variance")[:1]])


def kaplan_meier(times: np.ndarray, observed: np.ndarray) -> Survival:
    """The median of censored times and its 95% interval (log-log transformed Greenwood; Brookmeyer and Crowley 1982).

    Args:
      times: ``[chains]``, of the event, or the last time at which it had not come.
      observed: ``[chains]``, whether it came. Censored chains count as at risk at their own time.

    Where the last chains at risk all fall at once, Greenwood's variance says nothing; the upper limit then is the exact
    binomial one of that step times the limit before.
    """
    from scipy.stats import CensoredData, ecdf

    times, observed = np.asarray(times, float), np.asarray(observed, bool)
    if not observed.any():
        nothing = np.inf if len(times) else np.nan
        return Survival(nothing, nothing, nothing, 0, len(times))
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
    passed = [survival.quantiles[p <= 0.5] for p in (alive, low, high)]
    first, earliest, latest = (float(t[0]) if len(t) else np.inf for t in passed)
    return Survival(first, earliest, latest, int(observed.sum()), len(times))


def with_role(ds: xr.Dataset, role: str) -> list[str]:
    """The metrics that a run declared to serve as `role`, in order."""
    return [str(name) for name, values in ds.data_vars.items() if role in str(values.attrs.get("role", "")).split()]


def points(ds: xr.Dataset) -> xr.DataArray:
    """Zeros at the policies and grid points of a run, with their labels."""
    dims = grid_dims(ds)
    coords = {name: c for name, c in ds.coords.items() if set(c.dims) <= set(dims)}
    return xr.DataArray(np.zeros([ds.sizes[dim] for dim in dims]), coords, dims)


def check_run(where: str, ds: xr.Dataset) -> None:
    """Raises ``UsageError`` unless `ds` could be what ``sweep`` gave."""
    if not isinstance(ds, xr.Dataset):
        raise UsageError(f"{where}: ds must be a dataset of a run, not {type(ds).__name__}")
    for dim in ("chain", "generation"):
        if dim not in ds.dims:
            raise UsageError(f"{where}: ds has no dimension {dim!r}; give what sweep or open returned")


def _times(ds: xr.Dataset, names: list[tuple[str, float]]) -> xr.Dataset:
    """Until the first of some metrics is under its limit."""
    if not names:
        nothing = points(ds) * np.nan
        result = xr.Dataset({field: nothing for field in Survival._fields})
        return _whole(result.fillna({"events": 0, "chains": 0}))
    generations = ds["generation"].to_numpy()
    fallen = xr.concat([ds[name] < limit for name, limit in names], "metric").any("metric")
    known = xr.concat([ds[name].notnull() for name, _ in names], "metric").all("metric")

    def one(fallen: np.ndarray, known: np.ndarray) -> np.ndarray:
        some = known.any(1)  # chains that have begun
        fallen, known = fallen[some] & known[some], known[some]
        came = np.asarray(fallen.any(1))
        last = len(generations) - 1 - known[:, ::-1].argmax(1)
        return np.asarray(kaplan_meier(generations[np.where(came, fallen.argmax(1), last)], came), float)

    core = ["chain", "generation"]
    found = xr.apply_ufunc(one, fallen, known, input_core_dims=[core, core], output_core_dims=[["field"]],
                           vectorize=True)  # fmt: skip
    result = xr.Dataset({field: found.isel(field=i) for i, field in enumerate(Survival._fields)})
    return _whole(result.drop_attrs())


def _whole(result: xr.Dataset) -> xr.Dataset:
    return result.assign({field: result[field].astype(int) for field in ("events", "chains")})
