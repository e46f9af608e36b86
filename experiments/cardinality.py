"""Number against share of real rows: one-shot mixes for a Gaussian's mean (arXiv 2410.16713)."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.reporting.plot_grid import THEORY
from collapse_jax.theory import fit_moments
from experiments.published import COLOURS, Claim, Published, absent, at_least, at_most, legend, mean, panels, values

N = 100


def error(ds: xr.Dataset, real: int, synthetic: int) -> np.ndarray:
    """Squared error of the mean of fit 2, of real rows that the generator was made of."""
    nested = next(policy for policy in ds["policy"].to_numpy().tolist() if "False" not in policy)
    return values(ds, "squared_error_of_mean", policy=nested, real=real, synthetic=synthetic)


def claims(ds: xr.Dataset) -> list[Claim]:
    return [
        Claim("few real rows (25): 100 synthetic ones help (change of the squared error)", at_most(0),
              mean(error(ds, 25, 100) - error(ds, 25, 0))),
        Claim("many real rows (100): 100 synthetic ones harm (the same)", at_least(0),
              mean(error(ds, 100, 100) - error(ds, 100, 0))),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    figure, axes = panels(1, size=(5.2, 3.4))
    ax, synthetic = axes[0, 0], ds["synthetic"].to_numpy().tolist()
    for colour, real in zip(COLOURS, ds["real"].to_numpy().tolist(), strict=False):
        shares = [real / (real + s) for s in synthetic]
        found = np.array([mean(error(ds, real, s)) for s in synthetic])
        bars = np.abs(found[:, 1:] - found[:, :1]).T
        ax.errorbar(shares, found[:, 0], bars, fmt="o", color=colour, markersize=4, capsize=3, label=f"R = {real}")
        fine = np.append(0, np.unique(np.geomspace(1, max(synthetic), 60).astype(int)))
        mixes = [{"kind": "mix", "nested": True, "real": real, "synthetic": int(s)} for s in fine]
        ax.plot(real / (real + fine), [fit_moments(mix, N, 2).square[1] for mix in mixes], **THEORY)
    ax.set(xlabel="share of real rows, R / (R + S)", ylabel="squared error of the mean")
    legend(ax)
    return figure


PUBLISHED = Published(
    "Number and share of real rows: do synthetic rows of a generator made of 100 help?",
    "arXiv 2410.16713, cardinality and proportion of real data (there: fine-tuned language models)",
    ("configs/strategies/mix_gaussian.yaml",),
    claims,
    draw,
    small=(
        (
            "--policies=[{kind: mix, nested: true}]",
            "--sweep.product.policies.real=[25, 100]",
            "--sweep.product.policies.synthetic=[0, 50, 100, 300, 1000]",
        ),
    ),
    absent=(
        absent(
            "Gemma-2 fine-tuned on HelpSteer2: the same of validation cross-entropy", "needs weights of 2B and more"
        ),
    ),
)
