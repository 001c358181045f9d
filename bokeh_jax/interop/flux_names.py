"""FLUX.1's transformer as diffusers stores it: names, layouts, config.

Linear layers of torch are [out, in], ours [in, out]; queries, keys and values are three tensors
there and one parameter here; blocks have numbers there and are stacked here. A single block's
`proj_out` is one matrix over [attention, MLP] there and two here. The last norm's linear has the
scale first there, the shift first here.

Shapes come from diffusers' `transformer_flux.py` (0.42); the tests hold every name against it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.torch_layers import Pair, linear, vector
from bokeh_jax.interop.weight_map import Part
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.dit import TIME_EMBEDDING_DIM

CLASS_NAME = "FluxTransformer2DModel"
# Of diffusers, whose names these are.
_LAYOUT_VERSION = "0.42.1"

# What diffusers assumes where a field is not in the file; those of FLUX.1-dev are not all there.
_DEFAULTS: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}
_ROPE_THETA = 10_000.0
_MLP_RATIO = 4.0

# A parameter's name and one of its parts.

_STREAMS = {
    "img": ("norm1", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), "to_out.0", "ff"),
    "txt": (
        "norm1_context",
        ("add_q_proj", "add_k_proj", "add_v_proj"),
        ("norm_added_q", "norm_added_k"),
        "to_add_out",
        "ff_context",
    ),
}


def flux_map(config: DiTConfig) -> dict[str, tuple[Part, ...]]:
    """The table of a transformer with text, for the parameters of `DiT`.

    Raises:
        InvalidInput: diffusers has no such transformer; the message names the field.
    """
    _check_expressible(config)
    found: dict[str, list[Part]] = {}
    for name, part in _pairs(config):
        found.setdefault(name, []).append(part)
    return {name: tuple(parts) for name, parts in found.items()}


def _check_expressible(config: DiTConfig) -> None:
    always = {
        "context_dim": (config.context_dim, config.context_dim is not None, "a number"),
        "pooled_dim": (config.pooled_dim, config.pooled_dim is not None, "a number"),
        "mlp_ratio": (config.mlp_ratio, config.mlp_ratio == _MLP_RATIO, str(_MLP_RATIO)),
        "rope_theta": (config.rope_theta, config.rope_theta == _ROPE_THETA, str(_ROPE_THETA)),
    }
    for name, (value, fits, allowed) in always.items():
        if not fits:
            raise InvalidInput(f"{name} is {value}; allowed: {allowed}, as {CLASS_NAME} has it")


def _pairs(config: DiTConfig) -> Iterator[Pair]:
    """All parts of all parameters, in the order of the network."""
    width = config.hidden_dim
    assert config.context_dim is not None
    assert config.pooled_dim is not None
    yield from linear("img_in", "x_embedder", config.in_channels, width)
    yield from linear("txt_in", "context_embedder", config.context_dim, width)
    embedders = [("time_in", "timestep_embedder", TIME_EMBEDDING_DIM)]
    if config.guidance_embed:
        embedders.append(("guidance_in", "guidance_embedder", TIME_EMBEDDING_DIM))
    embedders.append(("vector_in", "text_embedder", config.pooled_dim))
    for ours, theirs, features in embedders:
        module = f"time_text_embed.{theirs}"
        yield from linear(f"{ours}/in_layer", f"{module}.linear_1", features, width)
        yield from linear(f"{ours}/out_layer", f"{module}.linear_2", width, width)
    for number in range(config.num_double_blocks):
        yield from _double_block(config, number)
    for number in range(config.num_single_blocks):
        yield from _single_block(config, number)
    yield from _last_norm(width)
    yield from linear("final_layer/linear", "proj_out", width, config.out_channels)


def _double_block(config: DiTConfig, number: int) -> Iterator[Pair]:
    width, mlp, heads = config.hidden_dim, config.mlp_dim, (config.num_heads, config.head_dim)
    block, place = f"transformer_blocks.{number}", (number,)
    for stream, (norm, inward, norms, outward, feed) in _STREAMS.items():
        ours = f"double_blocks/{stream}"
        yield from linear(f"{ours}_mod/lin", f"{block}.{norm}.linear", width, 6 * width, place)
        modules = [f"{block}.attn.{name}" for name in inward]
        yield from _heads_in(f"{ours}_attn/qkv", modules, config, number)
        for name, module in zip(("query_norm", "key_norm"), norms, strict=True):
            leaf = f"{ours}_attn/norm/{name}/scale"
            yield leaf, vector(f"{block}.attn.{module}.weight", config.head_dim, place)
        yield from linear(f"{ours}_attn/proj", f"{block}.attn.{outward}", heads, width, place)
        yield from linear(f"{ours}_mlp/in_layer", f"{block}.{feed}.net.0.proj", width, mlp, place)
        yield from linear(f"{ours}_mlp/out_layer", f"{block}.{feed}.net.2", mlp, width, place)


def _single_block(config: DiTConfig, number: int) -> Iterator[Pair]:
    width, mlp, heads = config.hidden_dim, config.mlp_dim, (config.num_heads, config.head_dim)
    block, ours, place = f"single_transformer_blocks.{number}", "single_blocks", (number,)
    yield from linear(f"{ours}/modulation/lin", f"{block}.norm.linear", width, 3 * width, place)
    modules = [f"{block}.attn.{name}" for name in ("to_q", "to_k", "to_v")]
    yield from _heads_in(f"{ours}/linear1_qkv", modules, config, number)
    for name, module in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
        leaf = f"{ours}/norm/{name}/scale"
        yield leaf, vector(f"{block}.attn.{module}.weight", config.head_dim, place)
    yield from linear(f"{ours}/linear1_mlp", f"{block}.proj_mlp", width, mlp, place)
    # One matrix [width, attention + MLP] there.
    last, whole = f"{block}.proj_out.weight", (width, width + mlp)
    attention, hidden = (slice(None), slice(0, width)), (slice(None), slice(width, width + mlp))
    yield (
        f"{ours}/linear2_attn/kernel",
        Part(last, (width, *heads), (1, 2, 0), place, attention, whole),
    )
    yield f"{ours}/linear2_attn/bias", vector(f"{block}.proj_out.bias", width, place)
    yield f"{ours}/linear2_mlp/kernel", Part(last, (width, mlp), (1, 0), place, hidden, whole)


def _last_norm(width: int) -> Iterator[Pair]:
    """Shift and scale are the other way round there."""
    ours, module = "final_layer/adaLN_modulation", "norm_out.linear"
    halves = slice(0, width), slice(width, 2 * width)
    for here, there in zip(halves, reversed(halves), strict=True):
        yield (
            f"{ours}/kernel",
            Part(
                f"{module}.weight",
                split=(width, width),
                order=(1, 0),
                place=(slice(None), here),
                cut=(there,),
                tensor_shape=(2 * width, width),
            ),
        )
        yield (
            f"{ours}/bias",
            Part(f"{module}.bias", (width,), (0,), (here,), (there,), (2 * width,)),
        )


def _heads_in(leaf: str, modules: list[str], config: DiTConfig, number: int) -> Iterator[Pair]:
    """Queries, keys and values of a block: kernel [l, c, 3, h, d], bias [l, 3, h, d]."""
    heads = (config.num_heads, config.head_dim)
    for which, module in enumerate(modules):
        place, bias_place = (number, slice(None), which), (number, which)
        yield from linear(leaf, module, config.hidden_dim, heads, place, bias_place)


def dit_config_from_diffusers(fields: Mapping[str, Any]) -> DiTConfig:
    """The shape that a `config.json` of diffusers describes.

    What is no matter of shape (types, rematerialisation, attention) is as `DiTConfig` has it.

    Raises:
        InvalidInput: another class, a field that is not known, or a value that is not supported.
    """
    if fields.get("_class_name") != CLASS_NAME:
        raise InvalidInput(
            f"_class_name of config.json is {fields.get('_class_name')!r}; allowed: {CLASS_NAME!r}"
        )
    given = {name: value for name, value in fields.items() if not name.startswith("_")}
    for name, value in given.items():
        if name not in _DEFAULTS:
            raise InvalidInput(
                f"{name} of config.json is {value!r}; allowed: no other fields than "
                f"{', '.join(_DEFAULTS)}"
            )
    values = _DEFAULTS | given
    _check_fields(values)
    width = values["attention_head_dim"] * values["num_attention_heads"]
    return DiTConfig(
        in_channels=values["in_channels"],
        out_channels=values["out_channels"] or values["in_channels"],
        hidden_dim=width,
        num_heads=values["num_attention_heads"],
        mlp_ratio=_MLP_RATIO,
        num_double_blocks=values["num_layers"],
        num_single_blocks=values["num_single_layers"],
        rope_axes_dim=tuple(values["axes_dims_rope"]),
        rope_theta=_ROPE_THETA,
        context_dim=values["joint_attention_dim"],
        pooled_dim=values["pooled_projection_dim"],
        guidance_embed=values["guidance_embeds"],
    )


def _check_fields(values: Mapping[str, Any]) -> None:
    def refuse(name: str, allowed: str) -> None:
        raise InvalidInput(f"{name} of config.json is {values[name]!r}; allowed: {allowed}")

    for name in _DEFAULTS.keys() - {"guidance_embeds", "axes_dims_rope", "out_channels"}:
        least = 0 if name in ("num_layers", "num_single_layers") else 1
        if type(values[name]) is not int or values[name] < least:
            refuse(name, f"a whole number, {least} or more")
    if values["patch_size"] != 1:
        refuse("patch_size", "1")
    if values["out_channels"] is not None and type(values["out_channels"]) is not int:
        refuse("out_channels", "a whole number or null")
    if type(values["guidance_embeds"]) is not bool:
        refuse("guidance_embeds", "true or false")
    axes = values["axes_dims_rope"]
    if not isinstance(axes, list | tuple) or len(axes) != 3 or {type(a) for a in axes} != {int}:
        refuse("axes_dims_rope", "three whole numbers")
    if any(axis < 2 or axis % 2 for axis in axes) or sum(axes) != values["attention_head_dim"]:
        refuse(
            "axes_dims_rope",
            f"even numbers whose sum is attention_head_dim {values['attention_head_dim']}",
        )


def diffusers_config(config: DiTConfig) -> dict[str, Any]:
    """Fields of the `config.json` of this transformer.

    Raises:
        InvalidInput: diffusers has no such transformer; the message names the field.
    """
    _check_expressible(config)
    return {
        "_class_name": CLASS_NAME,
        "_diffusers_version": _LAYOUT_VERSION,
        "patch_size": 1,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.num_double_blocks,
        "num_single_layers": config.num_single_blocks,
        "attention_head_dim": config.head_dim,
        "num_attention_heads": config.num_heads,
        "joint_attention_dim": config.context_dim,
        "pooled_projection_dim": config.pooled_dim,
        "guidance_embeds": config.guidance_embed,
        "axes_dims_rope": list(config.rope_axes_dim),
    }
