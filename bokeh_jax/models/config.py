"""The numbers that define a diffusion transformer, checked where they are written down."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.attention import ATTENTION_KERNELS, AttentionKernel

ComputeDtype = Literal["bfloat16", "float32"]
Remat = Literal["none", "full", "dots"]
COMPUTE_DTYPES: tuple[ComputeDtype, ...] = ("bfloat16", "float32")
REMATS: tuple[Remat, ...] = ("none", "full", "dots")
LoraTarget = Literal["attention", "mlp", "modulation", "embedders"]
LORA_TARGETS: tuple[LoraTarget, ...] = ("attention", "mlp", "modulation", "embedders")


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise InvalidInput where an integer setting is too small."""
    if value < least:
        raise InvalidInput(f"{name} is {value}; allowed: {least} or more")


def check_between(name: str, value: float | int, least: float | int, most: float | int) -> None:
    """Raise InvalidInput where a setting is outside its range; NaN is in none."""
    if not least <= value <= most:
        raise InvalidInput(f"{name} is {value}; allowed: {least:g} to {most:g}")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise InvalidInput where a setting is not one of its names."""
    if value not in allowed:
        raise InvalidInput(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the transformer's linear layers: W + (alpha / rank) B A, `linear.py`.

    Attributes:
        rank: Rows of A and columns of B; 0 for no adapters.
        alpha: Scale of the product times the rank; None for `rank`, a scale of 1.
        targets: Layers that have adapters, in groups:
            'attention': queries, keys, values and output of both block kinds;
            'mlp': both layers of the MLPs of both block kinds;
            'modulation': the modulations of all blocks and of the final layer;
            'embedders': the layers in (tokens, context, time, guidance, pooled text) and out.
            A single block's output, which FLUX has as one matrix over attention and MLP, has its
            adapters with either of the two.
        adapters: Their names. All have this rank and scale; their products are summed.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    rank: int = 0
    alpha: float | None = None
    targets: tuple[LoraTarget, ...] = ("attention", "mlp")
    adapters: tuple[str, ...] = ("default",)

    def __post_init__(self) -> None:
        check_at_least("lora.rank", self.rank, 0)
        if self.alpha is not None and not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise InvalidInput(f"lora.alpha is {self.alpha}; allowed: more than 0, or None")
        for target in self.targets:
            check_choice("lora.targets", target, LORA_TARGETS)
        for name in self.adapters:
            # A part of tensors' names, where dots part modules.
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise InvalidInput(f"lora.adapters has {name!r}; allowed: letters, digits, _ and -")
        for field in ("targets", "adapters"):
            names = getattr(self, field)
            if not names or len(set(names)) < len(names):
                raise InvalidInput(f"lora.{field} is {names}; allowed: one or more, all different")

    @property
    def scale(self) -> float:
        """alpha / rank; 1 without adapters."""
        return 1.0 if self.alpha is None or not self.rank else self.alpha / self.rank

    def on(self, *targets: LoraTarget) -> "LoraConfig | None":
        """The adapters of a layer that belongs to these groups; None where it has none."""
        return self if self.rank and set(targets) & set(self.targets) else None


@dataclass(frozen=True)
class DiTConfig:
    """A transformer in FLUX's layout.

    Attributes:
        in_channels: Features of an image token coming in.
        out_channels: Features of an image token going out.
        hidden_dim: Width of both streams.
        num_heads: Attention heads; `hidden_dim / num_heads` is the sum of `rope_axes_dim`.
        mlp_ratio: Width of the MLPs over `hidden_dim`.
        num_double_blocks: Blocks with separate weights for image and context.
        num_single_blocks: Blocks with one set of weights for both, after the double ones.
        rope_axes_dim: Even numbers of a head's channels for (stream, row, column).
        rope_theta: Base of the rotary frequencies.
        context_dim: Features of a context token coming in; None where all of the context comes at
            `hidden_dim` already.
        pooled_dim: Features of a pooled text embedding that joins the time; None for none.
        guidance_embed: Whether a distilled guidance scale joins the time.
        compute_dtype: Type of the matrix products. Parameters, norms, softmax and rotations are
            float32 in any case.
        remat: What the backward pass recomputes: nothing ('none'), everything inside a block
            ('full'), or all but the products with weights and, where it is a kernel, the attention
            ('dots').
        attention: The program of the attention: `attention.py` says what each is for.
        scan_blocks: Compile one block of each kind and loop, instead of all of them in a row. The
            parameters are the same, stacked along their first axis.
        lora: Adapters.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    in_channels: int
    out_channels: int
    hidden_dim: int
    num_heads: int
    mlp_ratio: float = 4.0
    num_double_blocks: int = 2
    num_single_blocks: int = 4
    rope_axes_dim: tuple[int, int, int] = (8, 28, 28)
    rope_theta: float = 10_000.0
    context_dim: int | None = None
    pooled_dim: int | None = None
    guidance_embed: bool = False
    compute_dtype: ComputeDtype = "bfloat16"
    remat: Remat = "none"
    attention: AttentionKernel = "xla"
    scan_blocks: bool = True
    lora: LoraConfig = LoraConfig()

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "hidden_dim", "num_heads"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("context_dim", "pooled_dim"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        for name in ("num_double_blocks", "num_single_blocks"):
            check_at_least(name, getattr(self, name), 0)
        if self.num_double_blocks + self.num_single_blocks == 0:
            raise InvalidInput("num_double_blocks and num_single_blocks are 0; allowed: one block")
        check_choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        check_choice("remat", self.remat, REMATS)
        check_choice("attention", self.attention, ATTENTION_KERNELS)
        self._check_heads()

    def _check_heads(self) -> None:
        if self.hidden_dim % self.num_heads:
            raise InvalidInput(
                f"hidden_dim is {self.hidden_dim}; allowed: multiples of num_heads {self.num_heads}"
            )
        axes = self.rope_axes_dim
        if len(axes) != 3 or any(dim < 2 or dim % 2 for dim in axes):
            raise InvalidInput(f"rope_axes_dim is {axes}; allowed: three positive even numbers")
        if sum(axes) != self.head_dim:
            raise InvalidInput(
                f"rope_axes_dim is {axes}, in sum {sum(axes)}; allowed: a sum of {self.head_dim}, "
                f"which is hidden_dim {self.hidden_dim} / num_heads {self.num_heads}"
            )
        if not (self.rope_theta > 1 and math.isfinite(self.rope_theta)):
            raise InvalidInput(f"rope_theta is {self.rope_theta}; allowed: more than 1")
        if not (self.mlp_ratio > 0 and self.mlp_dim >= 1):
            raise InvalidInput(f"mlp_ratio is {self.mlp_ratio}; allowed: more than 0")

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.hidden_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden features of an MLP."""
        return int(self.hidden_dim * self.mlp_ratio)

    @classmethod
    def flux_dev(cls) -> "DiTConfig":
        """FLUX.1-dev (Black Forest Labs 2024): 11,901,408,320 parameters."""
        return cls(
            in_channels=64,
            out_channels=64,
            hidden_dim=3072,
            num_heads=24,
            num_double_blocks=19,
            num_single_blocks=38,
            rope_axes_dim=(16, 56, 56),
            context_dim=4096,
            pooled_dim=768,
            guidance_embed=True,
            remat="full",
        )
