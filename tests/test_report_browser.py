"""The report in a real browser: needs selenium, chromium and chromedriver."""

import shutil

import numpy as np
import pytest
from report_runs import half_done, run, with_samples

from collapse_jax.reporting import html, plot_curves

pytestmark = pytest.mark.nightly
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--window-size=1280,900")  # fmt: skip
DRAWN = """return [...document.querySelectorAll('[data-metric]')].map(
    (panel) => panel.data.filter((trace) => trace.meta === 'centre').map((trace) => [...trace.y]))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    pytest.importorskip("plotly")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not found or not driver:
        pytest.skip("no chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens the report of a run; nothing may have gone wrong by the end of the test."""

    def visit(ds, **options):
        browser.get(html.write_report(ds, tmp_path / "report.html", **options).as_uri())
        assert browser.find_element("tag name", "html").get_attribute("data-ready") == "yes"
        return browser

    browser.get_log("browser")
    yield visit
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def press(element, key, times=1):
    from selenium.webdriver.common.keys import Keys

    element.send_keys(getattr(Keys, key) * times)


def test_the_charts_are_the_runs(visit):
    ds = run()
    drawn = visit(ds).execute_script(DRAWN)
    for name, curves in zip(ds.data_vars, drawn, strict=True):
        for i, curve in enumerate(curves):
            expected = plot_curves.summarize_curve(ds[name], {"policy": i})
            np.testing.assert_allclose(curve, expected.centre, rtol=1e-4)


def test_sliders_move_by_keys_and_by_buttons(visit):
    ds = with_samples(run())
    page = visit(ds)
    shares = "return [...document.getElementById('histogram-plot').data[0].y]"
    source = "return document.querySelector('#images img').src"
    before = page.execute_script(shares), page.execute_script(source)
    for name in ("histogram", "images"):
        slider, output = (
            page.find_element("css selector", f"{tag}{name}-generation{end}")
            for tag, end in (("#", ""), ('output[for="', '"]'))
        )
        assert output.text == "generation 9"
        press(slider, "ARROW_LEFT", 3)
        assert output.text == slider.get_attribute("aria-valuetext") == "generation 6"
        page.find_element("css selector", f'button[aria-controls="{name}-generation"]').click()
        assert output.text == "generation 5"
    assert page.execute_script(shares) != before[0]
    assert page.execute_script(source) == page.execute_script(
        "return JSON.parse(document.getElementById('data').textContent).images.strips[0][4]"
    )
    rows = page.find_element("css selector", ".rows").get_attribute("textContent")
    assert rows == "".join(html.samples.collect_texts(ds)[0]["rows"][0][8])


def test_a_point_of_a_sweep_is_chosen(visit):
    ds = run(dim=[1, 2], num_samples=[10, 20, 30, 40])
    page = visit(ds)
    for number, key in enumerate(("ARROW_DOWN", "ARROW_DOWN")):
        press(page.find_element("id", f"axis-{number}"), key, number + 1)
    (replace, accumulate), *_ = page.execute_script(DRAWN)
    for policy, found in enumerate((replace, accumulate)):
        np.testing.assert_allclose(found, ds.trace_ratio[policy, 1, 2].median("chain"), rtol=1e-4)
    shown = [table for table in page.find_elements("css selector", "[data-point]") if table.is_displayed()]
    assert [table.get_attribute("aria-label") for table in shown] == ["definitions at dim = 2, num_samples = 30"]
    cells = page.execute_script("return document.querySelector('#sweep-panels .plot').data[0].text")
    assert np.shape(cells) == (2, 4)
    assert float(cells[1][2]) == pytest.approx(float(ds.trace_ratio[0, 1, 2, :, -1].median()), rel=0.01)


def test_themes_and_the_legend(visit):
    page = visit(run())
    paper = "return getComputedStyle(document.body).backgroundColor"
    seen = []
    for _ in range(3):
        page.find_element("id", "theme").click()
        seen.append((page.find_element("id", "theme").text, page.execute_script(paper)))
    assert [words for words, _ in seen] == ["theme: light", "theme: dark", "theme: system"]
    assert seen[0][1] != seen[1][1]
    page.find_element("css selector", ".legend button").click()
    assert {len(curves) for curves in page.execute_script(DRAWN)} == {1}


def test_half_a_run_on_a_phone(visit, browser):
    browser.set_window_size(500, 900)
    try:
        page = visit(half_done(with_samples(run())), reload_seconds=60.0)
        assert "50.0% done" in page.find_element("tag name", "header").text
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert "not known" not in page.find_element("css selector", "[data-metric]").get_attribute("aria-label")
        visit(half_done(with_samples(run()), 0.0), reload_seconds=60.0)
        assert "not finished" in page.find_element("id", "images").text
    finally:
        browser.set_window_size(1280, 900)
