"""Runs to report on, without an engine."""

import numpy as np
import xarray as xr
import yaml

from collapse_jax import config
from collapse_jax.results.theory_variables import theory_variables

CONFIG = """setting: {kind: gaussian, num_test: 4, source: {kind: normal, dim: 2}}
policies: [replace, accumulate]
num_samples: 10
num_generations: 9
num_chains: 100
seed: 0
# 1 < 2 & </script><script>alert("config")</script>
"""
ABOUT = {
    "trace_ratio": {"long_name": "total variance over the truth's", "units": "1", "scale": "log"},
    "log_trace_ratio": {"long_name": "its log", "units": "nats", "scale": "linear", "role": "log_variance"},
    "test_nll": {"long_name": "risk <b>of</b> tests", "units": "nats", "scale": "linear", "role": "risk"},
}


def run(policies=("replace", "accumulate"), chains=100, generations=9, **axes):
    """A run of `ABOUT`'s metrics in which replace alone loses variance; `axes` are the labels of a sweep."""
    shape = (len(policies), *map(len, axes.values()), chains, generations)
    dims = ("policy", *axes, "chain", "generation")
    rng, t = np.random.default_rng(0), np.arange(1, generations + 1)
    loss = np.where(np.asarray(policies) == "replace", 0.3, 0.0).reshape(-1, *[1] * (len(shape) - 1))
    logs = 0.1 * rng.normal(size=shape) - loss * t
    values = {"trace_ratio": np.exp(logs), "log_trace_ratio": logs, "test_nll": 1 + loss * t + 0.1 * rng.random(shape)}
    coords = {"policy": list(policies), **axes, "chain": np.arange(chains), "generation": t}
    variables = {name: (dims, values[name], ABOUT[name]) for name in ABOUT}
    attrs = {"setting": "gaussian", "num_samples": 10, "version_jax": "0.0"}
    attrs |= {} if axes else {"config": CONFIG}
    if axes or not set(policies) <= {"replace", "accumulate"}:
        return xr.Dataset(variables, coords, attrs)
    experiment = config.from_dict(
        {**yaml.safe_load(CONFIG), "policies": list(policies), "num_generations": generations}
    )
    metrics = {metric.name: metric for metric in experiment.build()[0].metrics if metric.name in ABOUT}
    theory = theory_variables(experiment.grid(), metrics)
    return xr.Dataset(variables, {**coords, **theory}, attrs)


def with_samples(ds, side=4):
    """The run with images, and texts of the symbols a, b and newline."""
    policies, chains, generations = (ds.sizes[dim] for dim in ("policy", "chain", "generation"))
    rng, dims = np.random.default_rng(1), ("policy", "chain", "generation", "sample")
    images = rng.random((policies, chains, generations, 3, side, side))
    symbols = rng.integers(3, size=(policies, chains, generations, 3, 12)).astype(float)
    about = {"value_dims": ["sample", "symbol"], "symbols": ["a", "<b>", "\n"], "long_name": "sample texts"}
    return ds.assign(
        sample_image=((*dims, "y", "x"), images, {"value_dims": ["sample", "y", "x"], "long_name": "images"}),
        sample_text=((*dims, "symbol"), symbols, about),
    )


def half_done(ds, share=0.5):
    """The run with the later chains not finished."""
    ds = ds.copy(deep=True)
    for values in ds.data_vars.values():
        values.loc[{"chain": slice(int(share * ds.sizes["chain"]), None)}] = np.nan
    return ds.assign_attrs(done=share)
