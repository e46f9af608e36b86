"""One chain over several processes that talk by loopback: the same code through a global mesh."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from collapse_jax import settings
from collapse_jax.spread import spread

PROGRAM = """
import sys
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from collapse_jax import policies, settings
from collapse_jax.chain import make_chain, simulate
from collapse_jax.data import texts
from collapse_jax.spread import spread

address, count, index, out, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
if count > 1:
    jax.distributed.initialize(address, count, index, local_device_ids=[0])
parts = jax.device_count()
mesh = jax.make_mesh((parts,), ("model",), axis_types=(AxisType.Auto,))
made = {
    "flow_matching": lambda: settings.flow_matching(width=16, steps=30, num_test=8),
    "language_model": lambda: settings.language_model(
        texts.markov_chain(), width=8, depth=1, heads=2, length=8, steps=20, warmup=2, batch_size=4, learning_rate=0.01,
        num_test=8, ngram=2, gram_bits=2**12, rows_at_once=4,
    ),
}
setting = spread(made[name](), mesh)
chain = make_chain(setting, policies.accumulate(), num_samples=12, num_generations=3)
everywhere = NamedSharding(mesh, PartitionSpec())
world = jax.tree.map(np.asarray, setting.world())
go = jax.jit(lambda key, world: (simulate(chain, key, world, 3), chain.init(key, world).params),
             out_shardings=(everywhere, None))
observed, params = go(jax.random.key(3), world)
cut = [x for x in jax.tree.leaves(params) if x.addressable_shards[0].data.size * parts == x.size]
np.savez(out, cut=len(cut), **{name: np.asarray(x.addressable_data(0)) for name, x in observed.items()})
"""


def run(count, folder, name="flow_matching", devices=1):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outs = [folder / f"{count}-{i}.npz" for i in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(count), str(i), str(out), name],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        )
        for i, out in enumerate(outs)
    ]
    try:
        for process in processes:
            _, err = process.communicate(timeout=240)
            assert process.returncode == 0, err[-2000:]
    finally:
        for process in processes:
            process.kill()
    return [dict(np.load(out)) for out in outs]


@pytest.mark.nightly
def test_two_processes_share_one_chain(tmp_path):
    (alone,) = run(1, tmp_path)
    first, second = run(2, tmp_path)
    assert first.pop("cut") == second.pop("cut") >= 4  # parameters of which each process holds a half
    alone.pop("cut")
    for name, value in alone.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.nightly
def test_a_language_model_over_two_devices(tmp_path):
    """Fits, sampling and metrics of a transformer whose matrices lie in halves on two devices of one process."""
    (alone,), (halves,) = (run(1, tmp_path, "language_model", devices) for devices in (1, 2))
    alone.pop("cut")
    assert halves.pop("cut") >= 12
    assert halves.keys() == alone.keys() >= {"test_loss", "sample_text"}
    for name, value in alone.items():
        assert np.isfinite(value).all()
        np.testing.assert_allclose(halves[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_what_cannot_be_spread_is_refused():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="gaussian has no parameters to spread"):
        spread(settings.gaussian(), mesh)
    with pytest.raises(ValueError, match="axis 'data' is not one of the mesh's: model"):
        spread(settings.flow_matching(num_test=8), mesh, "data")
    explicit = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match="axis 'model': give axis_types="):
        spread(settings.flow_matching(num_test=8), explicit)
