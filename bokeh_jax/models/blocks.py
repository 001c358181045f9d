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

*Condition* tokens, if any, are the last of the image's. They are modulated by an embedding of their
own, c₀ in place of c, and their queries meet their own keys only:

    (7) attention(q, k, v) = [attention(q_rest, k, v), attention(q_cond, k_cond, v_cond)]

so nothing that happens to them depends on the other tokens or on c, and the k and v that the others
see of them may be computed once and kept (`condition_cache.py`).

Names of parameters are FLUX's. Where FLUX stores several matrices as one, they are kept apart, so
that each can be cut along its own axis when a mesh divides the heads: `qkv` is [c, 3, h, d], and W₁
and W₂ of (5) and (6) are `linear1_qkv`, `linear1_mlp` and `linear2_attn`, `linear2_mlp`.

Every axis of a parameter has a name, and so have those of the activations between; what a name
means on a mesh is the trainer's affair (`training/sharding_rules.py`).

Low-rank adapters, where the config has them, belong to the linear layers (`linear.py`); those over
both parts of W₂ are `linear2`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from bokeh_jax.models.attention import attention
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.linear import JoinedAdapters, Linear, constrain, linear, uniform_of_fans
from bokeh_jax.models.rope import Rotation, apply_rope

NORM_EPSILON = 1e-6


# Collection of flax variables: keys and values of condition tokens, by block.
CACHE = "condition_cache"


@struct.dataclass
class BlockInputs:
    """What all blocks share.

    Attributes:
        time_embedding: c, `[b, hidden]`.
        rotation: of the sequence.
        condition_embedding: c₀, the same for condition tokens; None where there are none.
        num_condition: how many of the sequence's last tokens are condition tokens.
    """

    time_embedding: Array
    rotation: Rotation
    condition_embedding: Array | None = None
    num_condition: int = struct.field(pytree_node=False, default=0)


def modulated_norm(
    x: Float[Array, "b n c"], shift: Float[Array, "b #n c"], scale: Float[Array, "b #n c"]
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
            ("embed", "modulation"),
            dtype=self.config.compute_dtype,
            kernel_init=nn.initializers.zeros,
            lora=self.config.lora.on("modulation"),
            name="lin",
        )
        vectors = constrain(lin(nn.silu(time_embedding)), "batch", "width")
        return jnp.split(vectors[:, None, :], self.num_chunks, axis=-1)


def modulations(
    modulation: Modulation, inputs: BlockInputs, num_tokens: int
) -> list[Float[Array, "b #n c"]]:
    """The chunks for a sequence of `num_tokens`: `[b, 1, c]`, or `[b, n, c]` with conditions."""
    vectors = modulation(inputs.time_embedding)
    if inputs.condition_embedding is None:
        return vectors
    own = modulation(inputs.condition_embedding)
    is_condition = jnp.arange(num_tokens)[None, :, None] >= num_tokens - inputs.num_condition
    return [jnp.where(is_condition, *pair) for pair in zip(own, vectors, strict=True)]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) over the channels times a learned scale, float32 in and out."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n h d"]) -> Float[Array, "b n h d"]:
        """Norm of each head's channels; the scale is shared by the heads."""
        scale: Any = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        scale = scale.astype(jnp.float32)  # A frozen one may be bfloat16.
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
        self.qkv = heads_in(self.config)
        self.norm = QKNorm()
        self.proj = heads_out(self.config)

    def heads(
        self, x: Float[Array, "b n c"]
    ) -> tuple[Float[Array, "b n h d"], Float[Array, "b n h d"], Float[Array, "b n h d"]]:
        """Normed queries and keys (float32) and values, not rotated yet."""
        query, key, value = split_heads(self.qkv(x))
        return *self.norm(query, key), value

    def out(self, attended: Float[Array, "b n h d"]) -> Float[Array, "b n c"]:
        """The heads joined and projected."""
        return self.proj(attended)


