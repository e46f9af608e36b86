import json
import shutil

import numpy as np
import pytest
import xarray as xr

from collapse_jax import results
from collapse_jax.numerics import confidence_intervals
from collapse_jax.reporting import plot_curves, tables
from collapse_jax.results import io, summary


def dataset(chains=20, generations=6, policies=("replace", "accumulate"), seed=0):
    shape = (len(policies), chains, generations)
    dims = ("policy", "chain", "generation")
    values = np.random.default_rng(seed).lognormal(size=shape).astype("float32")
    return xr.Dataset(
        {
            "zeta": (dims, values, {"long_name": "zeta", "units": "nats", "source": "here", "scale": "log"}),
            "alpha": (dims, -values, {"long_name": "alpha", "units": "1", "source": "here", "scale": "linear"}),
        },
        {"policy": list(policies), "chain": np.arange(chains), "generation": np.arange(1, generations + 1)},
        {"setting": "gaussian", "num_samples": 10, "seconds_run": 1.5, "config": "seed: 1\n"},
    )


def test_save_and_open(tmp_path):
    ds = dataset()
    folder = results.save(ds, tmp_path / "deep" / "out")
    back = results.open(folder)
    xr.testing.assert_equal(back, ds)
    assert list(back.data_vars) == ["zeta", "alpha"]
    assert back["zeta"].attrs == ds["zeta"].attrs
    assert back.sel(policy="replace").sizes == {"chain": 20, "generation": 6}
    assert back.attrs["config"] == "seed: 1\n" == (folder / "config.yaml").read_text()
    assert back.attrs["seconds_run"] == 1.5
    xr.testing.assert_identical(results.open(folder / "results.zarr"), back)
    assert json.loads((folder / "results.zarr" / "zarr.json").read_text())["zarr_format"] == 3


def test_no_number_is_changed_on_disk(tmp_path):
    ds = dataset()
    ds["zeta"].values[0, 0, :3] = [np.inf, -np.inf, np.nan]
    ds["alpha"].values[:] = 0.0
    back = results.open(results.save(ds, tmp_path / "out"))
    np.testing.assert_array_equal(back["zeta"], ds["zeta"])
    np.testing.assert_array_equal(back["alpha"], ds["alpha"])


def test_a_run_is_never_overwritten(tmp_path):
    folder = results.save(dataset(), tmp_path / "out")
    for write in (results.check_free, lambda path: results.save(dataset(), path)):
        with pytest.raises(results.StoreError, match=r"already holds another run.*--out"):
            write(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(results.StoreError, match="is not empty"):
        results.check_free(tmp_path / "other")
    with pytest.raises(results.StoreError, match="is a file"):
        results.check_free(tmp_path / "other" / "notes.txt" / "out")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert results.open(results.save(dataset(), tmp_path / "out")).sizes["chain"] == 20


class Killed(BaseException):
    pass


def test_a_death_while_writing_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    def write_half(ds, store):
        store.mkdir()
        (store / "zarr.json").write_text("{}")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(io, "_write", write_half)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process cleans nothing up
        with pytest.raises(Killed):
            results.save(dataset(), tmp_path / "out")
    with pytest.raises(results.StoreError, match="not a results folder"):
        results.open(tmp_path / "out")
    results.check_free(tmp_path / "out")


def test_results_survive_a_folder_that_was_filled_meanwhile(tmp_path, monkeypatch):
    def write(ds, store, write=io._write):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").touch()
        write(ds, store)

    monkeypatch.setattr(io, "_write", write)
    with pytest.raises(results.StoreError, match="the results are in") as caught:
        results.save(dataset(), tmp_path / "out")
    assert results.open(str(caught.value).rpartition(" ")[2]).sizes["chain"] == 20


def test_unreadable_results_are_told_in_one_line(tmp_path):
    with pytest.raises(results.StoreError, match="not a results folder"):
        results.open(tmp_path / "absent")
    folder = results.save(dataset(), tmp_path / "out")
    (folder / "results.zarr" / "zarr.json").write_text("{")
    with pytest.raises(results.StoreError, match="unreadable") as caught:
        results.open(folder)
    assert "\n" not in str(caught.value)


def test_summary_has_a_cell_for_each_metric_and_policy():
    ds = dataset()
    rows = {(row.metric, row.column): row for row in summary.summarize(ds)}
    assert list(rows) == [(m, p) for m in ("zeta", "alpha") for p in ("replace", "accumulate")]
    values = ds["zeta"].sel(policy="accumulate").isel(generation=-1)
    found = rows["zeta", "accumulate"]
    assert (found.median, found.mean) == pytest.approx((float(np.median(values)), float(np.mean(values))))
    assert found.low < found.median < found.high
    assert summary.summarize(ds, generation=0)[0].median == pytest.approx(float(ds["zeta"][0, :, 0].median()))


@pytest.mark.parametrize(("chains", "said"), [(1, "one chain"), (3, "range of 3 chains"), (20, "95% interval")])
def test_the_table_says_what_its_parentheses_hold(chains, said):
    ds = dataset().isel(chain=range(chains))
    assert said in " ".join(rendered(ds).split())  # titles are wrapped
    found = summary.summarize(ds)[0]
    values = ds["zeta"][0, :, -1].to_numpy()
    if chains == 3:
        assert (found.low, found.high) == (values.min(), values.max())
    assert np.isnan(found.low) == (chains == 1)


def swept():
    return xr.concat([dataset(), dataset(seed=1)], xr.Variable("num_samples", [10, 20]))


def test_swept_axes_have_their_columns():
    labels = summary.curve_positions(swept())
    assert len(labels) == 4
    assert {"policy": 1, "num_samples": 0} in labels.values()
    assert any("num_samples=20" in label and "accumulate" in label for label in labels)


def rendered(ds):
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=120)
    console.print(tables.render_summary(ds))
    return console.file.getvalue()


