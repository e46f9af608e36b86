"""One chain over several devices: its parameters and its rows laid over the axes of a mesh."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from collapse_jax.core.errors import UsageError
from collapse_jax.types import Batch, Key, Setting, Tree

DATA, MODEL = "data", "model"
AXES = (DATA, MODEL)


def spread(setting: Setting, mesh: Mesh | AbstractMesh) -> Setting:
    """`setting` with its parameters cut over the axis ``"model"`` of `mesh`, its rows over the axis ``"data"``.

    Each parameter is cut along its last dimension that divides evenly; the rows of a minibatch, and new rows while they
    are sampled, are shared out. The same chain runs on one device, on several, and, after
    ``jax.distributed.initialize()``, on several hosts that all run the same program: ``jax.jit(simulate, ...)`` of the
    chain partitions the fits and the sampling so. Everything else, the pool too, is left to XLA. Sums are formed in
    another order than on one device: results agree to rounding, not bit for bit.

    Args:
      setting: one trained by gradients (with ``init``); closed forms have nothing worth cutting.
      mesh: of one of these axes or both, of type ``Auto``; others are left alone.

    Raises:
      UsageError: a setting without parameters to cut, or a mesh without such axes. Later, when a chain is traced: a
        minibatch whose rows do not divide.
    """
    if setting.init is None:
        raise UsageError(f"setting {setting.name} has no parameters to spread; one trained by gradients has")
    if not set(AXES) & set(mesh.shape):
        raise UsageError(f"mesh: its axes are {', '.join(mesh.shape)}; one must be called 'data' or 'model'")
    for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True):
        if axis in AXES and kind != AxisType.Auto:
            raise UsageError(f"axis {axis!r}: give axis_types=(AxisType.Auto,) * {len(mesh.shape)} to jax.make_mesh")
    around = mesh.abstract_mesh

    def within(function: Callable[..., Tree]) -> Callable[..., Tree]:
        def called(*arguments: Any) -> Tree:
            with jax.sharding.use_abstract_mesh(_mesh_of(arguments, around)):
                return function(*arguments)

        return called

    init, fit, sample = setting.init, setting.fit, setting.sample

    def fit_cut(key: Key, train: Batch, start: Tree) -> Tree:
        return over_model(fit(key, train, over_model(start)))

    return setting._replace(
        init=within(lambda key, world: over_model(init(key, world))), fit=within(fit_cut), sample=within(sample)
    )


def over_model(params: Tree) -> Tree:
    """Parameters cut over the axis ``"model"`` of the mesh that one traces within; without a mesh, as they are."""
    mesh = jax.sharding.get_abstract_mesh()
    if not set(AXES) & set(mesh.shape):
        return params
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, _cut(mesh, x.shape)), params)


def over_data(rows: Tree) -> Tree:
    """Leaves ``[rows, ...]`` shared out over the axis ``"data"`` of the mesh that one traces within, if it has one.

    Raises:
      UsageError: rows that do not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.shape:
        return rows
    number, parts = jax.tree.leaves(rows)[0].shape[0], mesh.shape[DATA]
    if number % parts:
        raise UsageError(f"mesh: {number} rows cannot be shared out evenly over {parts} devices of the axis 'data'")
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec(DATA)), rows)


def mesh_size(mesh: Mapping[str, int] | None) -> int:
    """How many devices a chain takes; `mesh` has the lengths of axes ``"data"`` and ``"model"``, None is one device.

    Raises:
      UsageError: another axis, or a length below 1.
    """
    for axis, length in (mesh or {}).items():
        if axis not in AXES:
            raise UsageError(f"mesh: has no axis {axis!r}; its axes are 'data' and 'model'")
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise UsageError(f"mesh: {axis} must be a whole number of at least 1, not {length!r}")
    return math.prod((mesh or {}).values())


def abstract(mesh: Mapping[str, int]) -> AbstractMesh:
    """The mesh of one chain, whichever devices it is made of."""
    return AbstractMesh(tuple(mesh.values()), tuple(mesh), axis_types=(AxisType.Auto,) * len(mesh))


def places(devices: Sequence[jax.Device], mesh: Mapping[str, int] | None) -> tuple[Sharding, ...]:
    """Where chains run: each device, or each mesh of them. What is put there is on all of its devices.

    Raises:
      UsageError: devices that are not whole meshes.
    """
    size = mesh_size(mesh)
    if not mesh or size == 1:
        return tuple(SingleDeviceSharding(device) for device in devices)
    if len(devices) % size:
        raise UsageError(f"mesh: a chain takes {size} devices, and {len(devices)} are no multiple of that")
    groups = np.reshape(np.asarray(devices), (-1, *mesh.values()))
    kinds = (AxisType.Auto,) * len(mesh)
    return tuple(NamedSharding(Mesh(group, tuple(mesh), axis_types=kinds), PartitionSpec()) for group in groups)


def cut_lanes(place: Sharding, shapes: Tree) -> Tree:
    """How parameters of chains side by side, leaves ``[lanes, ...]``, lie at a place: as ``over_model`` cuts them."""

    def one(x: Any) -> Sharding:
        if not isinstance(place, NamedSharding):
            return place
        return NamedSharding(place.mesh, PartitionSpec(None, *_cut(place.mesh, x.shape[1:])))

    return jax.tree.map(one, shapes)


def _mesh_of(arguments: Tree, around: AbstractMesh) -> AbstractMesh:
    """`around` as the arguments know it: theirs may name its kind of devices, and JAX takes that for another mesh."""
    meshes = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(arguments))
    return next((mesh for mesh in meshes if mesh.shape == around.shape), around)


def _cut(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> PartitionSpec:
    divides = [i for i, length in enumerate(shape) if MODEL in mesh.shape and length % mesh.shape[MODEL] == 0]
    return PartitionSpec(*(MODEL if divides and i == divides[-1] else None for i in range(len(shape))))