class JointAttention(nn.Module):
    """Attention of a sequence after the rotation of queries and keys; it has no parameters.

    Where the collection `CACHE` may be written, the sequence's keys and values are kept there;
    where it is given, what it holds joins the sequence's as keys and values of condition tokens.
    """

    config: DiTConfig

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b n h d"],
        key: Float[Array, "b n h d"],
        value: Float[Array, "b n h d"],
        inputs: BlockInputs,
    ) -> Float[Array, "b n h d"]:
        """Attention of normed float32 queries and keys, in the compute type: equation (7)."""
        dtype = jnp.dtype(self.config.compute_dtype)
        query, key = (apply_rope(x, inputs.rotation).astype(dtype) for x in (query, key))
        if self.is_mutable_collection(CACHE) and not self.is_initializing():
            self.put_variable(CACHE, "key", key)
            self.put_variable(CACHE, "value", value)
        elif self.has_variable(CACHE, "key"):
            key = jnp.concatenate((key, self.get_variable(CACHE, "key")), axis=1)
            value = jnp.concatenate((value, self.get_variable(CACHE, "value")), axis=1)
        kernel = self.config.attention
        if not inputs.num_condition:
            return attention(query, key, value, kernel)
        rest = query.shape[1] - inputs.num_condition
        seeing_all = attention(query[:, :rest], key, value, kernel)
        conditions = attention(query[:, rest:], key[:, rest:], value[:, rest:], kernel)
        return jnp.concatenate((seeing_all, conditions), axis=1)


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU between."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """The MLP of equation (4)."""
        hidden = nn.gelu(mlp_in(self.config, name="in_layer")(x))
        return mlp_out(self.config, name="out_layer")(hidden)


class DoubleBlock(nn.Module):
    """Equations (2) to (4). The scan's carry is the pair (image, context)."""

    config: DiTConfig

    @nn.compact
    def __call__(
        self, streams: tuple[Float[Array, "b n c"], Float[Array, "b t c"]], inputs: BlockInputs
    ) -> tuple[tuple[Float[Array, "b n c"], Float[Array, "b t c"]], None]:
        """One block; the second result is the scan's unused output."""
        (image, context), config = streams, self.config
        image_mod = modulations(Modulation(config, 6, name="img_mod"), inputs, image.shape[1])
        context_mod = Modulation(config, 6, name="txt_mod")(inputs.time_embedding)
        image_attn = StreamAttention(config, name="img_attn")
        context_attn = StreamAttention(config, name="txt_attn")

        image_heads = image_attn.heads(modulated_norm(image, *image_mod[:2]))
        context_heads = context_attn.heads(modulated_norm(context, *context_mod[:2]))
        query, key, value = (
            jnp.concatenate(pair, axis=1) for pair in zip(context_heads, image_heads, strict=True)
        )
        attended = JointAttention(config, name="attention")(query, key, value, inputs)
        num_context = context.shape[1]
        context = context + context_mod[2] * context_attn.out(attended[:, :num_context])
        image = image + image_mod[2] * image_attn.out(attended[:, num_context:])

        image_mlp, context_mlp = MLP(config, name="img_mlp"), MLP(config, name="txt_mlp")
        context = context + context_mod[5] * context_mlp(modulated_norm(context, *context_mod[3:5]))
        image = image + image_mod[5] * image_mlp(modulated_norm(image, *image_mod[3:5]))
        image, context = (constrain(x, "batch", "tokens", "width") for x in (image, context))
        return (image, context), None


class SingleBlock(nn.Module):
    """Equations (5) and (6) on the joined sequence, context first."""

    config: DiTConfig

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n c"], inputs: BlockInputs
    ) -> tuple[Float[Array, "b n c"], None]:
        """One block; the second result is the scan's unused output."""
        config = self.config
        modulation = Modulation(config, 3, name="modulation")
        shift, scale, gate = modulations(modulation, inputs, tokens.shape[1])
        normed = modulated_norm(tokens, shift, scale)
        # Both start as parts of FLUX's fused matrices do.
        first = uniform_of_fans(config.hidden_dim, 3 * config.hidden_dim + config.mlp_dim)
        last = uniform_of_fans(config.hidden_dim + config.mlp_dim, config.hidden_dim)
        query, key, value = split_heads(heads_in(config, first, name="linear1_qkv")(normed))
        query, key = QKNorm(name="norm")(query, key)
        attended = JointAttention(config, name="attention")(query, key, value, inputs)
        hidden = nn.gelu(mlp_in(config, first, name="linear1_mlp")(normed))
        out = heads_out(config, last, adapted=False, name="linear2_attn")(attended)
        out += mlp_out(config, last, use_bias=False, adapted=False, name="linear2_mlp")(hidden)
        if (lora := config.lora.on("attention", "mlp")) is not None:
            adapters = JoinedAdapters(
                lora, config.hidden_dim, "embed", config.compute_dtype, name="linear2"
            )
            out += adapters({"attn": (attended, ("heads", "head_dim")), "mlp": (hidden, ("mlp",))})
        return constrain(tokens + gate * out, "batch", "tokens", "width"), None


def heads_in(
    config: DiTConfig, init: nn.initializers.Initializer | None = None, name: str | None = None
) -> Linear:
    """From channels to queries, keys and values of all heads: [b, n, c] to [b, n, 3, h, d]."""
    return linear(
        (3, config.num_heads, config.head_dim),
        ("embed", "qkv", "heads", "head_dim"),
        dtype=config.compute_dtype,
        kernel_init=init,
        lora=config.lora.on("attention"),
        name=name,
    )


def heads_out(
    config: DiTConfig,
    init: nn.initializers.Initializer | None = None,
    *,
    adapted: bool = True,
    name: str | None = None,
) -> Linear:
    """From all heads back to channels: [b, n, h, d] to [b, n, c]."""
    return linear(
        config.hidden_dim,
        ("heads", "head_dim", "embed"),
        dtype=config.compute_dtype,
        num_in=2,
        kernel_init=init,
        lora=config.lora.on("attention") if adapted else None,
        name=name,
    )


def mlp_in(
    config: DiTConfig, init: nn.initializers.Initializer | None = None, name: str | None = None
) -> Linear:
    """The first layer of an MLP."""
    return linear(
        config.mlp_dim,
        ("embed", "mlp"),
        dtype=config.compute_dtype,
        kernel_init=init,
        lora=config.lora.on("mlp"),
        name=name,
    )


def mlp_out(
    config: DiTConfig,
    init: nn.initializers.Initializer | None = None,
    *,
    use_bias: bool = True,
    adapted: bool = True,
    name: str | None = None,
) -> Linear:
    """The second layer of an MLP."""
    return linear(
        config.hidden_dim,
        ("mlp", "embed"),
        dtype=config.compute_dtype,
        kernel_init=init,
        use_bias=use_bias,
        lora=config.lora.on("mlp") if adapted else None,
        name=name,
    )


def split_heads(
    qkv: Float[Array, "b n 3 h d"],
) -> tuple[Float[Array, "b n h d"], Float[Array, "b n h d"], Float[Array, "b n h d"]]:
    """Queries, keys and values of a fused projection."""
    return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
