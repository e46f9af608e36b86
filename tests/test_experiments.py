"""Published figures: each is registered, says what it holds itself to, and could be wrong."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # experiments are run from a clone and not installed

from experiments import NAMES, __main__, published  # noqa: E402
from experiments.published import AGREES, DIFFERS, NOT_RUN, UNKNOWN, Claim, at_least, at_most, number  # noqa: E402

FIGURES = {name: importlib.import_module(f"experiments.{name}").PUBLISHED for name in NAMES}


def test_every_figure_is_registered():
    written = [path.stem for path in (ROOT / "experiments").glob("*.py") if "\nPUBLISHED = " in path.read_text()]
    assert sorted(NAMES) == sorted(written)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_names_its_source_and_its_configs_load(name):
    figure = FIGURES[name]
    (paper,) = re.findall(r"arXiv (\d{4}\.\d{5})", figure.source)
    assert paper in importlib.import_module(f"experiments.{name}").__doc__
    for fraction in (0.1, 1.0):
        for _, _, experiment in published.planned(figure, fraction):
            assert experiment.num_chains >= 1
    assert all(claim.verdict == NOT_RUN for claim in figure.absent)


def test_verdicts():
    told = lambda allowed, *measured: Claim("", allowed, measured).verdict  # noqa: E731
    assert told(number(2), 2.1, 1.9, 2.3) == AGREES
    assert told(number(2), 2.1, 2.05, 2.15) == DIFFERS
    assert told(number(2), 2.1, 1.0, 3.2) == UNKNOWN  # too wide to say anything
    assert told(number(-2), -2.1, -2.3, -1.9) == AGREES
    assert told(number(3), 3, 3, 3) == AGREES
    assert told(at_least(0), 1, 0.5, 1.5) == AGREES
    assert told(at_least(0), 1, -0.5, 2.5) == UNKNOWN
    assert told(at_most(0), 1, 0.5, 1.5) == DIFFERS
    assert told(number(1), np.nan, np.nan, np.nan) == UNKNOWN
    assert Claim("", number(1), reason="needs a GPU").verdict == NOT_RUN


def test_intervals_hold_the_truth_and_four_standard_errors():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4000, 2))
    estimate, low, high = published.mean(x[:, 0])
    assert high - estimate == pytest.approx(estimate - low)
    assert high - low == pytest.approx(8 * 2 / 4000**0.5, rel=0.05)
    of_means = published.ratio(x[:, 0], x[:, 1])
    assert of_means[1] < 1 < of_means[2]
    jackknife = published.statistic(lambda v: v[:, 0].mean() / v[:, 1].mean(), x)
    assert jackknife[0] == pytest.approx(of_means[0])
    assert jackknife[2] - jackknife[1] == pytest.approx(of_means[2] - of_means[1], rel=0.5)
    for p in (0.0, 0.01, 0.5, 1.0):
        found, low, high = published.share(np.arange(400) < 400 * p)
        assert found == p
        assert low - 1e-12 <= p <= high + 1e-12
        assert high - low > 0.03


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of two figures, of few chains."""
    folder = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(__main__, "DATA", folder / "data")
        assert __main__.main(["golden_ratio", "accumulate_regression", "--fraction", "0.1", "--out", str(folder)]) == 0
    return folder


def test_a_figure_is_made_of_its_config(made, capsys):
    page = (made / "gallery.md").read_text()
    for name in ("golden_ratio", "accumulate_regression"):
        picture = made / "gallery" / f"{name}.png"
        assert f"](gallery/{picture.name})" in page
        assert 3_000 < picture.stat().st_size < 80_000
        assert f"`python -m experiments {name}`" in page
    assert page.count(f"| *{AGREES}* |") == 7
    assert f"| *{DIFFERS}* |" not in page


def test_a_wrong_number_differs(made):
    (ds,) = published.run("golden_ratio", FIGURES["golden_ratio"], 0.1, made / "data")  # as it was kept
    claim = FIGURES["golden_ratio"].claims(ds)[0]
    assert claim.verdict == AGREES
    assert claim._replace(published=number(0.7)).verdict == DIFFERS
    assert Claim("", at_most(0), published.mean(-ds.trace_ratio)).verdict == AGREES
    assert Claim("", at_least(0), published.mean(-ds.trace_ratio)).verdict == DIFFERS


def test_the_gallery_shows_every_figure():
    page, pictures = (ROOT / "docs" / "gallery.md").read_text(), ROOT / "docs" / "gallery"
    for name, figure in FIGURES.items():
        assert f"## {figure.title}\n" in page, name
        assert f"![{figure.title}](gallery/{name}.png)" in page
        assert (pictures / f"{name}.png").stat().st_size < 80_000, name
        section = __main__.kept(ROOT / "docs" / "gallery.md")[name]
        for ran in published.planned(figure, __main__.FRACTION):
            assert __main__._ran(*ran) in section
        for statement, *_ in published.rows(figure.absent):
            assert f"| {statement} |" in section
    assert sorted(path.stem for path in pictures.glob("*.png")) == sorted(NAMES)
    shown = re.findall(r"\| \*(\w[\w ]*)\* \|", page)
    assert set(shown) <= {AGREES, DIFFERS, UNKNOWN, NOT_RUN}
    assert shown.count(AGREES) > 0.7 * len([word for word in shown if word != NOT_RUN])


def test_refusals(capsys):
    for words, said in ((["nothing"], "no such figure"), (["--fraction", "0"], "--fraction: must be above 0")):
        with pytest.raises(SystemExit) as stopped:
            __main__.main(words)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
