"""Published figures and tables, made again: ``python -m experiments [NAME ...] [--fraction 0.1] [--out DIR]``.

Runs the config of each (a fraction of its chains and, below 1, a part of its grid), holds the numbers to what was
published, draws the picture, and writes DIR/gallery.md with all of them. ``docs/gallery.md`` was made by ``python -m
experiments --out docs``. Datasets are kept under results/published, and runs go on where they were stopped.
"""

import argparse
import importlib
import io
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from collapse_jax import config
from experiments import NAMES
from experiments.published import Claim, Published, planned, rows, run

DATA = Path("results/published")
FRACTION = 0.1
HEAD = """# Gallery

Published figures and tables, made again by `python -m experiments --fraction {f}`: each from a config to a dataset to a
picture, with a fraction {f} of the chains of its config (100 where that is fewer, or all there are) and, where said, a
part of its grid or a smaller model; `--fraction 1` runs the configs as they are. Lines are means over chains with 95%
intervals; dashed lines are exact (`collapse_jax/theory`).

Below each picture: what was published, in our words; the number, or the range that the words allow; what was measured,
with 4 standard errors on either side; the verdict. A number *agrees* where the interval holds it and reaches no further
than a quarter of it on either side; a range where it holds the whole interval. An interval outside *differs*. Else it
*cannot be told* from these chains. What needs data, models or time that are not here is *not run*.
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--fraction", type=float, default=FRACTION, help="of the published chains; 1: whole grids, too")
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in NAMES]:
        parser.error(f"{unknown[0]}: no such figure; one of {', '.join(NAMES)}")
    if not 0 < arguments.fraction <= 1:
        parser.error(f"--fraction: must be above 0 and at most 1, not {arguments.fraction:g}")
    (arguments.out / "gallery").mkdir(parents=True, exist_ok=True)
    page = arguments.out / "gallery.md"
    sections = kept(page) if arguments.names else {}
    for name in arguments.names or NAMES:
        published: Published = importlib.import_module(f"experiments.{name}").PUBLISHED
        start = time.perf_counter()
        claims, details = make(name, published, arguments.fraction, arguments.out)
        for statement, allowed, measured, verdict in rows(claims):
            print(f"  {verdict:15}{statement}: {measured}{f'; published: {allowed}' if allowed else ''}", flush=True)
        print(f"  {time.perf_counter() - start:.0f} s")
        sections[name] = section(name, published, arguments.fraction, claims, details)
    shown = [sections[name] for name in NAMES if name in sections]
    page.write_text("\n".join([HEAD.format(f=f"{arguments.fraction:g}"), *shown]), encoding="utf-8")
    print(f"all of it: {page}")
    return 0


def kept(page: Path) -> dict[str, str]:
    """The sections of a page that is there, by the figures' names: those that are not made anew stay."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {re.search(r"`python -m experiments (\w+)`", part)[1]: part.removesuffix("\n") for part in parts}


def make(name: str, published: Published, fraction: float, out: Path) -> tuple[list[Claim], list[str]]:
    """Runs, judges and draws one; returns its claims and details."""
    print(f"{name}: {published.title} ({published.source})", flush=True)
    datasets = run(name, published, fraction, DATA)
    drawn = io.BytesIO()
    published.draw(*datasets).savefig(drawn, dpi=130)
    Image.open(drawn).convert("RGB").quantize(128).save(
        out / "gallery" / f"{name}.png", optimize=True
    )  # a third the size
    details = [] if published.details is None else published.details(*datasets)
    return [*published.claims(*datasets), *published.absent], details


def section(
    name: str, published: Published, fraction: float, claims: Sequence[Claim], details: Sequence[str] = ()
) -> str:
    """One figure of the page."""
    lines = [f"## {published.title}", "", f"{published.source}; `python -m experiments {name}`", ""]
    lines += [
        f"![{published.title}](gallery/{name}.png)",
        "",
        "| statement | published | measured | verdict |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row[:3])} | *{row[3]}* |" for row in rows(claims)]
    lines += ["", *details, *(_ran(*ran) for ran in planned(published, fraction)), ""]
    return "\n".join(lines)


def _ran(path: str, words: Sequence[str], experiment: config.Experiment) -> str:
    chosen = f" with `{' '.join(words)}`" if words else ""
    return f"- Config: `{path}`{chosen}: {experiment.num_chains:,} chains."


if __name__ == "__main__":
    sys.exit(main())
