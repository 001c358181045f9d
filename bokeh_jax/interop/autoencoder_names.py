"""Our autoencoder's parameters and settings by diffusers' names (`AutoencoderKL`).

    encoder/down_blocks_0/resnets_1/conv1/kernel  [row, column, in, out]
    encoder.down_blocks.0.resnets.1.conv1.weight  [out, in, row, column]

Names follow by rule from ours, so that a config's table has every one of its parameters: an index
becomes a level of its own, kernels and scales are weights, and a few layers are called otherwise.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.weight_map import Part, WeightMap
from bokeh_jax.models import autoencoder
from bokeh_jax.models.autoencoder_config import AutoencoderConfig

_LAYERS = {
    "downsampler": "downsamplers.0.conv",
    "upsampler": "upsamplers.0.conv",
    "to_out": "to_out.0",
}
# Of files from before diffusers 0.17, as the autoencoders of Stable Diffusion 1 and 2 are.
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out": "proj_attn"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# Order of a tensor's axes that gives ours, by their number.
_ORDERS = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}

# What diffusers takes where a file says nothing, of the fields that are ours too.
_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
# The only value that is supported, of those that change what is computed.
_FIXED: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
}
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
# How diffusers runs it, not what it computes: its tile size, and float32 in place of float16 (whose
# range some activations leave; bfloat16 has float32's range).
_IGNORED = ("sample_size", "force_upcast")


def autoencoder_map(config: AutoencoderConfig, tensors: Collection[str] = ()) -> WeightMap:
    """Every parameter of `config` and the tensor that it is.

    Args:
        config: the autoencoder.
        tensors: names of the tensors in a file that is to be read, as older files have other names
            for the attention's layers; none for the names of today.
    """
    old = any(name.endswith("attentions.0.proj_attn.weight") for name in tensors)
    layers = _LAYERS | _OLD_ATTENTION if old else _LAYERS
    shapes = jax.eval_shape(lambda key: autoencoder.init_params(config, key), jax.random.key(0))
    table = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        keys = [key.key for key in path]
        order = _ORDERS[leaf.ndim]
        # The tensor's axis order[a] is our axis a.
        split = tuple(leaf.shape[order.index(axis)] for axis in range(leaf.ndim))
        table["/".join(keys)] = (Part(_tensor_name(keys, layers), split, order),)
    return table


def _tensor_name(keys: list[str], layers: Mapping[str, str]) -> str:
    *path, leaf = keys
    levels = [layers.get(key, re.sub(r"_(\d+)$", r".\1", key)) for key in path]
    return ".".join((*levels, _LEAVES[leaf]))


def config_from_diffusers(fields: Mapping[str, Any]) -> AutoencoderConfig:
    """The autoencoder that diffusers' config.json describes; how it is run stays at our defaults.

    Raises:
        InvalidInput: naming the first field that describes what this autoencoder does not do.
    """
    known = (*_DEFAULTS, *_FIXED, *_BLOCKS, *_IGNORED)
    for name, value in fields.items():
        if name not in known and not name.startswith("_"):
            raise InvalidInput(
                f"the autoencoder's {name} is {value!r}; allowed: the fields of AutoencoderKL, "
                f"{', '.join(known)}"
            )
    for name, only in _FIXED.items():
        if (value := fields.get(name, only)) != only:
            raise InvalidInput(f"the autoencoder's {name} is {value!r}; allowed: {only!r}")
    ours = {name: fields.get(name, default) for name, default in _DEFAULTS.items()}
    ours["block_out_channels"] = tuple(ours["block_out_channels"])
    ours["scaling_factor"] = float(ours["scaling_factor"])
    # Some files say null where nothing is shifted.
    ours["shift_factor"] = 0.0 if ours["shift_factor"] is None else float(ours["shift_factor"])
    levels = len(ours["block_out_channels"])
    for name, block in _BLOCKS.items():
        if list(types := fields.get(name, (block,))) != [block] * levels:
            raise InvalidInput(
                f"the autoencoder's {name} is {list(types)}; allowed: {block} for each of the "
                f"{levels} block_out_channels"
            )
    return AutoencoderConfig(**ours)


def config_to_diffusers(config: AutoencoderConfig) -> dict[str, Any]:
    """What belongs in diffusers' config.json beside our weights: `config_from_diffusers` undone."""
    levels = len(config.block_out_channels)
    ours = {name: getattr(config, name) for name in _DEFAULTS}
    ours["block_out_channels"] = list(config.block_out_channels)
    return {**_FIXED, **ours, **{name: [block] * levels for name, block in _BLOCKS.items()}}
