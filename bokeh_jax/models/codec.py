"""What the network works on: photographs as they are, or an autoencoder's latents of them.

    z = E(y),   ŷ = D(z)         y: sRGB-encoded values in [-1, 1]

with E and D the identity for pixels. The maps that go with a photograph come to the latents' grid
by the mean over the pixels of a cell: it keeps the mean of a defocus map, and weights that add up
to 1 at every pixel do so in every cell.

The parameters of an autoencoder lie in the network's tree under `codec`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.models import autoencoder
from bokeh_jax.models.autoencoder_config import AutoencoderConfig
from bokeh_jax.models.autoencoder_tiles import decode_tiled, encode_tiled
from bokeh_jax.models.config import check_at_least, check_choice

CodecKind = Literal["pixels", "autoencoder"]
CODEC_KINDS: tuple[CodecKind, ...] = ("pixels", "autoencoder")
CODEC = "codec"


@dataclass(frozen=True)
class CodecConfig:
    """Between photographs and what the network works on.

    Attributes:
        kind: 'pixels' or 'autoencoder'.
        sample: draw latents of training's targets from the encoder's distribution instead of taking
            its mode. Conditions are always modes.
        tile_px: larger photographs are encoded and decoded in tiles of this side; 0: never.
        autoencoder: its shape.
    """

    kind: CodecKind = "pixels"
    sample: bool = False
    tile_px: int = 0
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, CODEC_KINDS)
        check_at_least("tile_px", self.tile_px, 0)

    @property
    def channels(self) -> int:
        """Of what the network works on."""
        return 3 if self.kind == "pixels" else self.autoencoder.latent_channels

    @property
    def downsampling(self) -> int:
        """Pixels of the photograph along a side of one cell."""
        return 1 if self.kind == "pixels" else self.autoencoder.downsampling


def encode(
    codec: CodecConfig,
    params: Mapping[str, Any],
    images: Float[Array, "b h w 3"],
    keys: Key[Array, " b"] | None = None,
) -> Float[Array, "b r s c"]:
    """E of photographs in [-1, 1].

    Args:
        codec: the codec.
        params: the network's parameters, with the codec's under `CODEC`.
        images: the photographs.
        keys: one an example, to draw latents where the codec says so; None takes the mode.

    Raises:
        InvalidInput: sides that are no multiples of `codec.downsampling`.
    """
    if codec.kind == "pixels":
        return images
    keys = keys if codec.sample else None
    if codec.tile_px:
        tile_px = codec.tile_px
        return encode_tiled(codec.autoencoder, params[CODEC], images, keys, tile_px=tile_px)
    return autoencoder.encode(codec.autoencoder, params[CODEC], images, keys)


def decode(
    codec: CodecConfig, params: Mapping[str, Any], latents: Float[Array, "b r s c"]
) -> Float[Array, "b h w 3"]:
    """D of what the network works on; the inverse of `encode` as far as there is one."""
    if codec.kind == "pixels":
        return latents
    if codec.tile_px:
        return decode_tiled(codec.autoencoder, params[CODEC], latents, tile_px=codec.tile_px)
    return autoencoder.decode(codec.autoencoder, params[CODEC], latents)


def to_grid(codec: CodecConfig, maps: Float[Array, "*s h w"]) -> Float[Array, "*s r s"]:
    """Means of maps over the pixels of every cell."""
    side = codec.downsampling
    if side == 1:
        return maps
    *leading, height_px, width_px = maps.shape
    cells = maps.reshape(*leading, height_px // side, side, width_px // side, side)
    return jnp.mean(cells, axis=(-3, -1))
