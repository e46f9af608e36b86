"""The report's page: its numbers are the store's, it loads nothing, and it has words for what is not there yet."""

import base64
import io
import json
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from report_runs import ABOUT, CONFIG, half_done, run, with_samples

import collapse_jax as cj
from collapse_jax import results
from collapse_jax.cli import main
from collapse_jax.reporting import html, plot_curves, plot_images
from collapse_jax.results import summary
from collapse_jax.results.theory_variables import exact_line

pytest.importorskip("jinja2")


class Page(HTMLParser):
    """Tags with their attributes, the text outside scripts, the scripts, and the cells of each table's rows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.rows, self.words, self._open = [], [], [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" in self._open:
            self.scripts[-1] += data
        elif "style" not in self._open:
            self.words.append(data)
            if {"td", "th"} & set(self._open):
                self.rows[-1][-1] = " ".join((self.rows[-1][-1] + " " + data).split())

    def links(self, tag="a"):
        return [attrs.get("href", attrs.get("src", "")) for name, attrs in self.tags if name == tag]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Pages without plotly's five megabytes."""
    monkeypatch.setattr(html, "_load_plotly", lambda: "const Plotly = null;")


def page_of(ds, **options):
    return Page(html.render_report(ds, **options))


def decoded(link):
    head, data = link.split(",", 1)
    assert head.endswith(";base64")
    return base64.b64decode(data)


@pytest.mark.fast
def test_the_table_has_the_numbers_of_the_run():
    ds = run()
    page = page_of(ds)
    rows = {row[0].split()[0]: row[1:] for row in page.rows if row and row[0].split()[0] in ABOUT}
    assert set(rows) == set(ABOUT)
    for found in summary.summarize(ds):
        cell = rows[found.metric][list(ds.policy.values).index(found.column)]
        assert cell == f"{found.median:.3g} ({found.low:.3g}, {found.high:.3g}), mean {found.mean:.3g}"


def test_the_charts_have_the_numbers_of_the_picture_and_of_theory():
    ds = run()
    charts = page_of(ds).data["charts"]
    assert charts["generations"] == list(range(1, 10))
    told = []
    for metric in charts["metrics"]:
        for i, found in enumerate(metric["curves"]):
            curve = plot_curves.summarize_curve(ds[metric["name"]], {"policy": i})
            for key in ("centre", "low", "high"):
                np.testing.assert_allclose(np.array(found[key], float), getattr(curve, key), rtol=1e-4)
            expected = exact_line(ds, metric["name"], {"policy": i})
            assert (expected is None) == (found["theory"] is None)
            if expected is not None:
                told.append(metric["name"])
                np.testing.assert_allclose(np.array(found["theory"], float), expected, rtol=1e-4)
    assert told.count("trace_ratio") == 2  # else nothing was compared


def test_histograms_count_every_chain():
    ds = run(chains=1000)
    charts = page_of(ds).data["charts"]
    (found,) = charts["histograms"]["points"][1]
    shares, edges = np.asarray(found["shares"]), np.asarray(found["edges"])
    assert shares.shape == (2, 9, 60)
    assert (shares.sum(-1) > 0.97).all()
    assert (shares.sum(-1) <= 1.001).all()
    middle = (edges[1:] + edges[:-1]) / 2
    means = (shares * middle).sum(-1) / shares.sum(-1)
    np.testing.assert_allclose(means, ds.log_trace_ratio.mean("chain"), atol=2 * np.diff(edges)[0])
    assert page_of(run(chains=99)).data["charts"]["histograms"] is None


def test_the_answer_counts_the_verdicts():
    ds = run()
    verdicts, page = cj.score(ds), page_of(ds)
    count = int((verdicts.verdict.sel(policy="replace") == "yes").sum())
    assert count > 1
    assert f"replace collapses by {count} (any rise of risk, " in page.text
    no = int((verdicts.verdict.sel(policy="accumulate") == "no").sum())
    assert f"accumulate collapses by none ({no} say no, {8 - no} cannot be told from this run)" in page.text
    both = xr.concat([ds.sel(policy=["replace"]), ds.sel(policy=["replace"]).assign_coords(policy=["again"])], "policy")
    assert f"replace and again collapse by {count} (" in page_of(both).text
    rising = verdicts.verdict.copy()
    rising.loc[{"policy": "replace", "definition": "diverging_risk"}] = "still rising"
    said = html.text.write_answer(ds, verdicts.assign(verdict=rising))
    assert "; diverging risk is open, as it is still rising" in " ".join(said)
    last = summary.summarize(ds[["log_trace_ratio"]])[0]
    assert f"{last.median:.3g} ({last.low:.3g}, {last.high:.3g}) nats under replace" in page.text
    evidence = [row for row in page.rows if row and row[0].startswith("collapsing variance")]
    found = verdicts.sel(policy="replace", definition="collapsing_variance")
    assert evidence[0][1].startswith(
        f"yes {float(found.estimate):.3g} ({float(found.low):.3g}, {float(found.high):.3g})"
    )


