"""The blocks of the multi-modal diffusion transformer, in FLUX's layout.

Peebles and Xie 2023 (adaLN-Zero), Esser et al. 2024 (two streams, QK norm), FLUX.1 (single blocks).
With c the embedding of time, LN the affine-free layer norm and M(c) = W silu(c) + b cut into
(shift, scale, gate), a modulated norm is

    (1) N(x) = (1 + scale) LN(x) + shift

A *double* block has separate weights for image and context, who meet in one attention:

    (2) q, k, v = heads(W_qkv N₁(x)),  q, k rms-normed and rotated, context first in the sequence
    (3) x = x + gate₁ W_o attention(q, k, v)
    (4) x = x + gate₂ mlp(N₂(x)),      mlp = W gelu_tanh(W ·)

A *single* block treats both as one sequence and runs attention and MLP side by side:

    (5) q, k, v, m = W₁ N(x)
    (6) x = x + gate W₂ [attention(q, k, v), gelu_tanh(m)]

All W_M start at 0: with gates at 0, every block starts as the identity.
Names of parameters are FLUX's, so that an importer maps tensor by tensor.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from bokeh_jax.models.attention import attention
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.rope import Rotation, apply_rope

NORM_EPSILON = 1e-6


@struct.dataclass
class BlockInputs:
    """What all blocks share: time embedding `[b, hidden]` and the rotation of the sequence."""

    time_embedding: Array
    rotation: Rotation


def linear(
    features: int,
    *,
    dtype: Any,
    kernel_init: nn.initializers.Initializer | None = None,
    name: str | None = None,
) -> nn.Dense:
    """A linear layer as DiT starts it: Xavier-uniform kernel, zero bias, float32 parameters."""
    init = nn.initializers.xavier_uniform() if kernel_init is None else kernel_init
    return nn.Dense(features, dtype=dtype, param_dtype=jnp.float32, kernel_init=init, name=name)


def modulated_norm(
    x: Float[Array, "b n c"], shift: Float[Array, "b 1 c"], scale: Float[Array, "b 1 c"]
) -> Float[Array, "b n c"]:
    """Equation (1), computed in float32, in the type of x."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + NORM_EPSILON)
    modulated = (1.0 + scale.astype(jnp.float32)) * normed + shift.astype(jnp.float32)
    return modulated.astype(x.dtype)


