"""MUSIQ: the quality of one picture, seen whole and in detail; no truth is needed.

The picture is resized to longer sides of 224 and 384 px and taken as it is, and each of the three
is cut into patches of 32 px. A small residual network makes a token of every patch; to it are added
an embedding of its place, hashed to a grid of 10 x 10 whatever the picture's shape, and one of its
scale. A transformer reads all tokens and a class token, from which the score is read: a number, or
shares of the scores 1 to 10 (the AVA weights), whose mean it is. Higher is better; the scale is
that of the data it was trained on (KonIQ-10k: 0 to 100). Ke, Wang, Wang, Milanfar & Yang, "MUSIQ:
multi-scale image quality transformer", ICCV 2021.

What is not in the paper follows IQA-PyTorch (github.com/chaofengc/IQA-PyTorch), whose converted
weights these are and with which the published tables were made: bicubic resizing without
anti-aliasing, exact GELU, unbiased deviations in the weight standardisation. (The authors' own code
resizes with a Gaussian.) Patches beyond the picture are left out here, where masks hide them there:
the same sums.

Tensors are named as in that project's `MUSIQ().state_dict()`.
"""

import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.perceptual.trunks import convolve, max_pool
from bokeh_jax.evaluation.perceptual.weights import (
    EXACT,
    Tensors,
    attention,
    layer_norm,
    linear,
    read_tensors,
)
from bokeh_jax.interop.tensor_files import TensorFiles, open_tensor_files

PATCH_PX = 32
LONGER_SIDES_PX = (224, 384)
_GRID = 10
_ROOT_CHANNELS, _TOKEN_CHANNELS = 64, 256
_HEAD_CHANNELS = 64
_GROUPS = 32
_ENCODER = "transformer_encoder"


def load_musiq(path: Path) -> Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, " b"]]:
    """The score by a file's weights: pictures, sRGB in [0, 1] -> [b].

    Raises:
        InvalidInput: the file is not one of MUSIQ.
    """
    files = open_tensor_files(path)
    tensors = read_tensors(files, _shapes(files))

    def score(images: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, " b"]:
        # One by one: patches of three scales are memory enough.
        return np.array([float(_score(tensors, jnp.asarray(image))) for image in images])

    return score


