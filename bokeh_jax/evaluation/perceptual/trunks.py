"""The convolutions of AlexNet and VGG-16, cut into five stages after whose last ReLU one looks.

AlexNet: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, as
torchvision has it. VGG-16: Simonyan & Zisserman, ICLR 2015, configuration D. Layers are numbered
as in torchvision's `features`, which is how files call them.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.evaluation.perceptual.weights import EXACT, Tensors

# Their sizes change from stage to stage, so no name is given to them.
Planes = Float[Array, "b _c _h _w"]


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with its ReLU.

    Attributes:
        index: its number in `features`.
        shape: [out, in, k, k].
        stride: in pixels.
        padding: zeros on every side.
    """

    index: int
    shape: tuple[int, int, int, int]
    stride: int = 1
    padding: int = 1


def _vgg_stages() -> tuple[tuple[Conv, ...], ...]:
    stages, index, channels = [], 0, 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        convs = []
        for _ in range(depth):
            convs.append(Conv(index, (width, channels, 3, 3)))
            index, channels = index + 2, width
        stages.append(tuple(convs))
        # The pooling layer between stages has a number too.
        index += 1
    return tuple(stages)


Network = Literal["alex", "vgg"]
STAGES: dict[str, tuple[tuple[Conv, ...], ...]] = {
    "alex": (
        (Conv(0, (64, 3, 11, 11), stride=4, padding=2),),
        (Conv(3, (192, 64, 5, 5), padding=2),),
        (Conv(6, (384, 192, 3, 3)),),
        (Conv(8, (256, 384, 3, 3)),),
        (Conv(10, (256, 256, 3, 3)),),
    ),
    "vgg": _vgg_stages(),
}
# Stages before which the planes are pooled: AlexNet's last two are not.
_POOLED = {"alex": (1, 2), "vgg": (1, 2, 3, 4)}
# The least side at which every stage has a pixel.
LEAST_SIDE_PX = {"alex": 31, "vgg": 16}


def tensor_shapes(network: Network, prefix: str) -> dict[str, tuple[int, ...]]:
    """Weights and biases by name; stages are numbered from 1: `{prefix}1.0.weight`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, stage in enumerate(STAGES[network], 1):
        for conv in stage:
            shapes[f"{prefix}{number}.{conv.index}.weight"] = conv.shape
            shapes[f"{prefix}{number}.{conv.index}.bias"] = conv.shape[:1]
    return shapes


def features(
    tensors: Tensors, network: Network, prefix: str, x: Planes, pool: Callable[[Planes], Planes]
) -> list[Planes]:
    """What every stage sees of normalised pictures, after its last ReLU."""
    found = []
    for number, stage in enumerate(STAGES[network]):
        if number in _POOLED[network]:
            x = pool(x)
        for conv in stage:
            name = f"{prefix}{number + 1}.{conv.index}"
            x = convolve(x, tensors[f"{name}.weight"], conv.stride, conv.padding)
            x = jax.nn.relu(x + tensors[f"{name}.bias"][None, :, None, None])
        found.append(x)
    return found


def convolve(
    x: Planes,
    kernel: Float[Array, "o i kh kw"],
    stride: int,
    padding: int | str,
    *,
    groups: int = 1,
) -> Planes:
    """Convolution as torch's, padded with zeros."""
    pads = padding if isinstance(padding, str) else [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, feature_group_count=groups, precision=EXACT
    )


def max_pool(x: Planes, size: int, stride: int = 2, padding: str = "VALID") -> Planes:
    """The largest value of every window."""
    window, strides = (1, 1, size, size), (1, 1, stride, stride)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
