"""What the laws are tried on: small instances of all that is registered, and a setting that records what a fit sees."""

import inspect
import typing
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import data, settings
from collapse_jax.checking.recorder import make_recorder
from collapse_jax.core import registry
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.core.random import chain_keys, stream
from collapse_jax.data import texts
from collapse_jax.data.images import Images, Imbalance, make_image_source
from collapse_jax.execution.sweep import run
from collapse_jax.metrics.representations import ACCURACIES
from collapse_jax.training import ssl_objectives
from collapse_jax.types import Batch, Policy, Setting, World

# Three classes of points, for models that are told the class.
_RNG = np.random.default_rng(0)
_POINTS = np.hstack(
    [_RNG.normal(size=(60, 2)) + np.repeat(np.eye(3)[:, :2], 20, 0), np.repeat(np.arange(3.0), 20)[:, None]]
)
LABELLED = data.array(_POINTS, labels=True)
# And images of three classes, the last of which is rare: dark, grey and bright.
_CLASS = np.minimum(np.arange(60) // 27, 2)
_IMAGES = Images(_RNG.uniform(size=(60, 4, 4, 1)) * 0.2 + 0.3 * _CLASS[:, None, None, None], _CLASS)
PICTURES = make_image_source("pictures", "pictures", _IMAGES, None, 0.2, 0, Imbalance(1.0, 1))
PAINTER = settings.diffusion(PICTURES, width=8, depth=1, steps=40, batch_size=8, learning_rate=0.05, warmup=2, ema=0.9,
                             sampler_steps=4, num_test=12, num_shown=2)  # fmt: skip
CODER = settings.vae(PICTURES, latent=2, width=8, depth=1, steps=40, batch_size=8, learning_rate=0.05, warmup=2,
                     num_test=12, num_shown=2)  # fmt: skip

# Small instances that compile in seconds. What is registered and not named here is tried with its defaults.
TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "gaussian": {"dim": 2, "num_test": 16},
    "kde": {"num_test": 16},
    "discrete": {"probabilities": [0.05, 0.1, 0.15, 0.3, 0.25, 0.15]},
    "poisson": {"rate": 3.0},
    "flow_matching": {"width": 8, "depth": 1, "steps": 40, "batch_size": 8, "learning_rate": 0.05,
                      "sampler_steps": 4, "num_test": 16},
    "diffusion": {"source": LABELLED, "conditional": True, "width": 8, "depth": 1, "steps": 40, "batch_size": 8,
                  "learning_rate": 0.05, "warmup": 2, "ema": 0.9, "drop_label": 0.4, "guidance": 2.0, "stop": 0.1,
                  "sampler_steps": 4, "num_test": 12},
    "vae": {"source": LABELLED, "conditional": True, "latent": 2, "width": 8, "depth": 1, "deviation": 0.5, "steps": 40,
            "batch_size": 8, "learning_rate": 0.05, "warmup": 2, "num_test": 12},
    "gaussian_mixture": {"components": 2, "steps": 4, "floor": 0.3, "num_test": 16, "source": data.blobs(box=2.0)},
    "ideal_diffusion": {"num_test": 16},
    "markov": {"smoothing": 0.2, "length": 6},
    "language_model": {"text": texts.markov_chain(), "width": 8, "depth": 1, "heads": 1, "length": 6, "steps": 20,
                       "batch_size": 8, "learning_rate": 0.05, "warmup": 2, "num_test": 16, "ngram": 2,
                       "gram_bits": 2**11, "rows_at_once": 8, "top_p": 0.95, "min_p": 0.3},
    "self_supervised": {"generator": PAINTER, "features": 4, "width": 8, "depth": 1, "steps": 20, "batch_size": 8,
                        "learning_rate": 0.05, "warmup": 2, "num_probe": 20, "num_test": 12, "k": 3},
    "linear_regression": {"dim": 2, "num_test": 16, "ridge": 0.1},
    "logistic_regression": {"dim": 2, "num_test": 16, "ridge": 0.1},
    "ecosystem": {"generator": settings.poisson(3.0), "mixing": 0.6},
}  # fmt: skip
MORE_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian-d1-unbiased": ("gaussian", {"dim": 1, "ddof": 1}),
    "kde-scott": ("kde", {"bandwidth": "scott"}),
    "kde-scott-pool_rows": ("kde", {"bandwidth": "scott", "pool_rows": [3, 60]}),
    "kde-lineage": ("kde", {"lineage": True}),
    "discrete-lineage": ("discrete", {"lineage": True}),
    "discrete-100": ("discrete", {"probabilities": data.symbols.zipf(100)}),
    "kde-silverman_scaled": ("kde", {"bandwidth": "silverman_scaled"}),
    "linear_regression-no_ridge": ("linear_regression", {"ridge": 0.0}),
    "linear_regression-new_inputs": ("linear_regression", {"reuse_inputs": False}),
    "logistic_regression-3": ("logistic_regression", {"classes": 3, "reuse_inputs": False}),
    "flow_matching-previous": ("flow_matching", {"start": "previous"}),
    "diffusion-previous": ("diffusion", {"start": "previous"}),
    "diffusion-ddpm": (
        "diffusion",
        {"objective": "ddpm", "source": None, "conditional": False, "guidance": 1.0, "drop_label": None},
    ),
    "diffusion-images": ("diffusion", {"source": PICTURES, "num_shown": 2}),
    "diffusion-edm": ("diffusion", {"objective": "edm", "rows_at_once": 2}),
    "vae-previous": ("vae", {"start": "previous", "deviation": None}),
    "vae-images": ("vae", {"source": PICTURES, "conditional": False, "deviation": None, "num_shown": 2}),
    "gaussian_mixture-diagonal": ("gaussian_mixture", {"covariance": "diagonal"}),
    "gaussian_mixture-spherical": ("gaussian_mixture", {"covariance": "spherical"}),
    "gaussian_mixture-previous": ("gaussian_mixture", {"start": "previous"}),
    "ideal_diffusion-ode": ("ideal_diffusion", {"solver_steps": 8}),
    "ideal_diffusion-lineage": ("ideal_diffusion", {"lineage": True}),
    "self_supervised-previous": ("self_supervised", {"start": "previous"}),
    "self_supervised-byol": ("self_supervised", {"objective": ssl_objectives.byol(width=8)}),
    "self_supervised-masked": ("self_supervised", {"objective": ssl_objectives.masked(width=8)}),
    "self_supervised-vae": ("self_supervised", {"generator": CODER}),
    "self_supervised-vit": ("self_supervised", {"encoder": "vit", "heads": 2}),
    "language_model-previous": ("language_model", {"start": "previous"}),
    "language_model-base": ("language_model", {"start": "base", "base_steps": 5}),
    "language_model-epochs": ("language_model", {"steps": None, "epochs": 2}),
    "language_model-prompts": ("language_model", {"prompt": 2}),
    "ecosystem-kde": ("ecosystem", {"generator": settings.kde(num_test=16), "models": 3}),
    "ecosystem-labels": ("ecosystem", {"generator": settings.linear_regression(2, num_test=16), "mixing": 0.5}),
    "ecosystem-trained": (
        "ecosystem",
        {
            "generator": settings.flow_matching(
                width=8, depth=1, steps=40, batch_size=8, learning_rate=0.05, sampler_steps=4, num_test=16
            )
        },
    ),
    "markov-order-0": ("markov", {"order": 0}),
    "markov-shakespeare": ("markov", {"order": 2, "language": "shakespeare"}),
}
# Units of metrics that count: they take few values, and need not answer to a small change.
COUNTS = ("modes", "classes", "symbols", "transitions", "latents", "yes (1) or no (0)")
# Shares of a few rows: so do they.
FEW_VALUES = (
    "missing_mass", "ancestors_alive", "precision", "recall", "density", "coverage", "low_density_mass",
    "class_share", "class_entropy", "class_total_variation", "smallest_class_ratio", "label_agreement", "copied",
    "minority_share", "minority_ratio", "class_accuracy",
    *(f"{who}{m.name}" for who in ("", "pixels_", "random_") for m in ACCURACIES),
)  # fmt: skip
# Metrics of the part of a setting that its own floats do not reach.
OF_PARTS = {"self_supervised": [metric.name for metric in PAINTER.metrics], "diffusion-ddpm": ["hallucinated_mass"]}
TINY_POLICIES: dict[str, dict[str, Any]] = {"window": {"k": 2}, "growing": {"sizes": (7, 9)}}
MORE_POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "accumulate_subsample-replacement": ("accumulate_subsample", {"replacement": True}),
    "accumulate_subsample-7": ("accumulate_subsample", {"num": 7}),
    "window-1": ("window", {"k": 1}),
    "window-3": ("window", {"k": 3}),
    "fixed_real-0.2": ("fixed_real", {"share": 0.2}),
    "weighted_fresh-0.9": ("weighted_fresh", {"weight": 0.9}),
    "contaminated-0.2": ("contaminated", {"share": 0.2}),
}


