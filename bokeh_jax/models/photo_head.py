"""Real or made: the adversarial head of distribution matching, which looks at noised photographs.

    (1) y₀ = W₀ ∗ x_t                                        3×3
    (2) y_i = (1 + a_i) conv(silu(y_{i−1})) + b_i            4×4, every second pixel; i = 1 … levels
    (3) D  = W ∗ silu(y_levels)                              one logit for each place
        [a_i, b_i] = W_i silu(mlp(sinusoids(t), camera))

A logit sees a part of the photograph, about 2^(levels + 1) pixels wide, so it judges texture and
blur and leaves the scene to the scores. Time and camera steer it: how sharp a photograph may be
depends on its EXIF. DMD2 (Yin et al. 2024, arXiv 2405.14867) puts such a head on the features of
the fake score; this is a small network of its own, so the score learns from its own loss alone.
Kernels start as He's with a gain of 1, W at 0: a fresh head cannot tell, D = 0.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from bokeh_jax.models.config import COMPUTE_DTYPES, ComputeDtype, check_at_least, check_choice
from bokeh_jax.models.dit import sinusoidal_embedding
from bokeh_jax.models.focus_transformer import camera_features
from bokeh_jax.models.linear import linear
from bokeh_jax.optics import Exif

# The head's part of the network's tree.
HEAD = "head"
_TIME_FEATURES = 64


@dataclass(frozen=True)
class HeadConfig:
    """An adversarial head.

    Attributes:
        width: channels of the first level; they double from level to level.
        num_levels: equation (2).
        compute_dtype: of convolutions; the logits are float32.
    """

    width: int = 32
    num_levels: int = 3
    compute_dtype: ComputeDtype = "float32"

    def __post_init__(self) -> None:
        check_at_least("head.width", self.width, 1)
        check_at_least("head.num_levels", self.num_levels, 1)
        check_choice("head.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)


class PhotoHead(nn.Module):
    """Parameters are `first`, `conv_i` and `steer_i` of level i, `in_layer`, `last`."""

    config: HeadConfig

    @nn.compact
    def __call__(
        self, x_t: Float[Array, "b h w c"], time: Float[Array, " b"], exif: Exif
    ) -> Float[Array, "b r s"]:
        """Equation (3), float32; above 0 is real."""
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")

        def dense(features: int, name: str) -> nn.Module:
            return linear(features, ("features", "width"), dtype=dtype, name=name)

        told = (sinusoidal_embedding(time, _TIME_FEATURES), camera_features(exif))
        told = nn.silu(dense(4 * config.width, "in_layer")(jnp.concatenate(told, axis=-1)))
        x = nn.Conv(config.width, (3, 3), dtype=dtype, kernel_init=init, name="first")(x_t)
        for level in range(config.num_levels):
            features = config.width * 2 ** (level + 1)
            x = nn.Conv(
                features, (4, 4), (2, 2), dtype=dtype, kernel_init=init, name=f"conv_{level}"
            )(nn.silu(x))
            steered = dense(2 * features, f"steer_{level}")(told)[:, None, None]
            scale, shift = jnp.split(steered, 2, axis=-1)
            x = (1.0 + scale) * x + shift
        last = nn.Conv(1, (1, 1), dtype=jnp.float32, kernel_init=nn.initializers.zeros, name="last")
        return last(nn.silu(x.astype(jnp.float32)))[..., 0]


def init_params(config: HeadConfig, channels: int, key: Key[Array, ""]) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be traced."""
    return dict(nn.unbox(_init_boxed(config, channels, key)))


def parameter_axes(config: HeadConfig, channels: int) -> dict[str, Any]:
    """A tree like the parameters' with a `PartitionSpec` of axis names in each one's place."""
    boxed = jax.eval_shape(lambda key: _init_boxed(config, channels, key), jax.random.key(0))
    return dict(nn.get_partition_spec(boxed))


def realness(
    config: HeadConfig,
    params: dict[str, Any],
    x_t: Float[Array, "b h w c"],
    time: Float[Array, " b"],
    exif: Exif,
) -> Float[Array, "b r s"]:
    """`PhotoHead.__call__` as a pure function of the parameters."""
    logits: Any = PhotoHead(config).apply({"params": params}, x_t, time, exif)
    return logits


def _init_boxed(config: HeadConfig, channels: int, key: Key[Array, ""]) -> Any:
    """Start values with the names of their axes; no parameter depends on the image's size."""
    side, ones = 2**config.num_levels, jnp.ones((1,))
    image = jnp.zeros((1, side, side, channels))
    return PhotoHead(config).init(key, image, ones, Exif(ones, ones, ones))["params"]
