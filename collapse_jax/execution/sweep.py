"""Sweeps in memory: many chains over a grid. Module ``resumable`` runs grids that outlive a process."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import xarray as xr

from collapse_jax.core.errors import UsageError
from collapse_jax.core.sharding import chain_placements
from collapse_jax.core.validation import reject
from collapse_jax.execution.progress import show_sweep_progress
from collapse_jax.execution.runner import Runner
from collapse_jax.planning.design import make_design
from collapse_jax.planning.grid import Grid
from collapse_jax.planning.memory_estimate import check_memory
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.results.dataset import make_dataset
from collapse_jax.results.live_arguments import remember_arguments
from collapse_jax.types import Curator, Policy, Setting

SettingLike = Setting | str | Callable[..., Setting]
PolicyLike = Policy | str | Callable[..., Policy]
CuratorLike = Curator | str | Callable[..., Curator]
Axes = Mapping[str | tuple[str, ...], Any]
Progress = Callable[[int, int], None] | bool
Precision = Literal["float32", "float64"]
Rng = Literal["threefry2x32", "rbg", "unsafe_rbg"]
Backend = Literal["auto", "each", "rows", "law"]


def run(
    setting: SettingLike,
    policy: PolicyLike,
    *,
    num_samples: int | None = None,
    num_generations: int | None = None,
    num_chains: int,
    seed: int = 0,
    axes: Axes | None = None,
    trace: str | Sequence[str] = (),
    curator: CuratorLike | None = None,
    metrics: str | Iterable[str] | None = None,
    precision: Precision = "float32",
    rng: Rng = "threefry2x32",
    backend: Backend = "auto",
    chains_per_block: int | None = None,
    mesh: Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Run many chains of one setting under one policy.

    Example:
      >>> import collapse_jax as cj
      >>> runs = cj.run("gaussian", "replace", num_samples=100, num_generations=5, num_chains=20)
      >>> dict(runs.sizes)
      {'chain': 20, 'generation': 5}

    Args:
      setting: a setting, the name of one, or its factory, called with its defaults.
      policy: a policy, the name of one, or its factory; for several policies call ``sweep``.
      num_samples: n, the rows of the first real batch and of every synthetic one; it may be an axis instead.
      num_generations: T, the number of fits in a chain; the first one sees real data only.
      num_chains: the number of independent chains.
      seed: chain c's key depends on (`seed`, c) alone.
      axes: parameters to vary, as in ``sweep``.
      trace: as in ``sweep``.
      curator: what is done to each synthetic batch at its birth.
      metrics: one name or several, or ``"all"``; default those of the setting that cost no more than a few generations
        (``Metric.default``). What is not asked for is not computed.
      precision: the floating-point type of all arrays.
      rng: JAX's random-number implementation.
      backend: ``"law"``, ``"rows"``, ``"auto"`` or ``"each"``, as in ``sweep``.
      chains_per_block: the number of chains that run side by side on a device.
      mesh: the devices of one chain, as in ``sweep``.
      devices: the devices to use; default all local ones.
      progress: True draws a progress bar; a function is called as ``progress(done, total)``.

    Returns:
      A dataset with the dimensions ``("chain", "generation")`` and one variable a metric, whose attributes hold its
      units and its source. Generation 1 is the fit to real data.

    Raises:
      UsageError: an argument is wrong; it says so in one line, before anything is computed.
    """
    arguments = _repeatable(locals())
    if isinstance(policy, Sequence) and not isinstance(policy, str | Policy):
        raise UsageError(f"policy: run takes one policy, not a list of {len(policy)}; call sweep for several")
    if isinstance(curator, Sequence) and not isinstance(curator, str | Curator):
        raise UsageError(f"curator: run takes one curator, not a list of {len(curator)}; call sweep for several")
    runs = sweep(
        setting,
        policy,
        num_samples=num_samples,
        num_generations=num_generations,
        num_chains=num_chains,
        seed=seed,
        axes=axes,
        trace=trace,
        curator=curator,
        metrics=arguments["metrics"],
        precision=precision,
        rng=rng,
        backend=backend,
        chains_per_block=chains_per_block,
        mesh=mesh,
        devices=devices,
        progress=progress,
    )
    runs = runs.isel(policy=0)
    return runs.assign_attrs(remember_arguments("run", arguments, runs.attrs["run_id"]))


