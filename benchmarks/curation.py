"""What curators and gradients cost: ``python benchmarks/curation.py``.

A curator should add no more than its oversampling factor plus a fifth; the gradient of the final risk through 50
generations of 1,000 chains should take less than 5 seconds.
"""

import time

import jax

from collapse_jax import curators, make_chain, policies, settings, simulate
from collapse_jax.keys import chain_keys
from collapse_jax.tune import final_risk

N, T, CHAINS, ROUNDS = 100, 50, 1_000, 5


def seconds(function, *given) -> float:
    """The least time of a compiled call."""
    compiled = jax.jit(function).lower(*given).compile()
    times = []
    for _ in range(ROUNDS):
        clock = time.perf_counter()
        jax.block_until_ready(compiled(*given))
        times.append(time.perf_counter() - clock)
    return min(times)


def loop(curator) -> float:
    """Of a loop of Gaussians, by rows."""
    setting = settings.gaussian(2)
    chain = make_chain(
        setting, policies.replace(), num_samples=N, num_generations=T, curator=curator, backend="rows", fold="blocks"
    )
    go = jax.vmap(lambda key, world: simulate(chain, key, world, T)["trace_ratio"][-1], (0, None))
    return seconds(go, chain_keys(0, CHAINS), setting.world())


def main() -> None:
    """Prints both."""
    plain = loop(None)
    print(f"no curator: {plain:.3f} s for {CHAINS:,} chains of {T} generations, n = {N}")
    for name, factory in curators.REGISTRY.items():
        if name != "edit":
            made = factory()
            print(f"{name}: {loop(made) / plain:.2f} times that; candidates a row: {made.oversample}")
    risk = final_risk(settings.gaussian(), policies.weighted_fresh, metric="squared_error_of_mean", num_samples=N,
                      num_generations=T, num_chains=CHAINS)  # fmt: skip
    forward, backward = seconds(risk, 0.5), seconds(jax.value_and_grad(risk), 0.5)
    print(f"risk of {CHAINS:,} chains after {T} generations: {forward:.3f} s; with its gradient: {backward:.3f} s")


if __name__ == "__main__":
    main()
