"""Read the published test losses of kernel density estimates (arXiv 2410.16713) out of the authors' vector figures.

Usage: ``python -m experiments.read_published_kde CLONE``, CLONE being a clone of the repository
RylanSchaeffer/KoyejoLab-Collapse-or-Thrive on GitHub at 369132e. It writes ``experiments/published_kde.csv``: means
over 100 runs (in some cells a few fewer ended) and the ends of their 95% bootstrap bands.

A figure is a shape at a bandwidth: a panel a policy, a line and a band a number of rows, in PDF points. Its axis is the
logarithm; two of its labels say how many points a decade has. Where there is one, the figure of all bandwidths together
says it: its lines are means of those of the three bandwidths, in shares that are the same at every generation.
"""

import csv
import itertools
import re
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

FOLDER = "notebooks/06_kde_accumulate_subsample/results"
NAME = "neg_log_likelihood_vs_model_fitting_iteration_by_noise_col=setting_dataset={}.pdf"
SHAPES = {"blobs": "blobs", "circles": "circles", "moons": "moons", "swissroll": "swiss_roll"}
BANDWIDTHS, POLICIES = ("0.1", "0.5", "1.0"), ("replace", "accumulate_subsample", "accumulate")
NUM_SAMPLES, GENERATIONS, LAST = (10, 32, 100, 316, 1000), (1, 20, 100), 100
EXACT = 2e-6  # relative; lines of cells in which runs were stopped midway are no fixed mixture, and off by 1e-3
TABLE = Path(__file__).parent / "published_kde.csv"
_NUMBER = r"(-?[\d.]+)"


class Drawn(NamedTuple):
    """A figure in points: lines ``[policy, n, generation]``, the two ends of bands, heights of decades by exponent."""

    lines: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]
    decades: dict[int, float]


def read_figure(path: Path) -> Drawn:
    """Return what a figure draws."""
    streams = re.findall(rb"FlateDecode[^>]*>>\s*stream\r?\n(.*?)\r?\nendstream", path.read_bytes(), re.DOTALL)
    text = max((zlib.decompress(s).decode("latin1") for s in streams), key=lambda s: s.count(" l\n"))
    text = re.sub(r"\s*\n\s*", "\n", text)
    runs = re.finditer(rf"^{_NUMBER} {_NUMBER} m\n(?:{_NUMBER} {_NUMBER} l\n)+", text, re.MULTILINE)
    heights = [np.array([float(line.split()[1]) for line in run[0].splitlines()]) for run in runs]
    cells = len(POLICIES), len(NUM_SAMPLES)
    lines = np.array([y for y in heights if len(y) == LAST]).reshape(*cells, LAST)
    bands = np.array([y for y in heights if len(y) == 2 * LAST + 2]).reshape(*cells, -1)
    label = rf"{_NUMBER} {_NUMBER} m\n{_NUMBER} \2 l\nS\nQ q .*?\nBT\n.*?\n.*?\n\(10\) Tj\n.*?\n.*?\n\((\d)\) Tj"
    decades = {int(found[4]): float(found[2]) for found in re.finditer(label, text)}
    return Drawn(lines, (bands[..., 1 : LAST + 1], bands[..., LAST + 2 :][..., ::-1]), decades)


def losses(heights: np.ndarray, figure: Drawn, decade: float) -> np.ndarray:
    """Return losses of heights on the axis of a figure of which a decade is so many points long."""
    exponent, height = min(figure.decades.items())
    return 10 ** (exponent + (heights - height) / decade)


def decade_lengths(figures: dict[str, Drawn]) -> dict[str, float]:
    """Return points a decade of the figures of a shape: by two labels, or such that the mixture of all is the last."""
    known = {
        name: float(np.diff([f.decades[e] for e in sorted(f.decades)[:2]])[0])
        for name, f in figures.items()
        if len(f.decades) > 1
    }
    unknown = [name for name in figures if name not in known]
    if not unknown:
        return known
    # The kernel's width and the noise bound the losses of many rows at fit 1: a start for the search.
    near = {"0.1": 1450.0, "0.5": 1.97, "1.0": 2.52, "all": 500.0 if "0.1" in unknown else 1.8}
    start = []
    for name in unknown:
        exponent, height = min(figures[name].decades.items())
        start.append((figures[name].lines[2, -1, 0] - height) / (np.log10(near[name]) - exponent))
    keep = np.ones((len(POLICIES), len(NUM_SAMPLES)), bool)
    guess = np.concatenate([start, np.full(2 * keep.size, 1 / 3)])

    def misfit(guess: np.ndarray) -> np.ndarray:
        decade = {**known, **dict(zip(unknown, guess, strict=False))}
        first = guess[len(unknown) :].reshape(2, *keep.shape, 1)
        share = np.concatenate([first, 1 - first.sum(0, keepdims=True)])
        whole = losses(figures["all"].lines, figures["all"], decade["all"])
        parts = [losses(figures[name].lines, figures[name], decade[name]) for name in BANDWIDTHS]
        return (np.einsum("hpng,hpno->png", parts, share) / whole - 1)[keep].ravel()

    while True:
        found = least_squares(misfit, guess, xtol=1e-15, ftol=1e-15, gtol=1e-15, x_scale=np.abs(guess) / 10)
        guess, worst = found.x, np.abs(found.fun).reshape(-1, LAST).max(1)
        if worst.max() < EXACT:
            return {**known, **dict(zip(unknown, guess, strict=False))}
        assert keep.sum() > 8, f"no lengths of decades explain the figures (relative misfit {worst.max():.2g})"
        keep[tuple(np.argwhere(keep)[worst.argmax()])] = False


def main(clone: str) -> None:
    """Write the table."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["source", "bandwidth", "policy", "num_samples", "generation", "mean", "low", "high"])
        for shape, source in SHAPES.items():
            names = {h: f"{shape}_bandwidth={h}" for h in BANDWIDTHS} | {"all": shape}
            figures = {key: read_figure(Path(clone) / FOLDER / NAME.format(name)) for key, name in names.items()}
            decade = decade_lengths(figures)
            for h in BANDWIDTHS:
                f = figures[h]
                mean, one, other = (losses(y, f, decade[h]) for y in (f.lines, *f.ends))
                for p, n, g in itertools.product(range(len(POLICIES)), range(len(NUM_SAMPLES)), GENERATIONS):
                    at = p, n, g - 1
                    ends = sorted((one[at], other[at]))
                    assert ends[0] <= mean[at] <= ends[1], f"{source}, {h}: a line outside of its band"
                    out.writerow([source, h, POLICIES[p], NUM_SAMPLES[n], g, *(f"{v:.6g}" for v in (mean[at], *ends))])
    print(f"{TABLE}: {len(TABLE.read_text().splitlines()) - 1} means")


if __name__ == "__main__":
    main(*sys.argv[1:])
