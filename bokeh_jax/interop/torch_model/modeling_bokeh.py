"""A refocusing diffusion transformer in plain PyTorch, and its sampler.

    model = load("DIR", dtype=torch.float32, device="cuda")
    conditions = Conditions(model.encode(image), focus_point, blur)   # image in [-1, 1]
    answer = model.decode(model.sample(conditions, torch.randn_like(conditions.reference)))

`DIR` is what `bokeh-jax export --format=torch` wrote: this file, `config.json` and safetensors.

A multi-modal diffusion transformer in FLUX's layout (Esser et al. 2024) is told of the wanted
camera by context tokens, and sees the photograph in one of two ways ("reference_as"):

    channels   every token holds noisy, reference, guess and defocus maps at its place
    tokens     the noisy image's tokens are followed by the reference's (and the guess's)

It follows the flow x_t = (1 - t) x + t z from the source z at t = 1 to the image x at t = 0.
Images are [b, c, h, w], in [-1, 1] or an autoencoder's latents.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

NORM_EPSILON = 1e-6
TIME_EMBEDDING_DIM = 256
# Blur radii over the image's width come to unit order.
DEFOCUS_SCALE = 20.0
NUM_OCTAVES = 8
NUM_CAMERA_TOKENS = 4


class InvalidInput(ValueError):
    """A value from outside is not usable; the message names it and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Depth:
    """What a known depth adds to the conditions.

    Attributes:
        guess: a first rendering of the answer by a lens blur, [b, c, h, w].
        focus_disparity: disparity at the point of focus, [b].
        target_defocus: signed radius of the wanted blur over the image's width, [b, h, w].
        reference_defocus: of the blur that the reference has, [b, h, w].
    """

    guess: Tensor
    focus_disparity: Tensor
    target_defocus: Tensor
    reference_defocus: Tensor


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the network is told.

    Attributes:
        reference: the photograph to refocus, or its latent, [b, c, h, w].
        focus_point: wanted point of focus (x, y) in [0, 1], [b, 2]; None asks for no camera.
        blur: blur radius per unit of disparity over the image's width, [b]; with `focus_point`.
        depth: None where unknown.
        reference_camera_given: the reference's camera is known: `Depth.reference_defocus` holds.
        text: text tokens [b, t, d]; None is the empty prompt.
        pooled: pooled text embedding [b, p]; None is the empty prompt.
    """

    reference: Tensor
    focus_point: Tensor | None = None
    blur: Tensor | None = None
    depth: Depth | None = None
    reference_camera_given: bool = False
    text: Tensor | None = None
    pooled: Tensor | None = None

    def without_camera(self) -> Conditions:
        """The unconditional side of guidance: reference and text only."""
        return Conditions(self.reference, text=self.text, pooled=self.pooled)

    @property
    def focus_depth(self) -> Depth | None:
        """The depth, where a camera is asked for too."""
        return self.depth if self.focus_point is not None else None

    @property
    def guess(self) -> Tensor:
        """The rendered guess; the reference where there is none."""
        return self.reference if self.focus_depth is None else self.focus_depth.guess


# Embeddings -------------------------------------------------------------------------------------


def sinusoidal_embedding(values: Tensor) -> Tensor:
    """Cosines, then sines, of 1000 times the values, [b] to [b, 256] float32."""
    half = TIME_EMBEDDING_DIM // 2
    exponent = -math.log(10_000.0) * torch.arange(half, dtype=torch.float32) / half
    # Exponents rounded to float32, as FLUX rounds them.
    frequency = exponent.double().exp().float().to(values.device)
    angle = 1000.0 * values.float()[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def fourier_features(values: Tensor) -> Tensor:
    """[u, cos 2 pi f u, sin 2 pi f u] of every value, f = 2^-1 ... 2^6: [b, k] to [b, 17 k]."""
    octaves = 2.0 ** torch.arange(-1, NUM_OCTAVES - 1, dtype=torch.float64)
    frequency = (2.0 * math.pi * octaves).float().to(values.device)
    wide = values.float()[:, :, None]
    features = torch.cat((wide, (wide * frequency).cos(), (wide * frequency).sin()), dim=2)
    return features.flatten(1)


def rotation(ids: Tensor, axes_dim: list[int], theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles of tokens at integer `ids` [n, 3]: [n, d / 2] each."""
    angles = []
    for axis, dim in enumerate(axes_dim):
        exponent = -torch.arange(0, dim, 2, dtype=torch.float64, device=ids.device) / dim
        angles.append(ids[:, axis, None].float() * (theta**exponent).float())
    angle = torch.cat(angles, dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the channel pairs (2 i, 2 i + 1) of queries or keys [b, h, n, d]; float32."""
    cos, sin = turn
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((cos * even - sin * odd, sin * even + cos * odd), dim=-1).flatten(-2)


def grid_ids(stream: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Positions (stream, row, column) of an image's tokens, row by row: [n, 3]."""
    row, column = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    return torch.stack((torch.full_like(row, stream), row, column), dim=-1).reshape(-1, 3)


def patchify(image: Tensor, patch: int) -> Tensor:
    """Patches row by row, features ordered (channel, row, column): [b, c, h, w] to [b, n, f]."""
    return F.pixel_unshuffle(image, patch).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """The image whose patches these are."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), patch)


# Transformer ------------------------------------------------------------------------------------


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) LN(x) + shift, computed in float32."""
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=NORM_EPSILON)
    return ((1.0 + scale.float()) * normed + shift.float()).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotated attention over heads [b, h, n, d], heads joined: [b, n, h d]."""
    query, key = (rotate(x, turn).to(value.dtype) for x in (query, key))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Embedder(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(features, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[b, features] to [b, width]."""
        return self.out_layer(F.silu(self.in_layer(x.to(self.in_layer.weight.dtype))))


