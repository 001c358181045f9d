"""Tensors of files into sharded parameters: never more than one of them on the host.

A parameter is made where it will lie, empty, and filled part by part: of each tensor every process
reads the elements that its own devices hold, once, puts them there as they are in the file, and a
compiled update gives them their type, order and place. Host memory is so that of one tensor, and
the update is compiled once for each kind of part, not for each block.

All of it is checked before anything is read.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array, Int, Shaped

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.tensor_files import DTYPES, TensorFiles, wrong_dtype
from bokeh_jax.interop.weight_map import (
    Part,
    WeightMap,
    Window,
    leaf_shapes,
    place_bounds,
    tensor_shapes,
)
from bokeh_jax.leaf_names import Match, leaves_by_name, tree_by_name

Sharding = NamedSharding | SingleDeviceSharding


def load_parameters(
    files: TensorFiles, weight_map: WeightMap, abstract: Any, ignored: tuple[str, ...] = ()
) -> tuple[dict[str, Any], Match]:
    """The parameters that the table names, read into their places.

    In a job of several processes all of them call it, with the same files.

    Args:
        files: where the tensors are.
        weight_map: table for the leaves of `abstract`, or for some of them.
        abstract: tree of dicts of `ShapeDtypeStruct`, whose shardings are named or of one device;
            None is the first device. Values are rounded to the leaves' types.
        ignored: beginnings of the names of tensors that need no place.

    Returns:
        (tree of dicts with the leaves of the table alone, what was taken, what of `abstract` has no
        tensor and is left to the caller, and what was ignored).

    Raises:
        InvalidInput: a tensor is missing, has another shape or type, or has no place. The line is
            that of the first problem and says how many more there are; `problems` lists them all.
    """
    leaves = leaves_by_name(abstract)
    shapes = leaf_shapes(weight_map)
    for name, shape in shapes.items():
        if name not in leaves or leaves[name].shape != shape:
            found = leaves[name].shape if name in leaves else "absent"
            raise ValueError(f"parameter {name} is {found}; allowed: {shape}")
    found = problems(files, weight_map, ignored)
    if found:
        more = f" (and {len(found) - 1} more such tensors)" if len(found) > 1 else ""
        raise InvalidInput(found[0] + more)
    places = {name: _sharding(leaves[name]) for name in shapes}
    loaded = _empty({name: leaves[name] for name in shapes}, places)
    for name, parts in weight_map.items():
        for part in parts:
            # Transfers run on while the next piece is read, unless they are waited for.
            loaded[name] = _with_part(loaded[name], files, part, places[name]).block_until_ready()
    used = {part.tensor for parts in weight_map.values() for part in parts}
    match = Match(
        matched=shapes,
        other_shape={},
        only_here={name: leaf.shape for name, leaf in leaves.items() if name not in shapes},
        only_there={name: info.shape for name, info in files.tensors.items() if name not in used},
        source=str(files.source),
    )
    return tree_by_name(loaded), match


def problems(files: TensorFiles, weight_map: WeightMap, ignored: tuple[str, ...] = ()) -> list[str]:
    """One line for every tensor that is missing, is another or has no place; from headers alone."""
    leaf_of = {part.tensor: name for name, parts in weight_map.items() for part in parts}
    expected = tensor_shapes(weight_map)
    found = []
    for tensor, shape in expected.items():
        info = files.tensors.get(tensor)
        wanted = f"{list(shape)} for {leaf_of[tensor]}"
        if info is None:
            found.append(f"tensor {tensor} is missing in {files.source}; allowed: {wanted}")
        elif info.shape != shape:
            found.append(f"tensor {tensor} of {info.file} is {list(info.shape)}; allowed: {wanted}")
        elif info.dtype not in DTYPES:
            found.append(wrong_dtype(tensor, info))
    for tensor, info in files.tensors.items():
        if tensor not in expected and not tensor.startswith(ignored):
            found.append(
                f"tensor {tensor} {list(info.shape)} of {info.file} has no place in the model; "
                f"allowed: the model's {len(expected)} tensors"
            )
    return found


def _sharding(leaf: jax.ShapeDtypeStruct) -> Sharding:
    sharding = leaf.sharding
    if sharding is None:
        return SingleDeviceSharding(jax.devices()[0])
    if not isinstance(sharding, NamedSharding | SingleDeviceSharding):
        raise ValueError(f"sharding is {sharding}; allowed: a named one, or one device")
    return sharding


def _empty(
    leaves: Mapping[str, jax.ShapeDtypeStruct], places: Mapping[str, Sharding]
) -> dict[str, jax.Array]:
    def zeros() -> dict[str, Array]:
        return {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}

    return jax.jit(zeros, out_shardings=dict(places))()


def _with_part(leaf: jax.Array, files: TensorFiles, part: Part, sharding: Sharding) -> jax.Array:
    """`leaf`, which is given away, with one part of it read."""
    bounds = place_bounds(part)
    new_axes = tuple(axis for axis, index in enumerate(part.place) if isinstance(index, int))
    read: dict[tuple[Any, ...], np.ndarray] = {}

    def piece_at(window: Window | None) -> Shaped[np.ndarray, "..."]:
        # Devices that hold the same elements share one reading.
        assert window is not None
        key = tuple((index.start, index.stop) for index in window)
        if key not in read:
            index, shape, rest = part.source(window)
            read[key] = files.read(part.tensor, index).reshape(shape)[(*rest, ...)]
        return read[key]

    piece = jax.make_array_from_callback(
        part.split,
        _piece_sharding(part, sharding, leaf.shape, new_axes),
        piece_at,
        dtype=DTYPES[files.tensors[part.tensor].dtype],
    )
    start = np.asarray([first for first, _ in bounds], np.int32)
    return _updated(leaf, piece, start, order=part.order, new_axes=new_axes, sharding=sharding)


def _piece_sharding(
    part: Part, sharding: Sharding, shape: tuple[int, ...], new_axes: tuple[int, ...]
) -> Sharding:
    """Every device gets of a part what it holds of the parameter, along axes that it fills."""
    if isinstance(sharding, SingleDeviceSharding):
        return sharding
    spec = [*sharding.spec, *(None,) * (len(shape) - len(sharding.spec))]
    kept = [axis for axis in range(len(shape)) if axis not in new_axes]
    names: list[Any] = [None] * len(part.split)
    for axis, split_axis in zip(kept, part.order, strict=True):
        if part.split[split_axis] == shape[axis]:
            names[split_axis] = spec[axis]
    return NamedSharding(sharding.mesh, PartitionSpec(*names))


@functools.partial(
    jax.jit, donate_argnames="leaf", static_argnames=("order", "new_axes", "sharding")
)
def _updated(
    leaf: Shaped[Array, "..."],
    piece: Shaped[Array, "..."],
    start: Int[Array, " axes"],
    *,
    order: tuple[int, ...],
    new_axes: tuple[int, ...],
    sharding: Sharding,
) -> Shaped[Array, "..."]:
    """Equation (1) of the table, on the devices."""
    placed = jnp.expand_dims(piece.transpose(order).astype(leaf.dtype), new_axes)
    updated = jax.lax.dynamic_update_slice(leaf, placed, list(start))
    return jax.lax.with_sharding_constraint(updated, sharding)
