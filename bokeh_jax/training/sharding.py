"""Device mesh and shardings: where every array of a run lies.

Examples are cut over `data` and `fsdp`; parameters by the names of their axes, as
`sharding_rules` says. Optimizer state and EMA lie where their parameter lies. Leaves smaller than
`mesh.min_sharded_bytes` stay whole, as a gather would cost more than they hold.

Nothing is ever gathered on one host: the state is made by a compiled function that puts each part
where it belongs, and restored likewise, both from the one tree that `placed_state` gives.

Several slices are joined by a network slower than the links within: only `data` may cross it, whose
one exchange a step is that of the gradients.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.linen import spmd
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from bokeh_jax.config import ExperimentConfig, MeshConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.mesh_axes import BATCH_AXES, MESH_AXES
from bokeh_jax.training.network import abstract_network, frozen_part, network_axes, trained_part
from bokeh_jax.training.sharding_rules import RULES
from bokeh_jax.training.state import TrainState, abstract_state, map_parameters

PyTree = Any
AnyMesh = Mesh | AbstractMesh


def mesh_sizes(config: MeshConfig, count: int) -> dict[str, int]:
    """Sizes of the mesh's axes on `count` devices.

    Raises:
        InvalidInput: the sizes do not multiply to the number of devices.
    """
    sizes = {name: getattr(config, name) for name in MESH_AXES}
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
    return sizes


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh over the devices of all processes, or over those given.

    Raises:
        InvalidInput: the sizes do not multiply to the number of devices, or `data` cannot be shared
            out to the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(config, len(devices))
    axis_types = (AxisType.Auto,) * len(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        # An axis may be a part of one side of the torus, such as 8 of 4x4x4.
        grid = mesh_utils.create_device_mesh(
            tuple(sizes.values()), devices, allow_split_physical_axes=True
        )
        return Mesh(grid, tuple(sizes), axis_types=axis_types)
    if sizes["data"] % slices:
        raise InvalidInput(
            f"mesh.data is {sizes['data']} on {slices} slices; allowed: multiples of {slices}, as "
            "only this axis may cross from slice to slice"
        )
    within = sizes | {"data": sizes["data"] // slices}
    across = {name: slices if name == "data" else 1 for name in sizes}
    grid = mesh_utils.create_hybrid_device_mesh(
        tuple(within.values()), tuple(across.values()), devices, allow_split_physical_axes=True
    )
    return Mesh(grid, tuple(sizes), axis_types=axis_types)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Leading axis over the axes that share out examples."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """One whole copy a device."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: AnyMesh) -> int:
    """How many parts a batch is cut into."""
    return math.prod(mesh.shape[name] for name in BATCH_AXES)


def own_rows(sharding: NamedSharding, global_batch_size: int) -> tuple[int, ...]:
    """Rows of the global batch that this process's devices hold, ascending.

    The mesh follows the chips' links and not the processes' numbers, and devices that differ only
    in `tensor` hold the same rows: so these need be neither consecutive nor this process's alone.
    """
    places = sharding.addressable_devices_indices_map((global_batch_size,))
    rows = {row for place in places.values() if place for row in range(global_batch_size)[place[0]]}
    return tuple(sorted(rows))


def leaf_sharding(
    mesh: AnyMesh, leaf: jax.ShapeDtypeStruct, axes: Sequence[str | None], min_sharded_bytes: int
) -> NamedSharding:
    """Where an array lies whose axes have these names; an axis that does not divide stays whole."""
    if math.prod(leaf.shape) * leaf.dtype.itemsize < min_sharded_bytes:
        return replicated(mesh)
    spec = spmd.logical_to_mesh_axes(tuple(axes), RULES) or ()
    return NamedSharding(
        mesh,
        PartitionSpec(
            *(
                name if name and mesh.shape[name] > 1 and not length % mesh.shape[name] else None
                for name, length in zip(spec, leaf.shape, strict=False)
            )
        ),
    )


def placed_state(config: ExperimentConfig, mesh: AnyMesh) -> TrainState:
    """The state's shapes, types and places: what init, compilation and restore share."""
    axes = trained_part(config, network_axes(config))
    whole = replicated(mesh)
    return map_parameters(
        config,
        lambda leaf, names: _placed_by_name(config, mesh, leaf, names),
        abstract_state(config),
        axes,
        otherwise=lambda leaf: _placed(leaf, whole),
    )


def placed_frozen(config: ExperimentConfig, mesh: AnyMesh) -> PyTree:
    """Shapes, types and places of the parameters that are not trained; {} where there are none."""
    return jax.tree.map(
        lambda leaf, names: _placed_by_name(config, mesh, leaf, names),
        frozen_part(config, abstract_network(config)),
        frozen_part(config, network_axes(config)),
    )


def _placed(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _placed_by_name(
    config: ExperimentConfig, mesh: AnyMesh, leaf: jax.ShapeDtypeStruct, names: PartitionSpec
) -> jax.ShapeDtypeStruct:
    return _placed(leaf, leaf_sharding(mesh, leaf, tuple(names), config.mesh.min_sharded_bytes))


def shardings_of(placed: PyTree) -> PyTree:
    """The shardings alone."""
    return jax.tree.map(lambda leaf: leaf.sharding, placed)


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows of a global batch, as `own_rows` orders them -> global device arrays."""
    count = num_batch_shards(sharding.mesh)
    parts = own_rows(sharding, count)

    def put(name: str, values: np.ndarray) -> jax.Array:
        if not values.ndim or len(values) % len(parts):
            raise ValueError(
                f"{name} of a batch has shape {values.shape}; allowed: rows that {len(parts)} "
                "part(s) share evenly"
            )
        length = len(values) // len(parts)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            first = parts.index((index[0].start or 0) // length) * length
            return values[first : first + length]

        return jax.make_array_from_callback((length * count, *values.shape[1:]), sharding, part)

    return {name: put(name, values) for name, values in batch.items()}


def check_fits(config: ExperimentConfig, mesh: AnyMesh) -> None:
    """The global batch and the model must divide over the mesh.

    Raises:
        InvalidInput: they do not.
    """
    training, tensor = config.training, mesh.shape["tensor"]
    parts = num_batch_shards(mesh) * training.accumulation_steps
    if training.global_batch_size % parts:
        raise InvalidInput(
            f"training.global_batch_size is {training.global_batch_size}; allowed: a multiple of "
            f"{parts} = mesh.data {mesh.shape['data']} x mesh.fsdp {mesh.shape['fsdp']} x "
            f"training.accumulation_steps {training.accumulation_steps}"
        )
    if config.task == "autoencoder":
        return
    model = {
        "depth": config.depth,
        "focus": config.focus.dit_config(),
    }.get(config.task) or config.model.dit_config()
    for name, value in (("num_heads", model.num_heads), ("mlp channels", model.mlp_dim)):
        if value % tensor:
            raise InvalidInput(
                f"mesh.tensor is {tensor}; allowed: a divisor of the model's {name}, {value}"
            )
