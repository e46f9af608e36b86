"""Score strategies: what each does to the risk and to the diversity, and what it costs."""

from typing import NamedTuple

import numpy as np
import xarray as xr
import yaml

from collapse_jax import config
from collapse_jax.analysis.verdicts import DEFINITIONS, score
from collapse_jax.core.batch_rows import batch_rows
from collapse_jax.core.errors import UsageError
from collapse_jax.numerics.confidence_intervals import MIN_CHAINS, Interval, median_interval, range_interval
from collapse_jax.planning.grid import Point
from collapse_jax.results.summary import curve_positions, select_position


class Strategy(NamedTuple):
    """A policy and a curator (and whatever else was swept) in one setting.

    Attributes:
      setting: the name of the setting.
      policy: the label of the policy.
      rest: the rest of the strategy's label: what else was swept.
      risk: the risk at the last generation over that at the first, median over chains; their difference instead where
        the risk is not 0 at the truth (a test loss).
      is_ratio: whether `risk` is a ratio.
      diversity: the share of the diversity at the first generation that is kept at the last: of the variance, else of
        the entropy, else of the real modes alive, else of the tail.
      real_rows: real rows that a chain uses, those of the first batch among them.
      candidates: rows sampled for each row kept.
      verdicts: titles of the definitions of collapse that say yes.
    """

    setting: str
    policy: str
    rest: str
    risk: Interval
    is_ratio: bool
    diversity: Interval
    real_rows: float
    candidates: int
    verdicts: tuple[str, ...]


def score_strategies(ds: xr.Dataset) -> list[Strategy]:
    """Return one strategy for each curve of a dataset that carries its config.

    Raises:
      UsageError: the dataset carries no config.
    """
    if "config" not in ds.attrs:
        raise UsageError("compare: the dataset carries no config; open the folder of a run")
    experiment = config.from_dict(yaml.safe_load(ds.attrs["config"]))
    grid, verdicts, strategies = experiment.grid(), score(ds)["verdict"], []
    for label, position in curve_positions(ds).items():
        point = grid.point(position["policy"], [position[axis.dim] for axis in grid.axes])
        verdict = verdicts.isel(position).to_numpy()
        risk, is_ratio = _measure_risk(ds, position)
        strategies.append(
            Strategy(
                point.setting.name,
                *_split_label(ds, label, position),
                risk,
                is_ratio,
                _measure_diversity(ds, position),
                _count_real_rows(point, ds.sizes["generation"]),
                1 if point.curator is None else point.curator.oversample,
                tuple(
                    d.title.replace("-\n", "").replace("\n", " ")
                    for d, answer in zip(DEFINITIONS, verdict, strict=True)
                    if answer == "yes"
                ),
            )
        )
    return strategies


def _split_label(ds: xr.Dataset, label: str, position: dict[str, int]) -> tuple[str, str]:
    """Return a curve's policy, and the rest of its label; a swept curator is named without its axis."""
    policy = str(ds["policy"].to_numpy()[position["policy"]]) if "policy" in position else ""
    return policy, label.removeprefix(policy).strip().replace("curator=", "")


def _find_metric(ds: xr.Dataset, *roles: str) -> tuple[str, str]:
    """Return the first metric of the first of these roles that a metric has, and the role."""
    for role in roles:
        for name in map(str, ds.data_vars):
            if role in ds[name].attrs.get("role", "").split():
                return name, role
    return "", ""


def _select_ends(ds: xr.Dataset, name: str, position: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric of each chain, at the first generation and at the last."""
    values = select_position(ds[name], position).transpose("chain", "generation").to_numpy().astype(float)
    return values[:, 0], values[:, -1]


def _measure_risk(ds: xr.Dataset, position: dict[str, int]) -> tuple[Interval, bool]:
    name, role = _find_metric(ds, "excess_risk", "risk")
    if not name:
        return (np.nan, np.nan, np.nan), True
    first, last = _select_ends(ds, name, position)
    if role == "risk":
        return _summarize(last - first), False
    # The median is the divisor, since the first risk of some chains may be all but 0.
    return _summarize(last / np.median(first)), True


def _measure_diversity(ds: xr.Dataset, position: dict[str, int]) -> Interval:
    name, role = _find_metric(ds, "log_variance", "diversity", "modes", "tail")
    if not name:
        return np.nan, np.nan, np.nan
    first, last = _select_ends(ds, name, position)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _summarize(np.exp(last - first) if role == "log_variance" else last / first)


def _count_real_rows(point: Point, generations: int) -> float:
    _, policy, curator, n, *_ = point
    sizes = [*policy.sizes, *generations * [policy.sizes[-1] if policy.sizes else n]][: generations - 1]
    total = float(n)
    counts = batch_rows(point.setting, policy, n)
    for size in sizes:  # the last batch joins what no fit sees
        rows = counts._replace(size=size)
        if policy.real == "fresh":
            total += size if rows.real is None else int(rows.real)
        if curator is not None:
            total += float(curator.real_rows) * rows.synthetic
    return total


def _summarize(values: np.ndarray) -> Interval:
    """Return the median with its interval, or with the range of fewer than 6 chains."""
    return median_interval(values) if len(values) >= MIN_CHAINS else range_interval(values)
