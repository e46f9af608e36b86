"""Debugging flags of JAX do not stop inside the package: strict promotion of ranks and dtypes, no compilation."""

from collections.abc import Iterator

import jax
import pytest
from laws import PICTURES, POLICIES, SETTINGS

import collapse_jax as cj
from collapse_jax import curators, policies, settings
from collapse_jax.core import registry
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.core.random import chain_keys
from collapse_jax.training.nets import classifier

# Settings whose formulas cover every package below them; the others wait for the night.
COVERING = ("gaussian", "kde-scott-pool_rows", "discrete-100", "linear_regression", "logistic_regression-3", "markov",
            "ecosystem", "language_model", "vae-images")  # fmt: skip
EVERY = [name if name in COVERING else pytest.param(name, marks=pytest.mark.nightly) for name in SETTINGS]
# Without compilation every step of training takes milliseconds, so there are few.
CODER = settings.vae(PICTURES, latent=2, width=8, depth=1, steps=2, batch_size=8, warmup=0, num_test=12, num_shown=2)
BRIEF = {
    **{name: {"steps": 2} for name in ("flow_matching", "gaussian_mixture")},
    **{name: {"steps": 2, "warmup": 0} for name in ("diffusion", "vae", "language_model")},
    "self_supervised": {"steps": 2, "warmup": 0, "generator": CODER},
}
CURATORS = {
    "top_fraction": (curators.top_fraction(0.5), "gaussian"),
    "verify": (curators.verify(0.9, 0.2), "gaussian"),
    "diverse": (curators.diverse(k=2), "vae-images"),
    "edit": (curators.edit(0.3), "markov"),
}


@pytest.fixture
def strict() -> Iterator[None]:
    """Raise wherever JAX would promote a rank or a dtype by itself."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def trace(setting: cj.Setting, policy: cj.Policy, **options: object) -> None:
    """Trace a chain and compute its world: an implicit promotion raises, and nothing needs to be compiled."""
    chain = make_chain(setting, policy, num_samples=6, num_generations=2, **options)
    run = jax.vmap(lambda key, world: simulate(chain, key, world, 2), (0, None))
    jax.eval_shape(run, chain_keys(0, 2), setting.world())


@pytest.mark.parametrize("name", EVERY)
def test_a_setting_promotes_nothing_implicitly(strict, name):
    trace(SETTINGS[name](), policies.accumulate())


@pytest.mark.parametrize("name", registry.factories("policy"))
def test_a_policy_promotes_nothing_implicitly(strict, name):
    trace(SETTINGS["bernoulli"](), POLICIES[name]())
    trace(SETTINGS["discrete"](), POLICIES[name](), backend="rows")


@pytest.mark.parametrize("name", CURATORS)
def test_a_curator_promotes_nothing_implicitly(strict, name):
    curator, setting = CURATORS[name]
    trace(SETTINGS[setting](), policies.replace(), curator=curator)


def test_a_run_promotes_nothing_implicitly(strict):
    data = cj.run(SETTINGS["bernoulli"](), policies.window(2), num_samples=6, num_generations=2, num_chains=2)
    assert data.dead.sizes == {"chain": 2, "generation": 2}


@pytest.mark.parametrize(
    "name",
    [n if n == "bernoulli" else pytest.param(n, marks=pytest.mark.nightly) for n in registry.factories("setting")],
)
def test_a_run_needs_no_compilation(name, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 2)
    monkeypatch.setattr(classifier, "_cache", {})
    setting = SETTINGS[name](**BRIEF.get(name, {}))
    with jax.disable_jit():
        data = cj.run(setting, policies.replace(), num_samples=6, num_generations=2, num_chains=2)
    assert {"chain": 2, "generation": 2}.items() <= data.sizes.items()
