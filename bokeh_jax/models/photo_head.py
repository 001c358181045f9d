"""Real or made: the adversarial head of distribution matching, which looks at photographs.

    (1) y₀ = W₀ ∗ [x, 2 ∂x, 2 ∂'x, 2 d − 1, place]           3×3
    (2) y_i = (1 + a_i) norm(conv(s(y_{i−1}))) + b_i         4×4, every second pixel; i = 1 … levels
    (3) D  = w · s(W s(means of y_levels over the cells of a grid))
        [a_i, b_i] = W_i silu(mlp(camera)),  s = leaky ReLU of slope 0.2

∂x, ∂'x are differences to the right and below, which blur takes away; d is relative disparity and
place is (x, y) from the middle. What a photograph is focused on is a statement about places and
depths and the sharpness there, so (3) reads a grid of cells: one logit for each place, or the mean
of them, hardly learns it (docs/results.md). The camera steers it, as how sharp a photograph may be
depends on its EXIF. DMD2 (Yin et al. 2024, arXiv 2405.14867) puts such a head on the features of
the fake score, at times at which blur is mostly under the noise; this is a small network of its
own. Kernels start as He's with a gain of 1, w at 0: a fresh head cannot tell, D = 0.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.config import COMPUTE_DTYPES, ComputeDtype, check_at_least, check_choice
from bokeh_jax.models.focus_transformer import camera_features
from bokeh_jax.models.linear import linear
from bokeh_jax.optics import Exif

# The head's part of the network's tree.
HEAD = "head"
_SLOPE = 0.2
# Equation (3): cells along each side of a frame of any size, and what is made of them.
_GRID, _HIDDEN = 4, 64


@dataclass(frozen=True)
class HeadConfig:
    """An adversarial head.

    Attributes:
        width: channels before the first level, a multiple of 4; level i has i + 1 times as many.
        num_levels: equation (2).
        compute_dtype: of convolutions; the logits are float32.
    """

    width: int = 32
    num_levels: int = 3
    compute_dtype: ComputeDtype = "float32"

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4:
            raise InvalidInput(f"head.width is {self.width}; allowed: multiples of 4")
        check_at_least("head.num_levels", self.num_levels, 1)
        check_choice("head.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)


class PhotoHead(nn.Module):
    """Parameters: `first`, `conv_i`, `norm_i`, `steer_i`, `in_layer`, `hidden`, `last`."""

    config: HeadConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], disparity: Float[Array, "b h w"], exif: Exif
    ) -> Float[Array, " b"]:
        """Equation (3), float32; above 0 is real."""
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")

        def dense(features: int, name: str) -> nn.Module:
            return linear(features, ("features", "width"), dtype=dtype, name=name)

        told = nn.silu(dense(4 * config.width, "in_layer")(camera_features(exif)))
        y = nn.Conv(config.width, (3, 3), dtype=dtype, kernel_init=init, name="first")(
            _planes(x, disparity)
        )
        for level in range(config.num_levels):
            features = (level + 2) * config.width
            y = nn.Conv(
                features, (4, 4), (2, 2), dtype=dtype, kernel_init=init, name=f"conv_{level}"
            )(nn.leaky_relu(y, _SLOPE))
            y = nn.GroupNorm(None, config.width // 4, dtype=dtype, name=f"norm_{level}")(y)
            steered = dense(2 * features, f"steer_{level}")(told)[:, None, None]
            scale, shift = jnp.split(steered, 2, axis=-1)
            y = (1.0 + scale) * y + shift
        y = nn.leaky_relu(y.astype(jnp.float32), _SLOPE)
        cells = jax.image.resize(y, (len(y), _GRID, _GRID, y.shape[-1]), "linear")
        hidden = nn.leaky_relu(dense(_HIDDEN, "hidden")(cells.reshape(len(y), -1)), _SLOPE)
        last = nn.Dense(1, kernel_init=nn.initializers.zeros, name="last")
        return last(hidden.astype(jnp.float32))[:, 0]


def _planes(x: Array, disparity: Array) -> Float[Array, "b h w p"]:
    """What equation (1) convolves."""
    across = jnp.diff(x, axis=2, append=x[:, :, -1:])
    down = jnp.diff(x, axis=1, append=x[:, -1:])
    sides = (np.linspace(-1.0, 1.0, side, dtype="f4") for side in x.shape[1:3])
    place = jnp.asarray(np.stack(np.meshgrid(*sides, indexing="ij", copy=False), axis=-1))
    place = jnp.broadcast_to(place, (*x.shape[:3], 2))
    return jnp.concatenate((x, 2 * across, 2 * down, 2 * disparity[..., None] - 1, place), axis=-1)


def init_params(config: HeadConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be traced."""
    return dict(nn.unbox(_init_boxed(config, key)))


def parameter_axes(config: HeadConfig) -> dict[str, Any]:
    """A tree like the parameters' with a `PartitionSpec` of axis names in each one's place."""
    boxed = jax.eval_shape(lambda key: _init_boxed(config, key), jax.random.key(0))
    return dict(nn.get_partition_spec(boxed))


def realness(
    config: HeadConfig,
    params: dict[str, Any],
    x: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
) -> Float[Array, " b"]:
    """`PhotoHead.__call__` as a pure function of the parameters."""
    logits: Any = PhotoHead(config).apply({"params": params}, x, disparity, exif)
    return logits


def _init_boxed(config: HeadConfig, key: Key[Array, ""]) -> Any:
    """Start values with the names of their axes; no parameter depends on the image's size."""
    side, ones = 2**config.num_levels, jnp.ones((1,))
    image, disparity = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side))
    return PhotoHead(config).init(key, image, disparity, Exif(ones, ones, ones))["params"]