def _shapes(files: TensorFiles) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors; depth and widths are the file's."""
    start = files.tensors.get("embedding.weight")
    blocks = {
        int(name.split("encoderblock_")[1].split(".")[0])
        for name in files.tensors
        if "encoderblock_" in name
    }
    inner = files.tensors.get(f"{_ENCODER}.transformer.encoderblock_0.mlp.fc1.weight")
    if start is None or inner is None or start.shape[0] % _HEAD_CHANNELS:
        raise InvalidInput(
            f"{files.source} has no embedding of {_HEAD_CHANNELS} channels a head; allowed: MUSIQ"
        )
    width, hidden = start.shape[0], inner.shape[0]
    head = "head" if "head.weight" in files.tensors else "head.0"
    scores = 1 if head == "head" else 10
    shapes: dict[str, tuple[int, ...]] = {
        "conv_root.weight": (_ROOT_CHANNELS, 3, 7, 7),
        "block1.conv1.weight": (_ROOT_CHANNELS, _ROOT_CHANNELS, 1, 1),
        "block1.conv2.weight": (_ROOT_CHANNELS, _ROOT_CHANNELS, 3, 3),
        "block1.conv3.weight": (_TOKEN_CHANNELS, _ROOT_CHANNELS, 1, 1),
        "block1.conv_proj.weight": (_TOKEN_CHANNELS, _ROOT_CHANNELS, 1, 1),
        f"{_ENCODER}.posembed_input.position_emb": (1, _GRID**2, width),
        f"{_ENCODER}.scaleembed_input.scale_emb": (len(LONGER_SIDES_PX) + 1, width),
        f"{_ENCODER}.cls": (1, 1, width),
    }
    norms = {"gn_root": _ROOT_CHANNELS, f"{_ENCODER}.encoder_norm": width}
    norms |= {f"block1.gn{name}": _ROOT_CHANNELS for name in ("1", "2")}
    norms |= {f"block1.gn{name}": _TOKEN_CHANNELS for name in ("3", "_proj")}
    layers = {
        "embedding": (width, _TOKEN_CHANNELS * (PATCH_PX // 4) ** 2),
        head: (scores, width),
    }
    for index in sorted(blocks):
        block = f"{_ENCODER}.transformer.encoderblock_{index}"
        norms |= {f"{block}.norm1": width, f"{block}.norm2": width}
        for name in ("query", "key", "value", "out"):
            layers[f"{block}.attention.{name}"] = (width, width)
        layers |= {f"{block}.mlp.fc1": (hidden, width), f"{block}.mlp.fc2": (width, hidden)}
    for name, channels in norms.items():
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)
    for name, shape in layers.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes


@jax.jit
def _score(tensors: Tensors, image: Float[Array, "h w 3"]) -> Float[Array, ""]:
    patches, places, scales = multiscale_patches(2.0 * image - 1.0)
    tokens = linear(tensors, "embedding", _patch_tokens(tensors, patches))
    tokens += tensors[f"{_ENCODER}.posembed_input.position_emb"][0][places]
    tokens += tensors[f"{_ENCODER}.scaleembed_input.scale_emb"][scales]
    x = jnp.concatenate([tensors[f"{_ENCODER}.cls"], tokens[None]], axis=1)
    num_heads = x.shape[-1] // _HEAD_CHANNELS
    depth = sum(name.endswith(".norm1.weight") for name in tensors)
    for index in range(depth):
        block = f"{_ENCODER}.transformer.encoderblock_{index}"
        y = layer_norm(tensors, f"{block}.norm1", x, 1e-6)
        query, key, value = (
            linear(tensors, f"{block}.attention.{name}", y) for name in ("query", "key", "value")
        )
        x += linear(tensors, f"{block}.attention.out", attention(query, key, value, num_heads))
        y = linear(tensors, f"{block}.mlp.fc1", layer_norm(tensors, f"{block}.norm2", x, 1e-6))
        x += linear(tensors, f"{block}.mlp.fc2", jax.nn.gelu(y, approximate=False))
    seen = layer_norm(tensors, f"{_ENCODER}.encoder_norm", x[:, 0], 1e-6)
    if "head.weight" in tensors:
        return linear(tensors, "head", seen)[0, 0]
    shares = jax.nn.softmax(linear(tensors, "head.0", seen)[0])
    return jnp.sum(shares * jnp.arange(1.0, shares.shape[0] + 1.0))


def multiscale_patches(
    image: Float[Array, "h w 3"],
) -> tuple[Float[Array, "n 3 p p"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Patches of every scale, row by row; the places' hashes; the scales' numbers.

    Args:
        image: in [-1, 1]; sides that 32 does not divide are padded with 0 on both ends.
    """
    planes = image.transpose(2, 0, 1)
    height, width = planes.shape[1:]
    pictures = []
    for longer_px in LONGER_SIDES_PX:
        ratio = longer_px / max(height, width)
        rows = _bicubic(height, max(round(height * ratio), 1))
        columns = _bicubic(width, max(round(width * ratio), 1))
        pictures.append(jnp.einsum("ih,chw,jw->cij", rows, planes, columns, precision=EXACT))
    patches, places, scales = [], [], []
    for scale, picture in enumerate((*pictures, planes)):
        counts = [math.ceil(side / PATCH_PX) for side in picture.shape[1:]]
        missing = [n * PATCH_PX - side for n, side in zip(counts, picture.shape[1:], strict=True)]
        padded = jnp.pad(picture, ((0, 0), *((m // 2, m - m // 2) for m in missing)))
        cut = padded.reshape(3, counts[0], PATCH_PX, counts[1], PATCH_PX)
        patches.append(cut.transpose(1, 3, 0, 2, 4).reshape(-1, 3, PATCH_PX, PATCH_PX))
        hashed = _hashes(counts[0])[:, None] * _GRID + _hashes(counts[1])[None]
        places.append(hashed.reshape(-1))
        scales.append(np.full(hashed.size, scale))
    return jnp.concatenate(patches), np.concatenate(places), np.concatenate(scales)


def _hashes(count: int) -> Int[np.ndarray, " n"]:
    """Row (or column) of the grid for each of `count` patches: the nearest, rounded down."""
    return np.floor(np.arange(count, dtype=np.float32) * np.float32(_GRID / count)).astype(np.int64)


def _bicubic(size: int, new_size: int) -> Float[np.ndarray, "n s"]:
    """Matrix of cubic convolution with a = −0.75, edges replicated (Keys, ASSP 1981)."""
    matrix = np.zeros((new_size, size))
    a = -0.75
    for row in range(new_size):
        place = (row + 0.5) * size / new_size - 0.5
        first = math.floor(place) - 1
        for tap in range(first, first + 4):
            x = abs(place - tap)
            if x <= 1.0:
                weight = (a + 2.0) * x**3 - (a + 3.0) * x**2 + 1.0
            else:
                weight = a * (x**3 - 5.0 * x**2 + 8.0 * x - 4.0)
            matrix[row, min(max(tap, 0), size - 1)] += weight
    return matrix.astype(np.float32)


def _patch_tokens(tensors: Tensors, patches: Float[Array, "n 3 p p"]) -> Float[Array, "n t"]:
    """Root convolution and one bottleneck block; flattened with the channels last."""

    def conv(x: Array, name: str, stride: int = 1) -> Array:
        kernel = tensors[f"{name}.weight"]
        axes = (1, 2, 3)
        kernel -= jnp.mean(kernel, axis=axes, keepdims=True)
        kernel /= jnp.std(kernel, axis=axes, keepdims=True, ddof=1) + 1e-5
        return convolve(x, kernel, stride, "SAME")

    def norm(x: Array, name: str, epsilon: float = 1e-4) -> Array:
        groups = x.reshape(x.shape[0], _GROUPS, -1)
        groups -= jnp.mean(groups, axis=-1, keepdims=True)
        groups *= jax.lax.rsqrt(jnp.mean(groups**2, axis=-1, keepdims=True) + epsilon)
        scale, shift = (tensors[f"{name}.{end}"][None, :, None, None] for end in ("weight", "bias"))
        return groups.reshape(x.shape) * scale + shift

    x = jax.nn.relu(norm(conv(patches, "conv_root", 2), "gn_root", 1e-6))
    x = max_pool(x, 3, padding="SAME")
    residual = norm(conv(x, "block1.conv_proj"), "block1.gn_proj")
    y = jax.nn.relu(norm(conv(x, "block1.conv1"), "block1.gn1"))
    y = jax.nn.relu(norm(conv(y, "block1.conv2"), "block1.gn2"))
    y = jax.nn.relu(norm(conv(y, "block1.conv3"), "block1.gn3") + residual)
    return y.transpose(0, 2, 3, 1).reshape(y.shape[0], -1)
