"""One chain over several devices, of one process or of several that talk by loopback."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from collapse_jax import policies, settings, sweep
from collapse_jax.cli import main
from collapse_jax.config.experiment import from_dict
from collapse_jax.core.sharding import shard_setting

PROCESSES = """
import sys
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from collapse_jax import policies, settings
from collapse_jax.core.chain import make_chain, simulate
from collapse_jax.core.sharding import shard_setting
from collapse_jax.data import texts

address, count, index, out, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
shape = {"model": count} if kind == "flow_matching" else {"data": count, "model": 2}
if count > 1:  # before anything else asks JAX for its devices, as a setting may
    jax.distributed.initialize(address, count, index, local_device_ids=[*range(len(shape))])
if kind == "flow_matching":
    setting = settings.flow_matching(width=16, steps=30, num_test=8)
else:
    setting = settings.language_model(texts.markov_chain(), width=16, depth=1, heads=2, length=8, steps=20,
                                      warmup=2, batch_size=8, num_test=8, ngram=2, gram_bits=2**12, rows_at_once=8)
mesh = jax.make_mesh((*shape.values(),), (*shape,), axis_types=(AxisType.Auto,) * len(shape))
setting = shard_setting(setting, mesh)
chain = make_chain(setting, policies.accumulate(), num_samples=16, num_generations=3)
everywhere = NamedSharding(mesh, PartitionSpec())
world = jax.tree.map(np.asarray, setting.world())
go = jax.jit(lambda key, world: (simulate(chain, key, world, 3), chain.init(key, world).params),
             out_shardings=(everywhere, None))
observed, params = go(jax.random.key(3), world)
cut = [x for x in jax.tree.leaves(params) if x.addressable_shards[0].data.size * shape["model"] == x.size]
np.savez(out, cut=len(cut), **{name: np.asarray(x.addressable_data(0)) for name, x in observed.items()})
"""


def processes(count, folder, kind):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outs = [folder / f"{count}-{i}.npz" for i in range(count)]
    flags = "--xla_force_host_platform_device_count=" + ("1" if kind == "flow_matching" else "2")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESSES, address, str(count), str(i), str(out), kind],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "XLA_FLAGS": flags},
        )
        for i, out in enumerate(outs)
    ]  # fmt: skip
    try:
        for process in started:
            _, err = process.communicate(timeout=400)
            assert process.returncode == 0, err[-2000:]
    finally:
        for process in started:
            process.kill()
    return [dict(np.load(out)) for out in outs]


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["flow_matching", "language_model"])
def test_two_processes_share_one_chain(tmp_path, kind):
    (alone,) = processes(1, tmp_path, kind)
    first, second = processes(2, tmp_path, kind)
    assert first.pop("cut") == second.pop("cut") >= 4  # parameters of which each device holds a half
    alone.pop("cut")
    for name, value in alone.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], value, rtol=1e-3, atol=1e-5)


DEVICES = """
import pathlib, sys
import jax, numpy as np
from collapse_jax import policies, results, run, settings
from collapse_jax.data import texts
from collapse_jax.execution import checkpoint, resumable
from collapse_jax.execution.programs import compile_block
from collapse_jax.execution.runner import Runner
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan

out, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
if kind == "flow_matching":
    setting = settings.flow_matching(width=16, steps=30, batch_size=16, num_test=8)
else:
    setting = settings.language_model(texts.markov_chain(), width=16, depth=1, heads=2, length=8, steps=20,
                                      warmup=2, batch_size=8, num_test=8, ngram=2, gram_bits=2**12, rows_at_once=8)
options, made = {"num_chains": 3, "chains_per_block": 2}, {}

def keep(name, ds):
    made.update({f"{name} {metric}": values.to_numpy() for metric, values in ds.data_vars.items()})

def go(**more):
    return run(setting, policies.accumulate(), num_samples=16, num_generations=3, **options, **more)

keep("one", go(devices=jax.devices()[:1]))
keep("four", go(mesh={"data": 2, "model": 2}))

def compiled(mesh):
    grid = make_grid(setting, policies.accumulate(), num_samples=16, num_generations=3)
    return Runner(make_plan(grid, Options(**options, mesh=mesh)), lambda step: None)._programs(0)

if kind == "flow_matching":
    keep("two groups", go(mesh={"data": 2}))
    keep("a group", go(mesh={"data": 2}, devices=jax.devices()[2:]))
    grid = make_grid(setting, policies.accumulate(), num_samples=16, num_generations=3)
    long = {"mesh": {"data": 2, "model": 2}, "checkpoint_every": 1}
    saver_of, count = checkpoint.make_saver, [0]
    def dying(path):
        saver = saver_of(path)
        def save(*arguments):
            saver.save(*arguments)
            count[0] += 1
            if count[0] == 2:
                raise KeyboardInterrupt
        return saver._replace(save=save)
    checkpoint.make_saver = dying
    try:
        resumable.fill_store(grid, Options(**options, **long), out / "broken")
    except KeyboardInterrupt:
        checkpoint.make_saver = saver_of
    assert count[0] == 2
    resumable.fill_store(grid, Options(**options, **long), out / "broken")
    resumable.fill_store(grid, Options(**options, **long), out / "whole")
    for name in ("broken", "whole"):
        keep(name, results.open(out / name))
    single, sharded = compiled(None), compiled({"data": 2, "model": 2})
    work = [programs.advance[0].cost_analysis()["flops"] for programs in (single, sharded)]
    layers = [s.spec for s in jax.tree.leaves(sharded.placements[0].state.params)]
    made["share of work"] = work[1] / work[0]
    made["cut"] = sum("model" in spec for spec in layers)
    made["groups"] = len(compiled({"data": 2}).placements)
