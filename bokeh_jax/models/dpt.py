"""Neck and head of the dense prediction transformer (Ranftl et al. 2021, arXiv 2103.13413), in the
form that Depth Anything gave them: no class token, no batch norms.

The features f_i of the backbone's patches, i from fine to coarse, become maps of one width,

    (1) g_i = conv₃ resize_i(conv₁ f_i)

where resize_i gives every patch its own k x k pixels (a transposed convolution of stride k), is
nothing (k = 1), or is a convolution of stride 1/k. They are joined from coarse to fine, up being
interpolation with corners aligned (`interpolation`, equation (1)) to the size of the next finer g,
and to twice its own size at the end:

    (2) y = conv₁ up(r(y + r'(g_i))),     r(x) = x + conv₃ relu(conv₃ relu(x))
    (3) out = conv₁ relu(conv₃ up(conv₃ y)),     up: to the image's size
    (4) relative disparity = relu(out);     depth = max_depth sigmoid(out)

conv₃ and conv₁ have kernels of 3 and 1 px. The first y is conv₁ up(r(g)): there is nothing to add
to, and no r'. Convolutions run in the compute type, resampling, the last layer and sums in float32.
Parameters carry no names of axes, like the autoencoder's: L has 30 million here.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.models.interpolation import linear_matrix, resample

_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Of a relative head that is trained from nothing: a rectified output below 0 would never learn.
_START_DISPARITY = 0.5


def convolution(
    config: DepthConfig,
    features: int,
    name: str,
    *,
    size: int = 3,
    stride: int = 1,
    use_bias: bool = True,
    dtype: Any = None,
    bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> nn.Conv:
    """A convolution with a square kernel, zeros around the image, float32 parameters."""
    around = (size // 2, size // 2)
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=(around, around),
        use_bias=use_bias,
        dtype=config.compute_dtype if dtype is None else dtype,
        kernel_init=_kernel_init,
        bias_init=bias_init,
        name=name,
    )


class PixelsOfPatch(nn.Module):
    """A transposed convolution whose stride is its kernel's side: every pixel becomes k x k."""

    config: DepthConfig
    factor: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b k l c"]:
        """The map with `factor` times the sides."""
        k, (batch, height, width, channels) = self.factor, x.shape
        shape = (channels, k, k, channels)
        kernel: Any = self.param("kernel", _pixels_init, shape, jnp.float32)
        bias: Any = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        dtype = jnp.dtype(self.config.compute_dtype)
        pixels = jnp.einsum("bhwc,cijd->bhiwjd", x.astype(dtype), kernel.astype(dtype))
        pixels = pixels + bias.astype(dtype)[None, None, None, None, None, :]
        return pixels.reshape(batch, k * height, k * width, channels)


def _pixels_init(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    channels, *pixels, features = shape
    return _kernel_init(key, (channels, features * pixels[0] * pixels[1]), dtype).reshape(shape)


class Reassemble(nn.Module):
    """conv₁ and resize of equation (1) for level `index`."""

    config: DepthConfig
    index: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b k l d"]:
        """A map of the level's size and channels."""
        config, channels = self.config, self.config.neck_dims[self.index]
        factor = config.resize_factors[self.index]
        x = convolution(config, channels, "projection", size=1)(features)
        if factor > 1:
            return PixelsOfPatch(config, round(factor), name="resize")(x)
        if factor < 1:
            return convolution(config, channels, "resize", stride=round(1 / factor))(x)
        return x


class Residual(nn.Module):
    """r of equation (2), float32 in and out."""

    config: DepthConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The unit's output."""
        config = self.config
        hidden = convolution(config, config.fusion_dim, "convolution1")(nn.relu(x))
        hidden = convolution(config, config.fusion_dim, "convolution2")(nn.relu(hidden))
        return x + hidden.astype(jnp.float32)


class Fusion(nn.Module):
    """Equation (2)."""

    config: DepthConfig

    @nn.compact
    def __call__(
        self,
        coarser: Float[Array, "b h w c"] | None,
        level: Float[Array, "b h w c"],
        size: tuple[int, int],
    ) -> Float[Array, "b o p c"]:
        """y at `size`, from y of the coarser levels at the size of this one (None: none before)."""
        config = self.config
        x = level
        if coarser is not None:
            x = coarser + Residual(config, name="residual_layer1")(level)
        x = Residual(config, name="residual_layer2")(x)
        x = enlarged(x, size)
        return convolution(config, config.fusion_dim, "projection", size=1)(x).astype(jnp.float32)


class Neck(nn.Module):
    """Equations (1) and (2)."""

    config: DepthConfig

    @nn.compact
    def __call__(self, features: list[Float[Array, "b h w c"]]) -> Float[Array, "b o p d"]:
        """y after the finest level."""
        config, levels = self.config, []
        for index, feature in enumerate(features):
            x = Reassemble(config, index, name=f"reassemble_{index}")(feature)
            x = convolution(config, config.fusion_dim, f"conv_{index}", use_bias=False)(x)
            levels.append(x.astype(jnp.float32))
        levels.reverse()
        sizes = [level.shape[1:3] for level in levels[1:]]
        height, width = levels[-1].shape[1:3]
        y = None
        for index, (level, size) in enumerate(
            zip(levels, [*sizes, (2 * height, 2 * width)], strict=True)
        ):
            y = Fusion(config, name=f"fusion_{index}")(y, level, size)
        assert y is not None
        return y


class Head(nn.Module):
    """Equations (3) and (4)."""

    config: DepthConfig

    @nn.compact
    def __call__(
        self, fused: Float[Array, "b h w c"], height_px: int, width_px: int
    ) -> Float[Array, "b o p"]:
        """Relative disparity, or depth in metres, at the image's size."""
        config = self.config
        x = convolution(config, config.fusion_dim // 2, "conv1")(fused)
        x = enlarged(x, (height_px, width_px))
        x = nn.relu(convolution(config, config.last_dim, "conv2")(x))
        relative = config.kind == "relative"
        start = nn.initializers.constant(_START_DISPARITY if relative else 0.0)
        last = convolution(config, 1, "conv3", size=1, dtype=jnp.float32, bias_init=start)
        out = last(x.astype(jnp.float32))[..., 0]
        return config.max_depth_m * (nn.relu(out) if relative else jax.nn.sigmoid(out))


def enlarged(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b o p c"]:
    """Linear interpolation to (height, width), corners aligned, float32."""
    height, width = x.shape[1:3]
    return resample(x, linear_matrix(height, size[0]), linear_matrix(width, size[1]))