class Modulation(nn.Module):
    """Shift, scale and gate of every modulated norm, from the time embedding."""

    def __init__(self, width: int, chunks: int):
        super().__init__()
        self.chunks = chunks
        self.lin = nn.Linear(width, chunks * width)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """[b, 1, width] each."""
        return self.lin(F.silu(embedding))[:, None].chunk(self.chunks, dim=-1)


class QKNorm(nn.Module):
    """RMS norms of queries and keys, float32 out."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.query_norm = nn.RMSNorm(head_dim, eps=NORM_EPSILON)
        self.key_norm = nn.RMSNorm(head_dim, eps=NORM_EPSILON)

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Both normed over each head's channels."""
        pairs = (query, self.query_norm), (key, self.key_norm)
        normed = [F.rms_norm(x.float(), m.weight.shape, m.weight.float(), m.eps) for x, m in pairs]
        return normed[0], normed[1]


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values of a fused projection: [b, h, n, d] each."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class StreamAttention(nn.Module):
    """One stream's way into the joint attention and out of it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = QKNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed queries and keys, and values."""
        query, key, value = split_heads(self.qkv(x), self.heads)
        return *self.norm(query, key), value


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU between."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[b, n, width] to the same."""
        return self.out_layer(F.gelu(self.in_layer(x), approximate="tanh"))


class DoubleBlock(nn.Module):
    """Separate weights for image and context, who meet in one attention, context first."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.img_mod, self.txt_mod = Modulation(width, 6), Modulation(width, 6)
        self.img_attn, self.txt_attn = StreamAttention(width, heads), StreamAttention(width, heads)
        self.img_mlp, self.txt_mlp = MLP(width, hidden), MLP(width, hidden)

    def forward(
        self, image: Tensor, context: Tensor, embedding: Tensor, turn: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Both streams, changed."""
        image_mod, context_mod = self.img_mod(embedding), self.txt_mod(embedding)
        of_image = self.img_attn(modulated_norm(image, *image_mod[:2]))
        of_context = self.txt_attn(modulated_norm(context, *context_mod[:2]))
        pairs = zip(of_context, of_image, strict=True)
        query, key, value = (torch.cat(pair, dim=2) for pair in pairs)
        attended = attend(query, key, value, turn)
        length = context.shape[1]
        context = context + context_mod[2] * self.txt_attn.proj(attended[:, :length])
        image = image + image_mod[2] * self.img_attn.proj(attended[:, length:])
        context = context + context_mod[5] * self.txt_mlp(
            modulated_norm(context, *context_mod[3:5])
        )
        image = image + image_mod[5] * self.img_mlp(modulated_norm(image, *image_mod[3:5]))
        return image, context


