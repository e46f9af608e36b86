"""What curators and gradients cost: ``python benchmarks/curation.py [--rounds 5] [--only NAME]``.

A curator should add no more than its oversampling factor plus a fifth; the gradient of the final risk through 50
generations of 1,000 chains should take less than 5 seconds. Loops run as ``run`` runs them (its blocks, its level of
optimisation), in turn; the loop without a curator keeps rows, as those with one must. Compiling is left out. Each
figure is the least of the rounds over the least without a curator.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from collapse_jax import make_chain, policies, settings
from collapse_jax.core import registry
from collapse_jax.core.random import host_chain_keys
from collapse_jax.execution.blocks import run_blocks
from collapse_jax.execution.programs import BlockShape, compile_block, trace_block
from collapse_jax.planning.block_size import choose_generations_per_call
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.tuning import final_risk
from collapse_jax.types import Curator, Setting


class Job(NamedTuple):
    """A loop whose rows are curated: the cheapest rows there are, and dearer ones."""

    setting: Setting
    num_samples: int
    num_generations: int
    num_chains: int
    metric: str


JOBS = {
    "Gaussian, d = 2, n = 100": Job(settings.gaussian(2), 100, 50, 1024, "trace_ratio"),
    "Gaussian, d = 10, n = 1000": Job(settings.gaussian(10), 1000, 10, 64, "trace_ratio"),
    "logistic regression, d = 5, n = 200": Job(settings.logistic_regression(5), 200, 20, 128, "forward_kl"),
    "Markov text of 64 symbols, n = 100": Job(settings.markov(), 100, 10, 128, "entropy_rate"),
}


def loop(job: Job, curator: Curator | None) -> Callable[[], float]:
    """Runs all generations of all chains, once to compile: seconds."""
    setting, generations = job.setting, job.num_generations
    options = Options(job.num_chains, metrics=(job.metric,), backend="rows")
    sizes = {"num_samples": job.num_samples, "num_generations": generations}
    plan = make_plan(make_grid(setting, policies.replace(), **sizes, curator=curator), options)
    chain = make_chain(setting, policies.replace(), num_samples=job.num_samples, num_generations=generations,
                       curator=curator, backend="rows", fold="blocks")  # fmt: skip
    world, keys, program = setting.world(), host_chain_keys(0, job.num_chains), plan.programs[0]
    shape = BlockShape(program.chains_per_block, choose_generations_per_call(generations), program.blocks_per_call)
    programs = compile_block(trace_block(lambda _: chain, world, {}, metrics=(job.metric,), shape=shape))

    def seconds() -> float:
        clock = time.perf_counter()
        run_blocks(programs, world, {}, keys, num_generations=generations, progress_callback=lambda _: None)
        return time.perf_counter() - clock

    seconds()
    return seconds


def possible(setting: Setting) -> dict[str, Curator]:
    """The curators that have what they need there, as they are by default."""
    missing = {"verify": "right" not in setting.extras.row_scores, "edit": setting.extras.rewrite is None}
    return {name: factory() for name, factory in registry.factories("curator").items() if not missing.get(name)}


def told_of(name: str, job: Job, rounds: int) -> None:
    """Prints the table of a job."""
    made = possible(job.setting)
    loops = {"": loop(job, None)} | {kind: loop(job, curator) for kind, curator in made.items()}
    times = [{kind: run() for kind, run in loops.items()} for _ in range(rounds)]
    least = {kind: min(row[kind] for row in times) for kind in loops}
    each = 1e6 * least[""] / job.num_chains / job.num_generations
    print(f"\n{name}: {each:.2f} us a chain-generation without a curator")
    print(f"{'':14s} {'rows':>4s} {'times':>6s} {'target':>6s}")
    for kind, curator in made.items():
        drawn = curator.oversample + (curator.real_rows > 0)  # for each row kept; a real one is a row, too
        print(f"{kind:14s} {drawn:4d} {least[kind] / least['']:6.2f} {drawn + 0.2:6.1f}", flush=True)


def gradients(rounds: int) -> None:
    """Prints what the final risk costs, and its gradient."""
    risk = final_risk(settings.gaussian(), policies.weighted_fresh, metric="squared_error_of_mean", num_samples=100,
                      num_generations=50, num_chains=1000)  # fmt: skip
    compiled = [jax.jit(f).lower(0.5).compile() for f in (risk, jax.value_and_grad(risk))]
    forward, backward = (min(seconds_of(f) for _ in range(rounds)) for f in compiled)
    print(f"\nrisk of 1,000 chains after 50 generations: {forward:.3f} s; with its gradient: {backward:.3f} s")


def seconds_of(function: Callable[[float], Any]) -> float:
    """Return the seconds that one call takes."""
    clock = time.perf_counter()
    jax.block_until_ready(function(0.5))
    return time.perf_counter() - clock


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="jobs whose name holds this; the gradients are a job, too")
    arguments = parser.parse_args()
    for name, job in JOBS.items():
        if arguments.only in name:
            told_of(name, job, arguments.rounds)
    if arguments.only in "gradients":
        gradients(arguments.rounds)


if __name__ == "__main__":
    main()
