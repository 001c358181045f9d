"""Our Depth Anything's parameters by transformers' names (`DepthAnythingForDepthEstimation`).

    backbone/blocks/qkv/kernel [l, c, 3, h, d]
    backbone.encoder.layer.3.attention.attention.query.weight [h d, c]

    neck/reassemble_0/resize/kernel [in, k, k, out]
    neck.reassemble_stage.layers.0.resize.weight [in, out, k, k]

Blocks have numbers there and are stacked here; queries, keys and values are three tensors there and
one parameter here. transformers 5 renamed the attention's layers, but still writes the earlier
names, under which the weights are published; both are read. Two things in a file are used by
nothing: the mask token of DINOv2's training, and the first fusion's unit for what would be there
already.
"""

from collections.abc import Collection, Iterator

from bokeh_jax.interop.torch_layers import Pair, linear, vector
from bokeh_jax.interop.weight_map import Index, Part
from bokeh_jax.models.depth_config import DepthConfig

# Beginnings of the names of tensors that nothing uses.
UNUSED = ("backbone.embeddings.mask_token", "neck.fusion_stage.layers.0.residual_layer1.")

_PUBLISHED_ATTENTION = (
    ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.output.dense",
)
_RENAMED_ATTENTION = (
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
)

# A parameter's name and one of its parts.


def depth_map(config: DepthConfig, tensors: Collection[str] = ()) -> dict[str, tuple[Part, ...]]:
    """Every parameter of `config` and the tensors that it is.

    Args:
        config: the network.
        tensors: names of the tensors in a file that is to be read, which say which of the two
            names its attention has; none for the published ones.
    """
    renamed = any(name.endswith(".attention.q_proj.weight") for name in tensors)
    attention = _RENAMED_ATTENTION if renamed else _PUBLISHED_ATTENTION
    found: dict[str, list[Part]] = {}
    for pairs in (_embeddings(config), _blocks(config, attention), _neck(config), _head(config)):
        for name, part in pairs:
            found.setdefault(name, []).append(part)
    return {name: tuple(parts) for name, parts in found.items()}


def _embeddings(config: DepthConfig) -> Iterator[Pair]:
    width, patch, grid = config.hidden_dim, config.patch_px, config.position_grid
    ours, theirs = "backbone", "backbone.embeddings"
    whole = (1, grid**2 + 1, width)
    positions = f"{theirs}.position_embeddings"
    yield f"{ours}/class_token", Part(f"{theirs}.cls_token", (width,), (0,), (), (), (1, 1, width))
    first, others = (slice(None), slice(0, 1)), (slice(None), slice(1, None))
    yield f"{ours}/class_position", Part(positions, (width,), (0,), (), first, whole)
    split = (grid, grid, width)
    yield f"{ours}/positions", Part(positions, split, (0, 1, 2), (), others, whole)
    projection = f"{theirs}.patch_embeddings.projection"
    yield (
        f"{ours}/patches/kernel",
        Part(
            f"{projection}.weight",
            split=(width, 3 * patch**2),
            order=(1, 0),
            tensor_shape=(width, 3, patch, patch),
        ),
    )
    yield f"{ours}/patches/bias", vector(f"{projection}.bias", width)


def _blocks(config: DepthConfig, attention: tuple[tuple[str, ...], str]) -> Iterator[Pair]:
    width, mlp, heads = config.hidden_dim, config.mlp_dim, (config.num_heads, config.head_dim)
    ours, (inward, outward) = "backbone/blocks", attention
    for number in range(config.num_blocks):
        block, place = f"backbone.encoder.layer.{number}", (number,)
        for norm in ("norm1", "norm2"):
            yield from _norm(f"{ours}/{norm}", f"{block}.{norm}", width, place)
        for which, name in enumerate(inward):
            places = (number, slice(None), which), (number, which)
            yield from linear(f"{ours}/qkv", f"{block}.{name}", (width,), heads, *places)
        for leaf, name, ends in (
            ("proj", outward, (heads, (width,))),
            ("fc1", "mlp.fc1", ((width,), (mlp,))),
            ("fc2", "mlp.fc2", ((mlp,), (width,))),
        ):
            yield from linear(f"{ours}/{leaf}", f"{block}.{name}", *ends, place, place)
        for leaf, name in (("scale1", "layer_scale1"), ("scale2", "layer_scale2")):
            yield f"{ours}/{leaf}", vector(f"{block}.{name}.lambda1", width, place)
    yield from _norm("backbone/norm", "backbone.layernorm", width)


def _neck(config: DepthConfig) -> Iterator[Pair]:
    fusion = config.fusion_dim
    for index, (channels, factor) in enumerate(
        zip(config.neck_dims, config.resize_factors, strict=True)
    ):
        ours, theirs = f"neck/reassemble_{index}", f"neck.reassemble_stage.layers.{index}"
        width = config.hidden_dim
        yield from _convolution(f"{ours}/projection", f"{theirs}.projection", width, channels, 1)
        resize = f"{ours}/resize", f"{theirs}.resize"
        if factor > 1:
            # Transposed convolutions of torch are [in, out, row, column].
            split = (channels, channels, round(factor), round(factor))
            yield f"{resize[0]}/kernel", Part(f"{resize[1]}.weight", split, (0, 2, 3, 1))
            yield f"{resize[0]}/bias", vector(f"{resize[1]}.bias", channels)
        elif factor < 1:
            yield from _convolution(*resize, channels, channels, 3)
        names = f"neck/conv_{index}", f"neck.convs.{index}"
        yield from _convolution(*names, channels, fusion, 3, bias=False)
        ours, theirs = f"neck/fusion_{index}", f"neck.fusion_stage.layers.{index}"
        yield from _convolution(f"{ours}/projection", f"{theirs}.projection", fusion, fusion, 1)
        for unit in ("residual_layer1", "residual_layer2")[index == 0 :]:
            for layer in ("convolution1", "convolution2"):
                names = f"{ours}/{unit}/{layer}", f"{theirs}.{unit}.{layer}"
                yield from _convolution(*names, fusion, fusion, 3)


def _head(config: DepthConfig) -> Iterator[Pair]:
    fusion, last = config.fusion_dim, config.last_dim
    sizes = ((fusion, fusion // 2, 3), (fusion // 2, last, 3), (last, 1, 1))
    for number, size in enumerate(sizes, 1):
        yield from _convolution(f"head/conv{number}", f"head.conv{number}", *size)


def _norm(leaf: str, module: str, width: int, place: Index = ()) -> Iterator[Pair]:
    yield f"{leaf}/scale", vector(f"{module}.weight", width, place)
    yield f"{leaf}/bias", vector(f"{module}.bias", width, place)


def _convolution(
    leaf: str, module: str, inward: int, outward: int, size: int, *, bias: bool = True
) -> Iterator[Pair]:
    """Torch's [out, in, row, column] as our [row, column, in, out]."""
    split = (outward, inward, size, size)
    yield f"{leaf}/kernel", Part(f"{module}.weight", split, (2, 3, 1, 0))
    if bias:
        yield f"{leaf}/bias", vector(f"{module}.bias", outward)