def _table(registry: dict, tiny: dict, more: dict) -> dict[str, Callable]:
    table = {name: partial(factory, **tiny.get(name, {})) for name, factory in registry.items()}
    return table | {key: partial(table[name], **given) for key, (name, given) in more.items()}


SETTINGS: dict[str, Callable[..., Setting]] = _table(registry.factories("setting"), TINY_SETTINGS, MORE_SETTINGS)
POLICIES: dict[str, Callable[..., Policy]] = _table(registry.factories("policy"), TINY_POLICIES, MORE_POLICIES)

NUM, HORIZON, CHAINS = 6, 4, 3
# On every change: what is registered, and quick variants in closed form. Others of the variants wait for the night.
SLOW = ("linear_regression-no_ridge", "logistic_regression-3", "kde-silverman_scaled", "gaussian_mixture-diagonal",
        "gaussian_mixture-spherical", "ideal_diffusion-lineage", "markov-order-0", "self_supervised",
        "ecosystem-kde", "ecosystem-labels", "kde-scott", "markov-shakespeare")  # fmt: skip
EVERY_SETTING = [
    name if name not in SLOW and (name in registry.factories("setting") or make().init is None)
    else pytest.param(name, marks=pytest.mark.nightly) for name, make in SETTINGS.items()
]  # fmt: skip


