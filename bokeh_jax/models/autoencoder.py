"""The image autoencoder of latent diffusion (Rombach et al. 2022), as FLUX.1 has it.

    (1) μ, log σ² = encoder(x),  log σ² clipped to [−30, 20]         moments of every latent value
    (2) z = μ + σ ε,  ε ~ N(0, 1)            a sample;   z = μ       the mode
    (3) latent = (z − shift) scale           what a diffusion transformer sees: of unit order
    (4) x̂ = decoder(latent / scale + shift)

An image [h, w, 3] in [−1, 1] has a latent [h/f, w/f, c], f a power of two (8 in FLUX's). Sizes that
are no multiples of f are refused: padding would be a choice that the decoder cannot undo.

Moments, latents and images are float32 whatever the compute type; images are not clipped.

Parameters carry no names of axes, so that each device has all of them. FLUX's 84 million take
0.3 GB in float32, little beside the activations of one image, and cut ones would be gathered at
every convolution. Examples are cut: nothing but gradients ever crosses devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.autoencoder_blocks import Decoder, Encoder, convolution
from bokeh_jax.models.autoencoder_config import AutoencoderConfig
from bokeh_jax.models.blocks import constrain

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class Autoencoder(nn.Module):
    """Both halves; parameters are `encoder`, `decoder`, `quant_conv` and `post_quant_conv`."""

    config: AutoencoderConfig

    def setup(self) -> None:
        """Layers by diffusers' names."""
        config = self.config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        if config.use_quant_conv:
            self.quant_conv = convolution(config, 2 * config.latent_channels, size=1)
        if config.use_post_quant_conv:
            self.post_quant_conv = convolution(config, config.latent_channels, size=1)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Through both halves by the mode: what touches every parameter once."""
        return self.decode(self.encode(images)[..., : self.config.latent_channels])

    def encode(self, images: Float[Array, "b h w c"]) -> Float[Array, "b r s e"]:
        """Means, then log variances, neither clipped nor scaled."""
        x = self.encoder(constrain(images, "batch", None, None, None))
        x = self.quant_conv(x) if self.config.use_quant_conv else x
        return constrain(x.astype(jnp.float32), "batch", None, None, None)

    def decode(self, latents: Float[Array, "b r s c"]) -> Float[Array, "b h w d"]:
        """Images from unscaled latents."""
        x = constrain(latents, "batch", None, None, None)
        x = self.post_quant_conv(x) if self.config.use_post_quant_conv else x
        return constrain(self.decoder(x).astype(jnp.float32), "batch", None, None, None)


def init_params(config: AutoencoderConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be jitted or given to `eval_shape`."""
    side = config.downsampling
    image = jnp.zeros((1, side, side, config.in_channels), jnp.float32)
    return dict(Autoencoder(config).init(key, image)["params"])


def parameter_axes(config: AutoencoderConfig) -> dict[str, Any]:
    """A tree like the parameters' with an empty `PartitionSpec` in each one's place: all whole."""
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return dict(nn.get_partition_spec(shapes))


def encode_moments(
    config: AutoencoderConfig, params: dict[str, Any], images: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b r s e"], Float[Array, "b r s e"]]:
    """Means and clipped log variances of z, equation (1), not scaled.

    Args:
        config: the autoencoder.
        params: as `init_params` gives them.
        images: values in [-1, 1].

    Raises:
        InvalidInput: where height or width are no multiples of `config.downsampling`.
    """
    return split_moments(raw_moments(config, params, images))


def encode(
    config: AutoencoderConfig,
    params: dict[str, Any],
    images: Float[Array, "b h w c"],
    keys: Key[Array, " b"] | None,
) -> Float[Array, "b r s e"]:
    """Latents of images in [-1, 1], shifted and scaled, equations (1) to (3).

    Args:
        config: the autoencoder.
        params: as `init_params` gives them.
        images: values in [-1, 1].
        keys: one key an example for a sample; None for the mode.

    Raises:
        InvalidInput: as `encode_moments`.
    """
    mean, log_variance = encode_moments(config, params, images)
    return latents_from_moments(config, mean, log_variance, keys)


def decode(
    config: AutoencoderConfig, params: dict[str, Any], latents: Float[Array, "b r s e"]
) -> Float[Array, "b h w c"]:
    """Images, about in [-1, 1], of shifted and scaled latents, equation (4).

    Raises:
        InvalidInput: where the latents have another number of channels than the config says.
    """
    return decode_unscaled(config, params, unscaled(config, latents))


def latents_from_moments(
    config: AutoencoderConfig,
    mean: Float[Array, "b r s e"],
    log_variance: Float[Array, "b r s e"],
    keys: Key[Array, " b"] | None,
) -> Float[Array, "b r s e"]:
    """Equations (2) and (3): a sample with one key an example, or the mode where keys are None."""
    z = mean
    if keys is not None:
        shape = mean.shape[1:]
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
        z = mean + jnp.exp(0.5 * log_variance) * noise
    return (z - config.shift_factor) * config.scaling_factor


def raw_moments(
    config: AutoencoderConfig, params: dict[str, Any], images: Float[Array, "b h w c"]
) -> Float[Array, "b r s e"]:
    """Means, then log variances that are not clipped yet, along the last axis."""
    config.latent_size(*images.shape[1:3])
    _check_channels("images", images, "in_channels", config.in_channels)
    return _apply(config, params, images, Autoencoder.encode)


def split_moments(
    moments: Float[Array, "b r s e"],
) -> tuple[Float[Array, "b r s f"], Float[Array, "b r s f"]]:
    """Means and clipped log variances."""
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)


def unscaled(
    config: AutoencoderConfig, latents: Float[Array, "b r s e"]
) -> Float[Array, "b r s e"]:
    """z of equation (3)."""
    return latents / config.scaling_factor + config.shift_factor


def decode_unscaled(
    config: AutoencoderConfig, params: dict[str, Any], z: Float[Array, "b r s e"]
) -> Float[Array, "b h w c"]:
    """The decoder alone."""
    _check_channels("latents", z, "latent_channels", config.latent_channels)
    return _apply(config, params, z, Autoencoder.decode)


def _apply(config: AutoencoderConfig, params: dict[str, Any], x: Array, method: Any) -> Array:
    out = Autoencoder(config).apply({"params": params}, x, method=method)
    assert isinstance(out, Array)  # `apply` may return state too, which this module has none of.
    return out


def _check_channels(name: str, x: Array, field: str, channels: int) -> None:
    if x.shape[-1] != channels:
        raise InvalidInput(f"{name} have {x.shape[-1]} channels; allowed: {field}, {channels}")
