"""Measure what chains cost on a GPU or a TPU (or on a CPU), in a few minutes and unattended.

``python benchmarks/accelerator.py`` measures, the most important first: how many chains should run side by side, what
the default metrics cost, KDE, draws of rows, steps of language and diffusion models, memory beside its estimate,
random-number implementations, theory (three settings of ``collapse-jax verify``) and the quickstart. Each case is one
line of JSON as soon as it is done, and a table comes last. ``--minutes 6`` is all that it takes: a case that would not
end in time is left out and named, and what still runs when the time is up is cut off. A case that fails is a line with
its error. ``--scale`` multiplies the numbers of chains and of training steps: by default 1, and 0.01 on a CPU.
"""

import argparse
import contextlib
import io
import json
import math
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

import collapse_jax as cj
from collapse_jax import config, data, policies, settings
from collapse_jax.analysis import theory_check
from collapse_jax.analysis.theory_check_cases import EXPERIMENTS
from collapse_jax.cli.main import main as run_command
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.memory_estimate import estimate_block_bytes
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan

QUICKSTART = Path(__file__).resolve().parent.parent / "configs/quickstart.yaml"
MOMENTS = ("squared_error_of_mean", "trace_ratio", "log_det_ratio")
VERIFIED = ("poisson", "discrete", "linear_regression")
GRACE = 5.0  # seconds at the end that are kept for the table


class Case(NamedTuple):
    """One thing to measure: its name, and a function that returns numbers by name."""

    name: str
    measure: Callable[[], dict[str, Any]]


class Part(NamedTuple):
    """Cases of one question, and a guess of the seconds that each takes, until the first one was timed."""

    name: str
    seconds: float
    cases: Callable[[float], list[Case]]


def scaled(number: int, scale: float) -> int:
    """Return a number of chains, steps or rows at a scale, at least 1."""
    return max(round(number * scale), 1)


def time_chains(setting: Any, policy: Any, num_chains: int, num_generations: int, **options: Any) -> dict[str, Any]:
    """Run chains, and return microseconds a chain-generation and the seconds that came before."""
    runs = cj.run(setting, policy, num_chains=num_chains, num_generations=num_generations, **options)
    seconds = runs.attrs["seconds_run"]
    return {
        "us_per_chain_generation": 1e6 * seconds / num_chains / num_generations,
        "run_s": seconds,
        "trace_s": runs.attrs["seconds_trace"],
        "compile_s": runs.attrs["seconds_compile"],
        "chains": num_chains,
        "generations": num_generations,
    }


def list_widths(scale: float) -> list[Case]:
    """Return blocks of several widths for Gaussians of 1, 10 and 100 columns; None is the default width."""

    def measure(dim: int, width: int | None, most: int) -> dict[str, Any]:
        return time_chains(
            settings.gaussian(dim), "replace", scaled(4 * (width or most), scale), 200, num_samples=1000,
            metrics="trace_ratio", chains_per_block=None if width is None else scaled(width, scale),
        )  # fmt: skip

    widths = {10: (1024, 8192, 65536, None), 1: (1024, 8192, 65536, None), 100: (128, 1024, 8192, None)}
    return [
        Case(f"gaussian d={dim}, {'default' if w is None else scaled(w, scale)} chains side by side",
             lambda d=dim, w=w, m=several[1]: measure(d, w, m))
        for dim, several in widths.items()
        for w in several
    ]  # fmt: skip


def list_metrics(scale: float) -> list[Case]:
    """Return the Gaussian with its default metrics and with one metric."""
    return [
        Case(f"gaussian d=10, {name}",
             lambda m=metrics: time_chains(settings.gaussian(10), "replace", scaled(16384, scale), 200,
                                           num_samples=1000, metrics=m))
        for name, metrics in (("default metrics", None), ("one metric", "trace_ratio"))
    ]  # fmt: skip


def list_kernels(scale: float) -> list[Case]:
    """Return kernel densities under two policies."""
    return [
        Case(f"kde d=2 n=1000, {name}",
             lambda name=name: time_chains(settings.kde(0.1, source=data.normal(2)), name, scaled(1024, scale), 20,
                                           num_samples=1000, metrics="test_nll"))
        for name in ("replace", "accumulate")
    ]  # fmt: skip


def list_draws(scale: float) -> list[Case]:
    """Return Gaussians that draw rows, and that choose rows of a pool."""
    return [
        Case(f"gaussian d=10 n=1000 rows, {policy.name}",
             lambda p=policy, c=chains: time_chains(settings.gaussian(10), p, scaled(c, scale), 50, num_samples=1000,
                                                    metrics=MOMENTS, backend="rows"))
        for policy, chains in ((policies.replace(), 16384), (policies.accumulate_subsample(), 2048))
    ]  # fmt: skip


