"""What a run holds and where: a line for every parameter, and what is worth a warning."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding

from bokeh_jax.training.sharding import AnyMesh
from bokeh_jax.training.state import TrainState

PyTree = Any
# A matrix of this size that every device holds whole is one that the rules have missed.
LARGE_WHOLE_BYTES = 16 << 20


def bytes_a_device(tree: PyTree) -> int:
    """Of all leaves of a placed tree, on the device that holds most."""
    return sum(_own_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _own_bytes(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _place(sharding: NamedSharding) -> str:
    named = [str(part) if part is not None else "-" for part in sharding.spec]
    return " ".join(named) if any(part != "-" for part in named) else "whole"


def _name(path: tuple[Any, ...]) -> str:
    """Of a parameter in (trained, frozen): those that are not trained say so."""
    name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
    return f"{name} (frozen)" if path[0].idx else name


def _size(count: int) -> str:
    return f"{count / 2**20:,.3f}"


def parameter_table(state: TrainState, frozen: PyTree) -> list[str]:
    """Name, shape, place on the mesh (by axis) and MiB a device of every parameter, in columns.

    Args:
        state: arrays, or shapes with shardings.
        frozen: likewise, of what is not trained.
    """
    rows = [("parameter", "shape", "on the mesh", "MiB a device")]
    for path, leaf in jax.tree.leaves_with_path((state.params, frozen)):
        name = _name(path)
        shape = " ".join(map(str, leaf.shape))
        rows.append((name, shape, _place(leaf.sharding), _size(_own_bytes(leaf))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{name:{widths[0]}}  {shape:{widths[1]}}  {place:{widths[2]}}  {size:>{widths[3]}}"
        for name, shape, place, size in rows
    ]


def totals(state: TrainState, frozen: PyTree) -> str:
    """MiB a device of each part of the state, in one line."""
    parts = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "average": state.ema,
    } | ({"frozen": frozen} if frozen else {})
    sizes = {name: bytes_a_device(tree) for name, tree in parts.items()}
    text = ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())
    return f"MiB a device: {text}, in all {_size(sum(sizes.values()))}"


def warnings(state: TrainState, frozen: PyTree, mesh: AnyMesh) -> Iterator[str]:
    """A line for every large parameter that each device holds whole on a mesh that could cut it."""
    if mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return
    for path, leaf in jax.tree.leaves_with_path((state.params, frozen)):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if leaf.sharding.is_fully_replicated and size >= LARGE_WHOLE_BYTES:
            yield (
                f"warning: {_name(path)} {leaf.shape}, {_size(size)} MiB, is whole on every "
                "device; no named axis of it divides over the mesh"
            )
