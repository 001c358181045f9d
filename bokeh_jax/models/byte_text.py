"""Prompts as bytes: a small text encoder that is trained with the network it tells.

A caption is its UTF-8 bytes, cut or filled up with 0, a byte that no text has. With E a table of
256 vectors, H one of B vectors, h a hash, P learned positions and s a learned start token, which
even an empty prompt has:

    (0) h_i = 31 h_{i−1} + byte_i  within a word,  0 between words
    (1) x = [s, …, E[byte_i] + H[h_i mod B] + P_i, …]
    (2) x = x + W_o attention(q, k, v),  q, k, v = heads(W_qkv N(x)),  bytes 0 are not looked at
    (3) x = x + W₂ gelu(W₁ N(x))
    (4) text = heads(W_kv N(x)) as t learned queries read them,  pooled = mean text

N is a layer norm. Because of (4) a prompt is always t tokens, however long it is: the transformer
that reads them needs no mask. No vocabulary and no tokeniser: what is not in the captions of the
dataset can be written and has no meaning. By (0) each word has a vector of its own at its last
byte (but for collisions), so that what a prompt says is in x from the first step on, and blocks do
not have to learn to spell before the network can be told anything. For the same reason tables and
queries start at unit size: smaller ones are drowned by what the blocks add, which is the same for
every byte as long as attention is, and all prompts sound alike (docs/results.md).

Source: our own, after byte-level models (ByT5, Xue et al. 2022, arXiv 2105.13626), hashes of bytes
(Byte Latent Transformer, Pagnoni et al. 2024, arXiv 2412.09871) and learned queries (Perceiver IO,
Jaegle et al. 2022, arXiv 2107.14795).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key, UInt8, UInt32

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.config import COMPUTE_DTYPES, ComputeDtype, check_at_least, check_choice
from bokeh_jax.models.linear import linear

_NUM_BYTES = 256
_HASH_FACTOR = 31
_kernel_init = nn.initializers.lecun_normal()
_table_init = nn.initializers.normal(1.0)


@dataclass(frozen=True)
class ByteTextConfig:
    """A byte-level text encoder.

    Attributes:
        max_bytes: Of a prompt; what is longer is cut.
        hidden_dim: Width, and features of the tokens that come out.
        num_heads: Attention heads.
        num_blocks: Blocks, equations (2) and (3).
        num_tokens: t, tokens of a prompt.
        num_hashes: B, vectors of words; captions of a hundred words want some thousands.
        compute_dtype: Type of the products; the rest is float32.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    max_bytes: int = 192
    hidden_dim: int = 128
    num_heads: int = 4
    num_blocks: int = 2
    num_tokens: int = 16
    num_hashes: int = 4096
    compute_dtype: ComputeDtype = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("max_bytes", "hidden_dim", "num_heads", "num_tokens", "num_hashes"):
            check_at_least(f"text.{name}", getattr(self, name), 1)
        check_at_least("text.num_blocks", self.num_blocks, 0)
        check_choice("text.compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        if self.hidden_dim % self.num_heads:
            raise InvalidInput(
                f"text.hidden_dim is {self.hidden_dim}; allowed: multiples of text.num_heads "
                f"{self.num_heads}"
            )


def prompt_bytes(prompt: str | bytes, max_bytes: int) -> UInt8[np.ndarray, " n"]:
    """A prompt as the encoder takes it: cut, or filled up with 0.

    Raises:
        InvalidInput: it has a byte 0.
    """
    raw = prompt.encode() if isinstance(prompt, str) else prompt
    if 0 in raw:
        raise InvalidInput(f"prompt {prompt!r} has a character NUL; allowed: text without")
    raw = raw[:max_bytes]
    return np.frombuffer(raw.ljust(max_bytes, b"\0"), np.uint8).copy()


class _Attention(nn.Module):
    """Attention of queries to a sequence, of which some positions are hidden."""

    config: ByteTextConfig

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b m c"],
        sequence: Float[Array, "b n c"],
        seen: Bool[Array, "b n"],
    ) -> Float[Array, "b m c"]:
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        head = (config.num_heads, config.hidden_dim // config.num_heads)

        def heads(x: Array, name: str) -> Array:
            axes = ("embed", "heads", "head_dim")
            # The softmax and its sums are float32, as in the transformer.
            layer = linear(head, axes, dtype=dtype, kernel_init=_kernel_init, name=name)
            return layer(x).astype(jnp.float32)

        out = jax.nn.dot_product_attention(
            heads(queries, "query"),
            heads(sequence, "key"),
            heads(sequence, "value"),
            mask=seen[:, None, None, :],
        )
        axes = ("heads", "head_dim", "embed")
        layer = linear(
            config.hidden_dim, axes, dtype=dtype, num_in=2, kernel_init=_kernel_init, name="out"
        )
        return layer(out).astype(jnp.float32)


class ByteText(nn.Module):
    """The encoder; parameters: `bytes`, `words`, `positions`, `start`, `queries` and of layers."""

    config: ByteTextConfig

    @nn.compact
    def __call__(
        self, prompts: UInt8[Array, "b n"]
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b c"]]:
        """Equation (4): tokens of each prompt, and their mean, float32."""
        config, batch = self.config, prompts.shape[0]

        def learned(name: str, *shape: int) -> Array:
            value: Any = self.param(name, _table_init, shape, jnp.float32)
            return value.astype(jnp.float32)

        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(1e-6, jnp.float32, use_fast_variance=False, name=name)

        width = config.hidden_dim
        x = learned("bytes", _NUM_BYTES, width)[prompts.astype(jnp.int32)]
        x = x + learned("words", config.num_hashes, width)[word_hashes(prompts, config.num_hashes)]
        x = x + learned("positions", config.max_bytes, width)[None]
        start = jnp.broadcast_to(learned("start", 1, width)[None], (batch, 1, width))
        x = jnp.concatenate((start, x), axis=1)
        seen = jnp.concatenate((jnp.ones((batch, 1), bool), prompts > 0), axis=1)
        for index in range(config.num_blocks):
            hidden = norm(f"norm1_{index}")(x)
            x = x + _Attention(config, name=f"attention_{index}")(hidden, hidden, seen)
            x = x + self._mlp(norm(f"norm2_{index}")(x), index)
        queries = jnp.broadcast_to(
            learned("queries", config.num_tokens, width)[None], (batch, config.num_tokens, width)
        )
        text = _Attention(config, name="read")(queries, norm("norm")(x), seen)
        return text, jnp.mean(text, axis=1)

    def _mlp(self, x: Float[Array, "b n c"], index: int) -> Float[Array, "b n c"]:
        width, dtype = self.config.hidden_dim, jnp.dtype(self.config.compute_dtype)

        def layer(features: int, axes: tuple[str, str], name: str) -> nn.Module:
            init = _kernel_init
            return linear(features, axes, dtype=dtype, kernel_init=init, name=f"{name}_{index}")

        hidden = layer(4 * width, ("embed", "mlp"), "fc1")(x)
        hidden = nn.gelu(hidden.astype(jnp.float32), approximate=False)
        return layer(width, ("mlp", "embed"), "fc2")(hidden).astype(jnp.float32)


def word_hashes(prompts: UInt8[Array, "b n"], count: int) -> Int[Array, "b n"]:
    """Equation (0), h mod B: of the word so far at each of its bytes, 0 between words.

    Words are ASCII letters, small or not, and digits, and every byte of other scripts.
    """
    codes = prompts.astype(jnp.uint32)
    # The bit in which capitals differ.
    small = codes | 32
    letters = (small >= ord("a")) & (small <= ord("z"))
    digits = (codes >= ord("0")) & (codes <= ord("9"))
    within = letters | digits | (codes >= 128)
    codes = jnp.where(letters, small, codes)

    def further(before: UInt32[Array, " b"], row: tuple[Array, Array]) -> tuple[Array, Array]:
        code, is_within = row
        now = jnp.where(is_within, jnp.uint32(_HASH_FACTOR) * before + code, jnp.uint32(0))
        return now, now

    start = jnp.zeros(prompts.shape[:1], jnp.uint32)
    _, hashes = jax.lax.scan(further, start, (codes.T, within.T))
    return (hashes.T % jnp.uint32(count)).astype(jnp.int32)


def init_params(config: ByteTextConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be jitted or given to `eval_shape`."""
    return dict(nn.unbox(_init_boxed(config, key)))


def parameter_axes(config: ByteTextConfig) -> dict[str, Any]:
    """A tree like the parameters' with a `PartitionSpec` of axis names in each one's place."""
    boxed = jax.eval_shape(lambda key: _init_boxed(config, key), jax.random.key(0))
    return dict(nn.get_partition_spec(boxed))


def encode_prompts(
    config: ByteTextConfig, params: dict[str, Any], prompts: UInt8[Array, "b n"]
) -> tuple[Float[Array, "b t c"], Float[Array, "b c"]]:
    """Tokens and pooled embedding of prompts, as `prompt_bytes` makes them.

    Raises:
        InvalidInput: they are of another length than `config.max_bytes`.
    """
    if prompts.shape[1] != config.max_bytes:
        raise InvalidInput(
            f"prompts have {prompts.shape[1]} bytes; allowed: text.max_bytes {config.max_bytes}"
        )
    out: Any = ByteText(config).apply({"params": params}, prompts)
    return out


def _init_boxed(config: ByteTextConfig, key: Key[Array, ""]) -> Any:
    """Start values with the names of their axes."""
    return ByteText(config).init(key, jnp.zeros((1, config.max_bytes), jnp.uint8))["params"]