def list_networks(scale: float) -> list[Case]:
    """Return a language model and a diffusion model of images, by the step of training; small ones below full size."""
    steps, chains, num = scaled(200, scale), scaled(4, scale), 64 if scale >= 1 else 16
    sizes = {"width": 256, "depth": 4} if scale >= 1 else {"width": 32, "depth": 1}
    options = {**sizes, "steps": steps, "warmup": steps // 10, "num_test": num}
    bits = 2**24 if scale >= 1 else 2**16
    words = f"width={sizes['width']} depth={sizes['depth']}, {num} rows sampled"

    def measure(setting: Any, metric: str) -> dict[str, Any]:
        timed = time_chains(setting, "replace", chains, 2, num_samples=num, metrics=metric)
        return {"ms_per_step": 1e3 * timed["run_s"] / chains / 2 / steps, "steps": steps, **timed}

    def images() -> Any:
        return settings.diffusion(data.digits(pca=None), net="dit", **options)

    return [
        Case(
            f"language_model {words}",
            lambda: measure(settings.language_model(**options, gram_bits=bits), "test_nll_per_symbol"),
        ),
        Case(f"diffusion of digits, dit {words}", lambda: measure(images(), "test_loss")),
    ]


def list_memory(scale: float) -> list[Case]:
    """Return pools of rows, each larger than all before it, since a device tells its highest use so far alone."""

    def measure(chains: int) -> dict[str, Any]:
        setting, sizes = settings.gaussian(10), {"num_samples": 1000, "num_generations": 100}
        options = {"metrics": ("trace_ratio",), "backend": "rows", "chains_per_block": chains}
        plan = make_plan(make_grid(setting, policies.accumulate_subsample(), **sizes), Options(chains, **options))
        predicted = estimate_block_bytes(plan, plan.programs[0])
        before = read_memory()
        timed = time_chains(setting, "accumulate_subsample", chains, 100, num_samples=1000, **options)
        after = read_memory()
        real = {}
        if before and after and after["peak_bytes_in_use"] > before["peak_bytes_in_use"]:
            real["real_bytes"] = after["peak_bytes_in_use"] - before["bytes_in_use"]
            real["real_over_predicted"] = real["real_bytes"] / predicted
        return {"predicted_bytes": predicted, **real, **timed}

    # A chain's pool takes 4 MB: 4, 8 and 16 GB of rows at full size.
    return [
        Case(f"pools of 100,000 rows d=10, {scaled(c, scale)} chains", lambda c=c: measure(scaled(c, scale)))
        for c in (1024, 2048, 4096)
    ]


def read_memory() -> dict[str, int] | None:
    """Return what the first device says of its memory; None where it says nothing, as on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return stats if stats and {"bytes_in_use", "peak_bytes_in_use"} <= stats.keys() else None


def list_generators(scale: float) -> list[Case]:
    """Return each random-number implementation, where chains do little but draw normals."""
    return [
        Case(f"gaussian d=10 n=1000 rows, {rng}",
             lambda rng=rng: time_chains(settings.gaussian(10), "replace", scaled(16384, scale), 50, num_samples=1000,
                                         metrics="trace_ratio", backend="rows", rng=rng))
        for rng in ("threefry2x32", "rbg", "unsafe_rbg")
    ]  # fmt: skip


def list_theory(scale: float) -> list[Case]:
    """Return three settings that are held to theory. Few chains say less: those of 1/100 may differ by chance."""

    def measure(name: str) -> dict[str, Any]:
        begin = time.perf_counter()
        seed, raw = next((i, raw) for i, raw in enumerate(EXPERIMENTS) if raw["setting"]["kind"] == name)
        some = raw["policies"] if scale >= 1 else raw["policies"][:1]
        chains = max(scaled(raw["num_chains"], scale), 100)
        checks = theory_check.check_experiment(
            config.from_dict({**raw, "policies": some, "num_chains": chains, "seed": seed})
        )
        failed = theory_check.find_failures(checks)
        return {
            "predictions": len(checks),
            "failed": [f"{check.prediction} under {check.policy}" for check in failed],
            "chains": chains,
            "s": time.perf_counter() - begin,
        }

    return [Case(f"verify {name}", lambda name=name: measure(name)) for name in VERIFIED]


def list_quickstart(scale: float) -> list[Case]:
    """Return the quickstart as a command, which prints and draws."""

    def measure() -> dict[str, Any]:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            sizes = {
                "--num-chains": max(scaled(1000, scale), 10),
                "--num-generations": min(scaled(100, 100 * scale), 100),
            }
            out, words = str(Path(folder) / "quickstart"), [str(word) for pair in sizes.items() for word in pair]
            status = run_command(["run", str(QUICKSTART), "--out", out, *words])
            if status:
                raise RuntimeError(f"the command ended with status {status}")
            seconds = {k: v for k, v in cj.open(out).attrs.items() if k.startswith("seconds_") and v}
        return {"s": time.perf_counter() - begin, "chains": sizes["--num-chains"], **seconds}

    return [Case("collapse-jax run configs/quickstart.yaml", measure)]


PARTS = (
    Part("width", 10, list_widths),
    Part("metrics", 10, list_metrics),
    Part("kde", 10, list_kernels),
    Part("draws", 10, list_draws),
    Part("networks", 25, list_networks),
    Part("memory", 12, list_memory),
    Part("rng", 10, list_generators),
    Part("theory", 20, list_theory),
    Part("quickstart", 25, list_quickstart),
)


class Report:
    """Lines of JSON as cases end, and the table of all at the end, whatever happens."""

    def __init__(self, minutes: float):
        self.begin, self.limit = time.monotonic(), 60 * minutes
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self.running: str | None = None
        self.lock, self.finished = threading.Lock(), False

    def left(self) -> float:
        """Return the seconds that are left for cases."""
        return self.limit - GRACE - (time.monotonic() - self.begin)

    def add(self, row: dict[str, Any]) -> None:
        """Print one line, and keep it for the table."""
        with self.lock:
            if not self.finished:
                self.rows.append(row)
                print(json.dumps({k: round_number(v) for k, v in row.items()}), flush=True)

    def finish(self) -> None:
        """Print the table, once."""
        with self.lock:
            if self.finished:
                return
            self.finished = True
            print(
                f"\n{time.monotonic() - self.begin:.0f} s of {self.limit:.0f}\n\n| part | case | what | all seconds |"
            )
            print("|---|---|---|---|")
            for row in self.rows[1:]:
                print(f"| {row['part']} | {row['case']} | {describe(row)} | {row['all_s']:.1f} |")
            for name in ([f"{self.running} (cut off)"] if self.running else []) + self.left_out:
                print(f"did not fit: {name}")
            sys.stdout.flush()


def round_number(value: Any) -> Any:
    """Return a number with five digits, anything else as it is."""
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


def describe(row: dict[str, Any]) -> str:
    """Return the figure of a case that matters, in words."""
    if "error" in row:
        return f"failed: {row['error']}"
    if "real_over_predicted" in row or "predicted_bytes" in row:
        real = f"{row['real_bytes'] / 2**20:,.0f} MiB" if "real_bytes" in row else "not known of this device"
        return f"{row['predicted_bytes'] / 2**20:,.0f} MiB predicted, real: {real}"
    if "ms_per_step" in row:
        return f"{row['ms_per_step']:.3g} ms a step and chain"
    if "predictions" in row:
        return f"{row['predictions']} predictions, failed: {', '.join(row['failed']) or 'none'}"
    if "us_per_chain_generation" in row:
        return f"{row['us_per_chain_generation']:.4g} us a chain-generation, compile {row['compile_s']:.1f} s"
    return f"{row['s']:.1f} s"


def measure_parts(parts: Sequence[Part], report: Report, scale: float, most_cases: int | None) -> None:
    """Measure the cases of all parts in order, as long as there is time."""
    for part in parts:
        expected = part.seconds
        for case in part.cases(scale)[:most_cases]:
            if report.left() < expected:
                report.left_out.append(f"{part.name}: {case.name}")
                continue
            report.running, begin = f"{part.name}: {case.name}", time.monotonic()
            row: dict[str, Any] = {"part": part.name, "case": case.name}
            try:
                row |= case.measure()
            except Exception as error:  # the next case may work, and nobody is there to start it again
                row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            expected = time.monotonic() - begin
            report.add({**row, "all_s": expected})
            report.running = None


@contextlib.contextmanager
def end_in_time(report: Report) -> Iterator[None]:
    """End the process when the time is up, with the table: a compile cannot be interrupted in another way."""

    def end() -> None:
        report.finish()
        os._exit(0)

    timer = threading.Timer(max(report.limit - 1, 0), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        report.finish()


def describe_machine(scale: float, minutes: float) -> dict[str, Any]:
    """Return what the figures were measured on."""
    device, memory = jax.local_devices()[0], read_memory() or {}
    return {
        "part": "machine",
        "case": device.device_kind,
        "platform": device.platform,
        "devices": jax.local_device_count(),
        "memory_bytes": memory.get("bytes_limit"),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "scale": scale,
        "minutes": minutes,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--scale", type=float, help="default: 1, and 0.01 on a CPU")
    parser.add_argument("--parts", nargs="*", choices=[part.name for part in PARTS], help="default: all")
    parser.add_argument("--cases", type=int, help="the most cases of each part")
    arguments = parser.parse_args(argv)
    scale = arguments.scale or (0.01 if jax.default_backend() == "cpu" else 1.0)
    report = Report(arguments.minutes)
    with end_in_time(report):
        report.add(describe_machine(scale, arguments.minutes))
        chosen = [part for part in PARTS if not arguments.parts or part.name in arguments.parts]
        measure_parts(chosen, report, scale, arguments.cases)


if __name__ == "__main__":
    main()
