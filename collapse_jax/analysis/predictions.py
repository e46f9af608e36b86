"""Ask theory about an experiment before it is run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax import theory
from collapse_jax.core.errors import UsageError
from collapse_jax.planning.grid import Grid, make_grid
from collapse_jax.theory import Case


def predict(setting: Any, policy: Any, *, num_samples: int, num_generations: int, curator: Any = None) -> xr.Dataset:
    """Return all that theory says of a setting under a policy.

    Example:
      >>> import collapse_jax as cj
      >>> known = cj.predict("gaussian", {"kind": "window", "k": 2}, num_samples=20, num_generations=3)
      >>> known.low[known.quantity == "squared_error_of_mean"].round(2).values.tolist()
      [[0.05, 0.06, 0.09]]

    Args:
      setting: as in ``run``: a setting, its factory, its name, or its name and arguments in a mapping
        (``{"kind": "gaussian", "dim": 3}``).
      policy: the same of the policy.
      num_samples: n, the rows of a batch.
      num_generations: T, the fits in a chain.
      curator: the same of the curator, or None.

    Returns:
      A dataset with the dimensions ``("prediction", "generation")``: ``low`` and ``high``, the ends of an interval,
      which are equal where the prediction is exact; NaN where chains cannot be held to it. Along ``prediction``: the
      ``quantity``, the ``statistic`` over chains (mean or variance), whether it is ``exact``, and its ``source``. Where
      theory knows nothing it is empty, and the attribute ``message`` says so.

    Raises:
      UsageError: no such setting, policy, curator or argument.
    """
    grid = make_grid(setting, policy, num_samples=num_samples, num_generations=num_generations, curator=curator)
    point = grid.point(0, ())
    parts = [part.name for part in (point.setting, point.policy, point.curator) if part is not None]
    try:
        case = case_at(grid)
        known = theory.find_predictions(case)
        message = "" if known else f"theory has no prediction about {' with '.join(parts)} at these arguments"
    except UsageError as error:
        known, message = [], f"theory speaks of registered parts alone: {error}"
    generations = np.arange(1, num_generations + 1)
    limits = np.stack([np.where(p.is_fair(case), p.interval(case), np.nan) for p in known] or [np.zeros((0, 2, 0))])
    limits = limits.reshape(len(known), 2, num_generations)
    names = ("quantity", "statistic", "exact", "source")
    along = {name: ("prediction", [getattr(p, name) for p in known]) for name in names}
    return xr.Dataset(
        {name: (("prediction", "generation"), limits[:, i]) for i, name in enumerate(("low", "high"))},
        {"generation": generations, **along},
        {"message": message} if message else {},
    )


def case_at(grid: Grid, policy: int = 0, index: tuple[int, ...] = ()) -> Case:
    """Return what predictions may depend on, at one point of a grid.

    Raises:
      UsageError: a part was not made by a registered factory.
    """
    point = grid.point(policy, index)
    sizes: Mapping[str, int] = {"num_samples": int(point.num_samples), "num_generations": point.num_generations}
    return theory.make_case(point.setting, point.policy, curator=point.curator, **sizes)
