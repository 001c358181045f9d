"""LoRA files of diffusers and PEFT: read into adapters of ours, and written from them.

    diffusers  pytorch_lora_weights.safetensors: `transformer.<module>.lora_A.weight`, and PEFT's
               settings as JSON in the file's metadata
    peft       adapter_model.safetensors: `base_model.model.<module>.lora_A.weight`, and PEFT's
               settings in adapter_config.json

A file's function is (alpha' / r') B' A' for every module. In adapters of rank r ≥ r' and scale s it
is the same with B = (alpha' / r') / s · B' and columns of B that are 0 from r' on. The rows of A
against them stay as they started, so that they can learn. Where rank and scale are those of the
file, not a bit changes.

All names and shapes are checked before a tensor is read. Nothing is ever unpickled.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from safetensors.numpy import save_file

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.lora_names import (
    A_SUFFIX,
    ALPHA_SUFFIX,
    B_SUFFIX,
    DIFFUSERS_PREFIX,
    PEFT_PREFIX,
    Module,
    lora_map,
    modules,
)
from bokeh_jax.interop.lora_settings import METADATA_KEY, SETTINGS_FILE, scales_of, settings_of
from bokeh_jax.interop.tensor_files import TensorFiles, TensorInfo, open_tensor_files
from bokeh_jax.interop.weight_map import WeightMap, assemble, by_tensor, tensor_shapes
from bokeh_jax.interop.writing import FILE_DTYPES, FileDtype, new_folder, write_json
from bokeh_jax.leaf_names import Match, leaves_by_name, shape_text, tree_by_name
from bokeh_jax.models.config import DiTConfig, LoraConfig

DIFFUSERS_FILE, PEFT_FILE = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
Form = Literal["diffusers", "peft"]
# The file, and what stands before the names of modules in it.
FORMS: dict[Form, tuple[str, str]] = {
    "diffusers": (DIFFUSERS_FILE, DIFFUSERS_PREFIX),
    "peft": (PEFT_FILE, PEFT_PREFIX),
}
_PEFT_SETTINGS = {"peft_type": "LORA", "bias": "none", "lora_dropout": 0.0, "inference_mode": True}


@dataclass(frozen=True)
class LoraSource:
    """A file that fits the network: every tensor that will be read has its place.

    Attributes:
        files: the file.
        weight_map: table of the adapter.
        prefix: what stands before the table's names in the file.
        factors: by module, what its B is multiplied by.
        match: tensors that are taken, that the file lacks, and that are left out.
    """

    files: TensorFiles
    weight_map: WeightMap
    prefix: str
    factors: Mapping[str, float]
    match: Match

    def fill(self, name: str, start: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """A parameter with what the file has of it, float32; the rest is as in `start`."""
        leaf = np.array(start, np.float32)
        for part in self.weight_map[name]:
            if part.tensor not in self.match.matched:
                continue
            found = self._tensor(part.tensor)[part.cut]
            if part.tensor.endswith(B_SUFFIX):
                whole = np.zeros(part.cut_shape, np.float32)
            else:
                whole = np.array(part.to_tensor(leaf[part.place]))
            whole[: found.shape[0], : found.shape[1]] = found
            leaf[part.place] = part.to_leaf(whole)
        return leaf

    def _tensor(self, name: str) -> Float[np.ndarray, "rows columns"]:
        """As it is in the file, B times its factor."""
        tensor = self.files.read(f"{self.prefix}{name}").astype(np.float32)
        if not name.endswith(B_SUFFIX):
            return tensor
        return tensor * np.float32(self.factors[name.removesuffix(B_SUFFIX)])


def read_lora(
    path: Path, params: dict[str, Any], config: DiTConfig, adapter: str = "default"
) -> tuple[dict[str, Any], Match]:
    """An adapter's parameters from a file.

    Args:
        path: a file, or a folder that diffusers or PEFT wrote.
        params: the transformer's parameters, or its adapters alone: what the file lacks stays.
        config: of the transformer, with the adapter.
        adapter: which of the config's adapters.

    Returns:
        (`params` with the adapter's leaves as float32 arrays of numpy, what was taken and what
        not).

    Raises:
        InvalidInput: no such file, a damaged one, one that is no LoRA, or one that does not fit.
    """
    source = open_lora(path, config, adapter)
    leaves = leaves_by_name(params)
    for name in source.weight_map:
        leaves[name] = source.fill(name, np.asarray(leaves[name]))
    return tree_by_name(leaves), source.match


def open_lora(path: Path, config: DiTConfig, adapter: str = "default") -> LoraSource:
    """A file, checked against the network; arguments and errors are those of `read_lora`."""
    if not config.lora.rank or adapter not in config.lora.adapters:
        names = ", ".join(config.lora.adapters) if config.lora.rank else "none, as lora.rank is 0"
        raise InvalidInput(f"adapter is {adapter!r}; allowed: {names}")
    files = open_tensor_files(_weights_file(path))
    if not any(name.endswith(A_SUFFIX) for name in files.tensors):
        names = ", ".join(list(files.tensors)[:1]) or "no tensors"
        raise InvalidInput(
            f"{files.source} is no LoRA ({names}); allowed: tensors <module>{A_SUFFIX} and "
            f"<module>{B_SUFFIX}"
        )
    prefix = _prefix(files)
    found = {
        name.removeprefix(prefix): info
        for name, info in files.tensors.items()
        if name.startswith(prefix)
    }
    problems = _problems(found, config)
    if problems:
        more = f" (and {len(problems) - 1} more such tensors)" if len(problems) > 1 else ""
        raise InvalidInput(f"{problems[0]}{more}")
    weight_map = lora_map(config, adapter)
    expected = tensor_shapes(weight_map)
    match = Match(
        # All of it, as nothing in it has a problem.
        matched={name: info.shape for name, info in found.items()},
        other_shape={},
        only_here={name: shape for name, shape in expected.items() if name not in found},
        only_there={
            name: info.shape for name, info in files.tensors.items() if not name.startswith(prefix)
        },
        source=str(files.source),
    )
    scales = scales_of(files, prefix, found)
    factors = {module: scale / config.lora.scale for module, scale in scales.items()}
    return LoraSource(files, weight_map, prefix, factors, match)


def write_lora(
    folder: Path,
    params: dict[str, Any],
    config: DiTConfig,
    adapter: str = "default",
    *,
    form: Form = "diffusers",
    dtype: FileDtype = "float32",
) -> None:
    """One adapter as a new folder that diffusers or PEFT reads.

    Args:
        folder: to be made; there is nothing in it yet.
        params: the transformer's parameters, or its adapters alone.
        config: of the transformer.
        adapter: which of the config's adapters.
        form: 'diffusers' or 'peft', as the module's header has them.
        dtype: of the tensors in the file.

    Raises:
        InvalidInput: the folder is not empty, or there is no such adapter or form.
    """
    lora = config.lora
    if form not in FORMS or adapter not in lora.adapters or not lora.rank:
        raise InvalidInput(
            f"adapter is {adapter!r} and form {form!r}; allowed: {', '.join(lora.adapters)} with a "
            f"rank above 0, here {lora.rank}, as {' or '.join(FORMS)}"
        )
    leaves, table = leaves_by_name(params), lora_map(config, adapter)
    # Leaf by leaf from the devices; in all they are a few percent of the base.
    host = {name: np.asarray(leaves[name]) for name in table}
    file_name, prefix = FORMS[form]
    tensors = {
        f"{prefix}{name}": assemble(
            held, lambda leaf, part: host[leaf][part.place], FILE_DTYPES[dtype]
        )
        for name, held in by_tensor(table).items()
    }
    settings = settings_of(config)
    packed = {f"{prefix}{name}": value for name, value in settings.items()}
    metadata = {"format": "pt"}
    if form == "diffusers":
        metadata[METADATA_KEY] = json.dumps(packed, indent=2, sort_keys=True)
    with new_folder(folder) as temporary:
        save_file(tensors, temporary / file_name, metadata)
        if form == "peft":
            write_json(temporary / SETTINGS_FILE, _PEFT_SETTINGS | settings)


def _weights_file(path: Path) -> Path:
    """The file itself, or the one in a folder."""
    if not path.is_dir():
        return path
    for name in (DIFFUSERS_FILE, PEFT_FILE):
        if (path / name).is_file():
            return path / name
    raise InvalidInput(f"{path} holds no LoRA; allowed: {DIFFUSERS_FILE} or {PEFT_FILE} in it")


def _prefix(files: TensorFiles) -> str:
    """What stands before the names of modules; nothing in files of a transformer alone."""
    for prefix in (PEFT_PREFIX, DIFFUSERS_PREFIX):
        if any(name.startswith(prefix) for name in files.tensors):
            return prefix
    return ""


def _problems(found: Mapping[str, TensorInfo], config: DiTConfig) -> list[str]:
    """A line for each tensor that does not fit."""
    layers = modules(config)
    lines = []
    for name, info in found.items():
        problem = _problem(name, info, found, layers, config.lora)
        if problem is not None:
            lines.append(f"tensor {name} of {info.file} {problem}")
    return lines


def _problem(
    name: str,
    info: TensorInfo,
    found: Mapping[str, TensorInfo],
    layers: Mapping[str, Module],
    lora: LoraConfig,
) -> str | None:
    """What is wrong with a tensor, and what is allowed."""
    suffix = next((s for s in (A_SUFFIX, B_SUFFIX, ALPHA_SUFFIX) if name.endswith(s)), None)
    if suffix is None:
        known = f"<module>{A_SUFFIX}, <module>{B_SUFFIX}, <module>{ALPHA_SUFFIX}"
        return f"is no part of a LoRA that is known; allowed: {known}"
    module = name.removesuffix(suffix)
    if module not in layers:
        return "is for a layer that this base does not have; allowed: a LoRA for this base"
    layer = layers[module]
    if lora.on(*layer.targets) is None:
        wanted, given = " or ".join(layer.targets), ", ".join(lora.targets)
        return (
            f"is for a layer without adapters, as lora.targets is {given}; allowed: with {wanted}"
        )
    for other in (A_SUFFIX, B_SUFFIX):
        if f"{module}{other}" not in found:
            return f"is without {module}{other}; allowed: both"
    if suffix == ALPHA_SUFFIX:
        return None if math.prod(info.shape) == 1 else f"is {shape_text(info.shape)}; allowed: 1"
    return _wrong_shape(
        info.shape, suffix, layer, found[f"{module}{A_SUFFIX}"].shape[:1], lora.rank
    )


def _wrong_shape(
    shape: tuple[int, ...], suffix: str, layer: Module, ranks: tuple[int, ...], rank: int
) -> str | None:
    """`ranks` has the rank of the module's A."""
    expected = (*ranks, layer.num_in) if suffix == A_SUFFIX else (layer.num_out, *ranks)
    if shape != expected or not all(shape):
        return (
            f"is {shape_text(shape)}, of a LoRA for another base; allowed: {shape_text(expected)}"
        )
    if ranks[0] > rank:
        return f"has rank {ranks[0]}; allowed: up to lora.rank {rank}"
    return None
