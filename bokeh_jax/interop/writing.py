"""Parameters into a folder of safetensors, as diffusers writes one, never a pickle.

A folder appears whole or not at all: it is written beside its place and renamed. Tensors are
fetched, put together and written one by one, which safetensors' own writer cannot do, as it wants
all tensors of a file at once. The format: the length of the header in 8 bytes, little endian; the
header, JSON, with type, shape and place of every tensor; the tensors' bytes in that order.
"""

import contextlib
import functools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import ml_dtypes
import numpy as np
from jaxtyping import Array, Int, Shaped

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.tensor_files import CONFIG_FILE, DTYPES, INDEX_SUFFIX, STEMS, SUFFIX
from bokeh_jax.interop.weight_map import (
    Part,
    WeightMap,
    assemble,
    by_tensor,
    place_bounds,
    tensor_shapes,
)
from bokeh_jax.leaf_names import leaves_by_name

FileDtype = Literal["float32", "float16", "bfloat16"]
FILE_DTYPES: dict[FileDtype, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# As diffusers has it.
MAX_SHARD_BYTES = 10_000_000_000
# Readers of PyTorch's world ask for it.
_METADATA = {"format": "pt"}
_ALIGNMENT_BYTES = 8

Shapes = Mapping[str, tuple[int, ...]]


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place when all went well and is gone otherwise.

    Raises:
        InvalidInput: there is something in its place, or it cannot be written.
    """
    check_new(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)
    except OSError as error:
        raise InvalidInput(
            f"{folder} cannot be written ({error.strerror}); allowed: a folder where this user may "
            "write, with room for it"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(folder: Path) -> None:
    """Raises InvalidInput where there is something in a new folder's place."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} exists; allowed: a new or an empty folder")


def write_tensors(
    folder: Path,
    weight_map: WeightMap,
    params: Any,
    config_json: Mapping[str, Any],
    dtype: FileDtype = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """A folder with `config.json` and the tensors of a table, in several files above the limit.

    Args:
        folder: new or empty.
        weight_map: table for `params`; leaves that it does not name are left out.
        params: tree of arrays that lie whole on this process's devices, or on the host.
        config_json: fields of `config.json`.
        dtype: of the file; values are rounded to it.
        max_shard_bytes: most bytes of tensors in a file; a larger tensor has a file of its own.

    Raises:
        InvalidInput: as `new_folder`.
    """
    with new_folder(folder) as temporary:
        write_json(temporary / CONFIG_FILE, config_json)
        write_shards(temporary, weight_map, params, dtype, max_shard_bytes)


def write_shards(
    folder: Path,
    weight_map: WeightMap,
    params: Any,
    dtype: FileDtype = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    stem: str = STEMS[0],
) -> None:
    """The files of `write_tensors` alone, in a folder that exists.

    `params` may also be a function from a parameter's name and part to `leaf[place]`.
    """
    held, shapes = by_tensor(weight_map), tensor_shapes(weight_map)
    numpy_dtype = FILE_DTYPES[dtype]
    leaves = {} if callable(params) else leaves_by_name(params)

    def of_leaves(leaf: str, part: Part) -> Shaped[np.ndarray, "..."]:
        return fetched(leaves[leaf], part)

    placed: Any = params if callable(params) else of_leaves

    def tensor(name: str) -> Shaped[np.ndarray, "..."]:
        return assemble(held[name], placed, numpy_dtype)

    shards = _shards(shapes, numpy_dtype.itemsize, max_shard_bytes)
    if len(shards) == 1:
        write_file(folder / f"{stem}{SUFFIX}", shards[0], numpy_dtype, tensor)
        return
    where = {}
    for number, shard in enumerate(shards, start=1):
        path = folder / f"{stem}-{number:05d}-of-{len(shards):05d}{SUFFIX}"
        write_file(path, shard, numpy_dtype, tensor)
        where |= dict.fromkeys(shard, path.name)
    total = sum(math.prod(shape) for shape in shapes.values()) * numpy_dtype.itemsize
    write_json(
        folder / f"{stem}{INDEX_SUFFIX}", {"metadata": {"total_size": total}, "weight_map": where}
    )


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """JSON as diffusers formats it."""
    text = json.dumps(fields, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def write_file(
    path: Path, shapes: Shapes, dtype: np.dtype, tensor: Callable[[str], Shaped[np.ndarray, "..."]]
) -> None:
    """One safetensors file of tensors of one type, each made by `tensor` when its turn comes."""
    (name_of_dtype,) = (name for name, known in DTYPES.items() if known == dtype)
    header: dict[str, Any] = {"__metadata__": _METADATA}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": name_of_dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT_BYTES)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in shapes:
            values = np.ascontiguousarray(tensor(name), dtype)
            file.write(values.reshape(-1).view(np.uint8).data)


def _shards(shapes: Shapes, itemsize: int, max_bytes: int) -> list[dict[str, tuple[int, ...]]]:
    """Tensors in the table's order, as many in each file as fit."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    used = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * itemsize
        if shards[-1] and used + size > max_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += size
    return shards


def fetched(leaf: Any, part: Part) -> Shaped[np.ndarray, "..."]:
    """`leaf[place]` on the host, and no more of it."""
    bounds = place_bounds(part)
    if isinstance(leaf, jax.Array) and [d.platform for d in leaf.devices()] == ["cpu"]:
        leaf = np.asarray(leaf)  # A view; nothing to compile.
    if isinstance(leaf, np.ndarray):
        return leaf[(*(slice(*bound) for bound in bounds), ...)].reshape(part.shape)
    start = np.asarray([first for first, _ in bounds], np.int32)
    sizes = tuple(end - first for first, end in bounds)
    return np.asarray(_sliced(leaf, start, sizes=sizes)).reshape(part.shape)


@functools.partial(jax.jit, static_argnames="sizes")
def _sliced(
    leaf: Shaped[Array, "..."], start: Int[Array, " axes"], *, sizes: tuple[int, ...]
) -> Shaped[Array, "..."]:
    return jax.lax.dynamic_slice(leaf, list(start), sizes)
