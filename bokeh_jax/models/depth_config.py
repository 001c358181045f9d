"""The numbers that define a Depth Anything network, checked where they are written down."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.autoencoder_config import AUTOENCODER_REMATS, AutoencoderRemat
from bokeh_jax.models.config import COMPUTE_DTYPES, ComputeDtype, check_at_least, check_choice

DepthKind = Literal["relative", "metric"]
DEPTH_KINDS: tuple[DepthKind, ...] = ("relative", "metric")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DepthConfig:
    """Depth Anything V2 (arXiv 2406.09414): DINOv2 under a DPT head; the defaults are its size S.

    Attributes:
        hidden_dim: Width of the backbone.
        num_heads: Its attention heads.
        num_blocks: Its blocks.
        mlp_ratio: Width of its MLPs over `hidden_dim`.
        patch_px: Side of a patch; images have sides that are multiples of it.
        position_grid: Patches along a side of the images that positions were learned for.
        norm_epsilon: Of its layer norms.
        layer_scale_init: Start value of the scales of its residual branches.
        out_blocks: Blocks, counted from 1, whose outputs the neck takes, from fine to coarse.
        neck_dims: Channels of each of those in the neck.
        resize_factors: By how much the grid of patches is made finer (a whole number) or coarser
            (one over a whole number) for each of those.
        fusion_dim: Channels where they are fused, even.
        last_dim: Channels before the last layer.
        kind: 'relative': disparity of no scale, 0 or more, nearer is larger; 'metric': depth along
            the optical axis in metres.
        max_depth_m: Of metric heads the largest depth. A factor on a relative head's output, 1 in
            all published ones.
        image_mean: Of sRGB-encoded values in [0, 1], subtracted from images.
        image_std: What they are divided by then.
        working_size_px: Side that photographs are brought to, see `inference.depth`.
        attention_chunk_tokens: How many queries attend at once; their logits are
            `num_heads` x this x tokens numbers.
        compute_dtype: Type of convolutions and products. Parameters, residual streams, norms,
            softmax, resampling and the output are float32 in any case.
        remat: What the backward pass recomputes: nothing, or everything inside a block.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    hidden_dim: int = 384
    num_heads: int = 6
    num_blocks: int = 12
    mlp_ratio: int = 4
    patch_px: int = 14
    position_grid: int = 37
    norm_epsilon: float = 1e-6
    layer_scale_init: float = 1.0
    out_blocks: tuple[int, ...] = (3, 6, 9, 12)
    neck_dims: tuple[int, ...] = (48, 96, 192, 384)
    resize_factors: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    fusion_dim: int = 64
    last_dim: int = 32
    kind: DepthKind = "relative"
    max_depth_m: float = 1.0
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD
    working_size_px: int = 518
    attention_chunk_tokens: int = 1024
    compute_dtype: ComputeDtype = "bfloat16"
    remat: AutoencoderRemat = "none"

    def __post_init__(self) -> None:
        for name in (
            "hidden_dim",
            "num_heads",
            "num_blocks",
            "mlp_ratio",
            "patch_px",
            "position_grid",
            "fusion_dim",
            "last_dim",
            "attention_chunk_tokens",
        ):
            check_at_least(name, getattr(self, name), 1)
        for name, divisor, field in (
            ("hidden_dim", self.num_heads, f"num_heads {self.num_heads}"),
            ("fusion_dim", 2, "2"),
            ("working_size_px", self.patch_px, f"patch_px {self.patch_px}"),
        ):
            value = getattr(self, name)
            if value < 1 or value % divisor:
                raise InvalidInput(f"{name} is {value}; allowed: positive multiples of {field}")
        check_choice("kind", self.kind, DEPTH_KINDS)
        for name in ("norm_epsilon", "max_depth_m"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InvalidInput(f"{name} is {value}; allowed: more than 0")
        check_choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        check_choice("remat", self.remat, AUTOENCODER_REMATS)
        self._check_levels()
        self._check_colours()

    def _check_levels(self) -> None:
        blocks, count = self.out_blocks, len(self.out_blocks)
        increasing = all(a < b for a, b in itertools.pairwise(blocks))
        if not blocks or not increasing or blocks[0] < 1 or blocks[-1] > self.num_blocks:
            raise InvalidInput(
                f"out_blocks is {blocks}; allowed: increasing numbers from 1 to num_blocks "
                f"{self.num_blocks}"
            )
        for name in ("neck_dims", "resize_factors"):
            if len(getattr(self, name)) != count:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}; allowed: {count} numbers, as out_blocks has"
                )
        for channels in self.neck_dims:
            check_at_least("neck_dims", channels, 1)
        for factor in self.resize_factors:
            whole = factor if factor >= 1 else 1 / factor if factor > 0 else 0.5
            if not math.isclose(whole, round(whole)) or not math.isfinite(whole):
                raise InvalidInput(
                    f"resize_factors is {self.resize_factors}; allowed: whole numbers, or one over "
                    "whole numbers"
                )

    def _check_colours(self) -> None:
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise InvalidInput(f"{name} is {values}; allowed: three finite numbers")
        if min(self.image_std) <= 0:
            raise InvalidInput(f"image_std is {self.image_std}; allowed: more than 0")

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden features of an MLP."""
        return self.hidden_dim * self.mlp_ratio

    def grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Rows and columns of patches of an image.

        Raises:
            InvalidInput: where the image is cut into no whole number of them: nothing is cut off.
        """
        patch = self.patch_px
        if height_px % patch or width_px % patch or not height_px * width_px:
            raise InvalidInput(
                f"image size is {height_px} x {width_px} px; allowed: positive multiples of the "
                f"depth network's patches, {patch} px"
            )
        return height_px // patch, width_px // patch

    @classmethod
    def small(cls) -> "DepthConfig":
        """Size S, relative: 24,710,849 parameters."""
        return cls()

    @classmethod
    def base(cls) -> "DepthConfig":
        """Size B, relative: 97,174,849 parameters."""
        return cls(hidden_dim=768, num_heads=12, neck_dims=(96, 192, 384, 768), fusion_dim=128)

    @classmethod
    def large(cls) -> "DepthConfig":
        """Size L, relative: 334,134,465 parameters."""
        return cls(
            hidden_dim=1024,
            num_heads=16,
            num_blocks=24,
            out_blocks=(5, 12, 18, 24),
            neck_dims=(256, 512, 1024, 1024),
            fusion_dim=256,
        )