class SingleBlock(nn.Module):
    """One sequence, context first; attention and MLP side by side."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.modulation = Modulation(width, 3)
        self.linear1_qkv, self.linear1_mlp = nn.Linear(width, 3 * width), nn.Linear(width, hidden)
        self.norm = QKNorm(width // heads)
        self.linear2_attn = nn.Linear(width, width)
        self.linear2_mlp = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor, embedding: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """The sequence, changed."""
        shift, scale, gate = self.modulation(embedding)
        normed = modulated_norm(tokens, shift, scale)
        query, key, value = split_heads(self.linear1_qkv(normed), self.heads)
        query, key = self.norm(query, key)
        attended = attend(query, key, value, turn)
        hidden = F.gelu(self.linear1_mlp(normed), approximate="tanh")
        return tokens + gate * (self.linear2_attn(attended) + self.linear2_mlp(hidden))


class FinalLayer(nn.Module):
    """The last modulated norm, and the projection in float32."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.adaLN_modulation, self.linear = nn.Linear(width, 2 * width), nn.Linear(width, out)

    def forward(self, image: Tensor, embedding: Tensor) -> Tensor:
        """[b, n, width] to [b, n, out]."""
        shift, scale = self.adaLN_modulation(F.silu(embedding))[:, None].chunk(2, dim=-1)
        normed = modulated_norm(image.float(), shift, scale)
        return F.linear(normed, self.linear.weight.float(), self.linear.bias.float())


