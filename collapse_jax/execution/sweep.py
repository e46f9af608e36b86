"""Many chains over a grid, in memory; see ``stream`` for grids that outlive a process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from collapse_jax.core.sharding import places
from collapse_jax.execution.progress import told
from collapse_jax.execution.runner import Runner
from collapse_jax.planning.describe_calls import describe
from collapse_jax.planning.grid import grid_of
from collapse_jax.planning.memory_estimate import check_fits
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.results.dataset import make_dataset
from collapse_jax.types import Curator, Policy, Setting


def run(setting: Setting, policy: Policy, **options: Any) -> xr.Dataset:
    """Many chains of one setting under one policy.

    Args:
      setting: what is fitted.
      policy: which data are kept.
      **options: as for ``sweep``: `num_samples`, `num_generations` and `num_chains` are needed.

    Returns:
      Dims ``("chain", "generation")``, generation from 1 (the fit to real data), one variable a metric with its units
      and source as attributes.

    Raises:
      UsageError: bad input, in one line, before anything is computed.
    """
    return sweep(setting, policy, **options).isel(policy=0)


def sweep(
    setting: Setting | Callable[..., Setting],
    policy: Policy | Sequence[Policy] | Callable[..., Policy],
    *,
    num_samples: int | None = None,
    num_generations: int,
    num_chains: int,
    seed: int = 0,
    axes: Mapping[str | tuple[str, ...], Sequence] | None = None,
    curator: Curator | Sequence[Curator | None] | Callable[..., Curator] | None = None,
    metrics: Sequence[str] | None = None,
    precision: str = "float32",
    rng: str = "threefry2x32",
    backend: str = "auto",
    chains_per_block: int | None = None,
    mesh: Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int, int], None] | bool | None = None,
) -> xr.Dataset:
    """Many chains over a product of policies and axes, on common random numbers.

    Chain c's key depends on (`seed`, c) alone: policies and grid points see the same random numbers, and a run of 100
    chains is the first tenth of a run of 1,000.

    Args:
      setting: a setting, or a factory whose parameters may be axes.
      policy: a policy, several of them, or a factory whose parameters may be axes.
      num_samples: n, rows of the first real batch and of every synthetic one (unless it is an axis).
      num_generations: fits a chain.
      num_chains: independent chains a point.
      seed: of the whole run.
      axes: ``{name: values}``; a name is ``num_samples`` or a parameter of a factory (``setting.x``, ``policy.x`` or
        ``curator.x`` where several have it), and a tuple of names moves them together. Whole numbers and strings are
        static, floats are traced: a grid of them is one program.
      curator: what is done to each batch at its birth: a curator, several (None among them: nothing), which are then an
        axis, or a factory whose parameters may be axes.
      metrics: which of the setting's metrics to compute; default all. What is not asked for costs nothing.
      precision: ``"float32"`` or ``"float64"``.
      rng: JAX's random-number implementation; ``"threefry2x32"`` gives the same bits on all platforms.
      backend: ``"law"``, ``"rows"`` or ``"auto"`` (see ``make_chain``). One sweep uses one backend: with ``"auto"``
        the law, if every policy of the sweep allows it. ``"each"`` takes what is cheapest for each policy, which then
        see different random numbers.
      chains_per_block: lanes side by side on a device. Bits may depend on it, so its default depends on sizes alone;
        they do not depend on the number of devices.
      mesh: devices a chain, for models too large or too slow for one: ``{"data": 2, "model": 2}`` shares the rows of
        its minibatches (and new rows) out over two and cuts its parameters in two (see ``sharding.spread``). Other
        devices take other blocks. Results agree with those of one device to rounding, not bit for bit; sampled
        symbols may differ from the first that rounding decides.
      devices: default all local ones; blocks of chains are dealt out to them.
      progress: True draws a bar, in a terminal or a notebook; a function is called as ``progress(done, total)``, in
        chain-generations, from other threads, one call at a time.

    Returns:
      Dims ``("policy", *axes, "chain", "generation")``, one variable a metric; those of metrics whose values are arrays
      (sample texts, pictures) follow, and are named in the variable's attribute ``value_dims`` too. The attribute
      ``calls`` says how registered factories were called, by which pictures find what theory says.

    Raises:
      UsageError: bad input, in one line, before anything is computed.
    """
    options = Options(num_generations, num_chains, seed, metrics, precision, rng, backend, chains_per_block, mesh=mesh)
    places(jax.local_devices() if devices is None else devices, mesh)
    with jax.enable_x64(precision == "float64"), told(progress) as tell:
        plan = make_plan(grid_of(setting, policy, num_samples, axes or {}, curator), options)
        check_fits(plan)
        total, done = len(plan.grid.policies) * int(np.prod(plan.shape[1:])), [0]

        def tick(step: int) -> None:
            done[0] += step
            tell(done[0], total)

        runner = Runner(plan, tick, devices)
        out = {name: np.full((*plan.shape, *m.shape), np.nan, precision) for name, m in plan.metrics.items()}
        for unit in runner.expect(plan.units):
            for name, value in runner.run(unit).items():
                out[name][unit.where] = value
    given = {"num_samples": num_samples, "calls": describe(plan.grid)}
    return make_dataset(plan, out, runner.seconds | {name: value for name, value in given.items() if value is not None})
