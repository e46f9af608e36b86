"""Chains on several devices: the same bits on 1, 2, 4 and 8, and no more programs."""

import subprocess
import sys

import numpy as np
import pytest

CODE = """
import sys
import jax, numpy as np
from collapse_jax import policies, settings, sweep
from collapse_jax.chain import plan
count = int(sys.argv[2])
devices = jax.devices()[:count]
made = {}
for name, setting in {"gaussian": settings.gaussian(3, num_test=8), "kde": settings.kde(0.3, num_test=8)}.items():
    metrics = ["trace_ratio", "log_det_ratio", "test_nll"] if name == "gaussian" else None
    out = sweep(setting, [policies.replace(), policies.accumulate_subsample(), policies.window(2)], num_samples=5,
                num_generations=6, num_chains=21, chains_per_block=4, metrics=metrics, devices=devices)
    made |= {f"{name}_{metric}": out[metric].values for metric in out.data_vars}
np.savez(sys.argv[1], **made)
"""


def bits(tmp_path, forced, used):
    path = tmp_path / f"{forced}-{used}.npz"
    flags = f"--xla_force_host_platform_device_count={forced}"
    subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(used)],
        check=True,
        env={**__import__("os").environ, "XLA_FLAGS": flags},
    )
    return dict(np.load(path))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return bits(tmp_path_factory.mktemp("one"), 1, 1)


@pytest.mark.xdist_group("devices")
@pytest.mark.parametrize("count", [2, *(pytest.param(n, marks=pytest.mark.nightly) for n in (4, 8))])
def test_bits_do_not_depend_on_the_number_of_devices(tmp_path, one, count):
    many = bits(tmp_path, count, count)
    assert {name.partition("_")[0] for name in one} == {"gaussian", "kde"}
    for name, values in one.items():
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values, many[name], err_msg=name)
