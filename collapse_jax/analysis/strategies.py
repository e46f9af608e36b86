"""Strategies side by side: what each does to the risk and to the spread, and what it costs."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr
import yaml

from collapse_jax import config
from collapse_jax.analysis.verdicts import DEFINITIONS, score
from collapse_jax.core.batch_rows import batch_rows
from collapse_jax.core.errors import UsageError
from collapse_jax.numerics.confidence_intervals import Interval, median_interval
from collapse_jax.planning.grid import Point
from collapse_jax.results.summary import curve_positions, select_position

if TYPE_CHECKING:
    pass


class Strategy(NamedTuple):
    """A policy and a curator (and whatever else was swept) in one setting.

    Attributes:
      setting: its name.
      policy: its label.
      rest: of the strategy's label: what else was swept.
      risk: at the last generation over that at the first, median over chains; where the risk is not 0 at the truth
        (a test loss) the difference of the two instead.
      is_ratio: which of the two.
      spread: what is kept of it from first to last: variance, else entropy, else real modes alive, else the tail.
      real_rows: that a chain uses, the first batch among them.
      candidates: rows sampled for each row kept.
      verdicts: titles of the definitions of collapse that say yes.
    """

    setting: str
    policy: str
    rest: str
    risk: Interval
    is_ratio: bool
    spread: Interval
    real_rows: float
    candidates: int
    verdicts: tuple[str, ...]


def strategies(ds: xr.Dataset) -> list[Strategy]:
    """One a curve of a dataset that carries its config.

    Raises:
      UsageError: a dataset without a config.
    """
    if "config" not in ds.attrs:
        raise UsageError("compare: the dataset carries no config; open the folder of a run")
    experiment = config.from_dict(yaml.safe_load(ds.attrs["config"]))
    grid, verdicts, found = experiment.grid(), score(ds)["verdict"], []
    for label, position in curve_positions(ds).items():
        point = grid.make(position["policy"], grid.values([position[axis.dim] for axis in grid.axes]))
        said = verdicts.isel(position).to_numpy()
        risk, is_ratio = _risk(ds, position)
        found.append(
            Strategy(
                point.setting.name,
                *_label(ds, label, position),
                risk,
                is_ratio,
                _spread(ds, position),
                _real_rows(point, ds.sizes["generation"]),
                1 if point.curator is None else point.curator.oversample,
                tuple(
                    d.title.replace("-\n", "").replace("\n", " ")
                    for d, word in zip(DEFINITIONS, said, strict=True)
                    if word == "yes"
                ),
            )
        )
    return found


def _label(ds: xr.Dataset, label: str, position: dict[str, int]) -> tuple[str, str]:
    """A curve's policy, and the rest of its label; of a swept curator its name is enough."""
    policy = str(ds["policy"].to_numpy()[position["policy"]]) if "policy" in position else ""
    return policy, label.removeprefix(policy).strip().replace("curator=", "")


def _named(ds: xr.Dataset, *roles: str) -> tuple[str, str]:
    """The first metric of the first of these roles, and the role."""
    for role in roles:
        for name in map(str, ds.data_vars):
            if role in ds[name].attrs.get("role", "").split():
                return name, role
    return "", ""


def _ends(ds: xr.Dataset, name: str, position: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """A metric of each chain, at the first generation and at the last."""
    values = select_position(ds[name], position).transpose("chain", "generation").to_numpy().astype(float)
    return values[:, 0], values[:, -1]


def _risk(ds: xr.Dataset, position: dict[str, int]) -> tuple[Interval, bool]:
    name, role = _named(ds, "excess_risk", "risk")
    if not name:
        return (np.nan, np.nan, np.nan), True
    first, last = _ends(ds, name, position)
    if role == "risk":
        return median_interval(last - first), False
    # Over the median of the first: of some chains it may be all but 0.
    return median_interval(last / np.median(first)), True


def _spread(ds: xr.Dataset, position: dict[str, int]) -> Interval:
    name, role = _named(ds, "log_variance", "spread", "modes", "tail")
    if not name:
        return np.nan, np.nan, np.nan
    first, last = _ends(ds, name, position)
    with np.errstate(divide="ignore", invalid="ignore"):
        return median_interval(np.exp(last - first) if role == "log_variance" else last / first)


def _real_rows(point: Point, generations: int) -> float:
    _, policy, curator, n = point
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