def test_links_hold_the_same_numbers(tmp_path):
    ds = run()
    page = page_of(ds, folder=tmp_path)
    files = {attrs["download"]: decoded(attrs["href"]) for tag, attrs in page.tags if "download" in attrs}
    assert set(files) == {"curves.csv", "curves.parquet", "config.yaml"}
    assert files["config.yaml"].decode() == CONFIG
    table, parquet = pd.read_csv(io.BytesIO(files["curves.csv"])), pd.read_parquet(io.BytesIO(files["curves.parquet"]))
    pd.testing.assert_frame_equal(table, parquet, check_dtype=False)
    assert len(table) == 3 * 2 * 9
    row = table[(table.metric == "test_nll") & (table.policy == "accumulate") & (table.generation == 4)]
    assert float(row.centre.iloc[0]) == pytest.approx(float(ds.test_nll[1, :, 3].mean()), rel=1e-4)


def test_a_page_loads_nothing(tmp_path):
    (tmp_path / "metrics.png").touch()
    page = page_of(with_samples(run()), folder=tmp_path)
    assert "src" not in {key for tag, attrs in page.tags if tag in ("script", "img", "iframe") for key in attrs}
    for link in [*page.links("a"), *page.links("link")]:
        assert link.startswith(("#", "data:")) or (tmp_path / link).exists(), link
    assert "metrics.png" in page.links()
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.links() if link.startswith("#")} <= set(ids)
    for part in (html._read_file("page.css"), html._read_file("page.js"), html._read_file("page.html")):
        assert "http" not in part
        assert "@import" not in part


def test_every_control_has_a_name():
    page = page_of(with_samples(run(dim=[1, 2], num_samples=[10, 20, 30, 40])))
    labelled = page.text
    for tag, attrs in page.tags:
        if tag == "input":
            assert attrs.get("aria-label")
        if attrs.get("role") in ("img", "region", "group"):
            assert attrs.get("aria-label")
    for word in ("dim", "num_samples", "metric"):
        assert word in labelled


def test_nothing_in_a_run_is_markup():
    ds = run(policies=("replace", '</script><script>alert("policy")</script>'))
    ds = ds.assign_attrs(setting="<img src=x onerror=alert(1)>")
    page = page_of(ds)
    assert len(page.scripts) == 3
    assert "img" not in {tag for tag, _ in page.tags}
    assert "b" in {tag for tag, _ in page.tags}  # of verdicts
    assert '</script><script>alert("config")</script>' in page.text
    assert "risk <b>of</b> tests" in page.text
    assert page.data["charts"]["policies"][1] == '</script><script>alert("policy")</script>'


def test_generated_texts_and_labels_are_not_markup():
    hostile = "</script><img src=x onerror=alert(1)><b>bold</b>"
    ds = with_samples(run(policies=("replace", hostile)))
    ds.sample_text.attrs["symbols"] = ["a", hostile, "\n"]
    page = page_of(ds)
    assert len(page.scripts) == 3
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert hostile in page.text
    assert hostile in str(page.data["texts"])


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_run_that_is_not_finished(share):
    ds = half_done(with_samples(run()), share)
    page = page_of(ds, reload_seconds=5.0)
    assert f"{share:.1%} of the run is done" in page.text
    assert "reload this page every 5 s" in page.text
    assert page.data["again"] == 5.0
    curve = page.data["charts"]["metrics"][0]["curves"][0]
    assert curve["lost"] == 0
    if share:
        assert f"So far, with {share:.1%} done" in page.text
        assert curve["centre"][0] == pytest.approx(float(ds.trace_ratio[0, :50, 0].mean()), rel=1e-4)
    else:
        assert "No chain is finished yet" in page.text
        assert page.text.count("not yet") == 6
        assert set(curve["centre"]) == {None}
        assert page.data["images"]["strips"][0][0] == ""
    finished = page_of(run().assign(trace_ratio=lambda runs: runs.trace_ratio * np.nan), reload_seconds=5.0)
    assert (finished.text.count("not yet"), finished.text.count("not finite")) == (0, 2)
    assert finished.data["again"] is None
    assert "Finished." in finished.text


