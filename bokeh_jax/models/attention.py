"""Scaled dot-product attention (Vaswani et al. 2017), the one place where kernels are chosen.

    Attention(Q, K, V) = softmax(Q Kᵀ / √d) V,  for each head

Products take their inputs in the compute type; logits and softmax are float32. Three programs
of it:

    'xla'     plain products: the logits, [b, h, n, s] in float32, go through the main memory
    'splash'  on TPUs jax's Pallas kernel (`pallas.ops.tpu.splash_attention`), whose logits stay on
              the chip; on anything else 'xla', so that its checkpoints run anywhere
    'cudnn'   on NVIDIA's GPUs cuDNN's kernel (bfloat16); on anything else 'xla'

A kernel is a black box to the partitioner, so it is called on every device's own part: examples
over the mesh axes `data` and `fsdp`, heads over `tensor`, where the mesh of `jax.set_mesh` has
them.
The splash kernel works in blocks: sequences are filled up with tokens that only see each other.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from bokeh_jax.mesh_axes import BATCH_AXES, HEADS_AXIS

AttentionKernel = Literal["xla", "splash", "cudnn"]
ATTENTION_KERNELS: tuple[AttentionKernel, ...] = ("xla", "splash", "cudnn")

# What rematerialisation may keep of the attention, by `jax.ad_checkpoint.checkpoint_name`.
ATTENTION_NAME = "attention"

# Lanes of a TPU's vector registers: blocks are multiples of them.
_LANES = 128
# A block's logits and their gradients, float32, must lie in the 16 MiB of on-chip memory that a
# kernel may use; the backward pass holds about four planes of them.
_MAX_BLOCK = 512

_Attention = Callable[[Array, Array, Array], Array]


def attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b s h d"],
    value: Float[Array, "b s h d"],
    kernel: AttentionKernel = "xla",
) -> Float[Array, "b n h d"]:
    """Every query attends to every key; the result has the type of the query."""
    if kernel == "splash":
        return jax.lax.platform_dependent(
            query, key, value, tpu=on_every_device(splash_attention), default=_xla_attention
        )
    if kernel == "cudnn":
        return jax.lax.platform_dependent(
            query, key, value, cuda=on_every_device(_cudnn_attention), default=_xla_attention
        )
    return _xla_attention(query, key, value)


def _xla_attention(
    query: Float[Array, "b n h d"], key: Float[Array, "b s h d"], value: Float[Array, "b s h d"]
) -> Float[Array, "b n h d"]:
    # Heads before tokens: each product is then a batch of plain matrix products.
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    scale = 1.0 / math.sqrt(query.shape[-1])
    logits = jnp.einsum("bhnd,bhsd->bhns", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scale * logits, axis=-1).astype(value.dtype)
    return jnp.swapaxes(jnp.einsum("bhns,bhsd->bhnd", weights, value), 1, 2)


def _cudnn_attention(
    query: Float[Array, "b n h d"], key: Float[Array, "b s h d"], value: Float[Array, "b s h d"]
) -> Float[Array, "b n h d"]:
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def splash_attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b s h d"],
    value: Float[Array, "b s h d"],
    *,
    interpret: bool = False,
) -> Float[Array, "b n h d"]:
    """The TPU's kernel on one device.

    Args:
        query, key, value: as `attention` takes them.
        interpret: run the kernel's operations one by one on any device, for tests.
    """
    num_queries, num_keys = query.shape[1], key.shape[1]
    blocks = splash_block(num_queries), splash_block(num_keys)
    # The kernel does not scale. In float32, as the factor need not be a power of two.
    scaled = query.astype(jnp.float32) * (1.0 / math.sqrt(query.shape[-1]))
    filled = [
        jnp.swapaxes(_filled_up(x, block), 1, 2)
        for x, block in zip(
            (scaled.astype(query.dtype), key, value), (blocks[0], blocks[1], blocks[1]), strict=True
        )
    ]
    lengths = filled[0].shape[2], filled[1].shape[2]
    call = _splash_kernel(query.shape[2], lengths, blocks, interpret)
    segments = None
    if lengths != (num_queries, num_keys):
        segments = splash_attention_kernel.SegmentIds(
            q=_beyond(num_queries, lengths[0]), kv=_beyond(num_keys, lengths[1])
        )
    out = jax.vmap(lambda q, k, v: call(q, k, v, segment_ids=segments))(*filled)
    return jnp.swapaxes(out, 1, 2)[:, :num_queries]


def splash_block(length: int) -> int:
    """Length of the kernel's blocks, a multiple of 128.

    Of 256, 384 and 512 the one that fills up the least, the largest of those: smaller blocks are
    for sequences no longer than they are, as each costs a fixed time.
    """
    if length <= _LANES:
        return _LANES
    candidates = range(2 * _LANES, _MAX_BLOCK + 1, _LANES)
    return min(candidates, key=lambda block: (-(-length // block) * block, -block))


def _splash_kernel(
    num_heads: int, lengths: tuple[int, int], blocks: tuple[int, int], interpret: bool
) -> Callable[..., Any]:
    mask = splash_attention_mask.MultiHeadMask(
        [splash_attention_mask.FullMask(lengths) for _ in range(num_heads)]
    )
    return splash_attention_kernel.make_splash_mha(
        mask,
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=blocks[0],
            block_kv=blocks[1],
            block_kv_compute=blocks[1],
            block_q_dkv=blocks[0],
            block_kv_dkv=blocks[1],
            block_kv_dkv_compute=blocks[1],
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENTION_NAME,
        interpret=interpret,
    )


def _filled_up(x: Float[Array, "b n h d"], block: int) -> Float[Array, "b m h d"]:
    """Zeros behind the tokens, up to a multiple of the block."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))


def _beyond(length: int, filled_length: int) -> Array:
    """0 for tokens, 1 for what fills up behind them; only equals see each other."""
    return jnp.asarray(np.arange(filled_length) >= length, jnp.int32)


def on_every_device(function: _Attention) -> _Attention:
    """`function` on each device's own examples and heads, on the mesh that is set, if any.

    An axis of the mesh that does not divide what it would cut is left out: every device along it
    then does the same.
    """

    @functools.wraps(function)
    def mapped(query: Array, key: Array, value: Array) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return function(query, key, value)
        spec = heads_spec(dict(mesh.shape), query.shape[0], query.shape[2])
        # A Pallas call does not say over which axes its result varies.
        return jax.shard_map(
            function, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
        )(query, key, value)

    return mapped


def heads_spec(sizes: dict[str, int], num_examples: int, num_heads: int) -> PartitionSpec:
    """How `[b, n, h, d]` lies on a mesh of these axes and sizes."""
    batch = tuple(name for name in BATCH_AXES if name in sizes)
    while num_examples % math.prod(sizes[name] for name in batch):
        batch = batch[:-1]
    heads = HEADS_AXIS if HEADS_AXIS in sizes and num_heads % sizes[HEADS_AXIS] == 0 else None
    return PartitionSpec(batch or None, None, heads, None)
