"""The layers of the image autoencoder (`autoencoder.py`), in the layout of latent diffusion's.

With N the group norm (Wu and He 2018; statistics of each example and group of channels):

    (1) residual   s(x) + conv₃ silu(N(conv₃ silu(N(x)))),  s a 1x1 convolution for new channels
    (2) attention  x + W_o attention(W_q N(x), W_k N(x), W_v N(x)),  one head over all pixels
    (3) down       conv₃ of stride 2 after one row and column of zeros below and to the right
    (4) up         conv₃ of the image with every pixel four times
    (5) encoder    conv₃ silu(N(middle(levels(conv₃ x)))),  a level is some (1), then (3)
    (6) decoder    conv₃ silu(N(levels(middle(conv₃ z)))),  a level is some (1), then (4)

where the middle is (1), (2), (1). Attention takes its queries in chunks, each of which is computed
again in the backward pass: its memory grows with the number of pixels and not with its square.

Convolutions and products run in the compute type, norms and softmax in float32. Start values are
those of the published training: kernels uniform in ±1/√(fan in), biases 0. Names of parameters are
diffusers', with an index in the name where those have a list.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bokeh_jax.models.attention import attention
from bokeh_jax.models.autoencoder_config import AutoencoderConfig

GROUP_NORM_EPSILON = 1e-6

_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def convolution(
    config: AutoencoderConfig, features: int, name: str | None = None, *, size: int = 3
) -> nn.Conv:
    """A convolution with a square kernel that keeps the image's size."""
    around = (size // 2, size // 2)
    return nn.Conv(
        features,
        (size, size),
        padding=(around, around),
        dtype=config.compute_dtype,
        kernel_init=_kernel_init,
        name=name,
    )


def normed(
    config: AutoencoderConfig, x: Float[Array, "b h w c"], name: str
) -> Float[Array, "b h w c"]:
    """N(x) with a learned scale and bias, float32; called inside a module, which owns them."""
    norm = nn.GroupNorm(
        config.norm_num_groups,
        epsilon=GROUP_NORM_EPSILON,
        dtype=jnp.float32,
        # E[x²] − E[x]² loses digits where a smooth image's mean is far above its deviation.
        use_fast_variance=False,
        name=name,
    )
    return norm(x.astype(jnp.float32))


class ResidualBlock(nn.Module):
    """Equation (1)."""

    config: AutoencoderConfig
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """The block's output with `features` channels."""
        config, features = self.config, self.features
        hidden = nn.silu(normed(config, x, "norm1"))
        hidden = convolution(config, features, "conv1")(hidden)
        hidden = nn.silu(normed(config, hidden, "norm2"))
        hidden = convolution(config, features, "conv2")(hidden)
        if x.shape[-1] != features:
            x = convolution(config, features, "conv_shortcut", size=1)(x)
        return x + hidden


class PixelAttention(nn.Module):
    """Equation (2)."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Every pixel attends to every pixel."""
        config, channels = self.config, x.shape[-1]
        tokens = normed(config, x, "group_norm").reshape(x.shape[0], -1, 1, channels)

        def dense(name: str) -> nn.Dense:
            dtype = config.compute_dtype
            return nn.Dense(channels, dtype=dtype, kernel_init=_kernel_init, name=name)

        query, key, value = (dense(name)(tokens) for name in ("to_q", "to_k", "to_v"))
        attended = attention_in_chunks(query, key, value, config.attention_chunk_tokens)
        return x + dense("to_out")(attended).reshape(x.shape)


def attention_in_chunks(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b s h d"],
    value: Float[Array, "b s h d"],
    chunk_tokens: int,
) -> Float[Array, "b n h d"]:
    """`attention` of so many queries at once, with the same result.

    Only one chunk's logits, `[b, h, chunk, s]` float32, exist at a time, forward and backward.
    """
    batch, count, *ends = query.shape
    if count <= chunk_tokens:
        return attention(query, key, value)

    @jax.checkpoint
    def attend(chunk: Float[Array, "b m h d"]) -> Float[Array, "b m h d"]:
        return attention(chunk, key, value)

    whole = count // chunk_tokens * chunk_tokens
    chunks = query[:, :whole].reshape(batch, -1, chunk_tokens, *ends)
    attended = jnp.swapaxes(jax.lax.map(attend, jnp.swapaxes(chunks, 0, 1)), 0, 1)
    parts = [attended.reshape(batch, whole, *ends)]
    if whole < count:
        parts.append(attend(query[:, whole:]))
    return jnp.concatenate(parts, axis=1)


class Middle(nn.Module):
    """Two residual blocks with attention between, at the coarsest level."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The middle of both halves."""
        config, block = self.config, residual_block(self.config)
        x = block(config, x.shape[-1], name="resnets_0")(x)
        if config.mid_block_add_attention:
            x = PixelAttention(config, name="attentions_0")(x)
        return block(config, x.shape[-1], name="resnets_1")(x)


class DownLevel(nn.Module):
    """Residual blocks, then equation (3) unless it is the last level."""

    config: AutoencoderConfig
    features: int
    is_last: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b r s d"]:
        """An image with `features` channels and half the sides."""
        config, block = self.config, residual_block(self.config)
        for index in range(config.layers_per_block):
            x = block(config, self.features, name=f"resnets_{index}")(x)
        if self.is_last:
            return x
        return nn.Conv(
            self.features,
            (3, 3),
            strides=2,
            padding=((0, 1), (0, 1)),
            dtype=config.compute_dtype,
            kernel_init=_kernel_init,
            name="downsampler",
        )(x)


class UpLevel(nn.Module):
    """Residual blocks, then equation (4) unless it is the last level."""

    config: AutoencoderConfig
    features: int
    is_last: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b r s d"]:
        """An image with `features` channels and twice the sides."""
        config, block = self.config, residual_block(self.config)
        for index in range(config.layers_per_block + 1):
            x = block(config, self.features, name=f"resnets_{index}")(x)
        if self.is_last:
            return x
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return convolution(config, self.features, "upsampler")(x)


class Encoder(nn.Module):
    """Equation (5)."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b r s e"]:
        """Means and log variances, before the 1x1 convolution if there is one."""
        config, levels = self.config, self.config.block_out_channels
        x = convolution(config, levels[0], "conv_in")(images)
        for index, features in enumerate(levels):
            is_last = index == len(levels) - 1
            x = DownLevel(config, features, is_last, name=f"down_blocks_{index}")(x)
        x = Middle(config, name="mid_block")(x)
        x = nn.silu(normed(config, x, "conv_norm_out"))
        return convolution(config, 2 * config.latent_channels, "conv_out")(x)


class Decoder(nn.Module):
    """Equation (6)."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, latents: Float[Array, "b r s c"]) -> Float[Array, "b h w d"]:
        """Images from unscaled latents."""
        config, levels = self.config, self.config.block_out_channels[::-1]
        x = convolution(config, levels[0], "conv_in")(latents)
        x = Middle(config, name="mid_block")(x)
        for index, features in enumerate(levels):
            is_last = index == len(levels) - 1
            x = UpLevel(config, features, is_last, name=f"up_blocks_{index}")(x)
        x = nn.silu(normed(config, x, "conv_norm_out"))
        return convolution(config, config.out_channels, "conv_out")(x)


def residual_block(config: AutoencoderConfig) -> type[ResidualBlock]:
    """The block, rematerialised where the config says so."""
    return ResidualBlock if config.remat == "none" else nn.remat(ResidualBlock)
