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

Names of parameters are FLUX's. Where FLUX stores several matrices as one, they are kept apart, so
that each can be cut along its own axis when a mesh divides the heads: `qkv` is [c, 3, h, d], and W₁
and W₂ of (5) and (6) are `linear1_qkv`, `linear1_mlp` and `linear2_attn`, `linear2_mlp`.

Every axis of a parameter has a name, and so have those of the activations between; what a name
means on a mesh is the trainer's affair (`training/sharding_rules.py`).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.linen import spmd
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from bokeh_jax.models.attention import attention
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.rope import Rotation, apply_rope

NORM_EPSILON = 1e-6
# Of the products with weights, for rematerialisation, which may keep them.
PRODUCT_NAME = "product"


@struct.dataclass
class BlockInputs:
    """What all blocks share: time embedding `[b, hidden]` and the rotation of the sequence."""

    time_embedding: Array
    rotation: Rotation


class Linear(nn.Module):
    """A linear layer over one or more axes at once, with the names of its kernel's axes.

    flax's `DenseGeneral` starts its kernel flat and only then gives it its axes, so that a name
    would have to stand for axes that are not there yet.

    Attributes:
        features: lengths of the axes going out.
        axes: names of the kernel's axes, those coming in first.
        dtype: of the product; parameters are float32.
        num_in: how many of the input's last axes come in.
        kernel_init: of the kernel as a matrix.
        use_bias: whether a bias is added.
    """

    features: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: Any
    num_in: int
    kernel_init: nn.initializers.Initializer
    use_bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Map the last axes of x."""
        ends = x.shape[x.ndim - self.num_in :]
        shape = (*ends, *self.features)

        def matrix_init(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
            matrix = (math.prod(ends), math.prod(self.features))
            return self.kernel_init(key, matrix, dtype).reshape(shape)

        kernel: Any = self.param(
            "kernel", nn.with_logical_partitioning(matrix_init, self.axes), shape, jnp.float32
        )
        contracted = (tuple(range(x.ndim - self.num_in, x.ndim)), tuple(range(self.num_in)))
        # Gathered in the type of the product, layer by layer. Left to the partitioner, matrices
        # cut over two mesh axes got wrong gradients (docs/results.md).
        whole = (None if name == "embed" else name for name in self.axes)
        kernel = constrain(kernel.astype(self.dtype), *whole)
        out = jax.lax.dot_general(x.astype(self.dtype), kernel, (contracted, ((), ())))
        names = (None if name == "embed" else name for name in self.axes[self.num_in :])
        out = constrain(out, "batch", *("tokens",) * (x.ndim - self.num_in - 1), *names)
        out = checkpoint_name(out, PRODUCT_NAME)
        if not self.use_bias:
            return out
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[self.num_in :])
        bias: Any = self.param("bias", zeros, self.features, jnp.float32)
        return out + bias.astype(self.dtype).reshape(*(1,) * (out.ndim - bias.ndim), *bias.shape)


def linear(
    features: int | tuple[int, ...],
    axes: tuple[str, ...],
    *,
    dtype: Any,
    num_in: int = 1,
    kernel_init: nn.initializers.Initializer | None = None,
    use_bias: bool = True,
    name: str | None = None,
) -> Linear:
    """A linear layer as DiT starts it: Xavier-uniform kernel, zero bias; arguments as `Linear`."""
    return Linear(
        (features,) if isinstance(features, int) else features,
        axes,
        dtype=dtype,
        num_in=num_in,
        kernel_init=nn.initializers.xavier_uniform() if kernel_init is None else kernel_init,
        use_bias=use_bias,
        name=name,
    )


def uniform_of_fans(fan_in: int, fan_out: int) -> nn.initializers.Initializer:
    """Xavier-uniform of a matrix of these sizes, for a part of it that is stored apart."""
    limit = math.sqrt(6.0 / (fan_in + fan_out))

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def constrain(x: Float[Array, "..."], *axes: str | None) -> Float[Array, "..."]:
    """`x` with its axes named: nothing changes but where it lies, and only where rules say so."""
    return spmd.with_logical_constraint(x, axes)  # pyright: ignore[reportReturnType]


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
            ("embed", "modulation"),
            dtype=self.config.compute_dtype,
            kernel_init=nn.initializers.zeros,
            name="lin",
        )
        vectors = constrain(lin(nn.silu(time_embedding)), "batch", "width")
        return jnp.split(vectors[:, None, :], self.num_chunks, axis=-1)


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
        shift, scale, gate = Modulation(config, 3, name="modulation")(inputs.time_embedding)
        normed = modulated_norm(tokens, shift, scale)
        # Both start as parts of FLUX's fused matrices do.
        first = uniform_of_fans(config.hidden_dim, 3 * config.hidden_dim + config.mlp_dim)
        last = uniform_of_fans(config.hidden_dim + config.mlp_dim, config.hidden_dim)
        query, key, value = split_heads(heads_in(config, first, name="linear1_qkv")(normed))
        query, key = QKNorm(name="norm")(query, key)
        attended = rotated_attention(query, key, value, inputs.rotation, config)
        hidden = nn.gelu(mlp_in(config, first, name="linear1_mlp")(normed))
        out = heads_out(config, last, name="linear2_attn")(attended)
        out += mlp_out(config, last, use_bias=False, name="linear2_mlp")(hidden)
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
        name=name,
    )


def heads_out(
    config: DiTConfig, init: nn.initializers.Initializer | None = None, name: str | None = None
) -> Linear:
    """From all heads back to channels: [b, n, h, d] to [b, n, c]."""
    return linear(
        config.hidden_dim,
        ("heads", "head_dim", "embed"),
        dtype=config.compute_dtype,
        num_in=2,
        kernel_init=init,
        name=name,
    )


def mlp_in(
    config: DiTConfig, init: nn.initializers.Initializer | None = None, name: str | None = None
) -> Linear:
    """The first layer of an MLP."""
    axes = ("embed", "mlp")
    return linear(config.mlp_dim, axes, dtype=config.compute_dtype, kernel_init=init, name=name)


def mlp_out(
    config: DiTConfig,
    init: nn.initializers.Initializer | None = None,
    *,
    use_bias: bool = True,
    name: str | None = None,
) -> Linear:
    """The second layer of an MLP."""
    return linear(
        config.hidden_dim,
        ("mlp", "embed"),
        dtype=config.compute_dtype,
        kernel_init=init,
        use_bias=use_bias,
        name=name,
    )


def split_heads(
    qkv: Float[Array, "b n 3 h d"],
) -> tuple[Float[Array, "b n h d"], Float[Array, "b n h d"], Float[Array, "b n h d"]]:
    """Queries, keys and values of a fused projection."""
    return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


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
    return attention(query, key, value, config.attention)