class Modulation(nn.Module):
    """M(c): `num_chunks` vectors `[b, 1, hidden]` from the time embedding, all 0 at the start."""

    config: DiTConfig
    num_chunks: int

    @nn.compact
    def __call__(self, time_embedding: Float[Array, "b c"]) -> list[Float[Array, "b 1 c"]]:
        """The chunks in FLUX's order: shift, scale, gate, once for each modulated norm."""
        lin = linear(
            self.num_chunks * self.config.hidden_dim,
            dtype=self.config.compute_dtype,
            kernel_init=nn.initializers.zeros,
            name="lin",
        )
        return jnp.split(lin(nn.silu(time_embedding))[:, None, :], self.num_chunks, axis=-1)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) over the channels times a learned scale, float32 in and out."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n h d"]) -> Float[Array, "b n h d"]:
        """Norm of each head's channels; the scale is shared by the heads."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return wide * jax.lax.rsqrt(mean_square + NORM_EPSILON) * scale[None, None, None, :]


class QKNorm(nn.Module):
    """RMS norms of queries and keys; without them large models diverge in low precision."""

    @nn.compact
    def __call__(
        self, query: Float[Array, "b n h d"], key: Float[Array, "b n h d"]
    ) -> tuple[Float[Array, "b n h d"], Float[Array, "b n h d"]]:
        """Both normed, float32."""
        return RMSNorm(name="query_norm")(query), RMSNorm(name="key_norm")(key)


class StreamAttention(nn.Module):
    """One stream's way into the joint attention and out of it: equation (2) and W_o of (3)."""

    config: DiTConfig

    def setup(self) -> None:
        """Layers by FLUX's names."""
        dtype, hidden = self.config.compute_dtype, self.config.hidden_dim
        self.qkv = linear(3 * hidden, dtype=dtype)
        self.norm = QKNorm()
        self.proj = linear(hidden, dtype=dtype)

    def heads(
        self, x: Float[Array, "b n c"]
    ) -> tuple[Float[Array, "b n h d"], Float[Array, "b n h d"], Float[Array, "b n h d"]]:
        """Normed queries and keys (float32) and values, not rotated yet."""
        query, key, value = split_heads(self.qkv(x), self.config)
        return *self.norm(query, key), value

    def out(self, attended: Float[Array, "b n h d"]) -> Float[Array, "b n c"]:
        """The heads joined and projected."""
        return self.proj(join_heads(attended))


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU between."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """The MLP of equation (4)."""
        dtype = self.config.compute_dtype
        hidden = nn.gelu(linear(self.config.mlp_dim, dtype=dtype, name="in_layer")(x))
        return linear(self.config.hidden_dim, dtype=dtype, name="out_layer")(hidden)


class DoubleBlock(nn.Module):
    """Equations (2) to (4). The scan's carry is the pair (image, context)."""

    config: DiTConfig

    @nn.compact
    def __call__(
        self, streams: tuple[Float[Array, "b n c"], Float[Array, "b t c"]], inputs: BlockInputs
    ) -> tuple[tuple[Float[Array, "b n c"], Float[Array, "b t c"]], None]:
        """One block; the second result is the scan's unused output."""
        image, context = streams
        config, embedding = self.config, inputs.time_embedding
        image_mod = Modulation(config, 6, name="img_mod")(embedding)
        context_mod = Modulation(config, 6, name="txt_mod")(embedding)
        image_attn = StreamAttention(config, name="img_attn")
        context_attn = StreamAttention(config, name="txt_attn")

        image_heads = image_attn.heads(modulated_norm(image, *image_mod[:2]))
        context_heads = context_attn.heads(modulated_norm(context, *context_mod[:2]))
        query, key, value = (
            jnp.concatenate(pair, axis=1) for pair in zip(context_heads, image_heads, strict=True)
        )
        attended = rotated_attention(query, key, value, inputs.rotation, config)
        num_context = context.shape[1]
        context = context + context_mod[2] * context_attn.out(attended[:, :num_context])
        image = image + image_mod[2] * image_attn.out(attended[:, num_context:])

        image_mlp, context_mlp = MLP(config, name="img_mlp"), MLP(config, name="txt_mlp")
        context = context + context_mod[5] * context_mlp(modulated_norm(context, *context_mod[3:5]))
        image = image + image_mod[5] * image_mlp(modulated_norm(image, *image_mod[3:5]))
        return (image, context), None


class SingleBlock(nn.Module):
    """Equations (5) and (6) on the joined sequence, context first."""

    config: DiTConfig

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n c"], inputs: BlockInputs
    ) -> tuple[Float[Array, "b n c"], None]:
        """One block; the second result is the scan's unused output."""
        config, dtype = self.config, self.config.compute_dtype
        shift, scale, gate = Modulation(config, 3, name="modulation")(inputs.time_embedding)
        normed = modulated_norm(tokens, shift, scale)
        width = 3 * config.hidden_dim
        fused = linear(width + config.mlp_dim, dtype=dtype, name="linear1")(normed)
        query, key, value = split_heads(fused[..., :width], config)
        query, key = QKNorm(name="norm")(query, key)
        attended = rotated_attention(query, key, value, inputs.rotation, config)
        both = jnp.concatenate((join_heads(attended), nn.gelu(fused[..., width:])), axis=-1)
        return tokens + gate * linear(config.hidden_dim, dtype=dtype, name="linear2")(both), None


def split_heads(
    qkv: Float[Array, "b n c3"], config: DiTConfig
) -> tuple[Float[Array, "b n h d"], Float[Array, "b n h d"], Float[Array, "b n h d"]]:
    """Queries, keys and values of a fused projection, whose channels are (part, head, channel)."""
    parts = qkv.reshape(*qkv.shape[:2], 3, config.num_heads, config.head_dim)
    return parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]


def join_heads(x: Float[Array, "b n h d"]) -> Float[Array, "b n c"]:
    """The heads side by side."""
    return x.reshape(*x.shape[:2], -1)


def rotated_attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b n h d"],
    value: Float[Array, "b n h d"],
    rotation: Rotation,
    config: DiTConfig,
) -> Float[Array, "b n h d"]:
    """Attention of normed float32 queries and keys after their rotation, in the compute type."""
    dtype = jnp.dtype(config.compute_dtype)
    query, key = (apply_rope(x, rotation).astype(dtype) for x in (query, key))
    return attention(query, key, value)
