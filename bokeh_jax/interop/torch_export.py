"""A trained network as a folder that plain PyTorch runs, and back.

    config.json                the network's shape, its codec, how it is used (`Export`)
    model.safetensors          all parameters by the names of `torch_names`, adapters merged
    modeling_bokeh.py, refocus.py, README.md     as they are in `torch_model/`

The Python files are data here: nothing of this package imports them, or torch.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.merged import Fetch
from bokeh_jax.interop.reading import load_parameters
from bokeh_jax.interop.tensor_files import CONFIG_FILE, DTYPES, open_tensor_files, read_config
from bokeh_jax.interop.torch_names import torch_map
from bokeh_jax.interop.weight_map import leaf_shapes
from bokeh_jax.interop.writing import MAX_SHARD_BYTES, FileDtype, write_json, write_shards
from bokeh_jax.leaf_names import tree_by_name
from bokeh_jax.models import AutoencoderConfig, CodecConfig, LoraConfig, RefocusConfig
from bokeh_jax.models.autoencoder_config import AUTOENCODER_SHAPE

FORMAT = "bokeh_jax"
TEMPLATES = Path(__file__).parent / "torch_model"
_STEM = "model"
# What a network is, and not how it was trained or is run here.
_MODEL_FIELDS = (
    "patch_size",
    "image_channels",
    "reference_as",
    "guess_tokens",
    "text_dim",
    "pooled_dim",
    "distilled_guidance",
    "hidden_dim",
    "num_heads",
    "mlp_ratio",
    "num_double_blocks",
    "num_single_blocks",
    "rope_axes_dim",
    "rope_theta",
)


@dataclasses.dataclass(frozen=True)
class Export:
    """All that a folder says beside its tensors.

    Attributes:
        model: the network, without adapters.
        codec: between photographs and what it works on.
        prediction: what it predicts.
        guide: whether a sample prediction starts at the guess.
        flow_source: the far end of the flow.
        source_noise: σ of what is added to the reference, where that is the source.
        method: solver.
        num_steps: solver steps.
        guidance_scale: 1 is none.
        size_px: the network works at about this many pixels squared.
        name: of the experiment.
        step: of its training.
        ema: averaged parameters, or raw ones.
    """

    model: RefocusConfig
    codec: CodecConfig
    prediction: Literal["sample", "velocity"]
    guide: bool
    flow_source: Literal["noise", "reference"]
    source_noise: float
    method: Literal["euler", "heun"]
    num_steps: int
    guidance_scale: float
    size_px: int
    name: str = ""
    step: int = 0
    ema: bool = True

    def __post_init__(self) -> None:
        # Merged on the way out, so the other side knows of none.
        object.__setattr__(self, "model", dataclasses.replace(self.model, lora=LoraConfig()))

    def to_json(self) -> dict[str, Any]:
        """Fields of `config.json`."""
        autoencoder = None
        if self.codec.kind == "autoencoder":
            autoencoder = _chosen(self.codec.autoencoder, AUTOENCODER_SHAPE)
        return {
            "format": FORMAT,
            "model": _chosen(self.model, _MODEL_FIELDS),
            "codec": {"kind": self.codec.kind, "autoencoder": autoencoder},
            "objective": _chosen(self, _GROUPS["objective"]),
            "sampler": _chosen(self, _GROUPS["sampler"]),
            "trained": _chosen(self, _GROUPS["trained"]),
            "size_px": self.size_px,
            "multiple_px": self.model.patch_size * self.codec.downsampling,
        }


_GROUPS = {
    "objective": ("prediction", "guide", "flow_source", "source_noise"),
    "sampler": ("method", "num_steps", "guidance_scale"),
    "trained": ("name", "step", "ema"),
}


def write_export(
    folder: Path,
    export: Export,
    fetch: Fetch,
    *,
    dtype: FileDtype = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """All files, into a folder that exists.

    Args:
        folder: where they are to be.
        export: what they are to say.
        fetch: parameters by name and part (`merged.merged_parts`).
        dtype: of the tensors.
        max_shard_bytes: most bytes of tensors in a file.
    """
    for template in ("modeling_bokeh.py", "refocus.py", "README.md"):
        shutil.copyfile(TEMPLATES / template, folder / template)
    write_json(folder / CONFIG_FILE, export.to_json())
    table = torch_map(export.model, export.codec)
    write_shards(folder, table, fetch, dtype, max_shard_bytes, stem=_STEM)


def read_export(folder: Path) -> tuple[Export, dict[str, Any]]:
    """What was written, on the first device: the settings, and the tree in the files' type.

    Raises:
        InvalidInput: the folder is no export, or a file of it is damaged or of another network.
    """
    export = _export_from(folder, read_config(folder))
    table, files = torch_map(export.model, export.codec), open_tensor_files(folder)

    def type_of(name: str) -> Any:
        info = files.tensors.get(table[name][0].tensor)
        return jnp.float32 if info is None else DTYPES.get(info.dtype, jnp.float32)

    places = {
        name: jax.ShapeDtypeStruct(shape, type_of(name))
        for name, shape in leaf_shapes(table).items()
    }
    tree, _ = load_parameters(files, table, tree_by_name(places))
    return export, tree


def _chosen(values: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    return {field: getattr(values, field) for field in fields}


def _export_from(folder: Path, fields: Mapping[str, Any]) -> Export:
    if fields.get("format") != FORMAT:
        raise InvalidInput(
            f"format of {folder / CONFIG_FILE} is {fields.get('format')!r}; allowed: {FORMAT!r}, "
            "as `bokeh-jax export --format=torch` writes it"
        )
    try:
        codec = {"kind": fields["codec"]["kind"]}
        if codec["kind"] == "autoencoder":
            shape = _tuples(fields["codec"]["autoencoder"])
            codec["autoencoder"] = AutoencoderConfig(**shape, compute_dtype="float32")
        groups = {key: value for group in _GROUPS for key, value in fields[group].items()}
        model = RefocusConfig(**_tuples(fields["model"]), compute_dtype="float32")
        return Export(model, CodecConfig(**codec), size_px=fields["size_px"], **groups)
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"{folder / CONFIG_FILE} is not readable ({error}); allowed: what "
            "`bokeh-jax export --format=torch` writes"
        ) from None


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
