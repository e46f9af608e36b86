"""Few chains are the first of many, bit for bit, however many run side by side."""

from functools import partial

import numpy as np
import pytest
from laws import NUM, SETTINGS
from test_laws_chains import arrays, same_bits

from collapse_jax import policies, run
from collapse_jax.settings.gaussian import gaussian


def check_few_and_many(setting, policy, metric, width, few, many):
    go = partial(run, setting, policy, num_samples=NUM, num_generations=3, metrics=[metric], chains_per_block=width)
    small, large = go(num_chains=few), go(num_chains=many)
    same_bits(arrays(small), arrays(large.isel(chain=slice(few))))
    assert len(np.unique(large[metric][:, 0])) >= 0.99 * many  # none is padding; floats may meet by chance


@pytest.mark.fast
@pytest.mark.parametrize(("width", "few", "many"), [(4, 10, 25), (None, 10, 1030)])
def test_few_chains_are_the_first_of_many(width, few, many, optimised):
    check_few_and_many(gaussian(1, num_test=4), policies.replace(), "trace_ratio", width, few, many)


@pytest.mark.parametrize("name", ["gaussian", "discrete", "linear_regression"])
@pytest.mark.parametrize("policy", ["replace", "accumulate"])
def test_chains_are_the_same_bits_among_10_100_and_1000(name, policy, optimised):
    go = partial(run, name, policy, num_samples=20, num_generations=4)
    small, middle, large = (go(num_chains=number) for number in (10, 100, 1000))
    assert middle.attrs["seconds_compile"] == large.attrs["seconds_compile"] == 0  # one program serves them all
    same_bits(arrays(small), arrays(large.isel(chain=slice(10))))
    same_bits(arrays(middle), arrays(large.isel(chain=slice(100))))
    first = large[next(iter(large.data_vars))].isel(generation=-1)
    assert len(np.unique(first)) > 1


def test_few_chains_are_the_first_of_many_where_pools_are_redrawn():
    check_few_and_many(SETTINGS["kde"](), policies.accumulate_subsample(), "training_variance", 4, 5, 9)
