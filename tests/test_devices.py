"""Chains on several devices: the same bits on 1, 2, 4 and 8, and no more programs."""

import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

CODE = """
import sys
import jax, numpy as np
from collapse_jax import policies, settings, sweep
count, num_policies = int(sys.argv[2]), int(sys.argv[3])
devices = jax.devices()[:count]
replace, subsample, window = policies.replace(), policies.accumulate_subsample(), policies.window(2)
jobs = {"gaussian": (settings.gaussian(3, num_test=8), [replace, subsample, window]),
        "kde": (settings.kde(0.3, num_test=8), [subsample, replace, window])}
made = {}
for name, (setting, policies_of) in jobs.items():
    metrics = ["trace_ratio", "log_det_ratio", "test_nll"] if name == "gaussian" else None
    out = sweep(setting, policies_of[:num_policies], num_samples=5, num_generations=6, num_chains=21,
                chains_per_block=4, metrics=metrics, devices=devices)
    made |= {f"{name}_{metric}": out[metric].values for metric in out.data_vars}
np.savez(sys.argv[1], **made)
"""


@cache
def bits(folder, devices, num_policies):
    path = folder / f"{devices}-{num_policies}.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(devices), str(num_policies)],
        check=True,
        env={**os.environ, "XLA_FLAGS": flags},
    )
    return dict(np.load(path))


@pytest.mark.xdist_group("devices")
@pytest.mark.parametrize(
    ("count", "num_policies"), [(2, 1), *(pytest.param(n, 3, marks=pytest.mark.nightly) for n in (2, 4, 8))]
)
def test_bits_do_not_depend_on_the_number_of_devices(tmp_path_factory, count, num_policies):
    folder = tmp_path_factory.getbasetemp()
    one, many = bits(folder, 1, num_policies), bits(folder, count, num_policies)
    assert {name.partition("_")[0] for name in one} == {"gaussian", "kde"}
    for name, values in one.items():
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values, many[name], err_msg=name)
