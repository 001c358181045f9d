"""CLIP-I: how alike two pictures are to CLIP, cos(e(a), e(b)) of its image embeddings.

e is the vision tower with its projection (Radford et al., "Learning transferable visual models from
natural language supervision", ICML 2021): patches and a class token, pre-norm transformer blocks,
the class token's last state, normalised and projected. 1 for equal pictures. As a score of edited
pictures: Ruiz et al., "DreamBooth", CVPR 2023; GenRefocus (arXiv 2512.16923) reports it.

Pictures are read as transformers' `CLIPImageProcessor` reads 8-bit ones: the shorter side resized
to the tower's size (bicubic, Pillow's), the middle square cut out, OpenAI's mean and deviation.
What lies outside of that square is not compared.

The folder is one that transformers saves (`CLIPModel` or `CLIPVisionModelWithProjection`):
`config.json` and safetensors, one file or several with an index.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.perceptual.trunks import convolve
from bokeh_jax.evaluation.perceptual.weights import (
    EXACT,
    Tensors,
    attention,
    layer_norm,
    linear,
    read_tensors,
)
from bokeh_jax.interop.tensor_files import CONFIG_FILE, open_tensor_files, read_config

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_IGNORED = (
    "text_model.",
    "text_projection.",
    "logit_scale",
    "vision_model.embeddings.position_ids",
)
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """The vision tower's fields of `config.json`, with transformers' names and defaults."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    projection_dim: int = 512
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"


def load_clip_i(
    folder: Path,
) -> Callable[[Float[np.ndarray, "b h w 3"], Float[np.ndarray, "b h w 3"]], Float[Array, " b"]]:
    """The likeness by a folder's weights: (pictures, truths), sRGB in [0, 1] -> [b].

    Raises:
        InvalidInput: the folder does not hold a CLIP vision tower with its projection.
    """
    config = _clip_config(folder)
    tensors = read_tensors(open_tensor_files(folder), clip_shapes(config), _IGNORED)

    def likeness(
        images: Float[np.ndarray, "b h w 3"], truths: Float[np.ndarray, "b h w 3"]
    ) -> Float[Array, " b"]:
        read = [read_as_clip(image, config.image_size) for image in (*images, *truths)]
        return _likeness(tensors, config, jnp.asarray(np.stack(read)))

    return likeness


def _clip_config(folder: Path) -> ClipConfig:
    found = read_config(folder)
    where = folder / CONFIG_FILE
    kind = found.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise InvalidInput(
            f"model_type of {where} is {kind!r}; allowed: 'clip', 'clip_vision_model'"
        )
    tower: dict[str, Any] = found
    if kind == "clip":
        # Both parts name the projection; the whole model's is the one that is used.
        tower = dict(found.get("vision_config") or {})
        tower |= {name: found[name] for name in ("projection_dim",) if name in found}
    names = {field.name for field in dataclasses.fields(ClipConfig)}
    config = ClipConfig(**{name: value for name, value in tower.items() if name in names})
    if config.hidden_act not in _ACTIVATIONS:
        allowed = ", ".join(_ACTIVATIONS)
        raise InvalidInput(f"hidden_act of {where} is {config.hidden_act!r}; allowed: {allowed}")
    return config


def clip_shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the tower's tensors by transformers' names."""
    width, inner, patch = config.hidden_size, config.intermediate_size, config.patch_size
    tokens = (config.image_size // patch) ** 2 + 1
    embeddings = "vision_model.embeddings"
    shapes: dict[str, tuple[int, ...]] = {
        f"{embeddings}.class_embedding": (width,),
        f"{embeddings}.patch_embedding.weight": (width, 3, patch, patch),
        f"{embeddings}.position_embedding.weight": (tokens, width),
        "visual_projection.weight": (config.projection_dim, width),
    }
    norms = ["vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    for index in range(config.num_hidden_layers):
        layer = f"vision_model.encoder.layers.{index}"
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        sizes = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        sizes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for name, shape in sizes.items():
            shapes[f"{layer}.{name}.weight"] = shape
            shapes[f"{layer}.{name}.bias"] = shape[:1]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    return shapes


def read_as_clip(image: Float[np.ndarray, "h w 3"], size_px: int) -> Float[np.ndarray, "3 s s"]:
    """One picture as the tower takes it: resized, cut, normalised."""
    height, width = image.shape[:2]
    short = min(height, width)
    resized = Image.fromarray(np.rint(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)).resize(
        (size_px * width // short, size_px * height // short), Image.Resampling.BICUBIC
    )
    values = np.asarray(resized, np.float32) / np.float32(255.0)
    top, left = ((side - size_px) // 2 for side in values.shape[:2])
    square = values[top : top + size_px, left : left + size_px]
    return ((square - _MEAN) / _STD).transpose(2, 0, 1)


def embed(
    tensors: Tensors, config: ClipConfig, pixels: Float[Array, "b 3 s s"]
) -> Float[Array, "b e"]:
    """Image embeddings, not normalised: `image_embeds` of transformers."""
    embeddings = "vision_model.embeddings"
    patches = convolve(
        pixels, tensors[f"{embeddings}.patch_embedding.weight"], config.patch_size, 0
    )
    x = patches.reshape(*patches.shape[:2], -1).transpose(0, 2, 1)
    first = jnp.broadcast_to(
        tensors[f"{embeddings}.class_embedding"], (x.shape[0], 1, config.hidden_size)
    )
    x = jnp.concatenate([first, x], axis=1)
    x += tensors[f"{embeddings}.position_embedding.weight"][None]
    norm = functools.partial(layer_norm, tensors, epsilon=config.layer_norm_eps)
    x = norm("vision_model.pre_layrnorm", x)
    for index in range(config.num_hidden_layers):
        layer = f"vision_model.encoder.layers.{index}"
        y = norm(f"{layer}.layer_norm1", x)
        query, key, value = (linear(tensors, f"{layer}.self_attn.{p}_proj", y) for p in "qkv")
        mixed = attention(query, key, value, config.num_attention_heads)
        x += linear(tensors, f"{layer}.self_attn.out_proj", mixed)
        y = linear(tensors, f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x))
        x += linear(tensors, f"{layer}.mlp.fc2", _ACTIVATIONS[config.hidden_act](y))
    pooled = norm("vision_model.post_layernorm", x[:, 0])
    return jnp.matmul(pooled, tensors["visual_projection.weight"].T, precision=EXACT)


@functools.partial(jax.jit, static_argnames="config")
def _likeness(
    tensors: Tensors, config: ClipConfig, pixels: Float[Array, "n 3 s s"]
) -> Float[Array, " b"]:
    embeddings = embed(tensors, config, pixels)
    units = embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    mine, other = jnp.split(units, 2)
    return jnp.sum(mine * other, axis=-1)
