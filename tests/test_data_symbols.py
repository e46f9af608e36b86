"""Laws over symbols: what they are, and what they refuse."""

import numpy as np
import pytest

import collapse_jax
from collapse_jax import policies
from collapse_jax.config import experiment
from collapse_jax.data import symbols
from collapse_jax.settings import discrete


@pytest.mark.parametrize("law", [symbols.uniform(7), symbols.zipf(50, 1.5, 2.7), symbols.words(), symbols.words(100)])
def test_probabilities_sum_to_one(law):
    assert law.probabilities.dtype == np.float64
    assert law.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert (law.probabilities > 0).all()
    assert (np.diff(law.probabilities) <= 0).all()


def test_zipf_mandelbrot():
    p = symbols.zipf(5, exponent=2.0, shift=0.5).probabilities
    np.testing.assert_allclose(p / p[0], (1.5 / np.arange(1.5, 6)) ** 2)
    np.testing.assert_allclose(symbols.zipf(4, exponent=0.0).probabilities, symbols.uniform(4).probabilities)
    assert np.isfinite(symbols.zipf(10, exponent=1000.0).probabilities).all()


def test_words_of_the_embedded_plays():
    law = symbols.words().probabilities
    assert len(law) == 12_533
    assert law[0] == pytest.approx(6059 / 203_578)  # "the"
    np.testing.assert_allclose(symbols.words(3).probabilities, law[:3] / law[:3].sum())


def test_a_file_of_symbols(tmp_path):
    file = tmp_path / "symbols.txt"
    file.write_text("\ufeffb\na\n\n b \nc c\nb\n", encoding="utf-8")
    assert symbols.symbol_file(str(file)).probabilities.tolist() == [3 / 5, 1 / 5, 1 / 5]


def test_lines_of_symbols_end_at_newlines_alone(tmp_path):
    """A line may hold any other separator of Unicode, and each way to end a line is one."""
    file = tmp_path / "symbols.txt"
    odd = ["a\u2028b", "a\x85b", "a\x0bb", "a\x0cb", "a\x1cb", "\u2029", "\xa0"]
    for newline in ("\n", "\r\n", "\r"):
        file.write_text(newline.join([*odd, *odd, "a"]), encoding="utf-8", newline="")
        np.testing.assert_allclose(symbols.symbol_file(str(file)).probabilities, [2 / 15] * 7 + [1 / 15])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: symbols.uniform(0), "uniform: num must be a whole number from 1 to"),
        (lambda: symbols.zipf(10, exponent=float("nan")), "zipf: exponent must be a finite number, not nan"),
        (lambda: symbols.zipf(10, shift=-1.0), "zipf: shift must be a number above -1, not -1.0"),
        (lambda: symbols.words(10**6), "words: num must be a whole number from 1 to 12533, not 1000000"),
        (lambda: symbols.symbol_file(3), "path must be the path of a text file, one symbol a line, not 3"),
        (lambda: symbols.symbol_file("absent.txt"), "absent.txt: no such file"),
        (lambda: symbols.symbol_file("."), "cannot be read"),
        (lambda: discrete([0.5, 0.6]), "discrete: probabilities sum to 1.1, not to 1; divide counts by their sum"),
        (lambda: discrete([1.5, -0.5]), "discrete: probabilities[1] is -0.5; each must be a number from 0 to 1"),
        (lambda: discrete([0.5, float("nan")]), "discrete: probabilities[1] is nan"),
        (lambda: discrete([[0.5, 0.5]]), "must be a list of one or more numbers"),
        (lambda: discrete([]), "must be a list of one or more numbers"),
        (lambda: discrete("uniform"), "must be a list of numbers"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "message"), [(b"", "no symbols"), (b" \n\n", "no symbols"), (b"\xff", "UTF-8")])
def test_files_that_are_not_what_they_claim(tmp_path, content, message):
    file = tmp_path / "symbols.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        symbols.symbol_file(file)


def test_a_config_names_a_law_of_symbols():
    base = {"policies": ["replace"], "num_samples": 5, "num_generations": 2, "num_chains": 2}
    made = lambda p: experiment.from_dict(base | {"setting": {"kind": "discrete", "probabilities": p}})  # noqa: E731
    for law in ({"kind": "zipf", "num": 20, "exponent": 1}, "uniform", [0.5, 0.5]):
        setting, _ = made(law).build()
        runs = collapse_jax.run(setting, policies.replace(), num_samples=5, num_generations=2, num_chains=2)
        assert np.isfinite(runs.entropy).all()
    with pytest.raises(experiment.ConfigError, match=r"probabilities\.kind: unknown 'moons'"):
        made("moons").build()
    grid = experiment.from_dict(base | {
        "setting": {"kind": "discrete", "probabilities": {"kind": "uniform"}},
        "sweep": {"product": {"setting.probabilities.num": [2, 3]}},
    }).grid()  # fmt: skip
    worlds = [grid.point(0, (i,)).setting.world() for i in range(2)]
    assert [w.truth.shape for w in worlds] == [(2,), (3,)]
