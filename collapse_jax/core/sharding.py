"""Shard one chain over several devices: its parameters and its rows lie over the axes of a mesh."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from collapse_jax.core.errors import UsageError
from collapse_jax.core.validation import reject
from collapse_jax.types import Batch, Key, Setting, Tree

DATA, MODEL = "data", "model"
AXES = (DATA, MODEL)


def shard_setting(setting: Setting, mesh: Mesh | AbstractMesh) -> Setting:
    """Return `setting` with its parameters sharded over the axis ``"model"`` of `mesh` and its rows over ``"data"``.

    Each parameter is sharded along its last dimension that divides evenly; so are the rows of a minibatch, and new rows
    while they are sampled. The same chain runs on one device, on several, and, after ``jax.distributed.initialize()``,
    on several hosts that all run the same program: ``jax.jit(simulate, ...)`` of the chain partitions the fits and the
    sampling so. Everything else, the pool too, is left to XLA. Sums are formed in another order than on one device:
    results agree to rounding, not bit for bit.

    Args:
      setting: a setting that is trained by gradients (with ``init``); closed forms have no parameters worth sharding.
      mesh: a mesh with one or both of these axes, of type ``Auto``; other axes are left alone.

    Raises:
      UsageError: the setting has no parameters to shard, or the mesh has neither axis. Later, when a chain is traced:
        the rows of a minibatch do not divide evenly.
    """
    if setting.init is None:
        raise UsageError(f"setting {setting.name} has no parameters to shard; one trained by gradients has")
    if not set(AXES) & set(mesh.shape):
        raise UsageError(f"mesh: its axes are {', '.join(mesh.shape)}; one must be called 'data' or 'model'")
    for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True):
        if axis in AXES and kind != AxisType.Auto:
            raise UsageError(f"axis {axis!r}: give axis_types=(AxisType.Auto,) * {len(mesh.shape)} to jax.make_mesh")
    abstract = mesh.abstract_mesh

    def under_mesh(function: Callable[..., Tree]) -> Callable[..., Tree]:
        def call(*arguments: Any) -> Tree:
            with jax.sharding.use_abstract_mesh(_mesh_of(arguments, abstract)):
                return function(*arguments)

        return call

    init, fit, sample = setting.init, setting.fit, setting.sample

    def fit_sharded(key: Key, train: Batch, start: Tree) -> Tree:
        return shard_params(fit(key, train, shard_params(start)))

    return setting._replace(
        init=under_mesh(lambda key, world: shard_params(init(key, world))),
        fit=under_mesh(fit_sharded),
        sample=under_mesh(sample),
    )


def shard_params(params: Tree) -> Tree:
    """Shard parameters over the axis ``"model"`` of the mesh in use while tracing; without a mesh, return them."""
    mesh = jax.sharding.get_abstract_mesh()
    if not set(AXES) & set(mesh.shape):
        return params
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, _param_spec(mesh, x.shape)), params)


def shard_rows(rows: Tree) -> Tree:
    """Shard leaves ``[rows, ...]`` over the axis ``"data"`` of the mesh in use while tracing, if it has that axis.

    Raises:
      UsageError: the rows do not divide evenly.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.shape:
        return rows
    num_rows, num_devices = jax.tree.leaves(rows)[0].shape[0], mesh.shape[DATA]
    if num_rows % num_devices:
        raise UsageError(f"mesh: {num_rows} rows do not divide evenly over {num_devices} devices of the axis 'data'")
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec(DATA)), rows)


def mesh_size(mesh: Mapping[str, int] | None) -> int:
    """Return how many devices a chain takes.

    Args:
      mesh: the lengths of the axes ``"data"`` and ``"model"``; None means one device.

    Raises:
      UsageError: another axis, or a length below 1.
    """
    if not isinstance(mesh, Mapping | None):
        reject("mesh", mesh, "a mapping of 'data' and 'model' to numbers of devices, or None")
    for axis, length in (mesh or {}).items():
        if axis not in AXES:
            raise UsageError(f"mesh: has no axis {axis!r}; its axes are 'data' and 'model'")
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            reject(f"mesh: {axis}", length, "a whole number of at least 1")
    return math.prod((mesh or {}).values())


def abstract_mesh(mesh: Mapping[str, int]) -> AbstractMesh:
    """Return the mesh of one chain without naming its devices."""
    return AbstractMesh(tuple(mesh.values()), tuple(mesh), axis_types=(AxisType.Auto,) * len(mesh))


def chain_placements(devices: Sequence[jax.Device], mesh: Mapping[str, int] | None) -> tuple[Sharding, ...]:
    """Return where chains run: one sharding for each device, or for each mesh of devices, which hold whole arrays.

    Raises:
      UsageError: the devices cannot be divided into whole meshes.
    """
    size = mesh_size(mesh)
    if not mesh or size == 1:
        return tuple(SingleDeviceSharding(device) for device in devices)
    if len(devices) % size:
        raise UsageError(f"mesh: a chain takes {size} devices, and {len(devices)} is no multiple of that")
    groups = np.reshape(np.asarray(devices), (-1, *mesh.values()))
    kinds = (AxisType.Auto,) * len(mesh)
    return tuple(NamedSharding(Mesh(group, tuple(mesh), axis_types=kinds), PartitionSpec()) for group in groups)


def stacked_param_shardings(placement: Sharding, shapes: Tree, num_axes: int) -> Tree:
    """Return the shardings of stacked parameters at a placement, whose first `num_axes` axes count chains.

    Each chain's parameters are sharded as ``shard_params`` shards them.
    """

    def sharding_of(x: Any) -> Sharding:
        if not isinstance(placement, NamedSharding):
            return placement
        return NamedSharding(
            placement.mesh, PartitionSpec(*[None] * num_axes, *_param_spec(placement.mesh, x.shape[num_axes:]))
        )

    return jax.tree.map(sharding_of, shapes)


def _mesh_of(arguments: Tree, abstract: AbstractMesh) -> AbstractMesh:
    """Return `abstract` as the arguments carry it: theirs may name a kind of device, which JAX calls another mesh."""
    meshes = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(arguments))
    return next((mesh for mesh in meshes if mesh.shape == abstract.shape), abstract)


def _param_spec(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> PartitionSpec:
    divisible = [i for i, length in enumerate(shape) if MODEL in mesh.shape and length % mesh.shape[MODEL] == 0]
    return PartitionSpec(*(MODEL if divisible and i == divisible[-1] else None for i in range(len(shape))))