def test_table():
    text = rendered(dataset())
    for word in ("Generation 6", "20 chains", "zeta", "(nats)", "replace", "accumulate"):
        assert word in text
    assert "(1)" not in text
    single = rendered(dataset(chains=1))
    assert "one chain" in single
    assert "," not in single.split("metric")[1]


def test_labels_and_units_are_not_markup():
    ds = dataset(policies=("[red]", "b"))
    ds["zeta"].attrs["units"] = "[/oops]"
    assert "[red]" in rendered(ds)
    assert "[/oops]" in rendered(ds)


def spoilt():
    ds = dataset()
    ds["zeta"].values[0, :3, 2:] = np.inf
    ds["zeta"].values[1] = np.nan
    ds["alpha"].values[0, :, 1] = -np.inf
    return ds


@pytest.mark.parametrize(
    "ds",
    [dataset(), spoilt(), dataset(chains=1), dataset(generations=1), swept(), dataset()[["alpha"]]],
    ids=["plain", "not finite", "one chain", "one generation", "swept", "one metric"],
)
def test_plot_writes_a_picture(ds, tmp_path, recwarn):
    path = plot_curves.plot_curves(ds, tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not [str(w.message) for w in recwarn if issubclass(w.category, RuntimeWarning | UserWarning)]


def test_the_panels_say_what_they_show():
    figure = plot_curves.draw_curves(spoilt())
    zeta, alpha = figure.axes
    assert (zeta.get_yscale(), alpha.get_yscale()) == ("log", "linear")
    assert zeta.get_title() == "zeta"
    assert (zeta.get_ylabel(), alpha.get_ylabel()) == ("nats", "")
    assert "replace: 3 of 20 chains" in zeta.texts[0].get_text()
    assert "n = 10" in figure.get_suptitle()
    assert len(figure.legends) == 1


def test_the_line_is_the_mean_of_what_is_finite_and_the_band_its_interval():
    ds = dataset()
    ds["zeta"].values[0, :3, 1] = np.inf
    for chains in (20, 5):
        part = ds.isel(chain=range(chains))
        curve = plot_curves.summarize_curve(part["zeta"], {"policy": 0})
        columns = [column[np.isfinite(column)] for column in part["zeta"][0].to_numpy().T]
        few = chains < 6
        expected = [(x.mean(), x.min(), x.max()) if few else confidence_intervals.mean_interval(x) for x in columns]
        np.testing.assert_allclose(np.transpose(curve[:3]), expected)
        assert curve.lost == 3


def test_heavy_tails_are_drawn_by_their_median():
    ds = dataset()
    ds["zeta"].attrs["summary"] = "median"
    line = plot_curves.draw_curves(ds).axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), np.median(ds["zeta"][0], axis=0))


def test_a_large_grid_has_a_picture_and_a_table_of_its_own():
    rng = np.random.default_rng(0)
    dims = ("policy", "source", "dim", "n", "chain", "generation")
    ds = xr.Dataset(
        {"risk": (dims, rng.normal(size=(2, 2, 3, 4, 5, 6)), {"units": "nats", "long_name": "risk", "scale": "log"})},
        {"policy": ["a", "b"], "source": ["x", "y"], "dim": [1, 2, 3], "n": [1, 2, 3, 4], "generation": range(1, 7)},
    )
    figure = plot_curves.draw_curves(ds)
    panels = [ax for ax in figure.axes if ax.lines]
    assert len(panels) == 2 * 2  # sources by policies
    assert {len(ax.lines) for ax in panels} == {3 * 4}
    np.testing.assert_array_equal(panels[3].lines[5].get_ydata(), ds.risk[1, 1, 1, 1].median("chain"))
    assert [t.get_text() for t in figure.legends[0].texts] == [*(f"n = {i}" for i in (1, 2, 3, 4)),
                                                               *(f"dim = {i}" for i in (1, 2, 3))]  # fmt: skip
    shown = tables.render_summary(ds)
    assert shown.row_count == 48
    assert [str(c.header) for c in shown.columns][1].startswith("risk")