np.savez(out / "made.npz", **made)
"""


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["flow_matching", "language_model"])
def test_a_mesh_of_four_devices_gives_what_one_gives(tmp_path, kind):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    code = [sys.executable, "-c", DEVICES, str(tmp_path), kind]
    done = subprocess.run(code, stderr=subprocess.PIPE, text=True, env={**os.environ, **flags}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = dict(np.load(tmp_path / "made.npz"))
    names = [name.removeprefix("one ") for name in made if name.startswith("one ")]
    assert "test_nll_per_symbol" in names
    for name in names:
        assert np.isfinite(made[f"one {name}"]).all()
        np.testing.assert_allclose(made[f"four {name}"], made[f"one {name}"], rtol=2e-3, atol=1e-4, err_msg=name)
    if kind == "flow_matching":
        for name in names:
            np.testing.assert_array_equal(made[f"two groups {name}"], made[f"a group {name}"])
            np.testing.assert_allclose(made[f"a group {name}"], made[f"one {name}"], rtol=2e-3, atol=1e-4)
            np.testing.assert_array_equal(made[f"broken {name}"], made[f"whole {name}"])
        assert made["groups"] == 2
        assert made["cut"] >= 4
        assert made["share of work"] < 0.7


GPT2 = """
import jax
from collapse_jax import policies, settings
from collapse_jax.execution.runner import Runner
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan

setting = settings.language_model(model="decoder_124m", length=16, steps=1, batch_size=4, num_test=2, rows_at_once=4,
                                  warmup=0)
grid = make_grid(setting, policies.replace(), num_samples=4, num_generations=1)
options = Options(1, metrics=["test_nll_per_symbol", "sample_text"], mesh={"data": 2, "model": 2})
plan = make_plan(grid, options)
runner = Runner(plan, lambda step: None)
seen = runner.run_unit(plan.units[0])
programs = runner._programs(0)
shapes = jax.tree.leaves(programs.start[0].out_info.params.net)
whole = sum(x.size for x in shapes)
held = sum(jax.numpy.prod(jax.numpy.array(x.sharding.shard_shape(x.shape))).item() for x in shapes)
print(whole, held, float(seen["test_nll_per_symbol"].squeeze()), seen["sample_text"].shape)
"""


@pytest.mark.nightly
def test_the_largest_preset_takes_a_step_on_four_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", GPT2], capture_output=True, text=True, env={**os.environ, **flags}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole, held, loss, shape = done.stdout.split(maxsplit=3)
    assert int(whole) > 85e6
    assert int(held) < 0.51 * int(whole)
    assert 0 < float(loss) < 20
    assert shape.strip() == "(1, 1, 1, 4, 16)"


def test_what_cannot_be_spread_is_refused():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="gaussian has no parameters to shard"):
        shard_setting(settings.gaussian(), mesh)
    other = jax.make_mesh((1,), ("chain",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="mesh: its axes are chain; one must be called 'data' or 'model'"):
        shard_setting(settings.flow_matching(num_test=8), other)
    explicit = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match="axis 'model': give axis_types="):
        shard_setting(settings.flow_matching(num_test=8), explicit)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"data": 3}, "mesh: a chain takes 3 devices, and 4 is no multiple of that"),
        ({"data": 2, "model": 4}, "mesh: a chain takes 8 devices, and 4 is"),
        ({"data": 0}, "mesh: data must be a whole number of at least 1, not 0"),
        ({"rows": 2}, "mesh: has no axis 'rows'"),
        ({"data": 4}, "mesh: 6 rows do not divide evenly over 4 devices of the axis 'data'"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_before_any_compute(mesh, message, monkeypatch):
    monkeypatch.setattr("collapse_jax.execution.runner.run_blocks", lambda *_, **__: pytest.fail("it computed"))
    setting = settings.flow_matching(width=4, depth=1, steps=2, batch_size=6, num_test=4)
    options = {"num_samples": 8, "num_generations": 2, "num_chains": 1, "devices": jax.devices() * 4}
    with pytest.raises(ValueError, match=message) as error:
        sweep(setting, policies.replace(), **options, mesh=mesh)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="gaussian has no parameters to shard"):
        sweep(settings.gaussian(), policies.replace(), **options, mesh={"data": 2})


def test_a_config_names_the_mesh(tmp_path, monkeypatch, capsys):
    raw = {"setting": {"kind": "flow_matching", "num_test": 8}, "policies": ["replace"], "num_samples": 8,
           "num_generations": 2, "num_chains": 1}  # fmt: skip
    assert from_dict(raw).options().mesh is None
    assert from_dict({**raw, "mesh": {"model": 2}}).options().mesh == {"data": 1, "model": 2}
    (tmp_path / "a.yaml").write_text("{setting: flow_matching, policies: [replace], num_samples: 8, "
                                     "num_generations: 2, num_chains: 1}")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main.main(["run", "a.yaml", "--mesh.data", "3"]) == 2
    assert capsys.readouterr().err == "error: mesh: a chain takes 3 devices, and 1 is no multiple of that\n"
    assert not (tmp_path / "results").exists()
    for words, message in (
        (["--mesh.rows", "2"], "mesh.rows: unknown key"),
        (["--mesh", "2"], "the keys data and model"),
    ):
        assert main.main(["run", "a.yaml", *words]) == 2
        assert message in capsys.readouterr().err
