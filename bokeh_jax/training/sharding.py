"""Device mesh and shardings: a batch is cut over every axis, large parameters over `fsdp`.

The rule for parameters is data, in one place: the largest axis of a leaf that `fsdp` divides is
cut, leaves smaller than `MIN_SHARDED_BYTES` stay whole (a gather would cost more than they hold).
Optimizer state and EMA follow the same rule, so they lie where their parameter lies.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bokeh_jax.config import MeshConfig
from bokeh_jax.errors import InvalidInput

PyTree = Any
MIN_SHARDED_BYTES = 1 << 18
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: MeshConfig) -> Mesh:
    """Mesh over all devices of all processes.

    Raises:
        InvalidInput: the sizes do not multiply to the number of devices.
    """
    count = jax.device_count()
    sizes = {"data": config.data, "fsdp": config.fsdp}
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if any(size == 0 or size < -1 for size in sizes.values()) or len(free) > 1:
        raise InvalidInput(
            f"mesh {sizes}; allowed: positive sizes, at most one -1 for what is left"
        )
    if free and count % known == 0:
        sizes[free[0]] = count // known
    if math.prod(sizes.values()) != count:
        raise InvalidInput(
            f"mesh {sizes} does not fit; allowed: sizes whose product is {count} devices"
        )
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over all mesh axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """One whole copy a device."""
    return NamedSharding(mesh, PartitionSpec())


def leaf_sharding(mesh: Mesh, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    """Where one leaf of the state lies."""
    size = mesh.shape["fsdp"]
    bytes_total = math.prod(leaf.shape) * leaf.dtype.itemsize
    divisible = [axis for axis, length in enumerate(leaf.shape) if length % size == 0]
    if size == 1 or bytes_total < MIN_SHARDED_BYTES or not divisible:
        return replicated(mesh)
    widest = max(divisible, key=lambda axis: leaf.shape[axis])
    spec: list[str | None] = [None] * len(leaf.shape)
    spec[widest] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*spec))


def state_shardings(mesh: Mesh, abstract: PyTree) -> PyTree:
    """Sharding of every leaf of the (abstract) state."""
    return jax.tree.map(lambda leaf: leaf_sharding(mesh, leaf), abstract)


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows of a global batch -> global device arrays."""
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def check_batch_size(global_batch_size: int, mesh: Mesh) -> None:
    """The global batch must divide over the devices and the processes.

    Raises:
        InvalidInput: it does not.
    """
    count = mesh.size
    if global_batch_size % count:
        raise InvalidInput(
            f"training.global_batch_size is {global_batch_size}; allowed: a multiple of the "
            f"{count} devices"
        )
