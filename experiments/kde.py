"""Kernel density estimates under three workflows (arXiv 2410.16713)."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from experiments.published import Claim, Published, at_least, at_most, legend, lines, mean, over, panels, values

POINT = {"source": "moons", "num_samples": 100}
TABLE = Path(__file__).parent / "published_kde.csv"  # made by experiments/read_published_kde.py
SHOWN = (10, 100)  # numbers of rows that the page shows
BAND = 2 * 1.96  # standard errors from one end of a published band to the other
ONE_LEAF = 40  # rows from which on scikit-learn sums by a tree; of large losses its sums are off (swiss_roll_sums.py)


class Compared(NamedTuple):
    """A published mean, what came out here, and how many standard errors of both lie between.

    Attributes:
      cell: source, bandwidth, policy, rows and generation.
      published: mean over 100 runs.
      error: its standard error, by the published band.
      measured: mean over chains here.
      z: the difference in standard errors of the difference.
      sound: whether scikit-learn's sums were exact there.
    """

    cell: dict[str, Any]
    published: float
    error: float
    measured: float
    z: float
    sound: bool


def read_published() -> list[tuple[dict[str, Any], float, float]]:
    """Return the published means: cell, mean over 100 runs and its standard error, by the published band."""
    with TABLE.open(encoding="utf-8") as file:
        return [
            (
                {
                    "source": row["source"],
                    "bandwidth": float(row["bandwidth"]),
                    "policy": row["policy"],
                    "num_samples": int(row["num_samples"]),
                    "generation": int(row["generation"]),
                },
                float(row["mean"]),
                (float(row["high"]) - float(row["low"])) / BAND,
            )
            for row in csv.DictReader(file)
        ]


def compare(ds: xr.Dataset) -> list[Compared]:
    """Compare each published mean that `ds` has chains for."""
    found = []
    for cell, published, error in read_published():
        point = {name: value for name, value in cell.items() if name != "generation"}
        n, generation = cell["num_samples"], cell["generation"]
        if generation > ds.sizes["generation"] or any(value not in ds[name].values for name, value in point.items()):
            continue
        chains = values(ds, "test_nll", generation - 1, **point)
        rows = n * generation if cell["policy"] == "accumulate" else n
        sound = cell["source"] != "swiss_roll" or cell["bandwidth"] != 0.1 or rows <= ONE_LEAF
        z = (chains.mean() - published) / np.hypot(error, chains.std(ddof=1) / np.sqrt(len(chains)))
        found.append(Compared(cell, published, error, chains.mean(), z, sound))
    return found


def claims(ds: xr.Dataset) -> list[Claim]:
    """Compare logarithms with what was published, since losses have heavy tails."""

    def log_loss(policy: str, bandwidth: float, generation: int = -1) -> np.ndarray:
        return np.log(values(ds, "test_nll", generation, policy=policy, bandwidth=bandwidth, **POINT))

    late = {policy: log_loss(policy, 0.5) - log_loss(policy, 0.5, 49) for policy in ("replace", "accumulate")}
    subsample = log_loss("accumulate_subsample", 0.1)
    return [
        Claim("replace: the test loss goes on rising (log of its ratio, fit 100 over fit 50)", at_least(0),
              mean(late["replace"])),
        Claim("accumulate: it does not diverge (the same)", at_most(0.1), mean(late["accumulate"])),
        Claim("accumulate_subsample: worse than accumulate (log of the ratio, bandwidth 0.1)", at_least(0),
              mean(subsample - log_loss("accumulate", 0.1))),
        Claim("accumulate_subsample: better than replace (the same)", at_least(0),
              mean(log_loss("replace", 0.1) - subsample)),
        *(_published_means(g, compare(ds)) for g in (1, 20, 100)),
    ]  # fmt: skip


def _published_means(generation: int, compared: list[Compared]) -> Claim:
    """Return the claim that all published means of a generation are those of the chains here."""
    z = [
        abs(c.z)
        for c in compared
        if c.sound and c.cell["generation"] == generation and (generation > 1 or c.cell["policy"] == "replace")
    ]
    largest = max(z, default=np.nan)
    statement = f"the published test losses of fit {generation} (largest absolute z of {len(z)})"
    return Claim(statement, at_most(4), (largest, largest, largest))


def details(ds: xr.Dataset) -> list[str]:
    """Show published means beside those of the chains here."""
    compared = {tuple(c.cell.values()): c for c in compare(ds)}
    said = [
        "Test loss in nats a row: mean published (standard error, by its 95% band) / mean here / z, the difference",
        "over its standard error. The published means are read out of the authors' vector figures by",
        "`experiments/read_published_kde.py` into `experiments/published_kde.csv`. *(tree)*: scikit-learn's sums are",
        "off there (`python -m experiments.swiss_roll_sums`), and the claims leave these out. Of fit 1, which is the",
        "same under all three, the runs of replace are shown.",
        "",
        "| shape | h | n | fit 1 | replace, fit 100 | accumulate_subsample, fit 100 | accumulate, fit 100 |",
        "|---|---|---|---|---|---|---|",
    ]
    columns = (("replace", 1), *((p, 100) for p in ("replace", "accumulate_subsample", "accumulate")))
    for source, bandwidth, n in dict.fromkeys((c.cell["source"], c.cell["bandwidth"], c.cell["num_samples"])
                                              for c in compared.values()):  # fmt: skip
        if n in SHOWN:
            shown = (_cell(compared.get((source, bandwidth, policy, n, g))) for policy, g in columns)
            said.append(f"| {source} | {bandwidth} | {n} | {' | '.join(shown)} |")
    return [*said, ""]


def _cell(c: Compared | None) -> str:
    if c is None:
        return ""
    return f"{c.published:.4g} ({c.error:.2g}) / {c.measured:.4g} / {c.z:+.1f}{'' if c.sound else ' *(tree)*'}"


def draw(ds: xr.Dataset) -> Figure:
    policies, bandwidths = ds["policy"].to_numpy().tolist(), (0.1, 0.5)
    figure, axes = panels(len(policies), 2, (3.3, 2.5), sharex=True, sharey="row")
    for row, bandwidth in zip(axes, bandwidths, strict=True):
        for ax, policy in zip(row, policies, strict=True):
            point = {"policy": policy, "source": "moons", "bandwidth": bandwidth}
            lines(ax, ds, "test_nll", over(ds, "num_samples", "n = {}", **point))
        row[0].set_ylabel(f"test loss, nats a row\n(bandwidth {bandwidth})")
        row[0].set_yscale("log")
    for ax, policy in zip(axes[0], policies, strict=True):
        ax.set(title=policy, xlabel="")
    legend(axes[1, 1])
    return figure


PUBLISHED = Published(
    "Kernel density estimates under three workflows (the picture: moons)",
    "arXiv 2410.16713, kernel density estimation",
    ("configs/papers/collapse_or_thrive/kde.yaml",),
    claims,
    draw,
    small=(("--sweep.product.num_samples=[10, 32, 100]",),),
    details=details,
)
