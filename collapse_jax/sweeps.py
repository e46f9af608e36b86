"""Many chains over a grid: static axes compile a program a point, traced floats share one."""

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from collapse_jax.blocks import block_width, grid, run_blocks
from collapse_jax.chain import make_chain, plan
from collapse_jax.check import check_at_least, check_choice
from collapse_jax.keys import chain_keys
from collapse_jax.types import Chain, Curator, Key, Policy, Setting
from collapse_jax.words import perhaps

PRECISIONS = ("float32", "float64")
RNGS = ("threefry2x32", "rbg", "unsafe_rbg")


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
      ValueError: bad input, in one line, before anything is computed.
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
    axes: Mapping[str, Sequence] | None = None,
    curator: Curator | None = None,
    metrics: Sequence[str] | None = None,
    precision: str = "float32",
    rng: str = "threefry2x32",
    backend: str = "auto",
    chains_per_block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
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
      axes: ``{name: values}``; a name is ``num_samples`` or a parameter of a factory (``setting.x`` or ``policy.x``
        where both have it). Whole numbers and strings are static, floats are traced: a grid of them is one program.
      curator: what is done to each batch at its birth.
      metrics: which of the setting's metrics to compute; default all. What is not asked for costs nothing.
      precision: ``"float32"`` or ``"float64"``.
      rng: JAX's random-number implementation; ``"threefry2x32"`` gives the same bits on all platforms.
      backend: ``"law"``, ``"rows"`` or ``"auto"`` (see ``make_chain``). One sweep uses one backend: with ``"auto"``
        the law, if every policy of the sweep allows it.
      chains_per_block: lanes side by side. Bits may depend on it, so its default depends on sizes alone.
      progress: called as ``progress(done, total)``, in chain-generations.

    Returns:
      Dims ``("policy", *axes, "chain", "generation")``, one variable a metric.

    Raises:
      ValueError: bad input, in one line, before anything is computed.
    """
    for name, value in (("num_generations", num_generations), ("num_chains", num_chains)):
        check_at_least(name, value, 1)
    check_at_least("seed", seed, 0, 2**32 - 1)
    check_choice("precision", precision, PRECISIONS)
    check_choice("rng", rng, RNGS)
    if chains_per_block is not None:
        check_at_least("chains_per_block", chains_per_block, 1)
    with jax.enable_x64(precision == "float64"):
        points = _points(setting, policy, num_samples, dict(axes or {}))
        _check_output(points, num_chains, num_generations)
        keys = chain_keys(seed, num_chains, rng)
        units = _units(points, curator, backend, metrics, num_generations)
        units = [_sized(unit, points, keys[0], curator, num_generations, chains_per_block) for unit in units]
        total = len(units) * points.num_traced * num_chains * num_generations
        done = [0]

        def tick(step: int) -> None:
            done[0] += step
            if progress is not None:
                progress(done[0], total)

        parts = [_run_unit(unit, points, keys, curator, num_generations, tick) for unit in units]
        dataset = _dataset(points, units, parts, num_chains, num_generations)
    return dataset.assign_attrs(
        setting=units[0].setting.name,
        num_generations=num_generations,
        num_chains=num_chains,
        seed=seed,
        precision=precision,
        rng=rng,
        backend="law" if units[0].law else "rows",
        device=f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        **({"num_samples": num_samples} if num_samples is not None else {}),
        **{f"seconds_{k}": round(sum(getattr(t, k) for _, t in parts), 4) for k in ("trace", "compile", "run")},
    )


class _Points(NamedTuple):
    """A sweep's axes, sorted by what becomes of them."""

    names: tuple[str, ...]  # all axes, in the order given
    values: dict[str, list]
    static: dict[str, list]
    traced: dict[str, np.ndarray]  # flattened product, [num_traced]
    num_traced: int
    moves_setting: bool  # whether a traced axis is a parameter of the setting
    policies: tuple[str, ...]
    make: Callable[[int, dict[str, Any]], tuple[Setting, Policy, int]]  # (policy number, axis values) -> parts


class _Unit(NamedTuple):
    """One compiled program: a policy at a static point."""

    policy: int
    static: dict[str, Any]
    setting: Setting
    metrics: tuple[str, ...]
    law: bool
    world: Any = None
    width: int = 0  # chains side by side


