"""Every prediction of ``theory`` held against chains: z-scores, with a limit for as many looks as are taken."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from collapse_jax import config
from collapse_jax.analysis.predictions import case_of
from collapse_jax.analysis.theory_check_cases import EXPERIMENTS
from collapse_jax.core.errors import UsageError
from collapse_jax.execution.sweep import sweep
from collapse_jax.theory import Case, Prediction, find_predictions
from collapse_jax.types import Symbols

if TYPE_CHECKING:
    pass

FALSE_ALARMS = 1e-3  # probability that true predictions fail, all looks together
_LOOKS = 4  # generations at which a prediction is looked at, spread over those that are fair


class Row(NamedTuple):
    """One prediction about one experiment, at the generation where the chains lie farthest from it.

    Attributes:
      setting: name and parameters.
      policy: name and parameters.
      prediction: which.
      n: rows a batch.
      generation: of the largest |z|.
      low: predicted, lower end.
      high: predicted, upper end.
      simulated: over chains.
      error: standard error of it.
      z: standard errors between the two; 0 inside an interval.
      looks: generations looked at.
    """

    setting: str
    policy: str
    prediction: Prediction
    n: int
    generation: int
    low: float
    high: float
    simulated: float
    error: float
    z: float
    looks: int


def verify(settings: Sequence[str] | None = None, done: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Simulates the experiments and compares; fixed seeds.

    Args:
      settings: names; default all that are predicted anything about.
      done: told the setting of each experiment as it begins.

    Raises:
      UsageError: a setting of which nothing is predicted.
    """
    known = list(dict.fromkeys(raw["setting"]["kind"] for raw in EXPERIMENTS))
    for name in settings or ():
        if name not in known:
            raise UsageError(f"setting: nothing is predicted of {name!r}; one of {', '.join(known)}")
    rows: list[Row] = []
    for seed, raw in enumerate(EXPERIMENTS):
        if settings is None or raw["setting"]["kind"] in settings:
            done(raw["setting"]["kind"])
            rows += compare(config.from_dict({**raw, "seed": seed}))
    return rows


def compare(experiment: config.Experiment) -> list[Row]:
    """One row a prediction that holds for a policy of `experiment`."""
    cases = [case_of(experiment, i) for i in range(len(experiment.policies))]
    found = [find_predictions(case) for case in cases]
    wanted = sorted({name for some in found for prediction in some for name in prediction.metrics})
    setting, policies = experiment.build()
    options = experiment.options()._replace(metrics=wanted)._asdict()
    options.pop("checkpoint_every")  # of runs on disk
    curator = experiment.grid().make(0, {}).curator
    result = sweep(setting, policies, num_samples=experiment.num_samples, curator=curator, **options)
    names = [", ".join(f"{raw['kind']}{_words(raw)}" for raw in (case.policy, case.curator) if raw) for case in cases]
    rows = []
    for i, (case, some) in enumerate(zip(cases, found, strict=True)):
        metrics = {name: result[name].isel(policy=i).to_numpy().astype(float) for name in wanted}
        rows += [row for p in some for row in _row(case, p, metrics, names[i])]
    return rows


def _row(case: Case, prediction: Prediction, metrics: Mapping[str, np.ndarray], policy: str) -> Iterator[Row]:
    fair = np.flatnonzero(prediction.is_fair(case))
    if not len(fair):
        return
    # Not the first fit, which policies of one experiment share.
    column = fair[np.unique(np.round(np.linspace(0, len(fair) - 1, _LOOKS + 1)[1:]).astype(int))]
    low, high = prediction.interval(case)[:, column]
    samples = prediction.sampled(case, metrics)[:, column]
    simulated, error = (_mean if prediction.statistic == "mean" else _variance)(samples)
    z = z_score(simulated, error, low, high)
    worst = int(np.argmax(np.abs(z)))
    setting = f"{case.setting['kind']}{_size(case)}{_words(case.setting)}"
    yield Row(
        setting, policy, prediction, case.num_samples, int(column[worst]) + 1, float(low[worst]), float(high[worst]),
        float(simulated[worst]), float(error[worst]), float(z[worst]), len(column),
    )  # fmt: skip


def z_score(simulated: np.ndarray, error: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Standard errors from the interval; infinite where there is no error and a difference, or where nothing is finite.

    A difference within float32's rounding is none.
    """
    distance = np.maximum(simulated - high, 0.0) - np.maximum(low - simulated, 0.0)
    rounding = 1e-6 * np.maximum(np.abs(low), np.abs(high))
    distance = np.where(np.abs(distance) <= rounding, 0.0, distance)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(distance == 0, 0.0, distance / error)
    return np.where(np.isnan(z), np.inf, z)


def limit(rows: Sequence[Row]) -> float:
    """The largest |z| that passes: Bonferroni's correction for the looks taken."""
    looks = max(sum(row.looks for row in rows), 1)
    return NormalDist().inv_cdf(1 - FALSE_ALARMS / (2 * looks))


def failures(rows: Sequence[Row]) -> list[Row]:
    """Those beyond the limit."""
    most = limit(rows)
    return [row for row in rows if not abs(row.z) <= most]


def _mean(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return samples.mean(0), samples.std(0, ddof=1) / np.sqrt(len(samples))


def _variance(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance over chains; its standard error from the fourth moment."""
    number, variance = len(samples), samples.var(0, ddof=1)
    fourth = ((samples - samples.mean(0)) ** 4).mean(0)
    return variance, np.sqrt((fourth - variance**2 * (number - 3) / (number - 1)) / number)


def _size(case: Case) -> str:
    if isinstance(case.source, Symbols):
        return f", K = {len(case.shares)}"
    return "" if case.source is None else f", d = {case.source.dim}"


def _words(raw: Mapping[str, Any]) -> str:
    """The numbers among the parameters that tell cases apart."""
    hidden = ("kind", "source", "probabilities", "num_test", *(["dim"] if "source" in raw else []))
    given = [
        f"{k}={v['kind'] if isinstance(v, Mapping) else v}" for k, v in raw.items() if k not in hidden and v is not None
    ]
    return f" ({', '.join(given)})" if given else ""
