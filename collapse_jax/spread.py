"""One chain whose model is larger than a device, or than a host: parameters laid over an axis of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from collapse_jax.types import Batch, Key, Setting, Tree


def spread(setting: Setting, mesh: Mesh, axis: str = "model") -> Setting:
    """`setting` with each parameter cut over `axis` of `mesh` along its last dimension that divides evenly.

    The same chain runs on one device, on several, and, after ``jax.distributed.initialize()``, on several hosts that
    all run the same program: ``jax.jit(simulate, ...)`` of the chain partitions the fits and the sampling as the
    parameters are. Everything else, the pool too, is left to XLA. Sums are formed in another order than on one device:
    results agree to rounding, not bit for bit.

    Args:
      setting: one trained by gradients (with ``init``); closed forms have nothing worth cutting.
      mesh: over all devices of all hosts, its axes of type ``Auto``.
      axis: its name in the mesh.

    Raises:
      ValueError: a setting without parameters to cut, or a mesh without such an axis.
    """
    if setting.init is None:
        raise ValueError(f"setting {setting.name} has no parameters to spread; one trained by gradients has")
    if axis not in mesh.shape:
        raise ValueError(f"axis {axis!r} is not one of the mesh's: {', '.join(mesh.shape)}")
    if mesh.axis_types[mesh.axis_names.index(axis)] != AxisType.Auto:
        raise ValueError(f"axis {axis!r}: give axis_types=(AxisType.Auto,) to jax.make_mesh")
    init, fit, cut = setting.init, setting.fit, _cutter(mesh, axis)

    def fit_cut(key: Key, train: Batch, start: Tree) -> Tree:
        return cut(fit(key, train, cut(start)))

    return setting._replace(init=lambda key, world: cut(init(key, world)), fit=fit_cut)


def _cutter(mesh: Mesh, axis: str) -> Callable[[Tree], Tree]:
    def one(x: Any) -> Any:
        divides = [i for i, length in enumerate(x.shape) if length % mesh.shape[axis] == 0]
        spec: list[str | None] = [None] * x.ndim
        if divides:
            spec[divides[-1]] = axis
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))

    return lambda tree: jax.tree.map(one, tree)
