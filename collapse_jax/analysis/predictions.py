"""From an experiment, or a dataset that carries one, to what theory says of it."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
import yaml

from collapse_jax import config, theory
from collapse_jax.config import schema
from collapse_jax.config.sweep_section import moved, parts_at
from collapse_jax.core.errors import UsageError
from collapse_jax.planning.describe_calls import changed
from collapse_jax.planning.grid import coordinates
from collapse_jax.theory import Case


def case_of(experiment: config.Experiment, policy: int = 0, point: Sequence[int] = ()) -> Case:
    """What predictions may depend on, for one policy (its number) at one point of the grid (an index an axis).

    Raises:
      ConfigError: a part refuses its arguments, or its data are gone.
    """
    values = {
        path: value
        for axis, i in zip(experiment.sweep, point, strict=True)
        for path, value in zip(axis.paths, axis.values[i], strict=True)
    }
    changes, policy_spec, curator_spec, num_samples = parts_at(experiment, policy, values)
    setting_spec = moved(experiment.setting, changes)
    return Case(
        config.to_dict(setting_spec),
        config.to_dict(policy_spec),
        int(num_samples),
        experiment.num_generations,
        _built(setting_spec).info.source,
        config.to_dict(curator_spec),
    )


def _case(setting: Mapping[str, Any], policy: Mapping[str, Any], curator: Any = None, **sizes: int) -> Case:
    """Of parts as in a config, with all their arguments or some."""
    parts = {"setting": setting, "policies": [policy], "curator": curator}
    return case_of(config.from_dict({**parts, "num_chains": 1, **sizes}))


@functools.lru_cache(maxsize=64)  # a grid asks for the same few settings again and again
def _built(spec: schema.Spec) -> Any:
    return spec.build("setting")


def predict(
    setting: str | Mapping[str, Any], policy: str | Mapping[str, Any], *, num_samples: int, num_generations: int
) -> xr.Dataset:
    """All that theory says of a setting under a policy.

    Args:
      setting: its name, or name and arguments as in a config: ``{"kind": "gaussian", "dim": 3}``.
      policy: the same of the policy.
      num_samples: n.
      num_generations: T.

    Returns:
      Dims ``("prediction", "generation")``: ``low`` and ``high``, the ends of an interval, which are equal where the
      prediction is exact; NaN where chains cannot be held to it. Along ``prediction``: the ``quantity``, the
      ``statistic`` over chains (mean or variance), whether it is ``exact``, and its ``source``.

    Raises:
      UsageError: no such setting, policy or argument.
    """
    spec = [{"kind": part} if isinstance(part, str) else dict(part) for part in (setting, policy)]
    case = _case(*spec, num_samples=num_samples, num_generations=num_generations)
    found = theory.find_predictions(case)
    limits = np.stack([np.where(p.is_fair(case), p.interval(case), np.nan) for p in found] or [np.zeros((0, 2, 0))])
    limits = limits.reshape(len(found), 2, num_generations)
    names = ("quantity", "statistic", "exact", "source")
    return xr.Dataset(
        {name: (("prediction", "generation"), limits[:, i]) for i, name in enumerate(("low", "high"))},
        {"generation": case.generations, **{n: ("prediction", [getattr(p, n) for p in found]) for n in names}},
    )


class Lines:
    """The exact mean of a metric along the curves of a dataset; nothing where it does not say what was run."""

    def __init__(self, ds: xr.Dataset):
        self.ds = ds
        self.experiment: config.Experiment | None = None
        self._calls = json.loads(ds.attrs.get("calls", "null"))
        try:
            self.experiment = config.from_dict(yaml.safe_load(ds.attrs["config"])) if "config" in ds.attrs else None
            self._axes = () if self.experiment is None else self.experiment.grid().axes
        except UsageError:  # of another version, or its data are not here
            self.experiment = None

    def at(self, name: str, position: dict[str, int], *, in_logs: bool = False) -> np.ndarray | None:
        """``[generation]`` of the metric `name`, NaN where a mean over chains cannot be compared; None: not known.

        Args:
          name: of the metric.
          position: index of the curve on each dimension, as in ``io.columns``.
          in_logs: only predictions about logarithms, which medians follow too.
        """
        try:
            case = self._case(position)
            column = self.ds["generation"].to_numpy().reshape(-1) - 1
        except (KeyError, UsageError):
            return None
        if case is None:
            return None
        for prediction in theory.find_predictions(case):
            about = prediction.metrics == (name,) and prediction.samples is None and prediction.statistic == "mean"
            if about and prediction.exact and (prediction.in_logs or not in_logs):
                return np.where(prediction.is_fair(case), prediction.interval(case)[0], np.nan)[column]
        return None

    def _case(self, position: dict[str, int]) -> Case | None:
        """By labels: the dataset may be a part of what was run."""
        if self.experiment is not None:
            number = self.experiment.policy_labels.index(self._label("policy", position))
            point = [coordinates(axis).index(self._label(axis.dim, position)) for axis in self._axes]
            return case_of(self.experiment, number, point)
        if self._calls is None:
            return None
        place = {dim: known.index(self._label(dim, position)) for dim, known in self._calls["labels"].items()}
        changes = [moves[place[dim]] for dim, moves in self._calls["axes"].items()]
        parts = changed(self._calls["base"], changes)
        sizes = {"num_samples": parts["num_samples"], "num_generations": self.ds.attrs["num_generations"]}
        curator = parts["curator"] if parts["curator"]["kind"] else None
        return _case(parts["setting"], parts["policies"][place["policy"]], curator, **sizes)

    def _label(self, dim: str, position: dict[str, int]) -> Any:
        labels = self.ds[dim].to_numpy()
        return (labels[position[dim]] if labels.ndim else labels).item()