def sweep(
    setting: SettingLike,
    policy: PolicyLike | Sequence[PolicyLike],
    *,
    num_samples: int | None = None,
    num_generations: int | None = None,
    num_chains: int,
    seed: int = 0,
    axes: Axes | None = None,
    trace: str | Sequence[str] = (),
    curator: CuratorLike | Sequence[CuratorLike | None] | None = None,
    metrics: str | Iterable[str] | None = None,
    precision: Precision = "float32",
    rng: Rng = "threefry2x32",
    backend: Backend = "auto",
    chains_per_block: int | None = None,
    mesh: Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Run many chains over a product of policies and axes, on common random numbers.

    Chain c's key depends on (`seed`, c) alone: policies and grid points see the same random numbers, and a run of 100
    chains is the first tenth of a run of 1,000.

    Example:
      >>> import collapse_jax as cj
      >>> from collapse_jax import policies, settings
      >>> runs = cj.sweep(
      ...     settings.gaussian(dim=2),
      ...     [policies.replace(), policies.window(k=2)],
      ...     axes={"num_samples": [10, 100]},
      ...     num_generations=3,
      ...     num_chains=8,
      ...     metrics="trace_ratio",
      ... )
      >>> dict(runs.sizes)
      {'policy': 2, 'num_samples': 2, 'chain': 8, 'generation': 3}

    Args:
      setting: a setting, the name of one, or a factory whose parameters may be axes.
      policy: one policy or several, each a policy, the name of one, or a factory whose parameters may be axes.
      num_samples: n, the rows of the first real batch and of every synthetic one; it may be an axis instead.
      num_generations: T, the number of fits in a chain; the first one sees real data only.
      num_chains: the number of independent chains at each point of the grid.
      seed: the seed of the whole sweep.
      axes: ``{name: values}``. A name is ``num_samples``, ``num_generations``, ``seed``, or a parameter of a part
        (``setting.dim``, ``policies.share`` of every policy, ``policies.0.share`` of the first one, ``curator.k``,
        ``setting.source.dim``; the first word can be left out where that is unambiguous). A tuple of names moves them
        together. The parts may be built already, if their factories are registered. Whole numbers and strings are
        static, floats are traced: all points of a float axis share one compiled program. Where ``num_generations`` is
        an axis, the results of shorter chains are NaN beyond their last generation.
      trace: ``"num_samples"`` makes whole numbers of rows share a program too, where shapes do not depend on them.
      curator: what is done to each synthetic batch at its birth: one curator, or several (None among them: nothing),
        which are then an axis.
      metrics: one name or several, or ``"all"``; default those of the setting that cost no more than a few generations
        (``Metric.default``). What is not asked for is not computed.
      precision: ``"float32"`` or ``"float64"``.
      rng: JAX's random-number implementation; ``"threefry2x32"`` gives the same bits on all platforms.
      backend: ``"law"`` draws the exact law of the sufficient statistics, ``"rows"`` draws rows (see ``make_chain``).
        One sweep uses one backend: ``"auto"`` takes the law if every policy of the sweep allows it. ``"each"`` takes
        what is cheapest for each policy, which then see different random numbers.
      chains_per_block: the number of chains side by side on a device. Bits may depend on it, so its default depends on
        sizes and on the kind of device alone; they do not depend on the number of devices or chains.
      mesh: the devices of one chain, for models too large or too slow for one device: ``{"data": 2, "model": 2}``
        shares the rows of its minibatches (and new rows) out over two and cuts its parameters in two (see
        ``sharding.shard_setting``). Other devices take other blocks. Results agree with those of one device to
        rounding, not bit for bit; sampled symbols may differ from the first that rounding decides.
      devices: the devices to use; default all local ones. Blocks of chains are dealt out to them.
      progress: True draws a progress bar, in a terminal or a notebook; a function is called as
        ``progress(done, total)``, in chain-generations, from other threads, one call at a time.

    Returns:
      A dataset with the dimensions ``("policy", *axes, "chain", "generation")`` and one variable a metric. The
      dimensions of metrics whose values are arrays (sample texts, pictures) follow, and are named in the variable's
      attribute ``value_dims`` too.

    Raises:
      UsageError: an argument is wrong; it says so in one line, before anything is computed.
    """
    arguments = _repeatable(locals())
    wanted = arguments["metrics"]
    sizes = {"num_samples": num_samples, "num_generations": num_generations, "seed": seed}
    design = make_design(setting, policy, **sizes, axes=axes, curator=curator, trace=trace)
    chain_placements(jax.local_devices() if devices is None else devices, mesh)
    with jax.enable_x64(precision == "float64"), show_sweep_progress(progress) as progress_callback:
        grid = Grid(design)
        options = Options(num_chains, wanted, precision, rng, backend, chains_per_block, mesh=mesh)
        plan = make_plan(grid, options)
        check_memory(plan)
        total, done = sum(map(plan.count_generations, plan.units)), [0]

        def count_generations(generations: int) -> None:
            done[0] += generations
            progress_callback(done[0], total)

        runner = Runner(plan, count_generations, devices)
        out = {name: np.full((*plan.shape, *m.shape), np.nan, precision) for name, m in plan.metrics.items()}
        for unit in runner.announce(plan.units):
            for name, value in runner.run_unit(unit).items():
                out[name][unit.where] = value
        return make_dataset(plan, out, {**runner.seconds, **remember_arguments("sweep", arguments)})


def _repeatable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that decide results; iterables of metrics as tuples, which can be read twice."""
    metrics = arguments["metrics"]
    if not isinstance(metrics, Iterable | None):
        reject("metrics", metrics, "a name, several names or None")
    wanted = None if metrics is None else (metrics,) if isinstance(metrics, str) else tuple(metrics)
    kept = {name: value for name, value in arguments.items() if name not in ("devices", "progress")}
    return {**kept, "metrics": wanted}
