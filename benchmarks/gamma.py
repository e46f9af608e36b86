"""Nanoseconds a gamma variate: our quantile transform beside ``jax.random.loggamma``."""

import time

import jax
import numpy as np

from collapse_jax.numerics.log_gamma import log_gamma_ratio_at_normal


def nanoseconds(draw: object, keys: jax.Array, size: int) -> float:
    """Median over 20 calls of a compiled, vmapped draw."""
    compiled = jax.jit(jax.vmap(draw))
    jax.block_until_ready(compiled(keys))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        jax.block_until_ready(compiled(keys))
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / keys.shape[0] / size * 1e9


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 4096)
    for shapes in (np.array([49.5]), 0.5 * np.arange(990.0, 1000.0), np.array([0.5, 1.0, 2.0])):
        ours = nanoseconds(
            lambda key, s=shapes: log_gamma_ratio_at_normal(jax.random.normal(key, s.shape), s), keys, len(shapes)
        )
        library = nanoseconds(lambda key, s=shapes: jax.random.loggamma(key, jax.numpy.asarray(s)), keys, len(shapes))
        figures = f"ours {ours:.0f}, library {library:.0f}, ratio {library / ours:.1f}"
        print(f"shapes {shapes.min():g} .. {shapes.max():g}: {figures}")


if __name__ == "__main__":
    main()
