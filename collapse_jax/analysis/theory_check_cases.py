"""The experiments that hold chains to the predictions of theory."""

from collections.abc import Mapping, Sequence
from typing import Any

_NORMAL = {"kind": "normal", "dim": 1, "mean": 1.0, "scale": 1.5}


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