class DiT(nn.Module):
    """The transformer over image tokens that attend to context tokens."""

    def __init__(self, config: dict[str, Any], in_channels: int, out_channels: int):
        super().__init__()
        width, heads = config["hidden_dim"], config["num_heads"]
        hidden = int(width * config["mlp_ratio"])
        self.rope = config["rope_axes_dim"], config["rope_theta"]
        self.guidance = config["distilled_guidance"]
        self.img_in = nn.Linear(in_channels, width)
        self.time_in = Embedder(TIME_EMBEDDING_DIM, width)
        text, pooled = config["text_dim"], config["pooled_dim"]
        self.txt_in = None if text is None else nn.Linear(text, width)
        self.vector_in = None if pooled is None else Embedder(pooled, width)
        guided = self.guidance is not None
        self.guidance_in = Embedder(TIME_EMBEDDING_DIM, width) if guided else None
        block = width, heads, hidden
        self.double_blocks = nn.ModuleList(
            DoubleBlock(*block) for _ in range(config["num_double_blocks"])
        )
        self.single_blocks = nn.ModuleList(
            SingleBlock(*block) for _ in range(config["num_single_blocks"])
        )
        self.final_layer = FinalLayer(width, out_channels)

    def forward(
        self,
        tokens: Tensor,
        ids: Tensor,
        time: Tensor,
        camera: Tensor,
        added: Tensor | None = None,
        text: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """Outputs of the image tokens, float32.

        Args:
            tokens: image tokens [b, n, f].
            ids: their positions [n, 3].
            time: flow time in [0, 1], [b].
            camera: context tokens of the camera [b, 4, width].
            added: to the image tokens once they are at the model's width, [b, n, width].
            text: text tokens [b, t, d], for a model with text.
            pooled: pooled text embedding [b, p], for a model with one.
        """
        embedding = self.time_in(sinusoidal_embedding(time))
        if self.guidance_in is not None:
            scale = torch.full_like(time, self.guidance)
            embedding = embedding + self.guidance_in(sinusoidal_embedding(scale))
        if self.vector_in is not None and pooled is not None:
            embedding = embedding + self.vector_in(pooled)
        dtype = self.img_in.weight.dtype
        image, context = self.img_in(tokens.to(dtype)), camera
        if added is not None:
            image = image + added
        if self.txt_in is not None and text is not None:
            context = torch.cat((self.txt_in(text.to(dtype)), camera), dim=1)
        turn = rotation(torch.cat((ids.new_zeros(context.shape[1], 3), ids)), *self.rope)
        for block in self.double_blocks:
            image, context = block(image, context, embedding, turn)
        joined = torch.cat((context, image), dim=1)
        for block in self.single_blocks:
            joined = block(joined, embedding, turn)
        return self.final_layer(joined[:, context.shape[1] :], embedding)


class CameraTokens(nn.Module):
    """Focus point, focus disparity, blur, and what of all is known, as four context tokens."""

    def __init__(self, width: int):
        super().__init__()
        features = 1 + 2 * NUM_OCTAVES
        self.focus_point = nn.Linear(2 * features, width)
        self.focus_disparity = nn.Linear(features, width)
        self.blur = nn.Linear(features, width)
        self.flags = nn.Linear(3, width)
        # In place of what is not known.
        self.null = nn.Parameter(torch.zeros(3, width))

    def forward(self, conditions: Conditions) -> Tensor:
        """[b, 4, width]."""
        batch, dtype = conditions.reference.shape[0], self.flags.weight.dtype
        point, blur, depth = conditions.focus_point, conditions.blur, conditions.focus_depth
        given = (
            (self.focus_point, point),
            (self.focus_disparity, None if depth is None else depth.focus_disparity[:, None]),
            (self.blur, None if point is None or blur is None else DEFOCUS_SCALE * blur[:, None]),
        )
        tokens = [
            null.expand(batch, -1) if value is None else layer(fourier_features(value).to(dtype))
            for (layer, value), null in zip(given, self.null, strict=True)
        ]
        known = point is not None, conditions.depth is not None, conditions.reference_camera_given
        flags = torch.tensor(known, dtype=dtype, device=self.null.device).expand(batch, -1)
        return torch.stack((*tokens, self.flags(flags)), dim=1)


# Autoencoder ------------------------------------------------------------------------------------


class GroupNorm(nn.GroupNorm):
    """Computed in float32, whatever the weights are."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.GroupNorm`."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


class ResidualBlock(nn.Module):
    """Two convolutions, each after norm and SiLU, beside a shortcut."""

    def __init__(self, inward: int, outward: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, inward, NORM_EPSILON)
        self.conv1 = nn.Conv2d(inward, outward, 3, padding=1)
        self.norm2 = GroupNorm(groups, outward, NORM_EPSILON)
        self.conv2 = nn.Conv2d(outward, outward, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inward, outward, 1) if inward != outward else None

    def forward(self, x: Tensor) -> Tensor:
        """[b, in, h, w] to [b, out, h, w]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class PixelAttention(nn.Module):
    """One head over all pixels."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, NORM_EPSILON)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] to the same."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]
        layers = self.to_q, self.to_k, self.to_v
        attended = F.scaled_dot_product_attention(*(layer(tokens) for layer in layers))
        return x + self.to_out[0](attended[:, 0]).transpose(1, 2).reshape(x.shape)


class Sampler(nn.Module):
    """Half or twice the sides, by a convolution."""

    def __init__(self, channels: int, *, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, 1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] to [b, c, h', w']."""
        if self.up:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Middle(nn.Module):
    """The coarsest level: two residual blocks with attention between."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        channels, groups = config["block_out_channels"][-1], config["norm_num_groups"]
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, groups) for _ in range(2))
        attention = [PixelAttention(channels, groups)] if config["mid_block_add_attention"] else []
        self.attentions = nn.ModuleList(attention)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] to the same."""
        for layer in (self.resnets[0], *self.attentions, self.resnets[1]):
            x = layer(x)
        return x


def levels(config: dict[str, Any], *, up: bool) -> nn.ModuleList:
    """Residual blocks of every level, then its change of size, which the last one does not have."""
    channels = config["block_out_channels"][::-1] if up else config["block_out_channels"]
    count = config["layers_per_block"] + up
    found = nn.ModuleList()
    for index, outward in enumerate(channels):
        inward = [channels[max(index - 1, 0)], *[outward] * (count - 1)]
        blocks = [ResidualBlock(c, outward, config["norm_num_groups"]) for c in inward]
        level = nn.ModuleDict({"resnets": nn.ModuleList(blocks)})
        if index < len(channels) - 1:
            name = "upsamplers" if up else "downsamplers"
            level[name] = nn.ModuleList([Sampler(outward, up=up)])
        found.append(level)
    return found


def run_levels(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    """Every layer in turn."""
    for level in blocks:
        for layers in level.children():
            for layer in layers.children():
                x = layer(x)
    return x


class Encoder(nn.Module):
    """From images to means and log variances."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        channels, groups = config["block_out_channels"], config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["in_channels"], channels[0], 3, padding=1)
        self.down_blocks = levels(config, up=False)
        self.mid_block = Middle(config)
        self.conv_norm_out = GroupNorm(groups, channels[-1], NORM_EPSILON)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config["latent_channels"], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[b, 3, h, w] to [b, 2 c, r, s]."""
        x = self.mid_block(run_levels(self.down_blocks, self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """From latents to images."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        channels, groups = config["block_out_channels"][::-1], config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["latent_channels"], channels[0], 3, padding=1)
        self.mid_block = Middle(config)
        self.up_blocks = levels(config, up=True)
        self.conv_norm_out = GroupNorm(groups, channels[-1], NORM_EPSILON)
        self.conv_out = nn.Conv2d(channels[-1], config["out_channels"], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, r, s] to [b, 3, h, w]."""
        x = run_levels(self.up_blocks, self.mid_block(self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    """The autoencoder of latent diffusion (AutoencoderKL) with shifted and scaled latents."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.shift, self.scale = config["shift_factor"], config["scaling_factor"]
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        channels = config["latent_channels"]
        self.quant_conv = self.post_quant_conv = nn.Identity()
        if config["use_quant_conv"]:
            self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        if config["use_post_quant_conv"]:
            self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, images: Tensor) -> Tensor:
        """The mode of the latents of images in [-1, 1]; float32."""
        x = self.quant_conv(self.encoder(images.to(self.encoder.conv_in.weight.dtype)))
        return (x.float().chunk(2, dim=1)[0] - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images, about in [-1, 1]; float32."""
        x = (latents / self.scale + self.shift).to(self.decoder.conv_in.weight.dtype)
        return self.decoder(self.post_quant_conv(x)).float()


# The whole --------------------------------------------------------------------------------------


class RefocusDiT(nn.Module):
    """Codec, transformer and camera tokens; what to predict and how to sample is in `config`."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        model, codec = config["model"], config["codec"]
        self.patch, channels = model["patch_size"], model["image_channels"]
        self.in_tokens = model["reference_as"] == "tokens"
        area, width = self.patch**2, model["hidden_dim"]
        # Three images, two maps and two flags in one token, or an image alone.
        in_channels = area * (channels if self.in_tokens else 3 * channels + 4)
        self.dit = DiT(model, in_channels, area * channels)
        self.camera = CameraTokens(width)
        self.defocus_in = nn.Linear(2 * area, width, bias=False) if self.in_tokens else None
        latent = codec["kind"] == "autoencoder"
        self.codec = Autoencoder(codec["autoencoder"]) if latent else None

    @property
    def multiple_px(self) -> int:
        """Sides of photographs are multiples of it."""
        return self.config["multiple_px"]

    def encode(self, images: Tensor) -> Tensor:
        """Photographs [b, 3, h, w] in [-1, 1] to what the network works on."""
        return images if self.codec is None else self.codec.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Back to photographs."""
        return latents if self.codec is None else self.codec.decode(latents)

    def forward(self, noisy: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """The network's output [b, c, h, w], float32, for noisy images at times [b] in [0, 1]."""
        batch, _, height, width = noisy.shape
        if height % self.patch or width % self.patch:
            raise InvalidInput(f"image is {height} x {width}; allowed: multiples of {self.patch}")
        rows, columns = height // self.patch, width // self.patch
        streams, maps = self._streams(noisy, conditions)
        tokens = torch.cat([patchify(stream, self.patch) for stream in streams], dim=1)
        ids = [grid_ids(index, rows, columns, noisy.device) for index in range(len(streams))]
        added = None
        if self.defocus_in is not None:
            of_maps = torch.cat([patchify(part, self.patch) for part in maps], dim=1)
            added = self.defocus_in(of_maps.to(self.defocus_in.weight.dtype))
        text, pooled = self._text(conditions, batch)
        camera = self.camera(conditions)
        out = self.dit(tokens, torch.cat(ids), time, camera, added, text, pooled)
        return unpatchify(out[:, : rows * columns], self.patch, rows, columns)

    def _streams(self, noisy: Tensor, conditions: Conditions) -> tuple[list[Tensor], list[Tensor]]:
        """The images that become tokens one after the other, and the maps that belong to each."""
        depth, wanted = conditions.depth, conditions.focus_depth
        reference_given = depth is not None and conditions.reference_camera_given

        def with_flag(defocus: Tensor | None) -> tuple[Tensor, Tensor]:
            zeros = torch.zeros_like(noisy[:, :1])
            if defocus is None:
                return zeros, zeros
            return DEFOCUS_SCALE * defocus[:, None], torch.ones_like(zeros)

        target = with_flag(None if wanted is None else wanted.target_defocus)
        known = with_flag(depth.reference_defocus if depth and reference_given else None)
        images = [noisy, conditions.reference, conditions.guess]
        if not self.in_tokens:
            maps = (target[0], known[0], target[1], known[1])
            return [torch.cat((*images, *maps), dim=1)], []
        pairs = [torch.cat(pair, dim=1) for pair in (target, known, target)]
        count = 3 if self.config["model"]["guess_tokens"] else 2
        return images[:count], pairs[:count]

    def _text(self, conditions: Conditions, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """Text and pooled text; an empty prompt has no tokens and zeros."""
        model, zeros = self.config["model"], conditions.reference.new_zeros
        text, pooled = conditions.text, conditions.pooled
        for name, given in (("text", text), ("pooled", pooled)):
            features = model[f"{name}_dim"]
            if given is not None and given.shape[-1] != features:
                raise InvalidInput(f"{name} is {tuple(given.shape)}; allowed: {features} features")
        if text is None and model["text_dim"] is not None:
            text = zeros(batch, 0, model["text_dim"])
        if pooled is None and model["pooled_dim"] is not None:
            pooled = zeros(batch, model["pooled_dim"])
        return text, pooled

    def predict(self, x: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """The sample or the velocity, as `config` says."""
        raw = self(x, time, conditions)
        objective = self.config["objective"]
        return conditions.guess + raw if self._predicts_sample and objective["guide"] else raw

    @property
    def _predicts_sample(self) -> bool:
        return self.config["objective"]["prediction"] == "sample"

    @torch.no_grad()
    def sample(
        self,
        conditions: Conditions,
        noise: Tensor,
        *,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        method: str | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Follow the flow from its source to the image; [b, c, h, w], float32.

        Args:
            conditions: what is asked.
            noise: standard normal, [b, c, h, w] like the reference.
            num_steps: solver steps; None takes the config's, as for the two below.
            guidance_scale: 1 is none.
            method: "euler", or "heun" with two predictions a step.
            on_step: told (steps done, steps in all) after every step.
        """
        sampler, objective = self.config["sampler"], self.config["objective"]
        count: int = sampler["num_steps"] if num_steps is None else num_steps
        scale = sampler["guidance_scale"] if guidance_scale is None else guidance_scale
        method = sampler["method"] if method is None else method
        if method not in ("euler", "heun") or count < 1:
            raise InvalidInput(
                f"method is {method!r} and num_steps {count}; allowed: euler or heun, 1 or more"
            )

        def ask(x: Tensor, t: float) -> Tensor:
            time = torch.full((x.shape[0],), t, dtype=torch.float32, device=x.device)
            told = self.predict(x, time, conditions)
            if scale == 1.0:
                return told
            return told + (scale - 1.0) * (
                told - self.predict(x, time, conditions.without_camera())
            )

        def advance(x: Tensor, predicted: Tensor, t: float, t_next: float) -> Tensor:
            if self._predicts_sample:
                return predicted + (t_next / t) * (x - predicted)
            return x + (t_next - t) * predicted

        x = noise.float()
        if objective["flow_source"] == "reference":
            x = conditions.reference + objective["source_noise"] * x
        for step in range(count, 0, -1):
            t, t_next = step / count, (step - 1) / count
            first = ask(x, t)
            guess = advance(x, first, t, t_next)
            # The velocity that a sample means has no value at t = 0.
            if method == "heun" and not (self._predicts_sample and step == 1):
                second = ask(guess, t_next)
                if self._predicts_sample:
                    first, second = (x - first) / t, (guess - second) / t_next
                guess = x + (t_next - t) * 0.5 * (first + second)
            x = guess
            if on_step is not None:
                on_step(count - step + 1, count)
        return x


def load(
    folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> RefocusDiT:
    """The model of a folder, ready for use; tensors are read one by one.

    Args:
        folder: what `bokeh-jax export --format=torch` wrote.
        dtype: of the weights; None keeps the files'.
        device: where it is to be.

    Raises:
        InvalidInput: a file is missing or damaged, or holds other tensors than the model's.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            model = RefocusDiT(config)
        wanted = {name: value.shape for name, value in model.state_dict().items()}
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("model*.safetensors")):
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118  (not a dict)
                    tensor = file.get_tensor(name)
                    tensors[name] = tensor if dtype is None else tensor.to(dtype)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise InvalidInput(
            f"{folder} cannot be read ({error}); allowed: what `bokeh-jax export` wrote, whole"
        ) from None
    for name in sorted(wanted.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        expected = tuple(wanted[name]) if name in wanted else "no such tensor"
        if found != expected:
            raise InvalidInput(f"tensor {name} of {folder} is {found}; allowed: {expected}")
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval().requires_grad_(False)
