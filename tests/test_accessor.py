"""What stands on datasets themselves, and how notebooks show it."""

import sys
import types

import numpy as np
import pytest
from rich.console import Console

import collapse_jax as cj
from collapse_jax import policies, settings
from collapse_jax.analysis import verdicts
from collapse_jax.execution import progress
from collapse_jax.reporting import tables


@pytest.fixture(scope="module")
def runs():
    return cj.sweep(
        settings.gaussian(1),
        [policies.replace(), policies.accumulate()],
        metrics=["trace_ratio", "log_det_ratio", "effective_rank"],
        num_samples=10,
        num_generations=8,
        num_chains=50,
    )


def text(table):
    """As a terminal shows it."""
    console = Console(width=200)
    with console.capture() as printed:
        console.print(table)
    return printed.get()


def test_the_functions_of_results_stand_on_the_dataset(runs, tmp_path):
    assert runs.collapse.score().equals(verdicts.score(runs))
    for mine, theirs in (
        (runs.collapse.table(2), tables.render_summary(runs, 2)),
        (runs.collapse.verdicts(), tables.render_verdicts(runs)),
    ):
        assert text(mine) == text(theirs)
    figure = runs.collapse.plot(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(figure.axes) == 3


def test_predictions_lie_beside_the_metrics(runs):
    known = runs.collapse.predict()
    assert set(known.data_vars) == {"trace_ratio", "log_det_ratio"}  # of an effective rank no mean is known
    assert known.trace_ratio.dims == ("policy", "generation")
    expected = (1 - 1 / 10) ** np.arange(1, 9)
    here = known.trace_ratio.sel(policy="replace")
    np.testing.assert_allclose(here.dropna("generation"), expected[np.isfinite(here)], rtol=1e-6)
    assert np.isfinite(here).sum() >= 4
    one = runs.isel(policy=1).collapse.predict()
    np.testing.assert_array_equal(one.trace_ratio, known.trace_ratio.isel(policy=1))


def test_the_report_is_written(runs, tmp_path):
    pytest.importorskip("plotly")
    page = runs.collapse.report(tmp_path / "page.html")
    assert "trace_ratio" in page.read_text()


class Handle:
    """A display in a notebook's cell records what it shows."""

    def __init__(self):
        self.shown = []

    def update(self, value):
        self.shown.append(value)


@pytest.fixture
def cell(monkeypatch):
    """A notebook's cell; nothing is drawn into it but by IPython's own functions."""
    handle = Handle()

    def display(value, display_id):
        assert display_id
        handle.update(value)
        return handle

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    shows = types.ModuleType("IPython.display")
    shows.HTML, shows.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shows)
    return handle


def test_tables_are_whole_in_a_notebook(runs, cell):
    for table in (runs.collapse.table(), runs.collapse.verdicts()):
        html = table._repr_mimebundle_([], [])["text/html"]
        assert "accumulate" in html
        assert "collapsing" in html or "trace_ratio" in html
    assert runs.collapse.verdicts().width > 80  # the width at which cells would wrap


def test_progress_shows_in_a_notebook(cell):
    with progress.show_sweep_progress(True) as tell:
        tell(10, 40)
        tell(40, 40)
    assert "compiling" in cell.shown[0]
    assert [text.partition("</progress> ")[2].split()[0] for text in cell.shown] == ["0%", "25%", "100%"]
    assert "chain-generations/s" in cell.shown[-1]


def test_progress_is_a_function_a_bar_or_nothing(cell, monkeypatch, capsys):
    seen = []
    with progress.show_sweep_progress(lambda *given: seen.append(given)) as tell:
        tell(1, 2)
    for nothing in (None, False):
        with progress.show_sweep_progress(nothing) as tell:
            tell(1, 2)
    assert (seen, cell.shown) == ([(1, 2)], [])
    monkeypatch.delitem(sys.modules, "IPython")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as rich is told of a terminal
    with progress.show_sweep_progress(True) as tell:
        tell(1, 2)
        tell(2, 2)
    assert cell.shown == []
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize(("done", "told"), [(0, "0"), (2, "0.4"), (12345, "2,469")])
def test_slow_chains_show_a_rate(done, told, monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 105.0)
    assert progress._format_speed(done, 100.0) == f"{told} chain-generations/s"
