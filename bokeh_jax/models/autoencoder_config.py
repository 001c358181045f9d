"""The numbers that define an image autoencoder, checked where they are written down."""

import math
from dataclasses import dataclass
from typing import Literal

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.config import COMPUTE_DTYPES, ComputeDtype, check_at_least, check_choice

AutoencoderRemat = Literal["none", "full"]
AUTOENCODER_REMATS: tuple[AutoencoderRemat, ...] = ("none", "full")
# Fields that say which network it is; the others say how it is computed.
AUTOENCODER_SHAPE = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "norm_num_groups",
    "scaling_factor",
    "shift_factor",
    "use_quant_conv",
    "use_post_quant_conv",
    "mid_block_add_attention",
)


@dataclass(frozen=True)
class AutoencoderConfig:
    """A convolutional variational autoencoder in the layout of diffusers' AutoencoderKL.

    Attributes:
        in_channels: Channels of the images that are encoded.
        out_channels: Channels of the images that are decoded.
        block_out_channels: Channels of the levels from fine to coarse; every level but the last
            halves the sides.
        layers_per_block: Residual blocks of a level of the encoder; the decoder has one more.
        latent_channels: Channels of a latent.
        norm_num_groups: Groups of every group norm, a divisor of each level's channels.
        scaling_factor: 1 / standard deviation of the latents, see `autoencoder`.
        shift_factor: Mean of the latents.
        use_quant_conv: Whether a 1x1 convolution follows the encoder (SD: yes, FLUX: no).
        use_post_quant_conv: Whether a 1x1 convolution precedes the decoder.
        mid_block_add_attention: Whether the coarsest level has one head of attention.
        attention_chunk_tokens: How many queries attend at once. An image of 1024 px has 16,384
            tokens, and their logits would take 1 GiB.
        compute_dtype: Type of convolutions and products. Parameters, norms, softmax and the
            outputs are float32 in any case.
        remat: What the backward pass recomputes: nothing, or everything inside a residual block.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (32, 64, 128, 128)
    layers_per_block: int = 1
    latent_channels: int = 16
    norm_num_groups: int = 16
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    mid_block_add_attention: bool = True
    attention_chunk_tokens: int = 1024
    compute_dtype: ComputeDtype = "bfloat16"
    remat: AutoencoderRemat = "none"

    def __post_init__(self) -> None:
        for name in (
            "in_channels",
            "out_channels",
            "layers_per_block",
            "latent_channels",
            "norm_num_groups",
            "attention_chunk_tokens",
        ):
            check_at_least(name, getattr(self, name), 1)
        channels, groups = self.block_out_channels, self.norm_num_groups
        if not channels or any(count < 1 or count % groups for count in channels):
            raise InvalidInput(
                f"block_out_channels is {channels}; allowed: one or more positive multiples of "
                f"norm_num_groups {groups}"
            )
        if not (self.scaling_factor > 0 and math.isfinite(self.scaling_factor)):
            raise InvalidInput(f"scaling_factor is {self.scaling_factor}; allowed: more than 0")
        if not math.isfinite(self.shift_factor):
            raise InvalidInput(f"shift_factor is {self.shift_factor}; allowed: finite numbers")
        check_choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        check_choice("remat", self.remat, AUTOENCODER_REMATS)

    @property
    def downsampling(self) -> int:
        """Side of an image in pixels over that of its latent."""
        return 2 ** (len(self.block_out_channels) - 1)

    def latent_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Rows and columns of the latent of an image.

        Raises:
            InvalidInput: where the image is cut into no whole number of them: nothing is padded.
        """
        factor = self.downsampling
        if height_px % factor or width_px % factor or not height_px * width_px:
            raise InvalidInput(
                f"image size is {height_px} x {width_px} px; allowed: positive multiples of the "
                f"autoencoder's downsampling, {factor} px"
            )
        return height_px // factor, width_px // factor

    @classmethod
    def flux(cls) -> "AutoencoderConfig":
        """The autoencoder of FLUX.1 (Black Forest Labs 2024): 83,819,683 parameters."""
        return cls(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            norm_num_groups=32,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        )
