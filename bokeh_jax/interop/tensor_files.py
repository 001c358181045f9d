"""Safetensors on disk in the layouts that diffusers and transformers write.

A folder holds one file, or several and an index that says which tensor is in which; a file may also
be named itself. Only headers are read until a tensor is asked for, and then only what is asked for.
Files are opened for each reading alone, so that no pages of them stay mapped. Nothing is ever
unpickled: weights in `.bin`, `.pt` or `.ckpt` files are refused.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.weight_map import Window

# Types of weights by safetensors' names.
DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
CONFIG_FILE = "config.json"
# Without their endings, in the order in which they are looked for.
STEMS = ("diffusion_pytorch_model", "model")
SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_HEADER_LENGTH_BYTES = 8


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor: its file, its shape, its type by safetensors' name."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class TensorFiles:
    """Tensors on disk.

    Attributes:
        source: the folder or file that was asked for.
        tensors: all of them by name.
    """

    source: Path
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str, index: Window = ()) -> Shaped[np.ndarray, "..."]:
        """`tensor[index]` in the file's type; no other rows of it are read.

        Raises:
            InvalidInput: the type is none of `DTYPES`, or the file is no longer what it was.
        """
        info = self.tensors[name]
        if info.dtype not in DTYPES:
            raise InvalidInput(wrong_dtype(name, info))
        with _opened(info.file) as file:
            if not info.shape:
                return np.asarray(file.get_tensor(name))
            return file.get_slice(name)[index or (slice(None),)]


def wrong_dtype(name: str, info: TensorInfo) -> str:
    """The line that refuses a tensor's type."""
    return f"tensor {name} of {info.file} is {info.dtype}; allowed: {', '.join(DTYPES)}"


def open_tensor_files(source: Path) -> TensorFiles:
    """Reads the headers of a folder's files, or of one file.

    Raises:
        InvalidInput: there is no such folder or file, it holds no safetensors, a file is damaged,
            or the index and the files disagree.
    """
    if source.is_file():
        if source.suffix != SUFFIX:
            raise InvalidInput(
                f"{source} is not a {SUFFIX} file; allowed: one, or a folder of them"
            )
        return TensorFiles(source, _headers([source]))
    if not source.is_dir():
        raise InvalidInput(f"{source} does not exist; allowed: a folder of {SUFFIX} files, or one")
    for stem in STEMS:
        index, single = source / f"{stem}{INDEX_SUFFIX}", source / f"{stem}{SUFFIX}"
        if index.is_file():
            return TensorFiles(source, _sharded(index))
        if single.is_file():
            return TensorFiles(source, _headers([single]))
    allowed = " or ".join(f"{stem}{SUFFIX}" for stem in STEMS)
    pickles = sorted(path.name for path in source.iterdir() if path.suffix in _PICKLES)
    there = f"only {pickles[0]}, and nothing is unpickled" if pickles else "none of those"
    raise InvalidInput(f"{source} holds {there}; allowed: {allowed}, or an index of several")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder.

    Raises:
        InvalidInput: it is missing or not readable.
    """
    return read_json(folder / CONFIG_FILE)


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        InvalidInput: it is missing or not readable.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror}); allowed: a file") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}); allowed: a whole JSON file") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} is a {type(found).__name__}; allowed: a JSON object")
    return found


def _sharded(index: Path) -> dict[str, TensorInfo]:
    """Headers of all files that an index names."""
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise InvalidInput(f"{index} has no weight_map; allowed: names of tensors and their files")
    names = sorted(set(where.values()))
    for name in names:
        if Path(name).name != name or Path(name).suffix != SUFFIX:
            raise InvalidInput(f"{index} names {name!r}; allowed: {SUFFIX} files of its folder")
        if not (index.parent / name).is_file():
            raise InvalidInput(f"{index} names {name}, which is absent; allowed: files beside it")
    tensors = _headers([index.parent / name for name in names])
    for tensor, name in where.items():
        if tensor not in tensors or tensors[tensor].file.name != name:
            raise InvalidInput(
                f"tensor {tensor} is not in {index.parent / name}, where {index.name} has it; "
                "allowed: an index of its own files"
            )
    return tensors


def _headers(files: Iterable[Path]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for path in files:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                if name in tensors:
                    raise InvalidInput(
                        f"tensor {name} is in {tensors[name].file} and {path}; allowed: in one file"
                    )
                found = file.get_slice(name)
                tensors[name] = TensorInfo(path, tuple(found.get_shape()), found.get_dtype())
    return tensors


def _opened(path: Path) -> Any:
    """The file; its header is whole and as long as the file says."""
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise InvalidInput(f"{path} is damaged: {_damage(path, error)}") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error}); allowed: a {SUFFIX} file") from None


def _damage(path: Path, error: SafetensorError) -> str:
    """What is wrong with a file, in its own lengths where its header can be read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        if size < _HEADER_LENGTH_BYTES + length:
            found = (
                f"its header has {length} bytes" if size >= _HEADER_LENGTH_BYTES else "no header"
            )
            return f"{size} bytes, {found}; allowed: a whole {SUFFIX} file"
        try:
            header = json.loads(file.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, TypeError, LookupError, AttributeError):
            return f"its header is not readable ({error}); allowed: a whole {SUFFIX} file"
    expected = _HEADER_LENGTH_BYTES + length + max(ends, default=0)
    if size == expected:
        return f"its header is not consistent ({error}); allowed: a whole {SUFFIX} file"
    return f"it has {size} bytes; allowed: {expected} bytes, as its header says"