def test_a_sweep_is_shown_point_by_point():
    ds = run(dim=[1, 2], num_samples=[10, 20, 30, 40])
    page = page_of(ds)
    charts = page.data["charts"]
    assert charts["select"]
    assert [axis["values"] for axis in charts["axes"]] == [["1", "2"], ["10", "20", "30", "40"]]
    for curve, line in zip(charts["curves"], charts["metrics"][1]["curves"], strict=True):
        values = ds.log_trace_ratio[curve["policy"], curve["point"] // 4, curve["point"] % 4]
        np.testing.assert_allclose(line["centre"], values.median("chain"), rtol=1e-4)
    assert sum("data-point" in attrs for _, attrs in page.tags) == 8
    assert "collapsing variance at 8 of 8 points" in page.text
    few = page_of(run(dim=[1, 2])).data["charts"]
    assert (few["select"], few["metrics"][0]["centre"]) == (False, "mean")
    assert [curve["dash"] for curve in few["curves"]] == ["solid", "dash"] * 2


def test_long_runs_are_thinned_with_both_ends():
    for number, most in ((1, 5), (7, 7), (1000, 40), (500, 1)):
        chosen = html.charts.thin_generations(number, most)
        assert (chosen[0], chosen[-1]) == (0, number - 1)
        assert len(chosen) <= max(most, 2)
    assert list(html.charts.thin_generations(7, 7)) == list(range(7))


def test_samples_are_those_of_the_run():
    ds = with_samples(run())
    data = page_of(ds).data
    for policy in range(2):
        for generation in range(9):
            png = Image.open(io.BytesIO(decoded(data["images"]["strips"][policy][generation])))
            expected = plot_images.make_mosaic(ds.sample_image[policy, 0, [generation]])[:-1, :-1]
            np.testing.assert_array_equal(np.asarray(png), np.round(expected * 255))
    assert data["texts"][0]["rows"][1][8] == cj.texts_of(ds.sample_text)[1, 0, 8].values.tolist()


def test_runs_of_one_chain_or_one_generation_or_nothing_but_samples():
    for ds in (run(chains=1), run(generations=1), run(policies=("replace",)).isel(policy=0)):
        page = page_of(ds)
        assert page.data["charts"]["metrics"]
        assert "nan" not in page.text.split()
    only = with_samples(run())[["sample_image"]]
    page = page_of(only)
    assert page.data["charts"]["metrics"] == []
    assert page.data["images"]["count"] == 3


def test_the_command(tmp_path, capsys):
    place = results.save(run(), tmp_path / "out")
    assert main.main(["report", str(place)]) == 0
    assert capsys.readouterr().out == f"report: {place / 'report.html'}\n"
    text = (place / "report.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in place.iterdir()) == ["config.yaml", "report.html", "results.zarr"]
    assert main.main(["report", str(place), "--out", str(tmp_path / "absent" / "a.html")]) == 2
    assert main.main(["report", str(tmp_path)]) == 2
    assert main.main(["report", str(place), "--watch", "0"]) == 2
    lines, wrong = capsys.readouterr().err.splitlines(), ("cannot be written", "not a results folder", "--watch")
    assert len(lines) == 3
    assert all(words in line for line, words in zip(lines, wrong, strict=True))


def test_watching_ends_with_the_run(tmp_path, capsys, monkeypatch):
    seen, shares = [], iter([0.0, 0.0, 0.5, 1.0])
    monkeypatch.setattr(
        results, "open", lambda place: half_done(run(), share) if (share := next(shares)) < 1 else run()
    )
    monkeypatch.setattr(html.time, "sleep", seen.append)
    assert main.main(["report", "anywhere", "--out", str(tmp_path / "a.html"), "--watch", "2"]) == 0
    assert seen == [2.0] * 3
    words = [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()]
    assert words == ["0.0% done", "50.0% done", "100% done"]
    assert "Finished." in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("missing", ["plotly.offline", "jinja2"])
def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch, missing):
    monkeypatch.undo()
    pytest.importorskip("plotly")
    html._load_plotly.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    place = results.save(run(), tmp_path / "out")
    assert main.main(["report", str(place)]) == 2
    assert "pip install 'collapse-jax[report]'" in capsys.readouterr().err


def test_plotly_is_inside_the_page(monkeypatch):
    monkeypatch.undo()
    pytest.importorskip("plotly")
    page = page_of(run())
    assert len(page.scripts) == 3
    assert len(page.scripts[1]) > 1_000_000
    assert page.scripts[2].strip() == html._read_file("page.js").strip()


def test_not_a_run():
    with pytest.raises(ValueError, match="no dimension 'chain'"):
        html.render_report(run().isel(chain=0))
