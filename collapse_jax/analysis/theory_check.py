"""Compare every prediction of ``theory`` with chains: z-scores, and a limit corrected for the number of tests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from collapse_jax import config
from collapse_jax.analysis.predictions import case_at
from collapse_jax.analysis.theory_check_cases import EXPERIMENTS
from collapse_jax.config.rerun import experiment_arguments
from collapse_jax.core.errors import UsageError
from collapse_jax.execution.sweep import sweep
from collapse_jax.theory import Case, Prediction, find_predictions
from collapse_jax.types import Symbols

FALSE_ALARMS = 1e-3  # probability that any of the tests fails where all predictions are true
_TESTS = 4  # generations at which a prediction is tested, evenly over those where it can be


class TheoryCheck(NamedTuple):
    """One prediction about one experiment, at the generation where the chains lie farthest from it.

    Attributes:
      setting: the setting's name and parameters.
      policy: the policy's name and parameters.
      prediction: the prediction.
      n: rows of a batch.
      generation: the generation of the largest |z|.
      low: the lower end of the predicted interval.
      high: the upper end of the predicted interval.
      simulated: the statistic over chains.
      error: the standard error of `simulated`.
      z: the distance between chains and interval in standard errors; 0 inside the interval.
      num_tests: the number of generations at which the prediction was tested.
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
    num_tests: int


def ignore_setting(name: str) -> None:
    """Take the name of a setting and do nothing."""


def check_theory(
    settings: Sequence[str] | None = None, report_setting: Callable[[str], None] = ignore_setting
) -> list[TheoryCheck]:
    """Simulate the experiments, with fixed seeds, and compare them with theory.

    Args:
      settings: names of settings; default all that theory predicts something about.
      report_setting: is called with the setting of each experiment as it begins.

    Raises:
      UsageError: theory predicts nothing about one of the settings.
    """
    known = list(dict.fromkeys(raw["setting"]["kind"] for raw in EXPERIMENTS))
    for name in settings or ():
        if name not in known:
            expected = f"one that theory predicts something about ({', '.join(known)})"
            raise UsageError(f"setting must be {expected}, not {name!r}")
    checks: list[TheoryCheck] = []
    for seed, raw in enumerate(EXPERIMENTS):
        if settings is None or raw["setting"]["kind"] in settings:
            report_setting(raw["setting"]["kind"])
            checks += check_experiment(config.from_dict({**raw, "seed": seed}))
    return checks


def check_experiment(experiment: config.Experiment) -> list[TheoryCheck]:
    """Return one check for each prediction about a policy of `experiment`."""
    grid = experiment.grid()
    cases = [case_at(grid, i) for i in range(len(experiment.policies))]
    predictions = [find_predictions(case) for case in cases]
    names = sorted({name for of_case in predictions for prediction in of_case for name in prediction.metrics})
    result = sweep(**{**experiment_arguments(experiment), "metrics": names})
    checks = []
    for i, (case, of_case) in enumerate(zip(cases, predictions, strict=True)):
        policy = ", ".join(f"{raw['kind']}{_format_numbers(raw)}" for raw in (case.policy, case.curator) if raw)
        metrics = {name: result[name].isel(policy=i).to_numpy().astype(float) for name in names}
        checks += [check for prediction in of_case for check in _check_prediction(case, prediction, metrics, policy)]
    return checks


def _check_prediction(
    case: Case, prediction: Prediction, metrics: Mapping[str, np.ndarray], policy: str
) -> Iterator[TheoryCheck]:
    """Yield the check of one prediction, or nothing where it can be tested at no generation."""
    fair = np.flatnonzero(prediction.is_fair(case))
    if not len(fair):
        return
    # The first fit is left out, since the policies of one experiment share it.
    column = fair[np.unique(np.round(np.linspace(0, len(fair) - 1, _TESTS + 1)[1:]).astype(int))]
    low, high = prediction.interval(case)[:, column]
    samples = prediction.sampled(case, metrics)[:, column]
    simulated, error = (_estimate_mean if prediction.statistic == "mean" else _estimate_variance)(samples)
    z = compute_z_scores(simulated, error, low, high)
    worst = int(np.argmax(np.abs(z)))
    setting = f"{case.setting['kind']}{_format_size(case)}{_format_numbers(case.setting)}"
    yield TheoryCheck(
        setting, policy, prediction, case.num_samples, int(column[worst]) + 1, float(low[worst]), float(high[worst]),
        float(simulated[worst]), float(error[worst]), float(z[worst]), len(column),
    )  # fmt: skip


def compute_z_scores(simulated: np.ndarray, error: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the distances from the interval in standard errors; differences within float32's rounding count as 0.

    A distance is infinite where there is a difference and no error, or where nothing is finite.
    """
    distance = np.maximum(simulated - high, 0.0) - np.maximum(low - simulated, 0.0)
    rounding = 1e-6 * np.maximum(np.abs(low), np.abs(high))
    distance = np.where(np.abs(distance) <= rounding, 0.0, distance)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(distance == 0, 0.0, distance / error)
    return np.where(np.isnan(z), np.inf, z)


def z_limit(checks: Sequence[TheoryCheck]) -> float:
    """Return the largest |z| that passes, with Bonferroni's correction for the number of tests."""
    num_tests = max(sum(check.num_tests for check in checks), 1)
    return NormalDist().inv_cdf(1 - FALSE_ALARMS / (2 * num_tests))


def find_failures(checks: Sequence[TheoryCheck]) -> list[TheoryCheck]:
    """Return the checks whose |z| is above the limit."""
    limit = z_limit(checks)
    return [check for check in checks if not abs(check.z) <= limit]


def _estimate_mean(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return samples.mean(0), samples.std(0, ddof=1) / np.sqrt(len(samples))


def _estimate_variance(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance over chains and its standard error, which comes from the fourth moment."""
    number, variance = len(samples), samples.var(0, ddof=1)
    fourth = ((samples - samples.mean(0)) ** 4).mean(0)
    return variance, np.sqrt((fourth - variance**2 * (number - 3) / (number - 1)) / number)


def _format_size(case: Case) -> str:
    if isinstance(case.source, Symbols):
        return f", K = {len(case.shares)}"
    return "" if case.source is None else f", d = {case.source.dim}"


def _format_numbers(raw: Mapping[str, Any]) -> str:
    """Return the parameters of a part that tell cases apart, in parentheses."""
    hidden = ("kind", "source", "probabilities", "num_test", *(["dim"] if "source" in raw else []))
    parameters = [
        f"{k}={v['kind'] if isinstance(v, Mapping) else v}" for k, v in raw.items() if k not in hidden and v is not None
    ]
    return f" ({', '.join(parameters)})" if parameters else ""
