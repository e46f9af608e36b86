"""A store is filled by devices that run other numbers of chains side by side."""

from pathlib import Path

import numpy as np
from test_stream import CONFIG, SMALL

from collapse_jax import policies, results, settings, sweep
from collapse_jax.cli import main
from collapse_jax.execution import resumable
from collapse_jax.planning import block_size
from collapse_jax.results import store

WIDE = CONFIG.replace("chains_per_block: 2\n", "").replace("num_chains: 6", "num_chains: 20")


def test_a_store_is_filled_by_devices_of_other_widths(tmp_path, monkeypatch):
    """Units lie in the store, widths do not; each unit says which device computed it."""
    monkeypatch.chdir(tmp_path)
    for name, value in SMALL.items():
        monkeypatch.setattr(f"collapse_jax.planning.units.{name}", value)
    Path("wide.yaml").write_text(WIDE)
    runs, count = resumable.Runner.run_unit, [0]

    def stop(self, unit, saver=None):
        count[0] += 1
        if count[0] > 3:
            raise KeyboardInterrupt
        return runs(self, unit, saver)

    with monkeypatch.context() as patch:
        patch.setitem(block_size._MAX_CHAINS, "cpu", 8)
        patch.setattr(resumable.Runner, "run_unit", stop)
        assert main.main(["run", "wide.yaml", "--out", "out"]) == 130
    monkeypatch.setitem(block_size._MAX_CHAINS, "cpu", 4)
    monkeypatch.setattr(resumable, "describe_device", lambda: "Other (cpu)")
    widths = []
    monkeypatch.setattr(
        resumable.Runner,
        "run_unit",
        lambda self, unit, saver=None: (
            widths.append(self.plan.programs[unit.program].chains_per_block),
            runs(self, unit, saver),
        )[1],
    )
    assert main.main(["run", "wide.yaml", "--out", "out"]) == 0
    assert set(widths) == {4}
    found = results.open("out")
    assert len(found.attrs["devices"]) == 2
    assert "Other (cpu)" in found.attrs["devices"]
    by_unit = store.read_devices("out/results.zarr")
    assert list(by_unit.values()).count("Other (cpu)") == len(by_unit) - 3
    alone = sweep(
        settings.gaussian,
        [policies.replace, policies.decay],
        num_samples=4,
        num_generations=4,
        num_chains=20,
        metrics=["trace_ratio", "squared_error_of_mean"],
        axes={"dim": [1, 2], "temperature": [0.5, 1.0]},
    )
    for name in alone.data_vars:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-4, atol=1e-6)
