"""Language models pretrained anew on what the last one wrote (arXiv 2404.01413)."""

import xarray as xr
from matplotlib.figure import Figure

from experiments.published import Claim, Published, absent, at_least, at_most, legend, lines, mean, panels, values

POLICIES = ("replace", "accumulate")


def claims(ds: xr.Dataset) -> list[Claim]:
    rise = {
        p: values(ds, "test_nll_per_symbol", policy=p) - values(ds, "test_nll_per_symbol", 0, policy=p)
        for p in POLICIES
    }
    return [
        Claim("replace: the test loss rises (last fit less the first, nats a character)", at_least(0),
              mean(rise["replace"])),
        Claim("accumulate: it rises less (the same, less replace's)", at_most(0),
              mean(rise["accumulate"] - rise["replace"])),
        Claim("accumulate: it stays flat (the same; steps are fixed here, passes over the data there)", at_most(0.05),
              mean(rise["accumulate"])),
    ]  # fmt: skip


def draw(ds: xr.Dataset) -> Figure:
    figure, axes = panels(1, size=(5.2, 3.4))
    lines(axes[0, 0], ds, "test_nll_per_symbol", {policy: {"policy": policy} for policy in POLICIES})
    axes[0, 0].set_ylabel("test loss, nats a character")
    axes[0, 0].locator_params(axis="x", integer=True)
    legend(axes[0, 0])
    return figure


PUBLISHED = Published(
    "Tiny transformers that learn Shakespeare from what the last one wrote",
    "arXiv 2404.01413, language models (there: TinyStories, 9M to 126M parameters)",
    ("configs/language_model/quick.yaml",),
    claims,
    draw,
    small=(
        (
            "--policies=[replace, accumulate]",
            "--setting.length=32",
            "--setting.steps=150",
            "--num_samples=1000",
            "--num_generations=4",
            "--metrics=[test_nll_per_symbol]",
        ),
    ),
    absent=(
        absent(
            "GPT-2 and Llama-2 of 9M to 126M parameters: 1.8 to 3.6 nats in 20 fits under replace", "needs GPU-days"
        ),
        absent("variational autoencoders of CelebA and diffusion of molecules", "needs their data, and GPU-days"),
    ),
)