@cache
def ran(setting: str, policy: str, **options: Any) -> Any:
    """A tiny run of a pair, made once for all the tests that look at it."""
    return run(
        SETTINGS[setting](), POLICIES[policy](), num_samples=NUM, num_generations=HORIZON, num_chains=CHAINS, **options
    )


def chains(setting: Setting, policy: Policy, *, n: int, horizon: int, num: int, seed: int = 0, **options: Any) -> dict:
    """``{observation: [num, horizon, ...]}`` of `num` chains by ``simulate``, as NumPy arrays."""
    chain = make_chain(setting, policy, num_samples=n, num_generations=horizon, **options)
    go = jax.jit(jax.vmap(lambda key, world: simulate(chain, key, world, horizon), (0, None)))
    return jax.device_get(go(chain_keys(seed, num), setting.world()))


def step_by_step(setting: Setting, policy: Policy, *, n: int, horizon: int, num: int, **options: Any) -> dict:
    """Run chains one operation at a time: nothing is compiled anew for a policy, which is faster for a few chains."""
    chain = make_chain(setting, policy, num_samples=n, num_generations=horizon, **options)
    world, seen = setting.world(), []

    def step(state: Any, generation: jax.Array) -> tuple[Any, dict]:
        state, new, observations = chain.emit(world, state, generation)
        return chain.absorb(world, state, new, generation), observations

    state = jax.vmap(chain.init, (0, None))(chain_keys(0, num), world)
    for g in range(1, horizon + 1):
        state, observations = jax.vmap(step, (0, None))(state, jnp.int32(g))
        seen.append(jax.device_get(observations))
    return jax.tree.map(lambda *x: np.stack(x, 1), *seen)


