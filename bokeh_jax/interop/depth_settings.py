"""Settings of a Depth Anything network by transformers' names: `config.json` and, of the images,
`preprocessor_config.json` (`DPTImageProcessor`).

What a file does not say is transformers' default. Fields that change what is computed and that this
network does not have are refused by name; all others are left aside.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.config import ComputeDtype
from bokeh_jax.models.depth_config import DEPTH_KINDS, IMAGENET_MEAN, IMAGENET_STD, DepthConfig

MODEL_TYPE = "depth_anything"
PREPROCESSOR_FILE = "preprocessor_config.json"

# What transformers takes where a file says nothing.
_DEFAULTS: dict[str, Any] = {
    "patch_size": 14,
    "reassemble_hidden_size": 384,
    "reassemble_factors": (4, 2, 1, 0.5),
    "neck_hidden_sizes": (48, 96, 192, 384),
    "fusion_hidden_size": 64,
    "head_in_index": -1,
    "head_hidden_size": 32,
    "depth_estimation_type": "relative",
    "max_depth": 1,
}
_BACKBONE_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "layerscale_value": 1.0,
}
# The only value that is supported, of those that change what is computed.
_BACKBONE_FIXED: dict[str, Any] = {
    "hidden_act": "gelu",
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "apply_layernorm": True,
}
_PREPROCESSOR_FIXED: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_pad": False,
    "keep_aspect_ratio": True,
    "resample": 3,
}
_LEVELS = 255


def depth_config_from_transformers(
    fields: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    compute_dtype: ComputeDtype = "bfloat16",
) -> DepthConfig:
    """The network that `config.json` and `preprocessor_config.json` describe.

    Fields that do not change what is computed are left aside.

    Args:
        fields: of `config.json`.
        preprocessor: of the other; empty where there is none, which stands for the published one
            at the size that the network has positions for.
        compute_dtype: of products.

    Raises:
        InvalidInput: naming the first field that describes what this network does not do.
    """
    _require("model_type", fields.get("model_type"), MODEL_TYPE)
    backbone = fields.get("backbone_config")
    if not isinstance(backbone, Mapping):
        _refuse("backbone_config", backbone, "an object that describes a DINOv2 backbone")
    _require("backbone_config.model_type", backbone.get("model_type"), "dinov2")
    for name, only in _BACKBONE_FIXED.items():
        _require(f"backbone_config.{name}", backbone.get(name, only), only)
    values = _DEFAULTS | {name: value for name, value in fields.items() if name in _DEFAULTS}
    inner = _BACKBONE_DEFAULTS | {k: v for k, v in backbone.items() if k in _BACKBONE_DEFAULTS}
    _check_numbers(values, inner)
    count = len(values["neck_hidden_sizes"])
    if values["head_in_index"] not in (-1, count - 1):
        _refuse("head_in_index", values["head_in_index"], f"-1 or {count - 1}, the last")
    _require("patch_size", values["patch_size"], inner["patch_size"])
    _require("reassemble_hidden_size", values["reassemble_hidden_size"], inner["hidden_size"])
    if values["depth_estimation_type"] not in DEPTH_KINDS:
        _refuse("depth_estimation_type", values["depth_estimation_type"], " or ".join(DEPTH_KINDS))
    patch = inner["patch_size"]
    return DepthConfig(
        hidden_dim=inner["hidden_size"],
        num_heads=inner["num_attention_heads"],
        num_blocks=inner["num_hidden_layers"],
        mlp_ratio=inner["mlp_ratio"],
        patch_px=patch,
        position_grid=inner["image_size"] // patch,
        norm_epsilon=float(inner["layer_norm_eps"]),
        layer_scale_init=float(inner["layerscale_value"]),
        out_blocks=_out_blocks(backbone),
        neck_dims=tuple(values["neck_hidden_sizes"]),
        resize_factors=tuple(float(factor) for factor in values["reassemble_factors"]),
        fusion_dim=values["fusion_hidden_size"],
        last_dim=values["head_hidden_size"],
        kind=values["depth_estimation_type"],
        max_depth_m=float(values["max_depth"] or 1.0),
        compute_dtype=compute_dtype,
        **_preparation(preprocessor, patch, inner["image_size"] // patch * patch),
    )


def _check_numbers(values: Mapping[str, Any], inner: Mapping[str, Any]) -> None:
    """Types of the fields; what they may be is the network's affair."""
    whole = {
        **{f"backbone_config.{name}": value for name, value in inner.items()},
        **{n: values[n] for n in ("fusion_hidden_size", "head_hidden_size", "head_in_index")},
    }
    numbers = {f"backbone_config.{n}": inner[n] for n in ("layer_norm_eps", "layerscale_value")}
    numbers["max_depth"] = values["max_depth"] or 1
    for name, value in whole.items():
        if name not in numbers and type(value) is not int:
            _refuse(name, value, "a whole number")
    for name, value in numbers.items():
        if type(value) not in (int, float):
            _refuse(name, value, "a number")
    for name, kinds in (("neck_hidden_sizes", (int,)), ("reassemble_factors", (int, float))):
        if not _is_list(values[name], kinds):
            _refuse(name, values[name], "a list of numbers")


def _out_blocks(backbone: Mapping[str, Any]) -> tuple[int, ...]:
    """`out_indices`, or the numbers of `out_features` (`stage3` is 3)."""
    indices = backbone.get("out_indices")
    if indices is None:
        names = backbone.get("out_features") or ()
        if not _is_list(names, (str,)) or not names:
            _refuse("backbone_config.out_indices", None, "a list of whole numbers")
        texts = [name.removeprefix("stage") for name in names]
        indices = [int(text) if text.isdecimal() else 0 for text in texts]
    if not _is_list(indices, (int,)):
        _refuse("backbone_config.out_indices", indices, "a list of whole numbers")
    return tuple(indices)


def _preparation(fields: Mapping[str, Any], patch_px: int, default_px: int) -> dict[str, Any]:
    """Fields of the config from `preprocessor_config.json`."""
    for name, only in _PREPROCESSOR_FIXED.items():
        _require(name, fields.get(name, only), only, PREPROCESSOR_FILE)
    multiple = fields.get("ensure_multiple_of", patch_px)
    _require("ensure_multiple_of", multiple, patch_px, PREPROCESSOR_FILE)
    factor = fields.get("rescale_factor", 1 / _LEVELS)
    if not (isinstance(factor, int | float) and math.isclose(factor, 1 / _LEVELS, rel_tol=1e-6)):
        _refuse("rescale_factor", factor, f"1/{_LEVELS}", PREPROCESSOR_FILE)
    size = fields.get("size", {"height": default_px, "width": default_px})
    side = size.get("height") if isinstance(size, Mapping) else size
    if type(side) is not int or (isinstance(size, Mapping) and size.get("width") != side):
        _refuse("size", size, "the same whole number as height and width", PREPROCESSOR_FILE)
    colours = {}
    for name, default in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
        value = fields.get(name, default)
        if not _is_list(value, (int, float)) or len(value) != 3:
            _refuse(name, value, "three numbers", PREPROCESSOR_FILE)
        colours[name] = tuple(float(number) for number in value)
    return {"working_size_px": side, **colours}


def _is_list(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, list | tuple) and all(type(item) in kinds for item in value)


def _require(name: str, value: Any, only: Any, file: str = "config.json") -> None:
    if value != only:
        _refuse(name, value, repr(only), file)


def _refuse(name: str, value: Any, allowed: str, file: str = "config.json") -> NoReturn:
    raise InvalidInput(f"{name} of the depth model's {file} is {value!r}; allowed: {allowed}")
