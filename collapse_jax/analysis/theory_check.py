"""Every prediction of ``theory`` held against chains: z-scores, with a limit for as many looks as are taken."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from collapse_jax.analysis.predictions import case_of
from collapse_jax.config import experiment as config
from collapse_jax.execution.sweep import sweep
from collapse_jax.theory import Case, Prediction, predictions
from collapse_jax.types import Symbols

if TYPE_CHECKING:
    from rich.table import Table

FALSE_ALARMS = 1e-3  # probability that true predictions fail, all looks together
_LOOKS = 4  # generations at which a prediction is looked at, spread over those that are fair
_EVERY_POLICY: tuple[dict[str, Any], ...] = (
    {"kind": "replace"},
    {"kind": "accumulate"},
    {"kind": "accumulate_subsample"},
    {"kind": "fixed_real", "share": 0.25},
    {"kind": "fresh_real", "share": 0.25},
    {"kind": "weighted_fresh", "weight": 0.3},
    {"kind": "window", "k": 3},
    {"kind": "decay", "gamma": 0.6},
    {"kind": "contaminated", "share": 0.25},
)
_WHOLE: tuple[dict[str, Any], ...] = (_EVERY_POLICY[0], _EVERY_POLICY[1], *_EVERY_POLICY[6:8])  # mixed by batches
_GROWING: tuple[dict[str, Any], ...] = (
    {"kind": "growing", "sizes": [round(20 * t**1.5) for t in range(2, 9)]},
    {"kind": "growing", "sizes": [30, 50], "policy": {"kind": "contaminated", "share": 0.1}},
)
_NORMAL = {"kind": "normal", "dim": 1, "mean": 1.0, "scale": 1.5}


def _experiment(
    setting: Mapping[str, Any],
    policies: Sequence[Mapping[str, Any]],
    n: int,
    t: int,
    chains: int,
    curator: Mapping[str, Any] | None = None,
) -> dict:
    sizes = {"num_samples": n, "num_generations": t, "num_chains": chains}
    return {"setting": {**setting}, "policies": [*policies], **sizes, "backend": "each", "curator": curator}


# Experiments, as configs: a simulation serves all predictions about it.
EXPERIMENTS: tuple[dict[str, Any], ...] = (
    _experiment({"kind": "gaussian", "source": _NORMAL}, _EVERY_POLICY, 20, 10, 40_000),
    _experiment({"kind": "gaussian", "ddof": 1}, _EVERY_POLICY, 20, 10, 40_000),
    _experiment({"kind": "gaussian", "dim": 3}, [{"kind": "replace"}], 40, 30, 20_000),
    _experiment({"kind": "gaussian", "dim": 1}, [{"kind": "replace"}], 20, 200, 5_000),
    _experiment({"kind": "gaussian", "dim": 6}, [{"kind": "replace"}, {"kind": "accumulate"}], 4, 8, 2_000),
    _experiment({"kind": "gaussian", "dim": 1}, [{"kind": "accumulate"}], 20, 100, 20_000),
    _experiment({"kind": "gaussian", "dim": 1},
                [{"kind": "weighted_fresh", "weight": w} for w in (0.4, 0.618, 0.8)]
                + [{"kind": "weighted_fresh", "weight": 0.5, "real": 5}], 10, 30, 20_000),
    _experiment({"kind": "gaussian", "dim": 1},
                [{"kind": "accumulate_subsample"}, {"kind": "accumulate_subsample", "replacement": True}],
                100, 80, 2_000),
    _experiment({"kind": "kde", "bandwidth": 0.3, "num_test": 1}, _EVERY_POLICY, 20, 10, 10_000),
    _experiment({"kind": "kde", "num_test": 1, "lineage": True}, [{"kind": "replace"}], 20, 10, 2_000),
    _experiment({"kind": "discrete", "probabilities": {"kind": "zipf", "num": 8}}, _EVERY_POLICY, 20, 10, 8_000),
    _experiment({"kind": "discrete", "probabilities": [0.5, 0.3, 0.2]}, [{"kind": "replace"}], 20, 240, 2_000),
    _experiment({"kind": "discrete", "lineage": True}, [{"kind": "replace"}], 20, 10, 2_000),
    _experiment({"kind": "bernoulli", "p": 0.3}, [*_EVERY_POLICY, _GROWING[0]], 20, 10, 8_000),
    _experiment({"kind": "poisson", "rate": 0.8}, _EVERY_POLICY, 20, 10, 8_000),
    _experiment({"kind": "linear_regression", "dim": 3, "noise_variance": 0.5, "num_test": 1}, _WHOLE, 12, 10, 8_000),
    _experiment({"kind": "linear_regression", "dim": 4, "num_test": 1}, [{"kind": "replace"}], 4, 10, 8_000),
    _experiment({"kind": "linear_regression", "dim": 2, "reuse_inputs": False, "num_test": 1}, _WHOLE[:2],
                12, 10, 8_000),
    _experiment({"kind": "linear_regression", "dim": 2, "num_test": 1}, [{"kind": "accumulate_subsample"}],
                200, 80, 1_000),
    _experiment({"kind": "logistic_regression", "dim": 1, "steps": 6}, _WHOLE[:2], 200, 4, 400),
    _experiment({"kind": "ideal_diffusion", "num_test": 1}, _EVERY_POLICY, 20, 12, 4_000),
    _experiment({"kind": "ideal_diffusion", "num_test": 1, "lineage": True}, [{"kind": "replace"}], 20, 10, 2_000),
    _experiment({"kind": "gaussian_mixture", "components": 2, "steps": 3, "floor": 0.05, "num_test": 1,
                 "source": {"kind": "blobs", "num_centers": 2, "dim": 1, "box": 2.0}},
                [_EVERY_POLICY[i] for i in (0, 1, 5)], 12, 8, 4_000),
    _experiment({"kind": "markov", "smoothing": 0.0, "length": 2},
                [_EVERY_POLICY[i] for i in (0, 1, 3, 7)], 20, 10, 4_000),
    _experiment({"kind": "markov", "order": 0, "smoothing": 0.0, "length": 4},
                [_EVERY_POLICY[i] for i in (0, 1, 7)], 5, 10, 4_000),
    _experiment({"kind": "gaussian", "dim": 1},
                [{"kind": "mix", "real": 14, "synthetic": 30},
                 {"kind": "mix", "real": 30, "synthetic": 8, "nested": False}], 20, 3, 40_000),
    _experiment({"kind": "gaussian", "dim": 1}, _WHOLE[:1], 100, 10, 4_000, {"kind": "best_of", "by": "value"}),
    _experiment({"kind": "gaussian", "dim": 1}, _WHOLE[:1], 100, 8, 4_000, {"kind": "top_fraction", "by": "value"}),
    _experiment({"kind": "bernoulli", "p": 0.3}, _WHOLE[:1], 40, 8, 8_000, {"kind": "curate", "strength": 0.5, "k": 3}),
    _experiment({"kind": "bernoulli", "p": 0.2}, _WHOLE[:1], 60, 2, 8_000,
                {"kind": "verify", "keep_right": 0.8, "keep_wrong": 0.2, "by": "value"}),
    _experiment({"kind": "gaussian", "dim": 1}, _GROWING, 20, 8, 10_000),
    _experiment({"kind": "gaussian", "dim": 1}, _WHOLE[:1], 20, 2, 20_000,
                {"kind": "verifier", "noise": 0.7, "bias": 0.5, "by": "value"}),
    _experiment({"kind": "gaussian", "dim": 1, "ddof": 1, "temperature": 0.8}, _WHOLE[:2], 20, 6, 20_000),
    _experiment({"kind": "ecosystem", "models": 3, "mixing": [[0.8, 0.2, 0.0], [0.5, 0.3, 0.2], [0.0, 0.1, 0.9]]},
                [*(_EVERY_POLICY[i] for i in (0, 1, 4, 7, 8)), _GROWING[0]], 20, 8, 8_000),
    _experiment({"kind": "ecosystem", "models": 2, "mixing": 0.0,
                 "generator": {"kind": "gaussian", "ddof": 1, "temperature": 0.9}}, _WHOLE[:1], 20, 10, 8_000),
    _experiment({"kind": "discrete", "probabilities": [0.6, 0.4], "temperature": 0.8}, _WHOLE[:1], 20, 8, 8_000),
)  # fmt: skip


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
      ValueError: a setting of which nothing is predicted.
    """
    known = list(dict.fromkeys(raw["setting"]["kind"] for raw in EXPERIMENTS))
    for name in settings or ():
        if name not in known:
            raise ValueError(f"setting: nothing is predicted of {name!r}; one of {', '.join(known)}")
    rows: list[Row] = []
    for seed, raw in enumerate(EXPERIMENTS):
        if settings is None or raw["setting"]["kind"] in settings:
            done(raw["setting"]["kind"])
            rows += compare(config.from_dict({**raw, "seed": seed}))
    return rows


def compare(experiment: config.Experiment) -> list[Row]:
    """One row a prediction that holds for a policy of `experiment`."""
    cases = [case_of(experiment, i) for i in range(len(experiment.policies))]
    found = [predictions(case) for case in cases]
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


def table(rows: Sequence[Row]) -> "Table":
    """For a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("setting", "policy", "statistic"):
        result.add_column(name, overflow="fold")
    for name in ("n", "generation", "predicted", "simulated", "z"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("source", overflow="fold")
    failed = failures(rows)
    for row in rows:
        predicted = f"{row.low:.5g}" if row.low == row.high else f"{row.low:.5g} to {row.high:.5g}"
        words = f"{row.prediction.statistic} of {row.prediction.quantity}"
        figures = (f"{row.n}", f"{row.generation}", predicted, f"{row.simulated:.5g} +- {row.error:.1g}")
        z = f"{row.z:.2f}" + (" FAILS" if row in failed else "")
        result.add_row(*map(Text, (row.setting, row.policy, words, *figures, z, row.prediction.reference)))
    return result


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