def fitted(setting: Setting, world: World, train: Batch, key: jax.Array) -> tuple[Any, Any]:
    """What one fit to `train` gives: parameters, and the summary of the rows where there is one."""
    start = None if setting.init is None else setting.init(stream(key, "init"), world)
    params = setting.fit(stream(key, "fit"), train, start)
    if setting.extras.summarize is None:
        return params, None
    return params, jax.tree.map(lambda x: x[0, 0], setting.extras.summarize(world, train).items)


def observed(setting: Setting, world: World, params: Any, summary: Any, key: jax.Array, generated: Any = None) -> dict:
    """The metrics of a fit; the new rows are `generated`, or 8 sampled ones."""
    if generated is None:
        generated = setting.sample(stream(key, "sample"), params, 8)
    return setting.observe(stream(key, "observe"), world, params, summary, generated)


def floats_of(factory: Callable) -> list[str]:
    """Parameters annotated as floats: those that a sweep may trace."""
    hints = typing.get_type_hints(factory)
    return [p for p in inspect.signature(factory).parameters if float in (hints[p], *typing.get_args(hints[p]))]


class Record(NamedTuple):
    """What the fits of some chains saw: ``[chains, T, m]`` each, and the tags of the new rows ``[chains, T]``."""

    tag: np.ndarray
    number: np.ndarray
    real: np.ndarray
    weight: np.ndarray
    new: np.ndarray

    def birth(self) -> np.ndarray:
        """Generation in which each row was made: 0 for real rows, -1 where the row is of no earlier generation."""
        birth = np.where(self.real == 1, 0, -1)
        for g in range(1, self.new.shape[1]):
            birth[:, g:][self.tag[:, g:] == self.new[:, g - 1, None, None]] = g
        return birth

    def seen(self, generation: int, chain: int = 0) -> list[tuple]:
        """(tag, number, real, weight) of the rows that fit `generation` saw, sorted."""
        part = [x[chain, generation - 1] for x in self[:4]]
        return sorted((int(t), int(i), int(r), float(w)) for t, i, r, w in zip(*part, strict=True) if w != 0)

    def mass(self, generation: int, birth: int, chain: int = 0) -> float:
        """Total weight at fit `generation` of the rows made in generation `birth`."""
        rows = self.birth()[chain, generation - 1] == birth
        return float(self.weight[chain, generation - 1][rows].sum())


def record(
    policy: Policy, n: int = 5, horizon: int = 4, num: int = 1, scan: bool | None = None, **options: Any
) -> Record:
    """What every fit of `num` chains under `policy` saw; `scan` says how they are run, by default the faster way."""
    own_shapes = policy.resample is not None or len(policy.sizes) > 0
    how = chains if (num > 1 or own_shapes if scan is None else scan) else step_by_step
    seen = how(make_recorder(), policy, n=n, horizon=horizon, num=num, **options)
    return Record(*seen["rows"], seen["weight"], seen["new"])


@cache
def recorded(policy: str) -> Record:
    """The record of a tabled policy, made once."""
    return record(POLICIES[policy]())


def may_stay(setting: str, metric: str, units: str) -> bool:
    """Whether a metric need not answer to a small change of one of the setting's floats."""
    return units in COUNTS or metric in FEW_VALUES or metric in OF_PARTS.get(setting, ())


def is_valid(metric: str, values: Any) -> bool:
    """Whether these may be a metric's values: finite, or -inf for the logarithm of what died."""
    return bool((np.isfinite(values) | (np.isneginf(values) & metric.startswith("log_"))).all())


def z_score(sample: np.ndarray, expected: float) -> float:
    """How many standard errors the mean of `sample` lies from `expected`."""
    return float((sample.mean() - expected) / (sample.std(ddof=1) / np.sqrt(sample.size)))