def _points(setting: Any, policy: Any, num_samples: int | None, axes: dict[str, Sequence]) -> _Points:
    policies = list(policy) if isinstance(policy, Sequence) and not isinstance(policy, Policy) else [policy]
    if not policies:
        raise ValueError("policy: an empty list; give at least one")
    factories = {"setting": setting, "policy": policies[0] if len(policies) == 1 else None}
    homes = {name: _home(name, factories, num_samples) for name in axes}
    for name, values in axes.items():
        if isinstance(values, str) or len(values) == 0:
            raise ValueError(f"axis {name!r} must be a list of one or more values")
    if num_samples is None and ("num_samples", "") not in homes.values():
        raise ValueError("num_samples is needed, as an argument or as an axis")

    def make(number: int, values: dict[str, Any]) -> tuple[Setting, Policy, int]:
        given: dict[str, dict[str, Any]] = {"setting": {}, "policy": {}, "num_samples": {}}
        for name, value in values.items():
            part, parameter = homes[name]
            given[part][parameter] = value
        return (
            _build("setting", setting, Setting, given["setting"]),
            _build("policy", policies[number], Policy, given["policy"]),
            given["num_samples"].get("", num_samples or 0),
        )

    traced = {
        n: [float(x) for x in v] for n, v in axes.items() if _is_float(factories.get(homes[n][0]), homes[n][1], v)
    }
    static = {n: [_plain(x) for x in v] for n, v in axes.items() if n not in traced}
    grid_points = list(grid(traced))
    names = [make(i, {n: (traced | static)[n][0] for n in axes})[1].name for i in range(len(policies))]
    return _Points(
        names=tuple(axes),
        values={n: list(v) for n, v in axes.items()},
        static=static,
        traced={n: np.asarray([p[n] for p in grid_points], np.result_type(float)) for n in traced},
        num_traced=len(grid_points),
        moves_setting=any(homes[n][0] == "setting" for n in traced),
        policies=tuple(n if names.count(n) == 1 else f"{n}_{names[: i + 1].count(n)}" for i, n in enumerate(names)),
        make=make,
    )


def _units(
    points: _Points, curator: Curator | None, backend: str, metrics: Sequence[str] | None, num_generations: int
) -> list[_Unit]:
    """Every program of the sweep, with all of its values checked by the factories before anything is compiled."""
    units = []
    for number in range(len(points.policies)):
        for static in grid(points.static):
            for i in range(points.num_traced):
                values = static | {n: float(v[i]) for n, v in points.traced.items()}
                setting, policy, n = points.make(number, values)
                make_chain(
                    setting, policy, num_samples=n, num_generations=num_generations, curator=curator, backend=backend
                )
            law = plan(setting, policy, curator, backend).law
            units.append(_Unit(number, static, setting, _metrics(setting, metrics, points.names), law))
    if backend == "auto" and not all(u.law for u in units):
        units = [u._replace(law=False) for u in units]
    return units


def _sized(unit: _Unit, points: _Points, key: Key, curator: Any, num_generations: int, width: int | None) -> _Unit:
    """The unit with its world and block width, so that what cannot run is refused before anything has."""
    worlds = []
    for i in range(points.num_traced if points.moves_setting else 1):
        values = {n: float(v[i]) for n, v in points.traced.items()}
        setting, _, num = points.make(unit.policy, unit.static | values)
        worlds.append(setting.world())
    if any(not _same(worlds[0], world) for world in worlds[1:]):
        raise ValueError(f"axes: values that change the real law of setting {unit.setting.name} need runs of their own")
    world = worlds[0]
    rowless = unit.law and unit.setting.real_compressed is not None
    rows = () if rowless else jax.eval_shape(lambda: unit.setting.real(key, world, num))
    chain = _chain_of(unit, points, curator, num_generations)({n: v[0] for n, v in points.traced.items()})
    width = block_width(chain, world, key, rows, unit.law, unit.setting.block_hint, width)
    return unit._replace(world=world, width=width)


def _chain_of(unit: _Unit, points: _Points, curator: Curator | None, num_generations: int) -> Callable[[dict], Chain]:
    def chain_of(values: dict[str, Any]) -> Chain:
        setting, policy, n = points.make(unit.policy, unit.static | values)
        backend = "law" if unit.law else "rows"
        return make_chain(
            setting, policy, num_samples=n, num_generations=num_generations, curator=curator, backend=backend
        )

    return chain_of


def _run_unit(
    unit: _Unit,
    points: _Points,
    keys: Key,
    curator: Curator | None,
    num_generations: int,
    tick: Callable[[int], None],
) -> tuple[dict[str, np.ndarray], Any]:
    num_chains = keys.shape[0]
    return run_blocks(
        _chain_of(unit, points, curator, num_generations),
        unit.world,
        {name: np.repeat(value, num_chains) for name, value in points.traced.items()},
        keys[np.tile(np.arange(num_chains), points.num_traced)],
        num_generations=num_generations,
        metrics=unit.metrics,
        width=unit.width,
        progress=tick,
    )


