"""The DINOv2 vision transformer (Oquab et al. 2023, arXiv 2304.07193) as a backbone.

    (1) x = [class + p_class, W patches + resampled(p)]       tokens of 14 px patches, and one more
    (2) x = x + s₁ W_o attention(q, k, v),  q, k, v = heads(W_qkv N(x))
    (3) x = x + s₂ W₂ gelu(W₁ N(x)),        gelu in its exact form
    (4) features of block i = N(x after block i)

with N a layer norm and s learned scales, one a channel. Positions p are learned on a square grid;
for another size or shape of the image they are resampled by cubic interpolation (`interpolation`,
equation (2)).

Products run in the compute type, the residual stream and everything else in float32. Blocks are
stacked along the first axis of their parameters and run in a loop, so that compilation takes as
long for one as for 24. Matrices have the names of axes that the transformer's have
(`linear.py`), vectors and positions none: each device has all of those.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bokeh_jax.models.autoencoder_blocks import attention_in_chunks
from bokeh_jax.models.blocks import split_heads
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.models.interpolation import cubic_matrix, resample
from bokeh_jax.models.linear import constrain, linear

# Start values are DINOv2's.
_init = nn.initializers.truncated_normal(0.02)


def layer_norm(config: DepthConfig, name: str) -> nn.LayerNorm:
    """N, float32."""
    # E[x²] − E[x]² loses digits where a few channels are far from the mean, as they are here.
    return nn.LayerNorm(config.norm_epsilon, jnp.float32, use_fast_variance=False, name=name)


class Block(nn.Module):
    """Equations (2) and (3). The second result is the first again: the loop collects it."""

    config: DepthConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> tuple[Array, Array]:
        """One block."""
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        heads = (config.num_heads, config.head_dim)

        def layer(features: int | tuple[int, ...], axes: tuple[str, ...], name: str, num_in: int):
            return linear(features, axes, dtype=dtype, num_in=num_in, kernel_init=_init, name=name)

        hidden = layer_norm(config, "norm1")(x)
        qkv = layer((3, *heads), ("embed", "qkv", "heads", "head_dim"), "qkv", 1)(hidden)
        attended = attention_in_chunks(*split_heads(qkv), config.attention_chunk_tokens)
        out = layer(config.hidden_dim, ("heads", "head_dim", "embed"), "proj", 2)(attended)
        x = x + self._scale("scale1") * out.astype(jnp.float32)

        hidden = layer_norm(config, "norm2")(x)
        hidden = layer(config.mlp_dim, ("embed", "mlp"), "fc1", 1)(hidden)
        hidden = nn.gelu(hidden.astype(jnp.float32), approximate=False)
        out = layer(config.hidden_dim, ("mlp", "embed"), "fc2", 1)(hidden)
        x = x + self._scale("scale2") * out.astype(jnp.float32)
        x = constrain(x, "batch", "tokens", "width")
        return x, x

    def _scale(self, name: str) -> Float[Array, "1 1 c"]:
        init = nn.initializers.constant(self.config.layer_scale_init)
        scale: Any = self.param(name, init, (self.config.hidden_dim,), jnp.float32)
        return scale.astype(jnp.float32)[None, None, :]


class Dinov2(nn.Module):
    """Parameters: `patches`, `class_token`, `class_position`, `positions`, `blocks`, `norm`."""

    config: DepthConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b r s c"]]:
        """Features (4) of every patch for each of `config.out_blocks`, float32.

        Args:
            images: normalised, both sides multiples of the patch.
        """
        config = self.config
        rows, columns = config.grid(*images.shape[1:3])
        tokens = self._embedded(images, rows, columns)
        block = Block if config.remat == "none" else nn.remat(Block, prevent_cse=False)
        blocks: Any = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            metadata_params={nn.PARTITION_NAME: "layers"},
            length=config.num_blocks,
        )
        _, after = blocks(config, name="blocks")(tokens)
        norm = layer_norm(config, "norm")
        size = (images.shape[0], rows, columns, config.hidden_dim)
        return [norm(after[number - 1, :, 1:]).reshape(size) for number in config.out_blocks]

    def _embedded(self, images: Array, rows: int, columns: int) -> Float[Array, "b n c"]:
        """Equation (1), the class token first."""
        config, patch = self.config, self.config.patch_px
        batch, width, grid = images.shape[0], config.hidden_dim, config.position_grid
        # A patch's values in the order of torch's convolution kernels: colour, row, column.
        patches = images.reshape(batch, rows, patch, columns, patch, 3)
        patches = patches.transpose(0, 1, 3, 5, 2, 4).reshape(batch, rows * columns, -1)
        tokens = linear(
            width,
            ("features", "embed"),
            dtype=jnp.dtype(config.compute_dtype),
            kernel_init=_init,
            name="patches",
        )(patches).astype(jnp.float32)

        def learned(name: str, *shape: int) -> Array:
            value: Any = self.param(name, _init, shape, jnp.float32)
            return value.astype(jnp.float32)

        positions = learned("positions", grid, grid, width)[None]
        if (rows, columns) != (grid, grid):
            positions = resample(positions, cubic_matrix(grid, rows), cubic_matrix(grid, columns))
        tokens = tokens + positions.reshape(1, rows * columns, width)
        first = (learned("class_token", width) + learned("class_position", width))[None, None]
        first = jnp.broadcast_to(first, (batch, 1, width))
        tokens = jnp.concatenate((first, tokens), axis=1)
        return constrain(tokens, "batch", "tokens", "width")
