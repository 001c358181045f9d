"""Depth Anything V2 (Yang et al. 2024, arXiv 2406.09414): depth from one photograph.

    (1) out = head(neck(backbone((image − mean) / std)))

with the backbone of `dinov2`, neck and head of `dpt`: the mathematics of transformers'
`DepthAnythingForDepthEstimation`. Images are sRGB-encoded in [0, 1]; one in the models' range,
[−1, 1], is (x + 1) / 2 here. What comes out is one of

    relative   disparity of no scale and no zero, 0 or more, nearer is larger
    metric     depth in metres, in (0, max_depth_m)

at the image's size. Both are differentiable with respect to the image, so a loss of what is seen
through them trains whatever made the image. The network is frozen where its caller does not ask for
gradients of `params`; nothing is stopped in here, as small ones are trained.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.models.dinov2 import Dinov2
from bokeh_jax.models.dpt import Head, Neck
from bokeh_jax.models.linear import constrain


class DepthAnything(nn.Module):
    """Equation (1); parameters are `backbone`, `neck` and `head`."""

    config: DepthConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
        """Relative disparity or depth, float32."""
        config = self.config
        mean, std = (
            np.asarray(values, np.float32)[None, None, None]
            for values in (config.image_mean, config.image_std)
        )
        x = (images.astype(jnp.float32) - mean) / std
        x = constrain(x, "batch", None, None, None)
        features = Dinov2(config, name="backbone")(x)
        fused = Neck(config, name="neck")(features)
        out = Head(config, name="head")(fused, *images.shape[1:3])
        return constrain(out, "batch", None, None)


def init_params(config: DepthConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be jitted or given to `eval_shape`."""
    return dict(nn.unbox(_init_boxed(config, key)))


def parameter_axes(config: DepthConfig) -> dict[str, Any]:
    """A tree like the parameters' with a `PartitionSpec` of axis names in each one's place."""
    boxed = jax.eval_shape(lambda key: _init_boxed(config, key), jax.random.key(0))
    return dict(nn.get_partition_spec(boxed))


def depth(
    config: DepthConfig, params: dict[str, Any], images: Float[Array, "b h w c"]
) -> Float[Array, "b h w"]:
    """Relative disparity (nearer is larger, no scale) or depth in metres, by `config.kind`.

    Args:
        config: the network.
        params: as `init_params` gives them.
        images: sRGB-encoded, [0, 1]; both sides multiples of `config.patch_px`.

    Raises:
        InvalidInput: another size, or another number of channels than 3.
    """
    config.grid(*images.shape[1:3])
    if images.shape[-1] != 3:
        raise InvalidInput(f"images have {images.shape[-1]} channels; allowed: 3")
    out = DepthAnything(config).apply({"params": params}, images)
    assert isinstance(out, Array)  # `apply` may return state too, which this module has none of.
    return out


def _init_boxed(config: DepthConfig, key: Key[Array, ""]) -> Any:
    """Start values with the names of their axes."""
    image = jnp.zeros((1, config.patch_px, config.patch_px, 3), jnp.float32)
    return DepthAnything(config).init(key, image)["params"]