def _check_output(points: _Points, num_chains: int, num_generations: int) -> None:
    """Refuses results that no machine of today could hold: they are kept in memory, one number a metric."""
    static = math.prod(len(v) for v in points.static.values())
    numbers = len(points.policies) * static * points.num_traced * num_chains * num_generations
    if numbers > 2**36:
        raise ValueError(f"the results would hold {numbers:.1e} numbers a metric: lower num_chains or num_generations")


def _same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _dataset(points: _Points, units: list[_Unit], parts: list, num_chains: int, num_generations: int) -> xr.Dataset:
    """Arranges the units' arrays by axis: statics first as they were run, then in the order the axes were given."""
    static, traced = list(points.static), list(points.traced)
    lengths = [len(points.values[n]) for n in static], [len(points.values[n]) for n in traced]
    dims = ("policy", *static, *traced, "chain", "generation")
    metrics = {m.name: m for u in units for m in u.setting.metrics if m.name in u.metrics}
    variables = {}
    for name, metric in metrics.items():
        missing = np.full((points.num_traced * num_chains, num_generations), np.nan)
        stacked = np.stack([part.get(name, missing) for part, _ in parts])
        shape = (len(points.policies), *lengths[0], *lengths[1], num_chains, num_generations)
        variables[name] = (dims, stacked.reshape(shape), {k: v for k, v in metric._asdict().items() if k != "name"})
    coords: dict[str, Any] = {n: [_plain(x) for x in points.values[n]] for n in points.names}
    coords |= {"policy": list(points.policies), "chain": range(num_chains), "generation": range(1, num_generations + 1)}
    return xr.Dataset(variables, coords).transpose("policy", *points.names, "chain", "generation")


def _home(name: str, factories: dict[str, Any], num_samples: int | None) -> tuple[str, str]:
    """Which part an axis belongs to, and which of its parameters it is."""
    if name == "num_samples":
        if num_samples is not None:
            raise ValueError("num_samples is given both as an argument and as an axis; keep one")
        return "num_samples", ""
    part, _, parameter = name.rpartition(".")
    known = {p: _parameters(f) for p, f in factories.items()}
    found = [p for p, names in known.items() if parameter in names and part in ("", p)]
    if len(found) == 1:
        return found[0], parameter
    if found:
        raise ValueError(f"axis {name!r} is a parameter of both; write 'setting.{name}' or 'policy.{name}'")
    names = ["num_samples", *(n for names in known.values() for n in names)]
    raise ValueError(f"axis {name!r} is no parameter of a factory here; {perhaps(parameter, names)}")


def _parameters(factory: Any) -> list[str]:
    is_factory = callable(factory) and not isinstance(factory, Setting | Policy)
    return list(inspect.signature(factory).parameters) if is_factory else []


def _build(part: str, made: Any, kind: type, arguments: dict[str, Any]) -> Any:
    if isinstance(made, kind):
        return made
    built = made(**arguments) if callable(made) else made
    if not isinstance(built, kind):
        raise ValueError(f"{part} must be a {kind.__name__} or a factory of one, not {type(built).__name__}")
    return built


def _is_float(factory: Any, parameter: str, values: Sequence) -> bool:
    """Whether an axis can be traced: floats, or numbers for a parameter that is annotated as a float."""
    plain = [_plain(v) for v in values]
    if any(isinstance(v, bool | str) for v in plain) or not all(isinstance(v, int | float) for v in plain):
        return False
    function = factory.func if isinstance(factory, partial) else factory
    hint = typing.get_type_hints(function).get(parameter) if inspect.isfunction(function) else None
    allowed = set(typing.get_args(hint) or [hint])
    return any(isinstance(v, float) for v in plain) or (float in allowed and int not in allowed)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _metrics(setting: Setting, wanted: Sequence[str] | None, axes: Sequence[str]) -> tuple[str, ...]:
    known = [m.name for m in setting.metrics]
    for name in axes:
        if name in known:
            raise ValueError(f"axis {name!r} has the name of a metric; call it 'setting.{name}' or 'policy.{name}'")
    for name in wanted or ():
        if name not in known:
            raise ValueError(f"metrics: setting {setting.name} has no {name!r}; {perhaps(name, known)}")
    return tuple(wanted or known)
