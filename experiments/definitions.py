"""The eight definitions of model collapse on one run (arXiv 2503.03150)."""

import xarray as xr
from matplotlib.figure import Figure

import collapse_jax as cj
from collapse_jax.analysis.verdicts import DEFINITIONS, NO, RISING, UNKNOWN, YES
from experiments.published import Claim, Published, number

COLOUR = {YES: "#D55E00", NO: "#0072B2", RISING: "#E69F00", UNKNOWN: "0.75"}


def claims(ds: xr.Dataset) -> list[Claim]:
    verdict = cj.score(ds).verdict
    said = lambda policy, word, *names: float((verdict.sel(policy=policy, definition=list(names)) == word).sum())  # noqa: E731
    every = [definition.name for definition in DEFINITIONS]
    exactly = lambda count: (count, count, count)  # noqa: E731
    disagree = sum(said(p, YES, *every) > 0 < said(p, NO, *every) for p in ("accumulate", "accumulate_subsample"))
    return [
        Claim("the definitions contradict each other about one and the same run (of the two that keep real data)",
              number(2), exactly(float(disagree))),
        Claim("where data accumulate, risk rises neither catastrophically nor without end (noes of these two)",
              number(2), exactly(said("accumulate", NO, "catastrophic_risk", "diverging_risk"))),
        Claim("where data are replaced, it does both, and the variance collapses (yeses of these three)", number(3),
              exactly(said("replace", YES, "catastrophic_risk", "diverging_risk", "collapsing_variance"))),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    scored = cj.score(ds)
    figure = Figure(figsize=(9.0, 2.3), layout="constrained")
    ax = figure.subplots()
    policies = scored["policy"].to_numpy().tolist()
    for row, policy in enumerate(policies):
        for column, definition in enumerate(DEFINITIONS):
            word = str(scored.verdict.sel(policy=policy, definition=definition.name).item())
            ax.barh(row, 0.94, left=column - 0.47, height=0.88, color=COLOUR[word], alpha=0.85)
            ax.text(
                column,
                row,
                "?" if word == UNKNOWN else word.replace(" ", "\n"),
                ha="center",
                va="center",
                color="black" if word == UNKNOWN else "white",
            )
    ax.set_xticks(range(len(DEFINITIONS)), [definition.title for definition in DEFINITIONS], fontsize=8)
    ax.set_yticks(range(len(policies)), policies, fontsize=9)
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure


PUBLISHED = Published(
    "One run, eight definitions of collapse: Gaussians fitted to the embedded digits, n = 100, T = 100",
    "arXiv 2503.03150, the eight definitions",
    ("configs/quickstart.yaml",),
    claims,
    draw,
)
